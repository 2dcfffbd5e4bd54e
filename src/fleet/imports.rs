//! Lines of JSON into the registry: capabilities, devices with what belongs to them, routing rules (`imports/line.rs` has
//! their form). What [`crate::fleet::exports`] writes is taken back to the same rows, but for ids and timestamps of the
//! database.
//!
//! A chunk of lines is written by a few statements for all of them. Where PostgreSQL refuses one, the lines are tried one
//! by one to find which are wrong, and nothing of the chunk stays. Where none is wrong alone (two are about the same thing),
//! all stay. Within a chunk capabilities come first, then devices without a gateway, then those behind one, then rules; what a
//! line names has to be there by then.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::str::FromStr;

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio_postgres::GenericClient;
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};
use utoipa::ToSchema;

use crate::fleet::error::{ErrorKind, FleetError, Rule, Thing};
use crate::registry::error::RegistryError;

mod acl;
mod csv;
mod dynsec;
mod emqx;
mod foreign;
mod hashes;
mod line;
mod logins;
mod mosquitto;

pub use acl::Acl;
pub use csv::Csv;
pub use dynsec::Dynsec;
pub use emqx::{Algorithm, AlgorithmError, EmqxCsv, EmqxJson};
pub use foreign::{Entry, Foreign, Login};
pub use hashes::SaltEncoding;
pub use logins::{Tally, hash_logins, measure_one};
pub use mosquitto::PasswordFile;

use line::{Capability, Device};
pub use line::{Item, LineError, Parsed};

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
}

impl Counts {
    /// Adds those of another chunk.
    pub fn add(&mut self, other: Self) {
        self.added += other.added;
        self.updated += other.updated;
        self.skipped += other.skipped;
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
            Item::Capability(capability) => ("capability", capability.name.0.as_str()),
            Item::Device(device) => ("device", device.name.0.as_str()),
            Item::Rule(rule) => ("rule", rule.name.0.as_str()),
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
    counts.add(write_named(client, &CAPABILITIES, capabilities, on_conflict).await?.counts);
    counts.add(write_devices(client, devices, on_conflict).await?);
    counts.add(write_devices(client, children, on_conflict).await?);
    let named: BTreeSet<String> = rules.iter().map(|rule| rule.capability.0.to_string()).collect();
    require_capabilities(client, named).await?;
    counts.add(write_named(client, &RULES, rules, on_conflict).await?.counts);
    Ok(counts)
}

/// A table with a line a row: what each column is in the line's JSON, and what it is in the table.
struct Table {
    name: &'static str,
    /// Its name, type in JSON, and value.
    columns: &'static [(&'static str, &'static str, &'static str)],
}

const CAPABILITIES: Table = Table {
    name: "capabilities",
    columns: &[
        ("name", "text", "it.name"),
        ("description", "text", "it.description"),
        ("state_schema", "jsonb", "it.state_schema"),
        ("command_schema", "jsonb", "it.command_schema"),
        ("confirm", "text", "it.confirm"),
        ("command_expiry", "integer", "it.command_expiry"),
        ("ack_timeout", "integer", "it.ack_timeout"),
        ("answer_in", "integer", "it.answer_in"),
        ("envelope", "boolean", "it.envelope"),
        ("only_latest", "boolean", "it.only_latest"),
    ],
};

const DEVICES: Table = Table {
    name: "devices",
    columns: &[
        ("name", "text", "it.name"),
        ("client_id", "text", "it.client_id"),
        ("area", "text", "it.area"),
        ("floor", "text", "it.floor"),
        ("kind", "text", "it.kind"),
        ("gateway", "text", "(SELECT id FROM devices AS found WHERE found.name = it.gateway)"),
        ("availability_topic", "text", "it.availability_topic"),
        ("enabled", "boolean", "coalesce(it.enabled, true)"),
        ("meta", "jsonb", "it.meta"),
    ],
};

const RULES: Table = Table {
    name: "routing_rules",
    columns: &[
        ("name", "text", "it.name"),
        ("capability", "text", "it.capability"),
        ("selector", "jsonb", "it.selector"),
        ("strategy", "text", "it.strategy"),
        ("priority", "integer", "it.priority"),
        ("enabled", "boolean", "it.enabled"),
    ],
};

impl Table {
    fn joined(
        &self,
        part: impl Fn(&(&'static str, &'static str, &'static str)) -> String,
    ) -> String {
        self.columns.iter().map(part).collect::<Vec<_>>().join(", ")
    }

    fn rows(&self) -> String {
        let columns = self.joined(|(name, kind, _)| format!("{name} {kind}"));
        format!("FROM jsonb_to_recordset($1) AS it ({columns})")
    }

    fn insert(&self) -> String {
        let (names, values) = (
            self.joined(|(name, ..)| (*name).to_owned()),
            self.joined(|(.., it)| (*it).to_owned()),
        );
        format!("INSERT INTO {} ({names}) SELECT {values} {}", self.name, self.rows())
    }

    /// `None` where nothing is to be changed.
    fn update(&self, on_conflict: OnConflict) -> Option<String> {
        let changes = self.columns.iter().enumerate().filter_map(|(position, (name, _, it))| {
            let wanted = match on_conflict {
                OnConflict::Complete(columns) if !columns.has(position) => return None,
                OnConflict::Complete(_) if *name == "meta" => format!("had.meta || {it}"),
                OnConflict::Complete(columns)
                    if *name == "enabled" && columns.0 & Columns::DISABLING != 0 =>
                {
                    format!("(had.enabled AND {it})")
                }
                // What a line does not say stays.
                OnConflict::Complete(_) if *name == "enabled" => {
                    "coalesce(it.enabled, had.enabled)".to_owned()
                }
                OnConflict::Complete(_) => format!("coalesce({it}, had.{name})"),
                _ => (*it).to_owned(),
            };
            Some((format!("had.{name}"), wanted))
        });
        let changes: Vec<_> = changes.collect();
        let set = changes
            .iter()
            .map(|(had, wanted)| format!("{} = {wanted}", had.trim_start_matches("had.")));
        let set = set.collect::<Vec<_>>().join(", ");
        let rows = self.rows();
        (!set.is_empty()).then(|| {
            // Rows that are so already are not written: presence would wait for the end of the import, and so of a dry run.
            let (had, wanted): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
            format!(
                "UPDATE {} AS had SET {set} {rows} WHERE had.name = it.name AND ROW({}) IS DISTINCT FROM ROW({})",
                self.name,
                had.join(", "),
                wanted.join(", ")
            )
        })
    }
}

/// What has a line of its own.
trait Named: Serialize {
    fn name(&self) -> &str;
    fn thing(&self) -> Thing;
    const TAKEN: Rule;
}

impl Named for Capability {
    fn name(&self) -> &str {
        self.name.0.as_str()
    }

    fn thing(&self) -> Thing {
        Thing::Capability(self.name.0.clone())
    }

    const TAKEN: Rule = Rule::CapabilityExists;
}

impl Named for Device {
    fn name(&self) -> &str {
        self.name.0.as_str()
    }

    fn thing(&self) -> Thing {
        Thing::Device(self.name.0.clone())
    }

    const TAKEN: Rule = Rule::NameTaken;
}

impl Named for line::Rule {
    fn name(&self) -> &str {
        self.name.0.as_str()
    }

    fn thing(&self) -> Thing {
        Thing::Rule(self.name.0.to_string())
    }

    const TAKEN: Rule = Rule::RuleExists;
}

/// What of some lines was written.
struct Written<'a, T> {
    new: Vec<&'a T>,
    present: Vec<&'a T>,
    counts: Counts,
}

/// Writes the rows of lines: those that are new, and those that are there as `on_conflict` says.
async fn write_named<'a, T: Named>(
    client: &impl GenericClient,
    table: &Table,
    all: Vec<&'a T>,
    on_conflict: OnConflict,
) -> Result<Written<'a, T>, FleetError> {
    let names: Vec<&str> = all.iter().map(|one| one.name()).collect();
    let known = known(client, table.name, &names).await?;
    let (mut present, new): (Vec<&T>, Vec<&T>) =
        all.into_iter().partition(|one| known.contains(one.name()));
    let mut counts = Counts { added: new.len(), ..Counts::default() };
    match (on_conflict, present.first()) {
        (OnConflict::Fail, Some(first)) => {
            return Err(FleetError::rule(&first.thing(), T::TAKEN));
        }
        (OnConflict::Complete(_), _) if table.name == DEVICES.name => {
            counts.updated = present.len();
        }
        (OnConflict::Skip | OnConflict::Complete(_), _) => {
            counts.skipped = std::mem::take(&mut present).len();
        }
        (OnConflict::Fail | OnConflict::Update, _) => counts.updated = present.len(),
    }
    for (statement, some) in [(Some(table.insert()), &new), (table.update(on_conflict), &present)] {
        if let (Some(statement), Some(first)) = (statement, some.first()) {
            let thing = first.thing();
            run(client, &thing, &statement, &[&Rows::new(&thing, some)?]).await?;
        }
    }
    Ok(Written { new, present, counts })
}

/// Which of these names the table has.
async fn known(
    client: &impl GenericClient,
    table: &str,
    names: &[&str],
) -> Result<BTreeSet<String>, FleetError> {
    names_of(client, table, "", names).await
}

/// The same, with what is behind the condition.
async fn names_of(
    client: &impl GenericClient,
    table: &str,
    rest: &str,
    names: &[&str],
) -> Result<BTreeSet<String>, FleetError> {
    if names.is_empty() {
        return Ok(BTreeSet::new());
    }
    let statement = format!("SELECT name FROM {table} WHERE name = ANY ($1) {rest}");
    let rows = client.query(&statement, &[&names]).await.map_err(on_import())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
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

/// Rows as PostgreSQL is given them: JSON, written once.
struct Rows {
    json: Vec<u8>,
    is_empty: bool,
}

impl Rows {
    fn new(thing: &Thing, rows: &[impl Serialize]) -> Result<Self, FleetError> {
        let bad = |error: serde_json::Error| RegistryError::BadData(format!("{thing}: {error}"));
        Ok(Self { json: serde_json::to_vec(rows).map_err(bad)?, is_empty: rows.is_empty() })
    }
}

/// Hashes may be among them.
impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of rows", self.json.len())
    }
}

impl ToSql for Rows {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.put_u8(JSONB_VERSION);
        out.put_slice(&self.json);
        Ok(IsNull::No)
    }

    accepts!(JSONB);
    to_sql_checked!();
}

/// The first byte of a `jsonb` that PostgreSQL is sent.
const JSONB_VERSION: u8 = 1;

/// Runs a statement. Where it is refused, that is about the only line of a chunk, or about one that is found by trying all.
async fn run(
    client: &impl GenericClient,
    thing: &Thing,
    statement: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<(), FleetError> {
    client.execute(statement, values).await.map(drop).map_err(FleetError::on(thing))
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

async fn write_devices(
    client: &impl GenericClient,
    all: Vec<&Device>,
    on_conflict: OnConflict,
) -> Result<Counts, FleetError> {
    let Some(thing) = all.first().map(|first| first.thing()) else {
        return Ok(Counts::default());
    };
    let gateways: Vec<&str> =
        all.iter().filter_map(|one| Some(one.gateway.as_ref()?.0.as_str())).collect();
    // They keep their names until the transaction ends: the rows of the children look for them.
    let known = names_of(client, DEVICES.name, "ORDER BY id FOR KEY SHARE", &gateways).await?;
    let unknown = all.iter().filter_map(|one| one.gateway.as_ref());
    if let Some(gateway) = unknown.map(|it| &it.0).find(|it| !known.contains(it.as_str())) {
        return Err(FleetError::NotFound(Thing::Device(gateway.clone())));
    }
    let Written { new, present, counts } = write_named(client, &DEVICES, all, on_conflict).await?;
    let there: Vec<&str> = present.iter().map(|one| one.name()).collect();
    let some: Vec<&Device> = new.into_iter().chain(present).collect();
    let capabilities: Vec<_> = some.iter().flat_map(|one| capabilities_of(one)).collect();
    let names = capabilities.iter().map(|can| can.name.clone()).collect();
    require_capabilities(client, names).await?;
    let capabilities = Rows::new(&thing, &capabilities)?;
    let bindings = Rows::new(&thing, &parts(&some, |one| &one.bindings))?;
    let grants = Rows::new(&thing, &parts(&some, |one| &one.grants))?;
    let credentials = Rows::new(&thing, &parts(&some, |one| &one.credentials))?;
    if !there.is_empty() && !matches!(on_conflict, OnConflict::Complete(_)) {
        for (statement, kept) in
            [(ONLY_CAPABILITIES, &capabilities), (ONLY_BINDINGS, &bindings), (ONLY_GRANTS, &grants)]
        {
            run(client, &thing, statement, &[kept, &there]).await?;
        }
    }
    // What no line has costs no statement.
    let completes = matches!(on_conflict, OnConflict::Complete(_));
    if !capabilities.is_empty {
        run(client, &thing, ADD_CAPABILITIES, &[&capabilities]).await?;
    }
    if !bindings.is_empty {
        run(client, &thing, ADD_BINDINGS, &[&bindings, &completes]).await?;
    }
    if !grants.is_empty {
        run(client, &thing, ADD_GRANTS, &[&grants]).await?;
    }
    if !credentials.is_empty {
        if some.iter().any(|one| one.credentials.iter().any(|one| one.revoked_at.is_some())) {
            run(client, &thing, REVOKE_CREDENTIALS, &[&credentials]).await?;
        }
        run(client, &thing, ADD_CREDENTIALS, &[&credentials, &completes]).await?;
    }
    Ok(counts)
}

/// A part of a device, with the name of that.
#[derive(Serialize)]
struct Part<'a, T> {
    device: &'a str,
    #[serde(flatten)]
    part: &'a T,
}

fn parts<'a, T>(some: &[&'a Device], of: fn(&'a Device) -> &'a [T]) -> Vec<Part<'a, T>> {
    let of_one = |one: &&'a Device| {
        let device = one.name.0.as_str();
        of(one).iter().map(move |part| Part { device, part }).collect::<Vec<_>>()
    };
    some.iter().flat_map(of_one).collect()
}

/// A capability of a device.
#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Can<'a> {
    device: &'a str,
    name: String,
}

/// What a device can do: what is listed, and what its bindings carry.
fn capabilities_of(device: &Device) -> BTreeSet<Can<'_>> {
    let listed = device.capabilities.iter().map(|name| name.0.to_string());
    let bound = device.bindings.iter().filter_map(|binding| binding.name.0.capability());
    let names = listed.chain(bound.map(|name| name.to_string()));
    names.map(|name| Can { device: device.name.0.as_str(), name }).collect()
}

// What devices that were there have and their lines do not goes, but for credentials: with those they can log in still.

const ONLY_CAPABILITIES: &str = "
    DELETE FROM device_capabilities AS had USING devices AS device
    WHERE device.id = had.device_id AND device.name = ANY ($2) AND (device.name, had.capability) NOT IN (
        SELECT it.device, it.name FROM jsonb_to_recordset($1) AS it (device text, name text))";

const ONLY_BINDINGS: &str = "
    DELETE FROM topic_bindings AS had USING devices AS device
    WHERE device.id = had.device_id AND device.name = ANY ($2) AND (device.name, had.name) NOT IN (
        SELECT it.device, it.name FROM jsonb_to_recordset($1) AS it (device text, name text))";

const ONLY_GRANTS: &str = "
    DELETE FROM topic_grants AS had USING devices AS device
    WHERE device.id = had.device_id AND device.name = ANY ($2) AND (device.name, had.action, had.topic_filter) NOT IN (
        SELECT it.device, it.action, it.topic_filter
        FROM jsonb_to_recordset($1) AS it (device text, action text, topic_filter text))";

const ADD_CAPABILITIES: &str = "
    INSERT INTO device_capabilities (device_id, capability)
    SELECT device.id, it.name FROM jsonb_to_recordset($1) AS it (device text, name text)
    JOIN devices AS device ON device.name = it.device
    ON CONFLICT DO NOTHING";

/// What is added to a binding that is there ($2) takes no topic of it away.
const ADD_BINDINGS: &str = "
    INSERT INTO topic_bindings AS had (device_id, name, state_topic, command_topic, reply_topic, merge)
    SELECT device.id, it.name, it.state_topic, it.command_topic, it.reply_topic, it.merge
    FROM jsonb_to_recordset($1)
        AS it (device text, name text, state_topic text, command_topic text, reply_topic text, merge boolean)
    JOIN devices AS device ON device.name = it.device
    ON CONFLICT (device_id, name) DO UPDATE SET (state_topic, command_topic, reply_topic, merge) = (
        CASE WHEN $2::boolean THEN coalesce(EXCLUDED.state_topic, had.state_topic) ELSE EXCLUDED.state_topic END,
        CASE WHEN $2::boolean THEN coalesce(EXCLUDED.command_topic, had.command_topic) ELSE EXCLUDED.command_topic END,
        CASE WHEN $2::boolean THEN coalesce(EXCLUDED.reply_topic, had.reply_topic) ELSE EXCLUDED.reply_topic END,
        EXCLUDED.merge OR $2::boolean AND had.merge)";

const ADD_GRANTS: &str = "
    INSERT INTO topic_grants (device_id, action, topic_filter)
    SELECT device.id, it.action, it.topic_filter
    FROM jsonb_to_recordset($1) AS it (device text, action text, topic_filter text)
    JOIN devices AS device ON device.name = it.device
    ON CONFLICT DO NOTHING";

/// A secret that the file knows as revoked, and only so, is revoked. Of certificates several have the same name, one after the other.
const REVOKE_CREDENTIALS: &str = "
    UPDATE device_credentials AS had SET revoked_at = told.revoked_at
    FROM (SELECT device.id, it.kind, it.hash, max(it.revoked_at) AS revoked_at
          FROM jsonb_to_recordset($1) AS it (device text, kind text, hash text, revoked_at timestamptz)
          JOIN devices AS device ON device.name = it.device
          WHERE it.hash IS NOT NULL
          GROUP BY device.id, it.kind, it.hash HAVING bool_and(it.revoked_at IS NOT NULL)) AS told
    WHERE had.device_id = told.id AND had.kind = told.kind AND had.hash = told.hash AND had.revoked_at IS NULL";

// In their order, which is that of their numbers. What was revoked, replaced or given an end here must not come back with an old
// file: a secret, certificate or token that the device has or had is not added a second time, whatever else the file says of it,
// and a hash of another broker only to a device that never had a password. Where a file of another form is added to what is
// there ($2), that holds for every password.
const ADD_CREDENTIALS: &str = "
    INSERT INTO device_credentials (device_id, kind, hash, common_name, certificate_required, label, not_before, expires_at,
        revoked_at)
    SELECT device.id, it.kind, it.hash, it.common_name, it.certificate_required, it.label, it.not_before, it.expires_at,
           it.revoked_at
    FROM ROWS FROM (jsonb_to_recordset($1) AS (device text, kind text, hash text, common_name text,
            certificate_required boolean, label text, not_before timestamptz, expires_at timestamptz, revoked_at timestamptz))
        WITH ORDINALITY AS it (device, kind, hash, common_name, certificate_required, label, not_before, expires_at,
            revoked_at, place)
    JOIN devices AS device ON device.name = it.device
    WHERE NOT EXISTS (
        SELECT FROM device_credentials AS had WHERE had.device_id = device.id
          AND (had.kind, had.hash, had.common_name) IS NOT DISTINCT FROM (it.kind, it.hash, it.common_name)
          -- Nothing but these tells two of them apart.
          AND (it.kind <> 'token' OR (had.label, had.not_before) IS NOT DISTINCT FROM (it.label, it.not_before)))
      AND NOT (it.kind = ANY (CASE WHEN $2::boolean THEN ARRAY['imported', 'password'] ELSE ARRAY['imported'] END)
        AND EXISTS (SELECT FROM device_credentials AS had
                    WHERE had.device_id = device.id AND had.kind IN ('imported', 'password')))
    ORDER BY place";
