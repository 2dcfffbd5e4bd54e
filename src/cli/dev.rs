//! `fleetgate dev`: everything at once, for a first look and for development.
//!
//! Starts a private PostgreSQL below `.fleetgate/`, migrates, fills an empty registry with a demo
//! fleet, serves, and prints what to try. Order of things, and why:
//!
//! * The address is tried first, because it fails most often and then nothing else has happened.
//! * Signals are caught before PostgreSQL starts, so that Ctrl-C at any moment ends in order: the
//!   service first, then PostgreSQL.
//! * The demo's secrets are on disk (`demo.json`) before the transaction that creates the demo fleet
//!   commits: a crash in between leaves a file that the next start replaces, never a fleet whose
//!   secrets nobody has.

mod demo;
mod home;
mod load;
mod ready;
mod record;
mod welcome;

use std::fmt::Display;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use clap::Args;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use crate::app::{self, App, listen_remedy};
use crate::cli::arguments::listen_address;
use crate::cli::error::CliError;
use crate::cli::output::{print, remark};
use crate::clock::Clock;
use crate::config::{Config, Settings, Sources};
use crate::embedded::{EmbeddedError, PrivatePostgres};
use crate::fleet::is_empty;
use crate::lifecycle;
use crate::logging;
use crate::registry::connection::connect;
use crate::registry::error::RegistryError;
use crate::registry::inspection;
use crate::registry::migrate::migrate;
use crate::secret::Secret;
use home::DevHome;
use ready::ready;
use record::Record;
use welcome::Welcome;

/// Room for the service, for other commands and for `psql`.
const MAX_CONNECTIONS: u16 = 50;
const DATABASE: &str = "fleetgate";

/// Start everything with a demo fleet: a private PostgreSQL, and the service over it.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// Directory that keeps the database and the demo's secrets.
    #[arg(long, value_name = "DIR", default_value = ".fleetgate")]
    home: PathBuf,
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = listen_address)]
    listen: SocketAddr,
}

impl DevArgs {
    /// Starts everything and serves until SIGTERM or SIGINT. `process` has the variables of this
    /// process; those about the database, EMQX and the address are dev's own to set.
    pub(super) fn run(&self, process: &Sources) -> Result<(), CliError> {
        try_address(self.listen)?;
        app::system().map_err(not_set_up("a runtime"))?.block_on(async {
            let stop = lifecycle::stop_on_signals().map_err(not_set_up("signals"))?;
            let home = DevHome::make(&self.home)?;
            remark("Starting PostgreSQL ...");
            let data = home.postgres();
            let postgres = blocking(move || PrivatePostgres::start(&data, MAX_CONNECTIONS)).await?;
            let served = serve(self, process, &home, &postgres, stop).await;
            remark("Stopping PostgreSQL ...");
            blocking(move || postgres.stop()).await?;
            remark("Stopped. The next start keeps the data.");
            served
        })
    }
}

/// Says which part of the operating system's could not be had.
fn not_set_up<E: Display>(what: &'static str) -> impl FnOnce(E) -> CliError {
    move |error| CliError::Failed(format!("cannot set up {what}: {error}"))
}

async fn serve(
    args: &DevArgs,
    process: &Sources,
    home: &DevHome,
    postgres: &PrivatePostgres,
    stop: CancellationToken,
) -> Result<(), CliError> {
    let url = postgres.connection_string(DATABASE);
    create_database(postgres).await?;
    let known = Record::read(&home.demo())?;
    let webhook_token = known.as_ref().map_or_else(Secret::generate, Record::webhook_token);
    home.write_configuration(args.listen, &url, &webhook_token, process)?;
    let config = Settings::load(&home.sources(process))?.config()?;
    logging::start_logging(&config.log);
    lifecycle::raise_open_files();
    let record = fill(&config, home, known, &webhook_token).await?;
    let app = App::build(&config, Clock::System, stop.clone())?;
    let address = app.address();
    home.write_configuration(address, &url, &webhook_token, process)?;
    let welcome = Welcome { home, postgres, address, record: &record };
    let (served, greeted) = tokio::join!(app.run(), greet(&welcome, &config, &stop));
    served?;
    greeted
}

/// Says what to try, once it would work. What goes wrong here ends the service as well.
async fn greet(
    welcome: &Welcome<'_>,
    config: &Config,
    stop: &CancellationToken,
) -> Result<(), CliError> {
    // Whatever happens here, the service must not go on without having been announced.
    let stop_unless_greeted = stop.clone().drop_guard();
    let text = welcome.text(&connect(&config.database).await?).await?;
    if ready(welcome.reachable(), stop).await.map_err(CliError::Failed)? {
        print(&text)?;
    }
    stop_unless_greeted.disarm();
    Ok(())
}

/// Brings the schema up to date, and an empty registry to life.
async fn fill(
    config: &Config,
    home: &DevHome,
    known: Option<Record>,
    webhook_token: &Secret,
) -> Result<Record, CliError> {
    let mut client = connect(&config.database).await?;
    migrate(&mut client).await?;
    if is_empty(&client).await? {
        return load::load(&mut client, webhook_token, &home.demo()).await;
    }
    match known {
        Some(record) => Ok(record),
        // The secrets are lost; the token at least is known again from now on.
        None => {
            let record = Record::without_devices(webhook_token);
            record.write(&home.demo())?;
            Ok(record)
        }
    }
}

fn try_address(address: SocketAddr) -> Result<(), CliError> {
    let tried = TcpListener::bind(address);
    tried.map(drop).map_err(|error| {
        let remedy = listen_remedy(&error, "--listen");
        CliError::Failed(format!("cannot listen on {address}: {error}; {remedy}"))
    })
}

async fn create_database(postgres: &PrivatePostgres) -> Result<(), CliError> {
    let client = administrator(&postgres.connection_string("postgres")).await?;
    Ok(inspection::create_database(&client, DATABASE).await?)
}

async fn administrator(url: &str) -> Result<Client, RegistryError> {
    let connecting = tokio_postgres::connect(url, NoTls).await;
    let (client, connection) = connecting.map_err(RegistryError::on("the private PostgreSQL"))?;
    // Its error reaches whoever uses the client.
    tokio::spawn(connection);
    Ok(client)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EmbeddedError> + Send + 'static,
) -> Result<T, CliError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(not_set_up("a thread"))?.map_err(CliError::failed)
}
