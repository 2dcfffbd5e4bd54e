//! Lines of JSON into the registry: capabilities, devices with what belongs to them, routing rules (`imports/line.rs` has
//! their form). What [`crate::fleet::exports`] writes is taken back to the same rows, but for ids and timestamps of the
//! database.
//!
//! A chunk of lines is written by a few statements for all of them. Where PostgreSQL refuses one, the lines are tried one
//! by one to find which are wrong, and nothing of the chunk stays. Where none is wrong alone (two are about the same thing),
//! all stay. Within a chunk capabilities come first, then devices without a gateway, then those behind one, then rules; what a
//! line names has to be there by then.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio_postgres::GenericClient;
use utoipa::ToSchema;

use crate::fleet::error::{ErrorKind, FleetError, Thing};
use crate::registry::error::RegistryError;

mod acl;
mod csv;
mod devices;
mod dynsec;
mod emqx;
mod foreign;
mod hashes;
mod line;
mod logins;
mod mosquitto;
mod rows;

pub use acl::Acl;
pub use csv::Csv;
pub use dynsec::Dynsec;
pub use emqx::{Algorithm, AlgorithmError, EmqxCsv, EmqxJson};
pub use foreign::{Entry, Foreign, Login};
pub use hashes::SaltEncoding;
pub use logins::{Tally, hash_logins, measure_one};
pub use mosquitto::PasswordFile;

use devices::{lock, write_devices};
pub use line::{Item, LineError};
use rows::{CAPABILITIES, DEVICES, RULES, known, known_and_new, write_rows};

/// Longest line in bytes.
pub const MAX_LINE_BYTES: usize = 1024 * 1024;
/// Most lines of a chunk.
pub const CHUNK_LINES: usize = 500;
/// Most bytes of a chunk's lines, after which it has no more.
pub const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// What to do where a name is taken already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// It is an error.
    Fail,
    /// What is there stays.
    Skip,
    /// What is there becomes what the line says. Credentials that the line does not have stay.
    Update,
    /// What the line says is added to what is there, and of the device's own columns those change that the file has and the
    /// line says. For files that know only a part of a device, as those of other brokers. Capabilities and rules that are there
    /// stay.
    Complete(Columns),
}

/// Which columns of a device a file has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Columns(u16);

impl Columns {
    /// These and one more. A name that is no column changes nothing.
    #[must_use]
    pub fn and(self, name: &str) -> Self {
        let position = DEVICES.columns.iter().position(|(column, ..)| *column == name);
        Self(self.0 | position.map_or(0, |position| 1 << position))
    }

    /// These and `enabled`, but so that a device that is disabled stays so.
    #[must_use]
    pub fn and_disabling(self) -> Self {
        Self(self.and("enabled").0 | Self::DISABLING)
    }

    /// No table has so many columns.
    const DISABLING: u16 = 1 << 15;
    const DISABLED: &str = "disabled";

    fn has(self, position: usize) -> bool {
        self.0 & (1 << position) != 0
    }
}

/// As the API is told them: names with commas, `disabled` for `enabled` of [`Columns::and_disabling`].
impl Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = DEVICES.columns.iter().enumerate().filter(|(position, _)| self.has(*position));
        let is_disabling = self.0 & Self::DISABLING != 0;
        let names = names.filter_map(|(_, (name, ..))| match *name {
            // By it a device is found.
            "name" => None,
            "enabled" if is_disabling => Some(Self::DISABLED),
            name => Some(name),
        });
        f.write_str(&names.collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Columns {
    type Err = UnknownColumn;

    fn from_str(text: &str) -> Result<Self, UnknownColumn> {
        let mut names = text.split(',').filter(|name| !name.is_empty());
        names.try_fold(Self::default(), |columns, name| match name {
            Self::DISABLED => Ok(columns.and_disabling()),
            "name" => Err(UnknownColumn(name.to_owned())),
            name if Self::default().and(name) != Self::default() => Ok(columns.and(name)),
            name => Err(UnknownColumn(name.to_owned())),
        })
    }
}

/// A name that is no column of a device which a line may change.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is none of client_id, area, floor, kind, gateway, availability_topic, enabled, disabled, meta"
)]
pub struct UnknownColumn(String);

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Counts {
    /// What was not there.
    pub added: usize,
    /// What was there, and is as the line says now.
    pub updated: usize,
    /// What was there, and stays.
    pub skipped: usize,
    /// Passwords of lines that are not stored because their devices have or had one (`complete` alone).
    pub kept_passwords: usize,
}

impl Counts {
    /// Adds those of another chunk.
    pub fn add(&mut self, other: Self) {
        self.added += other.added;
        self.updated += other.updated;
        self.skipped += other.skipped;
        self.kept_passwords += other.kept_passwords;
    }
}

/// What became of a chunk.
pub enum Chunk {
    /// All of it is done.
    Done(Counts),
    /// Nothing is: which of the items are wrong, by their position, and why.
    Refused(Vec<(usize, FleetError)>),
}

/// Writes a chunk, all or nothing. The caller has a transaction open.
///
/// # Errors
/// A database that is away, or that failed on what is no fault of a line.
pub async fn import(
    client: &mut impl GenericClient,
    items: &[&Item],
    on_conflict: OnConflict,
) -> Result<Chunk, FleetError> {
    if !has_repeats(items) {
        let begun = client.transaction().await.map_err(on_import())?;
        match write(&begun, items, on_conflict).await {
            Ok(counts) => {
                begun.commit().await.map_err(on_import())?;
                return Ok(Chunk::Done(counts));
            }
            Err(error) if is_about_a_line(&error) => drop(begun),
            Err(error) => return Err(error),
        }
    }
    let mut counts = Counts::default();
    let mut trial = client.transaction().await.map_err(on_import())?;
    let mut wrong = Vec::new();
    for stage in 0..STAGES {
        for (position, item) in items.iter().enumerate().filter(|(_, item)| stage_of(item) == stage)
        {
            let alone = trial.transaction().await.map_err(on_import())?;
            match write(&alone, &[item], on_conflict).await {
                Ok(more) => {
                    alone.commit().await.map_err(on_import())?;
                    counts.add(more);
                }
                Err(error) if is_about_a_line(&error) => wrong.push((position, error)),
                Err(error) => return Err(error),
            }
        }
    }
    if wrong.is_empty() {
        trial.commit().await.map_err(on_import())?;
        return Ok(Chunk::Done(counts));
    }
    drop(trial);
    wrong.sort_by_key(|(position, _)| *position);
    Ok(Chunk::Refused(wrong))
}

/// Whether lines are about the same thing. One statement for all would not do one after the other.
fn has_repeats(items: &[&Item]) -> bool {
    let mut names = BTreeSet::new();
    !items.iter().all(|item| {
        names.insert(match item {
            Item::Capability(capability) => ("capability", capability.name.as_str()),
            Item::Device(device) => ("device", device.name.as_str()),
            Item::Rule(rule) => ("rule", rule.name.as_str()),
        })
    })
}

fn on_import() -> impl FnOnce(tokio_postgres::Error) -> FleetError {
    |error| FleetError::Registry(RegistryError::on("the import")(error))
}

fn is_about_a_line(error: &FleetError) -> bool {
    !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Failed)
}

const STAGES: usize = 4;

fn stage_of(item: &Item) -> usize {
    match item {
        Item::Capability(_) => 0,
        Item::Device(device) if device.gateway.is_none() => 1,
        Item::Device(_) => 2,
        Item::Rule(_) => 3,
    }
}

async fn write(
    client: &impl GenericClient,
    items: &[&Item],
    on_conflict: OnConflict,
) -> Result<Counts, FleetError> {
    let mut counts = Counts::default();
    let (mut capabilities, mut devices, mut children, mut rules) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Capability(capability) => capabilities.push(capability),
            Item::Device(device) if device.gateway.is_none() => devices.push(&**device),
            Item::Device(device) => children.push(&**device),
            Item::Rule(rule) => rules.push(rule),
        }
    }
    if matches!(on_conflict, OnConflict::Update | OnConflict::Complete(_)) {
        lock(client, devices.iter().chain(&children).copied()).await?;
    }
    let capabilities = known_and_new(client, &CAPABILITIES, capabilities, on_conflict).await?;
    counts.add(write_rows(client, &CAPABILITIES, &capabilities, on_conflict).await?);
    counts.add(write_devices(client, devices, on_conflict).await?);
    counts.add(write_devices(client, children, on_conflict).await?);
    let rules = known_and_new(client, &RULES, rules, on_conflict).await?;
    let named = rules.written().map(|rule| rule.capability.to_string()).collect();
    require_capabilities(client, named).await?;
    counts.add(write_rows(client, &RULES, &rules, on_conflict).await?);
    Ok(counts)
}

/// Passes over so many.
///
/// # Errors
/// There are no more than these.
fn pass_over<T>(elements: &mut std::vec::IntoIter<T>, count: u64) -> Result<(), usize> {
    let has = elements.len();
    match usize::try_from(count) {
        Ok(count) if count <= has => {
            elements.by_ref().take(count).for_each(drop);
            Ok(())
        }
        _ => Err(has),
    }
}

/// A whole file of JSON. What is wrong is told with its place, and without what stands there.
fn document<'de, T: Deserialize<'de>>(
    reader: &mut serde_json::Deserializer<impl serde_json::de::Read<'de>>,
) -> Result<T, String> {
    let read = serde_path_to_error::deserialize(&mut *reader).map_err(|error| {
        let line = error.inner().line();
        format!("line {line}, {}", line::wrong(&error))
    });
    let document = read?;
    reader.end().map_err(|_| "it has something behind the document".to_owned())?;
    Ok(document)
}

/// Which of these devices are there.
///
/// # Errors
/// A database that is away.
pub async fn present(
    client: &impl GenericClient,
    names: &[&str],
) -> Result<BTreeSet<String>, FleetError> {
    known(client, DEVICES.name, names).await
}

async fn require_capabilities(
    client: &impl GenericClient,
    names: BTreeSet<String>,
) -> Result<(), FleetError> {
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let known = known(client, CAPABILITIES.name, &wanted).await?;
    match names.difference(&known).next().map(|name| name.parse()) {
        Some(Ok(name)) => Err(FleetError::NotFound(Thing::Capability(name))),
        _ => Ok(()),
    }
}
