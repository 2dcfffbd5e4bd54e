//! Rows of capabilities, devices and routing rules, for the lines of a chunk together.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt;

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use tokio_postgres::GenericClient;
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};

use super::line::{self, Capability, Device};
use super::{Columns, Counts, OnConflict, on_import};
use crate::fleet::error::{FleetError, Rule, Thing};
use crate::registry::error::RegistryError;

/// A table with a line a row: what each column is in the line's JSON, and what it is in the table.
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Its name, type in JSON, and value.
    pub(super) columns: &'static [(&'static str, &'static str, &'static str)],
}

pub(super) const CAPABILITIES: Table = Table {
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

pub(super) const DEVICES: Table = Table {
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

pub(super) const RULES: Table = Table {
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
pub(super) trait Named: Serialize {
    fn name(&self) -> &str;
    fn thing(&self) -> Thing;
    const TAKEN: Rule;
}

impl Named for Capability {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn thing(&self) -> Thing {
        Thing::Capability(self.name.clone())
    }

    const TAKEN: Rule = Rule::CapabilityExists;
}

impl Named for Device {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn thing(&self) -> Thing {
        Thing::Device(self.name.clone())
    }

    const TAKEN: Rule = Rule::NameTaken;
}

impl Named for line::Rule {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn thing(&self) -> Thing {
        Thing::Rule(self.name.to_string())
    }

    const TAKEN: Rule = Rule::RuleExists;
}

/// What some lines are about: what is not there, and what is there and is to change.
pub(super) struct Sorted<'a, T> {
    new: Vec<&'a T>,
    pub(super) present: Vec<&'a T>,
    skipped: usize,
}

impl<'a, T> Sorted<'a, T> {
    /// All but what is passed over.
    pub(super) fn written(&self) -> impl Iterator<Item = &'a T> {
        self.new.iter().chain(&self.present).copied()
    }
}

/// Sorts lines by whether what they are about is there.
///
/// # Errors
/// It is, and may not be.
pub(super) async fn known_and_new<'a, T: Named>(
    client: &impl GenericClient,
    table: &Table,
    all: Vec<&'a T>,
    on_conflict: OnConflict,
) -> Result<Sorted<'a, T>, FleetError> {
    let names: Vec<&str> = all.iter().map(|one| one.name()).collect();
    let known = known(client, table.name, &names).await?;
    let (mut present, new): (Vec<&T>, Vec<&T>) =
        all.into_iter().partition(|one| known.contains(one.name()));
    let skipped = match (on_conflict, present.first()) {
        (OnConflict::Fail, Some(first)) => {
            return Err(FleetError::rule(&first.thing(), T::TAKEN));
        }
        (OnConflict::Complete(_), _) if table.name == DEVICES.name => 0,
        (OnConflict::Skip | OnConflict::Complete(_), _) => std::mem::take(&mut present).len(),
        (OnConflict::Fail | OnConflict::Update, _) => 0,
    };
    Ok(Sorted { new, present, skipped })
}

/// Writes the rows of lines: those that are new, and those that are there as `on_conflict` says.
pub(super) async fn write_rows<T: Named>(
    client: &impl GenericClient,
    table: &Table,
    lines: &Sorted<'_, T>,
    on_conflict: OnConflict,
) -> Result<Counts, FleetError> {
    let Sorted { new, present, skipped } = lines;
    for (statement, some) in [(Some(table.insert()), new), (table.update(on_conflict), present)] {
        if let (Some(statement), Some(first)) = (statement, some.first()) {
            let thing = first.thing();
            run(client, &thing, &statement, &[&Rows::new(&thing, some)?]).await?;
        }
    }
    let (added, updated, skipped) = (new.len(), present.len(), *skipped);
    Ok(Counts { added, updated, skipped, kept_passwords: 0 })
}

/// Which of these names the table has.
pub(super) async fn known(
    client: &impl GenericClient,
    table: &str,
    names: &[&str],
) -> Result<BTreeSet<String>, FleetError> {
    names_of(client, table, "", names).await
}

/// The same, with what is behind the condition.
pub(super) async fn names_of(
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

/// Rows as PostgreSQL is given them: JSON, written once.
pub(super) struct Rows {
    json: Vec<u8>,
    pub(super) count: usize,
}

impl Rows {
    pub(super) fn new(thing: &Thing, rows: &[impl Serialize]) -> Result<Self, FleetError> {
        let bad = |error: serde_json::Error| RegistryError::BadData(format!("{thing}: {error}"));
        Ok(Self { json: serde_json::to_vec(rows).map_err(bad)?, count: rows.len() })
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

/// Runs a statement. Where it is refused, that is about the only line of a chunk, or about one
/// that is found by trying all.
pub(super) async fn run(
    client: &impl GenericClient,
    thing: &Thing,
    statement: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<(), FleetError> {
    client.execute(statement, values).await.map(drop).map_err(FleetError::on(thing))
}
