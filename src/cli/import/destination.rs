//! Where an import goes: the database, or the API of another Fleetgate.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use zeroize::Zeroizing;

use super::source::Lines;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::domain::name::BindingName;
use crate::fleet::bindings::Directions;
use crate::fleet::imports::OnConflict;
use crate::remote::imports::Imported;
use crate::remote::{self, Remote, RemoteError, Wrong, WrongLine};

/// How long the API may be busy with another import.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Time between two attempts then.
const PAUSE: Duration = Duration::from_millis(500);

/// See the module documentation.
pub(super) enum Destination {
    Database(Client),
    /// The API, and the names of devices that are there, where they are asked for.
    Api(Remote, BTreeSet<String>),
}

impl Destination {
    /// What `--api` or the settings say. `asks_names`: lines of devices that are there will be passed over.
    pub(super) async fn open(context: &Context, asks_names: bool) -> Result<Self, CliError> {
        let Some(api) = context.api.remote()? else {
            return Ok(Self::Database(context.connect().await?));
        };
        let names = match asks_names {
            true => remote::devices::names(&api).await?,
            false => BTreeSet::new(),
        };
        Ok(Self::Api(api, names))
    }

    /// Which topics a binding has by the convention.
    pub(super) async fn directions(&self, binding: &BindingName) -> Result<Directions, CliError> {
        let api = match self {
            Self::Database(client) => return Ok(Directions::of(client, binding).await?),
            Self::Api(api, _) => api,
        };
        let Some(name) = binding.capability() else { return Ok(Directions::BOTH) };
        let shown = remote::capabilities::show(api, &name).await?;
        Ok(Directions::of_capability(&shown.capability))
    }
}

/// Sends lines. One that is wrong already is sent as a line that is wrong as well: nothing of its chunk is imported then, and
/// what else is wrong in it is told.
pub(super) async fn send(
    api: &Remote,
    lines: &Lines,
    on_conflict: OnConflict,
    dry_run: bool,
) -> Result<Imported, RemoteError> {
    let mut all: Vec<(u64, Option<Zeroizing<String>>)> =
        lines.wrong.iter().map(|(number, _)| (*number, None)).collect();
    for (number, entry) in &lines.entries {
        let line = entry.line();
        let line = line.map_err(|error| RemoteError::Unusable(error.to_string()))?;
        all.push((*number, Some(line)));
    }
    all.sort_by_key(|(number, _)| *number);
    let length = |line: &Option<Zeroizing<String>>| line.as_ref().map_or(2, |it| it.len()) + 1;
    let mut text = String::with_capacity(all.iter().map(|(_, line)| length(line)).sum());
    for (_, line) in &all {
        text.push_str(line.as_deref().map_or("{}", String::as_str));
        text.push('\n');
    }
    let mut imported = in_turn(api, &text, on_conflict, dry_run).await?;
    for WrongLine { line, wrong } in &mut imported.wrong {
        let position = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
        *line = all.get(position).map_or(0, |(number, _)| *number);
        if let Some((_, known)) = lines.wrong.iter().find(|(number, _)| number == line) {
            *wrong = Wrong::Other(known.clone());
        }
    }
    Ok(imported)
}

/// The API does one import at a time: waits for its turn, which another one ends that is under way.
async fn in_turn(
    api: &Remote,
    text: &str,
    on_conflict: OnConflict,
    dry_run: bool,
) -> Result<Imported, RemoteError> {
    let until = Instant::now() + LONGEST_WAIT;
    loop {
        let outcome = remote::imports::import(api, text.to_owned(), on_conflict, dry_run).await;
        match outcome {
            Err(RemoteError::Refused { status: 429, .. }) if Instant::now() < until => {
                tokio::time::sleep(PAUSE).await; // why: the API tells nobody that it is free
            }
            outcome => return outcome,
        }
    }
}
