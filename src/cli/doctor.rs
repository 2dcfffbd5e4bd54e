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
mod session;

use std::time::Duration;

use clap::Args;

use crate::app::further_connections;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::clock::Clock;
use crate::config::{Settings, Sources};

pub use finding::{Finding, Report, Status};

/// Longest time that one check may take.
pub const LIMIT: Duration = Duration::from_secs(5);

const SECONDS_A_DAY: i64 = 86_400;

/// Check everything that Fleetgate depends on, and say what to do.
#[derive(Debug, Args)]
pub struct DoctorArgs {}

impl DoctorArgs {
    /// Runs all checks and prints what they found.
    pub(super) fn run(&self, context: &Context) -> Result<(), CliError> {
        let examined = async { Ok(examine(&context.sources(), &Clock::System).await) };
        let report = context.block_on(examined)?;
        context.output.result(&report, || report.to_string())?;
        match report.failures() {
            0 => Ok(()),
            failures => Err(CliError::Failed(format!(
                "{}; the report says what to do",
                finding::counted(failures, "failure")
            ))),
        }
    }
}

/// The checks in their order, which are told to be skipped where they cannot run. Those of EMQX's configuration are left out:
/// without its API there is nothing to check.
const CHECKS: [&[&str]; 7] = [
    &configuration::DEPENDENT,
    &[api::CERTIFICATE],
    &[emqx::API],
    &connection::CHECKS,
    &schema::CHECKS,
    &rights::CHECKS,
    &fleet::CHECKS,
];

/// Runs all checks.
pub async fn examine(sources: &Sources, clock: &Clock) -> Report {
    let mut report = Report::default();
    let went_through = match Settings::load(sources) {
        Ok(settings) => {
            configuration::examine(&settings, sources, &mut report);
            report.add(api::examine(&settings.api, clock));
            emqx::examine(&settings, clock, &mut report).await;
            examine_database(&settings, clock, &mut report).await
        }
        Err(problems) => {
            configuration::refuse(&problems, &mut report);
            Err("the configuration cannot be used")
        }
    };
    if let Err(why) = went_through {
        report.skip_the_rest(&CHECKS.concat(), why);
    }
    report
}

/// The checks that ask the database, as far as one can.
///
/// # Errors
/// Why not all could run.
async fn examine_database(
    settings: &Settings,
    clock: &Clock,
    report: &mut Report,
) -> Result<(), &'static str> {
    let database = settings.database().map_err(|_| "database.url is not set")?;
    let connected = connection::open(&database, report).await;
    let connected = connected.ok_or("the database cannot be reached")?;
    let mut session = session::Session::new(&connected.client, report);
    let connections = (database.pool_size, further_connections(&settings.api));
    connection::examine(&connected, connections, clock, &mut session).await;
    if !schema::examine(&mut session).await {
        return Err("the tables cannot be used, see above");
    }
    let has_api = settings.emqx_api().is_ok_and(|api| api.is_some());
    rights::examine(has_api, &mut session).await;
    fleet::examine(&settings.tokens, has_api, &mut session).await;
    Ok(())
}
