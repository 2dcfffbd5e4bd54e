//! What can go wrong between Fleetgate and PostgreSQL, in words that help.

use std::error::Error as _;

use thiserror::Error;
use tokio_postgres::error::{DbError, SqlState};

use crate::causes::causes;
use crate::registry::connection_error::of_answer;

/// Why the registry did not do something. Nothing was changed then.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// A rule of the registry says no. The text names the thing, the rule and the remedy.
    #[error("{0}")]
    Refused(String),
    /// PostgreSQL is away, went away, or cannot do what it is asked at present; waiting may help. The text
    /// names the cause and the remedy.
    #[error("{0}")]
    Unreachable(String),
    /// One statement took too long, or waited too long for a lock, and was given up; nobody knows whether it
    /// was done. Others may do better. The text names the remedy.
    #[error("{0}")]
    TookTooLong(String),
    /// The session is of no more use while another may be, and nothing was changed: its server became
    /// read-only, or it lost what was prepared. The text names the cause and the remedy.
    #[error("{0}")]
    SessionUnfit(String),
    /// PostgreSQL cannot be used before somebody changes a setting, here or there; the text says which.
    #[error("{0}")]
    Unusable(String),
    /// A setting of the database cannot be used; the text names it.
    #[error("{0}")]
    Settings(String),
    /// The tables are not there.
    #[error("the database has no (or an older) Fleetgate schema; run `fleetgate migrate`")]
    SchemaMissing,
    /// The tables are of an older release or not there, and this role may not change that.
    #[error(
        "the database has {}, this fleetgate needs version {known}, and role {role:?} may not change the schema; run `fleetgate migrate --grant-to {role}` with the owner's database.url",
        seen_version(*.applied)
    )]
    MayNotMigrate {
        /// The role that is connected.
        role: String,
        /// Version that the role sees; 0 for none.
        applied: i64,
        /// Version that this binary needs.
        known: i64,
    },
    /// The tables are of this release, and a role that does not own them would grant rights on them.
    #[error(
        "role {0:?} does not own the tables and cannot grant rights on them; run it with the owner's database.url"
    )]
    MayNotGrant(String),
    /// The role may not do with the tables what serving needs.
    #[error(
        "role {role:?} lacks {missing}; run `fleetgate migrate --grant-to {role}` with the owner's database.url"
    )]
    PrivilegesMissing {
        /// The role that is connected.
        role: String,
        /// Each privilege and what it is missing on.
        missing: String,
    },
    /// The tables are from a newer release.
    #[error(
        "the database has schema version {applied}, this fleetgate knows up to {known}; use the newer fleetgate that made it"
    )]
    SchemaNewer {
        /// Version of the database.
        applied: i64,
        /// Newest version of this binary.
        known: i64,
    },
    /// The tables were made before the migrations were made anew for the first release.
    #[error(
        "the database was made by a fleetgate of before the first release, and its tables cannot be brought up to date: make an empty database, run `fleetgate migrate` there, and copy devices and their rights over as docs/OPERATIONS.md says (\"From before the first release\")"
    )]
    SchemaBeforeFirstRelease,
    /// A migration failed; the text is refinery's and PostgreSQL's.
    #[error("the schema migration failed, and its changes were undone: {0}")]
    Migration(String),
    /// Two transactions got into each other's way.
    #[error("{0}: another change got in the way; try again")]
    Interrupted(String),
    /// A value that PostgreSQL cannot hold (SQLSTATE class 22).
    #[error("a value that cannot be stored: {0}")]
    BadData(String),
    /// Anything else that PostgreSQL says.
    #[error("{thing}: PostgreSQL refused: {message}")]
    Database {
        /// What it was about.
        thing: String,
        /// PostgreSQL's message, code and hint.
        message: String,
    },
}

impl RegistryError {
    /// Whether waiting for PostgreSQL may help.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::TookTooLong(_) | Self::SessionUnfit(_))
    }

    /// Whether PostgreSQL objects to what it was given, so that giving it again cannot help.
    #[must_use]
    pub fn is_about_data(&self) -> bool {
        matches!(self, Self::BadData(_) | Self::Refused(_))
    }

    /// Explains a PostgreSQL error that came up while working on a thing, such as `device "a"`.
    pub fn on(thing: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |error| Self::explain(&error, thing.into())
    }

    fn explain(error: &tokio_postgres::Error, thing: String) -> Self {
        match error.as_db_error() {
            Some(answer) => Self::from_answer(answer, thing),
            None if is_broken_connection(error) => Self::Unreachable(format!(
                "{thing}: the connection to PostgreSQL broke ({})",
                causes(error)
            )),
            None => Self::Database { thing, message: causes(error) },
        }
    }

    fn from_answer(answer: &DbError, thing: String) -> Self {
        let code = answer.code();
        if let Some(sentence) = refusal(answer) {
            let prefix = format!("{thing}: ");
            // Where a trigger wrote it, it may name the thing itself.
            let sentence = sentence.strip_prefix(&prefix).unwrap_or(&sentence);
            return Self::Refused(format!("{prefix}{sentence}"));
        }
        if let Some(outage) = of_answer(answer, &thing) {
            return outage;
        }
        match code.code().get(..2) {
            _ if is_missing_table(code) => Self::SchemaMissing,
            Some("40") => Self::Interrupted(thing),
            Some("22") => Self::BadData(format!("{thing}: {}", verbatim(answer))),
            Some("23") => Self::Refused(format!("{thing}: {}", verbatim(answer))),
            _ => Self::Database { thing, message: verbatim(answer) },
        }
    }
}

fn is_missing_table(code: &SqlState) -> bool {
    [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN, SqlState::UNDEFINED_FUNCTION]
        .contains(code)
}

fn is_broken_connection(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || error.source().is_some_and(|cause| cause.is::<std::io::Error>())
}

/// What a role that may not migrate sees of the schema.
fn seen_version(applied: i64) -> String {
    match applied {
        0 => "no Fleetgate schema that this role can see".to_owned(),
        version => format!("schema version {version}"),
    }
}

fn verbatim(answer: &DbError) -> String {
    let hint = answer.hint().map(|hint| format!(" {hint}")).unwrap_or_default();
    format!("{} (SQLSTATE {}).{hint}", answer.message(), answer.code().code())
}

/// What a refusal means, and what to do; `None` for one that is not known here.
fn refusal(answer: &DbError) -> Option<String> {
    if *answer.code() == SqlState::UNTRANSLATABLE_CHARACTER
        || *answer.code() == SqlState::CHARACTER_NOT_IN_REPERTOIRE
    {
        return Some("contains U+0000, which PostgreSQL cannot hold; take it out".to_owned());
    }
    let constraint = answer.constraint()?;
    if constraint == "devices_identity" {
        return Some(format!("{}. {}", answer.message(), answer.hint().unwrap_or_default()));
    }
    // The detail stays out: where it is not the whole row, hashes included, it is a key that whoever asked
    // named himself.
    sentence(constraint).map(str::to_owned)
}

/// The rule of names, about one of a row's columns.
macro_rules! no_name {
    ($what:literal) => {
        concat!(
            $what,
            " is not a valid name: 1 to 128 bytes, none of + # / $, no control characters, no white space around it"
        )
    };
}
const TOPIC_RULE: &str = "is not a valid topic for a binding: 1 to 1024 bytes, no + or #, no control characters, not beginning with $ or \"eq \", no ${, no %u or %c without a letter or digit behind it (write the device's own name)";

/// The constraints of `sql/`, in the order of its tables.
fn sentence(constraint: &str) -> Option<&'static str> {
    Some(match constraint {
        "devices_name_unique" => "a device of this name exists already; choose another name",
        "devices_client_id_unique" => {
            "another device connects with this client id; give one of the two another client id"
        }
        "devices_name_form" | "capabilities_name_form" | "topic_bindings_name_form" => {
            no_name!("this")
        }
        "devices_name_reserved" | "devices_client_id_reserved" => {
            "\"undefined\" and \"http_api\" are words that EMQX writes itself where a name belongs; choose another name"
        }
        "devices_client_id_form" => no_name!("its client id"),
        "devices_area_form" => no_name!("its area"),
        "devices_floor_form" => no_name!("its floor"),
        "devices_kind_form" => no_name!("its kind"),
        "devices_meta_form" => "its meta must be a JSON object, such as {\"room\": \"101\"}",
        "device_credentials_hash_form" => {
            "the hash is not a valid argon2id PHC string ($argon2id$v=19$…)"
        }
        "device_credentials_common_name_form" => {
            "the common name must have 1 to 256 bytes, no control characters, and not be \"undefined\" (what EMQX sends where there is no certificate)"
        }
        "device_credentials_label_form" => {
            "the label must have 1 to 256 bytes and no control characters"
        }
        "device_credentials_timestamps" => {
            "its timestamps must be in the years 1 to 9998; leave one out for \"always\" or \"never\""
        }
        "device_credentials_period" => "it would end before it begins; choose a later end",
        "capabilities_pkey" => "a capability of this name exists already; choose another name",
        "capabilities_name_reserved" => {
            "\"main\" is the binding without a capability; choose another name"
        }
        "capabilities_state_schema_form" => {
            "its state schema must be a JSON Schema: a JSON object, true or false"
        }
        "capabilities_command_schema_form" => {
            "its command schema must be a JSON Schema: a JSON object, true or false"
        }
        "device_capabilities_pkey" => "the device has this capability already",
        "device_capabilities_capability" => {
            "there is no such capability, or devices still have it; see `fleetgate capability list`"
        }
        "topic_bindings_pkey" => {
            "the device has a binding of this name already; remove that one first"
        }
        "topic_bindings_state_topic_form" | "topic_bindings_command_topic_form" => TOPIC_RULE,
        "topic_bindings_some_topic" => {
            "a binding needs a state topic, a command topic or both; give at least one"
        }
        "topic_grants_unique" => "this right is granted already",
        "topic_grants_topic_filter_form" => {
            "is not a valid topic filter for a grant: + and # stand alone in their level, # only at the end; no $share/, $delayed/ or other prefix that says how; not beginning with \"eq \"; no ${, no %u or %c without a letter or digit behind it (write the device's own name)"
        }
        "routing_rules_capability" => {
            "routing rules still name this capability; remove those rules first"
        }
        _ => return None,
    })
}
