//! What can go wrong between Fleetgate and PostgreSQL, in words that help.

use std::error::Error as _;

use thiserror::Error;
use tokio_postgres::error::{DbError, SqlState};

use crate::causes::causes;
use crate::registry::connection_error::of_answer;

/// Why the registry did not do something. Nothing was changed then.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// A rule about roles says no. The text names the role, the rule and the remedy.
    #[error("{0}")]
    Refused(String),
    /// A constraint or a trigger in `sql/` says no.
    #[error("{}: PostgreSQL refused: {}", .0.thing, .0.message)]
    Violation(Violation),
    /// A text has U+0000.
    #[error("{0}: contains U+0000, which PostgreSQL cannot hold; take it out")]
    NulCharacter(String),
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

/// What a constraint or a trigger refused.
#[derive(Debug, Clone)]
pub struct Violation {
    /// What it was about, such as `device "a"`.
    pub thing: String,
    /// The constraint, as `sql/` names it.
    pub constraint: String,
    /// PostgreSQL's message and hint. Its detail stays out: where it is not the whole row, hashes included, it
    /// is a key that whoever asked named himself.
    pub message: String,
}

impl RegistryError {
    /// Whether waiting for PostgreSQL may help.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::TookTooLong(_) | Self::SessionUnfit(_))
    }

    /// Whether the same may succeed later: PostgreSQL is back, or nobody gets in the way.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.is_unreachable() || matches!(self, Self::Interrupted(_))
    }

    /// Whether PostgreSQL objects to what it was given, so that giving it again cannot help.
    #[must_use]
    pub fn is_about_data(&self) -> bool {
        matches!(self, Self::BadData(_) | Self::Violation(_) | Self::NulCharacter(_))
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
        if *code == SqlState::UNTRANSLATABLE_CHARACTER
            || *code == SqlState::CHARACTER_NOT_IN_REPERTOIRE
        {
            return Self::NulCharacter(thing);
        }
        if let Some(outage) = of_answer(answer, &thing) {
            return outage;
        }
        match code.code().get(..2) {
            _ if is_missing_table(code) => Self::SchemaMissing,
            Some("40") => Self::Interrupted(thing),
            Some("22") => Self::BadData(format!("{thing}: {}", verbatim(answer))),
            Some("23") => Self::Violation(violation(answer, thing)),
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
    let hint = answer.hint().map(|hint| format!(". {hint}")).unwrap_or_default();
    format!("{} (SQLSTATE {}){hint}", answer.message(), answer.code().code())
}

fn violation(answer: &DbError, thing: String) -> Violation {
    let constraint = answer.constraint().unwrap_or_default().to_owned();
    // What a trigger of ours says is meant for people, and needs no code. It may name the thing itself.
    let message = match answer.hint() {
        Some(hint) => format!("{}. {hint}", answer.message()),
        None => verbatim(answer),
    };
    let message = message.strip_prefix(&format!("{thing}: ")).unwrap_or(&message).to_owned();
    Violation { thing, constraint, message }
}
