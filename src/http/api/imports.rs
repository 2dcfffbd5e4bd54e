//! Lines of JSON into the registry, as `fleetgate import` reads them: chunk by chunk while they arrive, each chunk in a
//! transaction of its own.
//!
//! What it keeps:
//! * No connection to PostgreSQL is held while the client is waited for. So the lines of a dry run, which are tried in one
//!   transaction, are received before it begins.
//! * Nothing of a line that has not arrived as a whole is imported.
//! * Whatever ends an import that has begun tells up to which line it is done.

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::web::{self, BytesMut, Data, Json};
use actix_web::{HttpRequest, post};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use std::num::NonZero;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Transaction;
use utoipa::{IntoParams, ToSchema};
use utoipa_actix_web::service_config::ServiceConfig;

use super::access::{Caller, require_still_valid};
use super::body::{Parameters, broken_off, late, require_media_type, too_large};
use super::problem::{Problems, Wrong};
use super::{Admin, Api, Problem};
use crate::fleet::FleetError;
use crate::fleet::error::{Rule, Thing};
use crate::fleet::imports::{
    self, CHUNK_BYTES, CHUNK_LINES, Counts, Item, MAX_LINE_BYTES, UnknownColumn,
};
use crate::fleet::wire::MAX_TRIED_BYTES;
use crate::http::connections::ActiveRequest;
use crate::registry::error::RegistryError;
use crate::registry::session::statements_may_take;

/// Most bytes of an import.
const MAX_BYTES: usize = 256 * 1024 * 1024;
/// Longest time of an import.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest time until more of the body comes.
const SILENCE: Duration = Duration::from_secs(10);
/// Longest time of a chunk in PostgreSQL.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time of a dry run in PostgreSQL. Whoever changes what it would change waits meanwhile.
const TRY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time of a statement: one writes a table's rows for all lines of a chunk, with what triggers add to each. For 500 plain
/// devices that takes a tenth of a second; for 500 with 20 bindings and 20 grants each more than the API's 2 s.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Most wrong lines that are told one by one.
const MOST_TOLD: usize = 100;

pub(super) fn register(service: &mut ServiceConfig<'_>) {
    service.service(import);
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ImportQuery {
    /// Try all lines (16 MiB at most), tell which are wrong, and change nothing. Whoever changes the same things meanwhile waits, and so do events of
    /// devices that would be changed.
    #[serde(default)]
    dry_run: bool,
    /// What to do where a name is taken already.
    #[serde(default)]
    #[param(inline)]
    on_conflict: OnConflict,
    /// With `on_conflict=complete`: which of a device's own columns change, with commas between: client_id, area, floor, kind,
    /// gateway, availability_topic, enabled, meta (members are added), or disabled (a device that is disabled stays so).
    columns: Option<String>,
    /// Begin with this line of the body, counted from 1.
    #[param(value_type = Option<u64>, minimum = 1, default = 1)]
    from_line: Option<NonZero<u64>>,
}

/// What to do where a name is taken already.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum OnConflict {
    /// It is an error.
    #[default]
    Fail,
    /// What is there stays.
    Skip,
    /// What is there becomes what the line says. Credentials that the line does not have stay.
    Update,
    /// What the line says is added to what is there, and of the device's own columns those in `columns` change that the line says
    /// (`null` says nothing). A password is added only to a device that never had one. Capabilities and rules that are there stay.
    Complete,
}

impl ImportQuery {
    fn on_conflict(&self) -> Result<imports::OnConflict, Problem> {
        match (self.on_conflict, &self.columns) {
            (OnConflict::Fail, None) => Ok(imports::OnConflict::Fail),
            (OnConflict::Skip, None) => Ok(imports::OnConflict::Skip),
            (OnConflict::Update, None) => Ok(imports::OnConflict::Update),
            (OnConflict::Complete, columns) => {
                let columns = columns.as_deref().unwrap_or_default().parse();
                let columns = columns
                    .map_err(|error: UnknownColumn| Problem::query(format!("columns: {error}")))?;
                Ok(imports::OnConflict::Complete(columns))
            }
            (_, Some(_)) => Err(Problem::query("columns is for on_conflict=complete alone")),
        }
    }
}

/// What an import did, or would do.
#[derive(Serialize, ToSchema)]
struct Imported {
    /// Whether nothing was changed.
    dry_run: bool,
    #[serde(flatten)]
    counts: Counts,
    /// The last line that was read.
    last_line: u64,
    /// How many lines are wrong; without `dry_run` none is.
    wrong_lines: usize,
    /// The first 100 of them. What belongs to the chunk of a wrong line is not counted above.
    wrong: Vec<WrongLine>,
}

/// A line that is wrong.
#[derive(Serialize, ToSchema)]
struct WrongLine {
    /// Its number in the body, counted from 1.
    line: u64,
    /// What is wrong.
    message: String,
    /// What the fleet refuses: `{"device": "lamp"}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, example = json!({"device": "lamp"}))]
    thing: Option<Thing>,
    /// By which rule, as in a problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>, example = "name_taken")]
    rule: Option<Rule>,
}

/// Import lines of JSON
///
/// What `GET /api/v1/exports` gives is taken back: capabilities, devices with what belongs to them, routing rules. Lines go in
/// chunks of 500, each all or nothing, while they arrive. The first chunk with a wrong line ends the import (422): `errors`
/// names the wrong lines, `last_line` is the last one that is imported, and `from_line` continues behind it. So it is with
/// whatever else ends an import that has begun. One import runs at a time (429), 10 minutes and 256 MiB at most.
#[utoipa::path(
    tag = "bulk",
    params(ImportQuery),
    request_body(content = String, content_type = "application/x-ndjson", description = "One JSON object a line."),
    responses(
        (status = 200, description = "All of it is imported, or was tried.", body = Imported),
        Problems
    )
)]
#[post("/imports")]
async fn import(
    caller: Caller<Admin>,
    Parameters(query): Parameters<ImportQuery>,
    request: HttpRequest,
    payload: web::Payload,
    api: Data<Api>,
) -> Result<Json<Imported>, Problem> {
    require_media_type(&request, &["application/x-ndjson"])?;
    let Ok(_turn) = api.importing.try_acquire() else {
        return Err(Problem::busy("another import is under way; one runs at a time", "10"));
    };
    let on_conflict = query.on_conflict()?;
    let active = ActiveRequest::begin(&request);
    let from_line = query.from_line.map_or(1, NonZero::get);
    let mut lines = Lines::new(payload.into_inner(), from_line);
    let run = Run { api: &api, caller: &caller, on_conflict };
    let imported = match query.dry_run {
        true => run.try_all(&mut lines).await,
        false => run.import_all(&mut lines, from_line).await,
    };
    active.body_complete();
    imported.map(Json)
}

/// An import that is under way.
struct Run<'a> {
    api: &'a Api,
    caller: &'a Caller<Admin>,
    on_conflict: imports::OnConflict,
}

impl Run<'_> {
    async fn import_all(&self, lines: &mut Lines, from_line: u64) -> Result<Imported, Problem> {
        let (mut counts, mut last_line) = (Counts::default(), from_line - 1);
        loop {
            let done = async {
                let Some(chunk) = lines.next_chunk().await? else { return Ok(None) };
                let written = self.api.change_within(CHUNK_TIMEOUT, self.caller, async |client| {
                    require_still_valid(client, &self.caller.token).await?;
                    match self.write(client, &chunk).await? {
                        Ok(counts) => Ok(counts),
                        Err(wrong) => Err(refused(wrong, last_line + 1).into()),
                    }
                });
                Ok::<_, Problem>(Some((written.await?, chunk.last)))
            };
            match done.await {
                Ok(Some((more, last))) => {
                    counts.add(more);
                    last_line = last;
                }
                Ok(None) => break,
                Err(problem) => return Err(problem.after(last_line, counts)),
            }
        }
        lines.require_begun()?;
        Ok(Imported { dry_run: false, counts, last_line, wrong_lines: 0, wrong: Vec::new() })
    }

    /// Tries all lines in one transaction, chunks that are refused left out, and undoes it.
    async fn try_all(&self, lines: &mut Lines) -> Result<Imported, Problem> {
        lines.receive_all().await?;
        let tried = self.api.change_within(TRY_TIMEOUT, self.caller, async |client| {
            let mut trial = client.transaction().await.map_err(on_import())?;
            let (mut counts, mut wrong, mut last_line) = (Counts::default(), Vec::new(), 0);
            let mut wrong_lines = 0;
            while let Some(chunk) = lines.next_chunk().await? {
                last_line = chunk.last;
                match self.write(&mut trial, &chunk).await? {
                    Ok(more) => counts.add(more),
                    Err(more) => {
                        wrong_lines += more.len();
                        wrong.extend(more.into_iter().take(MOST_TOLD - wrong.len()));
                    }
                }
            }
            lines.require_begun()?;
            trial.rollback().await.map_err(on_import())?;
            let told = wrong.into_iter().map(WrongLine::from).collect();
            Ok(Imported { dry_run: true, counts, last_line, wrong_lines, wrong: told })
        });
        tried.await
    }

    /// Writes a chunk, or tells which of its lines are wrong.
    async fn write(
        &self,
        client: &mut Transaction<'_>,
        chunk: &Chunk,
    ) -> Result<Result<Counts, Vec<Wrong>>, FleetError> {
        statements_may_take(&*client, STATEMENT_TIMEOUT).await?;
        let mut wrong = chunk.wrong.clone();
        let items: Vec<&Item> = chunk.items.iter().map(|(_, item)| item).collect();
        match imports::import(client, &items, self.on_conflict).await? {
            imports::Chunk::Done(counts) if wrong.is_empty() => return Ok(Ok(counts)),
            imports::Chunk::Done(_) => {}
            imports::Chunk::Refused(refused) => wrong.extend(refused.iter().map(|(at, error)| {
                let line = chunk.items.get(*at).map(|(line, _)| *line);
                Wrong::refused(line, error)
            })),
        }
        wrong.sort_by_key(|wrong| wrong.line);
        Ok(Err(wrong))
    }
}

fn on_import() -> impl FnOnce(tokio_postgres::Error) -> FleetError {
    |error| FleetError::Registry(RegistryError::on("the import")(error))
}

impl From<Wrong> for WrongLine {
    fn from(wrong: Wrong) -> Self {
        let Wrong { pointer, detail, line, thing, rule } = wrong;
        let space = if pointer.is_empty() { "" } else { " " };
        let message = format!("{pointer}{space}{detail}");
        Self { line: line.unwrap_or_default(), message, thing, rule }
    }
}

fn refused(mut wrong: Vec<Wrong>, from_line: u64) -> Problem {
    let lines = match wrong.len() {
        1 => "1 line is".to_owned(),
        count => format!("{count} lines are"),
    };
    let detail = format!(
        "{lines} wrong, and nothing of the lines from {from_line} on is imported; see errors, correct them, and go on \
         with from_line={from_line}"
    );
    let count = wrong.len();
    wrong.truncate(MOST_TOLD);
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "wrong_lines", detail).about_lines(wrong, count)
}

/// Some lines that are imported together.
#[derive(Default)]
struct Chunk {
    items: Vec<(u64, Item)>,
    wrong: Vec<Wrong>,
    bytes: usize,
    last: u64,
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.items.len() + self.wrong.len() >= CHUNK_LINES || self.bytes >= CHUNK_BYTES
    }

    fn add(&mut self, number: u64, line: &[u8]) {
        self.last = number;
        self.bytes += line.len();
        let wrong = |pointer: String, detail: String| {
            let line = Some(number);
            Wrong { line, ..Wrong::at(pointer, detail) }
        };
        match std::str::from_utf8(line) {
            Ok(text) if text.trim().is_empty() => {}
            Ok(text) => match Item::read(text.trim_end()) {
                Ok(item) => self.items.push((number, item)),
                Err(error) => {
                    let detail = format!("column {}: {}", error.column, error.message);
                    self.wrong.push(wrong(error.pointer, detail));
                }
            },
            Err(error) => {
                let detail = format!("is not UTF-8 at byte {}", error.valid_up_to() + 1);
                self.wrong.push(wrong(String::new(), detail));
            }
        }
    }
}

/// A body, line by line, within bounds.
struct Lines {
    payload: Payload,
    is_complete: bool,
    /// What came and is in no line yet.
    buffer: BytesMut,
    /// How much of that holds no end of a line.
    looked_at: usize,
    received: usize,
    /// The last line that was taken.
    number: u64,
    from_line: u64,
    deadline: Instant,
}

/// A line that was taken out of a body.
enum Line {
    Whole(BytesMut),
    TooLong,
}

impl Lines {
    fn new(payload: Payload, from_line: u64) -> Self {
        Self {
            payload,
            is_complete: false,
            buffer: BytesMut::new(),
            looked_at: 0,
            received: 0,
            number: 0,
            from_line,
            deadline: Instant::now() + IMPORT_TIMEOUT,
        }
    }

    /// Receives more of the body, if there is more.
    async fn receive(&mut self, most: usize) -> Result<(), Problem> {
        let until = self.deadline.min(Instant::now() + SILENCE);
        match timeout_at(until, self.payload.next()).await {
            Err(_) if until == self.deadline => Err(late("the import took longer than 10 minutes")),
            Err(_) => Err(late("nothing more of the body arrived for 10 s")),
            Ok(None) => {
                self.is_complete = true;
                Ok(())
            }
            Ok(Some(Err(error))) => Err(broken_off(&error)),
            Ok(Some(Ok(piece))) => {
                self.received += piece.len();
                if self.received > most {
                    return Err(too_large(most));
                }
                self.buffer.extend_from_slice(&piece);
                Ok(())
            }
        }
    }

    async fn receive_all(&mut self) -> Result<(), Problem> {
        while !self.is_complete {
            self.receive(MAX_TRIED_BYTES).await?;
        }
        Ok(())
    }

    /// The next line without its end; `None` after the last.
    async fn next_line(&mut self) -> Result<Option<Line>, Problem> {
        let mut is_too_long = false;
        loop {
            let unseen = self.buffer.get(self.looked_at..).unwrap_or_default();
            let line = match unseen.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    let mut line = self.buffer.split_to(self.looked_at + end + 1);
                    line.truncate(self.looked_at + end);
                    line
                }
                None if self.is_complete && self.buffer.is_empty() && !is_too_long => {
                    return Ok(None);
                }
                None if self.is_complete => self.buffer.split(),
                None => {
                    if self.buffer.len() > MAX_LINE_BYTES {
                        self.buffer.clear();
                        is_too_long = true;
                    }
                    self.looked_at = self.buffer.len();
                    self.receive(MAX_BYTES).await?;
                    continue;
                }
            };
            self.looked_at = 0;
            self.number += 1;
            let is_too_long = is_too_long || line.len() > MAX_LINE_BYTES;
            return Ok(Some(if is_too_long { Line::TooLong } else { Line::Whole(line) }));
        }
    }

    /// Refuses to have begun behind the end, once that is reached.
    fn require_begun(&self) -> Result<(), Problem> {
        match self.from_line.saturating_sub(1) > self.number {
            true => Err(Problem::query(format!(
                "from_line is {}, and the body has {} lines",
                self.from_line, self.number
            ))),
            false => Ok(()),
        }
    }

    /// The lines of the next chunk; `None` when there are no more.
    async fn next_chunk(&mut self) -> Result<Option<Chunk>, Problem> {
        let mut chunk = Chunk::default();
        while !chunk.is_full() {
            let Some(line) = self.next_line().await? else { break };
            if self.number < self.from_line {
                continue;
            }
            match line {
                Line::Whole(line) => {
                    // As some editors begin a file.
                    let mark = if self.number == 1 { &b"\xef\xbb\xbf"[..] } else { &[] };
                    chunk.add(self.number, line.strip_prefix(mark).unwrap_or(&line));
                }
                Line::TooLong => {
                    chunk.last = self.number;
                    let detail = format!("has more than {MAX_LINE_BYTES} bytes");
                    let line = Some(self.number);
                    chunk.wrong.push(Wrong { line, ..Wrong::at("", detail) });
                }
            }
        }
        Ok((chunk.last > 0).then_some(chunk))
    }
}
