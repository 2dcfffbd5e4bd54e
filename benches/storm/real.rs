//! Real storms on this machine, beside the same storms simulated with what steps cost here.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::costs::{Here, database_time, measure};
use crate::events;
use crate::generator::storm;
use crate::simulation::{Costs, Machines, Replica, Report, Storm, run};
use crate::support::fleetgate::Fleetgate;
use crate::support::process::{busy_time, cores, cpu_time, machine};
use crate::support::registry::{Registry, connect};
use crate::table::{rate, show, time};

const DATABASE: &str = "storm";
const GENERATED: u32 = 20_000;

/// Connections, as in `emqx-config/fleetgate.conf` (`pool_size`).
const POOL: u32 = 32;

/// Chosen passwords, in a database of their own, and how many of them come a second.
const PASSWORDS: &str = "passwords";
const CHOSEN: u32 = 300;

const TIMEOUT: Duration = Duration::from_secs(5);

/// How fast clients come, as a share of what Fleetgate did when each connection always had another.
const LOADS: [f64; 4] = [0.3, 0.6, 0.9, 1.3];

/// Real runs of each storm.
const RUNS: usize = 3;

pub(crate) async fn compare() {
    let registry = Registry::start();
    registry.create(DATABASE, GENERATED, 0..0).await;
    registry.create(PASSWORDS, CHOSEN, 0..CHOSEN).await;
    let (url, passwords) = (registry.url(DATABASE), registry.url(PASSWORDS));
    let Here { costs, capacity, .. } = measure(&url, &passwords, GENERATED, POOL).await;
    let mut rows = Vec::new();
    for load in LOADS {
        let window = Duration::from_secs_f64(f64::from(GENERATED) / capacity / load);
        let name = format!("{GENERATED} secrets at {load} of that");
        rows.extend(side_by_side(&name, &url, &here(GENERATED, 0, window, costs)).await);
    }
    for seconds in [12, 4] {
        let window = Duration::from_secs(seconds);
        let name = format!("{CHOSEN} chosen passwords in {seconds} s");
        rows.extend(side_by_side(&name, &passwords, &here(CHOSEN, CHOSEN, window, costs)).await);
    }
    show(&format!("Real and simulated, {}", machine()), &HEADS, rows);
    events::measure(&url, GENERATED).await;
}

/// A storm over Fleetgate and PostgreSQL on this machine.
fn here(clients: u32, chosen: u32, window: Duration, costs: Costs) -> Storm {
    let cores = cores();
    Storm {
        clients,
        chosen,
        window,
        retry: None,
        nodes: 1,
        pool: POOL,
        timeout: TIMEOUT,
        replicas: 1,
        replica: Replica::with_cores(cores),
        warm: false,
        machines: Machines::Shared { cores },
        costs,
        seed: 20_261_122,
    }
}

const HEADS: [&str; 10] =
    ["storm", "", "logins/s", "mean", "p50", "p99", "longest", "timed out", "503", "others' cores"];

/// A real run and the same storm simulated. Of several real ones the least disturbed counts.
async fn side_by_side(name: &str, url: &str, plan: &Storm) -> [Vec<String>; 3] {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(real_run(url, plan).await);
    }
    let least = runs.into_iter().min_by(|a, b| a.others.total_cmp(&b.others));
    let Real { report, client, others } = least.expect("some runs");
    // The generator costs more when it has to wait for each client's moment; it is not what is tested.
    let costs = Costs { broker: client, ..plan.costs };
    let simulated = run(&Storm { costs, ..plan.clone() });
    [
        row(name, "real", &report, format!("{others:.2}")),
        row("", "simulated", &simulated, String::new()),
        errors(&report, &simulated),
    ]
}

struct Real {
    report: Report,
    /// Processor time of the generator for each client.
    client: Duration,
    /// Processors that were busy with something else.
    others: f64,
}

/// One run over a service that has nothing in memory.
async fn real_run(url: &str, plan: &Storm) -> Real {
    let service = Fleetgate::start(url, &[]).await;
    let database = connect(url).await;
    let used = Used::so_far(&service, &database).await;
    let own = cpu_time(std::process::id());
    let report = storm(service.address(), plan).await;
    let client = cpu_time(std::process::id()).saturating_sub(own) / plan.clients;
    let others = Used::so_far(&service, &database).await.others_since(&used);
    Real { report, client, others }
}

/// By how much the simulation is too high (+) or too low (−).
fn errors(real: &Report, simulated: &Report) -> Vec<String> {
    let percent = |real: f64, simulated: f64| format!("{:+.0} %", (simulated / real - 1.0) * 100.0);
    let times = |time: &dyn Fn(&Report) -> Duration| {
        percent(time(real).as_secs_f64(), time(simulated).as_secs_f64())
    };
    vec![
        String::new(),
        "error".to_owned(),
        percent(real.logins_per_second(), simulated.logins_per_second()),
        times(&Report::mean_latency),
        times(&|report| report.latency(500)),
        times(&|report| report.latency(990)),
        times(&|report| report.latency(1000)),
        String::new(),
        String::new(),
        String::new(),
    ]
}

/// Processor time so far, by whom.
struct Used {
    at: Instant,
    machine: Duration,
    ours: Duration,
}

impl Used {
    async fn so_far(service: &Fleetgate, database: &Client) -> Self {
        let ours = cpu_time(service.pid()) + cpu_time(std::process::id());
        let ours = ours + database_time(database).await;
        Self { at: Instant::now(), machine: busy_time(), ours }
    }

    /// How many processors were busy with something else.
    fn others_since(&self, before: &Self) -> f64 {
        let machine = self.machine.saturating_sub(before.machine);
        let ours = self.ours.saturating_sub(before.ours);
        machine.saturating_sub(ours).as_secs_f64() / (self.at - before.at).as_secs_f64()
    }
}

fn row(name: &str, what: &str, report: &Report, others: String) -> Vec<String> {
    vec![
        name.to_owned(),
        what.to_owned(),
        rate(report.logins_per_second()),
        time(report.mean_latency()),
        time(report.latency(500)),
        time(report.latency(990)),
        time(report.latency(1000)),
        report.timed_out.to_string(),
        report.refused.to_string(),
        others,
    ]
}
