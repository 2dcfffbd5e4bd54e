//! What the steps of a login cost on this machine, by processor time used.

use std::hint::black_box;
use std::time::Duration;

use fleetgate::domain::password_hash::{Cost, PasswordHash, hash_password};
use fleetgate::registry::load::LOAD;
use tokio_postgres::Client;

use crate::generator::closed_loop;
use crate::simulation::Costs;
use crate::support::fleetgate::Fleetgate;
use crate::support::process::{cores, cpu_time, cpu_time_while_it_runs, resident_bytes};
use crate::support::registry::{SECRET, connect};
use crate::support::requests::{device_name, login};
use crate::table::{micros, rate, show};

/// Logins with a chosen password, one after the other, of which the mean counts.
const HASHES: u32 = 100;

/// Names in a query that loads many: as many as Fleetgate asks for at most.
const BATCH: u32 = 64;

/// Runs after a cold start, of which the fastest counts: others use this machine too.
const TURNS: usize = 3;

/// Threads that a cold login wakes: its worker, the registry's, a backend, those two again.
const WOKEN: u32 = 5;

/// Checks of a generated secret.
const CHECKS: u32 = 20_000;

/// Logins over one connection, to see what a login takes beside processor time, and what more of it when
/// every thread has to wake up.
const ALONE: u32 = 5_000;

/// What was measured.
pub(crate) struct Here {
    pub(crate) costs: Costs,
    /// Logins a second from a cold start when each connection always has another.
    pub(crate) capacity: f64,
    /// Resident memory of Fleetgate for each device in memory, in bytes.
    memory: u64,
}

/// Measures with the first `devices` of a database over so many connections, and with another whose
/// devices have chosen passwords.
pub(crate) async fn measure(url: &str, passwords: &str, devices: u32, connections: u32) -> Here {
    let one = query_time(url, devices, 1).await;
    let many = query_time(url, devices, BATCH).await;
    let row = many.saturating_sub(one) / (BATCH - 1);
    let mut runs = Vec::new();
    for _ in 0..TURNS {
        runs.push(run(url, devices, connections).await);
    }
    let run = runs.into_iter().min_by_key(|run| run.cold.wall).expect("some runs");
    let names = f64::from(devices) / f64::from(run.queries);
    let Login { service: decision, client: broker, .. } = run.warm;
    let cold = run.cold.service.saturating_sub(decision);
    let secret = secret();
    let record = cold.saturating_sub(secret);
    let alone = alone(url, ALONE).await;
    let elsewhere = alone.wall.saturating_sub(alone.service + alone.database + alone.client);
    let query = run.cold.database.saturating_sub(row).mul_f64(names);
    let awake = decision + cold + query + row;
    let wake = (alone.service + alone.database).saturating_sub(awake) / WOKEN;
    let hash = self::alone(passwords, HASHES).await.service.saturating_sub(decision + record);
    let here = Here {
        costs: Costs {
            broker,
            decision,
            record,
            secret,
            query,
            row,
            hash,
            wake,
            // To Fleetgate, to PostgreSQL, and back.
            way: elsewhere / 4,
            used: run.cold.cores_used() / f64::from(cores()),
        },
        capacity: 1.0 / run.cold.wall.as_secs_f64(),
        memory: run.memory,
    };
    here.show(names);
    here
}

impl Here {
    fn show(&self, names: f64) {
        let Costs { broker, decision, record, secret, query, row, hash, wake, way, used } =
            self.costs;
        let named = [
            ("broker: the generator, a login", broker),
            ("decision: Fleetgate, a login of a device in memory", decision),
            ("record: Fleetgate, a device loaded", record),
            ("secret: Fleetgate, a generated secret seen for the first time", secret),
            ("query: PostgreSQL, a load", query),
            ("row: PostgreSQL, a device loaded", row),
            ("hash: a chosen password", hash),
            ("wake: a thread that slept", wake),
            ("way: from process to process", way),
        ];
        let rows = named.map(|(name, cost)| vec![name.to_owned(), micros(cost)]);
        show("Measured here", &["step", "cost"], rows.to_vec());
        println!("\nCold, each connection always busy: {} logins/s", rate(self.capacity));
        println!("Share of the processors' time that is used then: {used:.2}");
        println!("Names in a query then: {names:.1}");
        println!("Resident memory for each device in memory: {} bytes", self.memory);
    }
}

/// What a login took on average: on the clock, and of processors.
struct Login {
    wall: Duration,
    service: Duration,
    database: Duration,
    client: Duration,
}

impl Login {
    fn cores_used(&self) -> f64 {
        (self.service + self.database + self.client).div_duration_f64(self.wall)
    }
}

/// What it takes to check a generated secret.
fn secret() -> Duration {
    let hash = hash_password(SECRET.as_bytes(), b"bench-bench-salt", Cost::Generated);
    let hash = PasswordHash::parse(&hash).expect("a hash");
    let before = cpu_time(std::process::id());
    for _ in 0..CHECKS {
        assert!(black_box(&hash).verify(black_box(SECRET.as_bytes())));
    }
    cpu_time(std::process::id()).saturating_sub(before) / CHECKS
}

struct Run {
    cold: Login,
    warm: Login,
    memory: u64,
    /// Queries that loaded all devices.
    queries: u32,
}

async fn run(url: &str, devices: u32, connections: u32) -> Run {
    let database = connect(url).await;
    let queries = transactions(&database).await;
    let service = Fleetgate::start(url, &[]).await;
    let before = resident_bytes(service.pid());
    let cold = logins(&service, &database, devices, connections).await;
    let memory = resident_bytes(service.pid()).saturating_sub(before) / u64::from(devices);
    let warm = logins(&service, &database, devices, connections).await;
    drop(service);
    let queries = transactions(&database).await - queries;
    Run { cold, warm, memory, queries: u32::try_from(queries).expect("a few thousand") }
}

/// Logins one after the other, of devices that are not in memory.
async fn alone(url: &str, clients: u32) -> Login {
    let service = Fleetgate::start(url, &[]).await;
    logins(&service, &connect(url).await, clients, 1).await
}

async fn logins(service: &Fleetgate, database: &Client, clients: u32, connections: u32) -> Login {
    let used = async || {
        let database = database_time(database).await;
        (cpu_time(service.pid()), database, cpu_time(std::process::id()))
    };
    let before = used().await;
    let request = |client| login(&device_name(client), SECRET);
    let wall = closed_loop(service.address(), clients, connections, request).await;
    let after = used().await;
    let each = |after: Duration, before: Duration| after.saturating_sub(before) / clients;
    Login {
        wall: wall / clients,
        service: each(after.0, before.0),
        database: each(after.1, before.1),
        client: each(after.2, before.2),
    }
}

/// Transactions of this database so far: every load is one, and little else goes on. PostgreSQL counts
/// those of a backend when it ends, so this waits until all others have.
async fn transactions(database: &Client) -> i64 {
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                  AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let others = async || database.query_one(others, &[]).await.expect("a count").get::<_, i64>(0);
    while others().await > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    database.query_one(commits, &[]).await.expect("a count").get(0)
}

/// PostgreSQL's processor time for one load of so many devices.
async fn query_time(url: &str, devices: u32, names: u32) -> Duration {
    let client = connect(url).await;
    let statement = client.prepare(LOAD).await.expect("the statement");
    let (before, mut queries) = (database_time(&client).await, 0);
    for first in (0..devices - names).step_by(names as usize) {
        let names: Vec<String> = (first..first + names).map(device_name).collect();
        let rows = client.query(&statement, &[&names]).await.expect("an answer");
        assert_eq!(rows.len(), names.len());
        queries += 1;
    }
    database_time(&client).await.saturating_sub(before) / queries
}

/// Processor time that all backends of this database have used so far.
pub(crate) async fn database_time(client: &Client) -> Duration {
    let pids = "SELECT pid FROM pg_stat_activity
                WHERE datname = current_database() AND backend_type = 'client backend'";
    let rows = client.query(pids, &[]).await.expect("the backends");
    let pids = rows.iter().map(|row| row.get::<_, i32>(0).unsigned_abs());
    pids.filter_map(cpu_time_while_it_runs).sum()
}
