//! `fleetgate doctor`: is everything right that `serve` and the other commands depend on, and if not,
//! what is to be done?
//!
//! The checks run in the order in which one depends on another. Each has [`LIMIT`]; what depends on
//! something that failed is skipped and says so. Nothing is changed anywhere.

mod api;
mod configuration;
mod connection;
mod emqx;
mod finding;
mod fleet;
mod rights;
mod schema;
mod schemas;
mod session;

use std::io;
use std::time::Duration;

use clap::Args;
use thiserror::Error;

use crate::app::further_connections;
use crate::cli::error::CliError;
use crate::cli::output::Output;
use crate::clock::Clock;
use crate::config::{Settings, Sources};

pub use finding::{Finding, Report, Status};

/// Longest time that one check may take.
pub const LIMIT: Duration = Duration::from_secs(5);

const SECONDS_A_DAY: i64 = 86_400;

/// Check everything that Fleetgate depends on, and say what to do.
#[derive(Debug, Args)]
pub struct DoctorArgs {}

/// Why `fleetgate doctor` does not end well.
#[derive(Debug, Error)]
pub enum DoctorError {
    /// Something does not work; the report says what to do.
    #[error("{0}; the report says what to do")]
    Failures(String),
    /// There is no runtime to ask the database on.
    #[error("the async runtime did not start: {0}")]
    Runtime(#[from] io::Error),
    /// The report could not be printed.
    #[error("{0}")]
    Output(String),
}

impl From<DoctorError> for CliError {
    fn from(error: DoctorError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Runs all checks and prints what they found, as JSON if `json`.
///
/// # Errors
/// When anything does not work, or the report cannot be printed.
pub fn run(_: &DoctorArgs, sources: &Sources, json: bool) -> Result<(), DoctorError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(examine(sources, &Clock::System));
    let printed = Output { json }.result(&report, || report.to_string());
    printed.map_err(|error| DoctorError::Output(error.to_string()))?;
    match report.failures() {
        0 => Ok(()),
        failures => Err(DoctorError::Failures(finding::counted(failures, "failure"))),
    }
}

/// Runs all checks.
pub async fn examine(sources: &Sources, clock: &Clock) -> Report {
    let mut report = Report::default();
    match Settings::load(sources) {
        Ok(settings) => {
            configuration::examine(&settings, sources, &mut report);
            report.add(api::examine(&settings.api, clock));
            emqx::examine(&settings, clock, &mut report).await;
            examine_database(&settings, clock, &mut report).await;
        }
        Err(problems) => {
            configuration::refuse(&problems, &mut report);
            let why = "the configuration cannot be used";
            report.skip(&configuration::DEPENDENT, why);
            report.skip(&[api::CERTIFICATE], why);
            emqx::skip(&mut report, why);
            report.skip(&connection::CHECKS, why);
            report.skip(&schema::CHECKS, why);
            report.skip(&fleet::CHECKS, why);
            report.skip(&rights::CHECKS, why);
            report.skip(&schemas::CHECKS, why);
        }
    }
    report
}

async fn examine_database(settings: &Settings, clock: &Clock, report: &mut Report) {
    let why = match settings.database() {
        Err(_) => "database.url is not set",
        Ok(database) => match connection::open(&database, report).await {
            None => "the database cannot be reached",
            Some(connected) => {
                let mut session = session::Session::new(&connected.client, report);
                let connections = (database.pool_size, further_connections(&settings.api));
                connection::examine(&connected, connections, clock, &mut session).await;
                if schema::examine(&mut session).await {
                    let has_api = settings.emqx_api().is_ok_and(|api| api.is_some());
                    fleet::examine(&settings.tokens, has_api, &mut session).await;
                    rights::examine(has_api, &mut session).await;
                    schemas::examine(&mut session).await;
                } else {
                    let why = "the tables cannot be used, see above";
                    report.skip(&fleet::CHECKS, why);
                    report.skip(&rights::CHECKS, why);
                    report.skip(&schemas::CHECKS, why);
                }
                return;
            }
        },
    };
    // The check of the connection itself has a finding already where there was a URL to try.
    let tried = report.has(connection::DATABASE);
    report.skip(connection::CHECKS.get(usize::from(tried)..).unwrap_or_default(), why);
    report.skip(&schema::CHECKS, why);
    report.skip(&fleet::CHECKS, why);
    report.skip(&rights::CHECKS, why);
    report.skip(&schemas::CHECKS, why);
}
