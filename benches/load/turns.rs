//! Runs in turn, and what one run cost the server.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio_postgres::Client;

use crate::ceiling::Ceiling;
use crate::plan::{Length, Plan, Report, Traffic};
use crate::support::process::{cpu_time, cpu_time_while_it_runs};
use crate::support::{fleetgate::Fleetgate, process};
use crate::{Role, own_process};

/// How many turns each side gets.
pub(crate) const TURNS: usize = 5;

/// How long one turn takes.
pub(crate) const TURN: Duration = Duration::from_secs(3);

/// Connections for decisions, as in `emqx-config/fleetgate.conf` (`pool_size`).
pub(crate) const POOL: usize = 32;

/// A run, and what it cost.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) report: Report,
    /// Processor time of the server for each answer; `None` where the server is PostgreSQL.
    pub(crate) cpu: Option<Duration>,
    /// Processor time of PostgreSQL's backends for each answer, where that was asked for.
    pub(crate) database_cpu: Option<Duration>,
}

/// Something that can be put under load.
pub(crate) trait Server {
    fn plan(&self, connections: usize, traffic: Traffic, length: Length) -> Plan;
    fn pid(&self) -> u32;
}

impl Server for Fleetgate {
    fn plan(&self, connections: usize, traffic: Traffic, length: Length) -> Plan {
        Plan {
            address: self.address(),
            connections,
            pause: Duration::ZERO,
            traffic,
            length,
            checked: true,
        }
    }

    fn pid(&self) -> u32 {
        Self::pid(self)
    }
}

impl Server for Ceiling {
    fn plan(&self, connections: usize, traffic: Traffic, length: Length) -> Plan {
        Plan {
            address: self.address(),
            connections,
            pause: Duration::ZERO,
            traffic,
            length,
            checked: false,
        }
    }

    fn pid(&self) -> u32 {
        Self::pid(self)
    }
}

/// One run of the generator against a server.
pub(crate) async fn load(
    server: &impl Server,
    connections: usize,
    traffic: &Traffic,
    length: Length,
) -> Run {
    load_at_pace(server, connections, Duration::ZERO, traffic, length).await
}

/// The same with a pause after each answer: a server that has time left.
pub(crate) async fn load_at_pace(
    server: &impl Server,
    connections: usize,
    pause: Duration,
    traffic: &Traffic,
    length: Length,
) -> Run {
    let before = cpu_time(server.pid());
    let plan = Plan { pause, ..server.plan(connections, traffic.clone(), length) };
    let report = generate(&plan).await;
    let used = cpu_time(server.pid()).saturating_sub(before);
    let answers = u32::try_from(report.answers).expect("a run has fewer").max(1);
    Run { report, cpu: Some(used / answers), database_cpu: None }
}

/// The same, and what it cost the backends of the database behind `database`. They must outlive the
/// run: Linux forgets what a process used when it ends.
pub(crate) async fn load_and_watch(
    server: &impl Server,
    database: &Client,
    connections: usize,
    traffic: &Traffic,
    length: Length,
) -> Run {
    let before = database_time(database).await;
    let run = load(server, connections, traffic, length).await;
    let used = database_time(database).await.saturating_sub(before);
    let answers = u32::try_from(run.report.answers).expect("a run has fewer").max(1);
    Run { database_cpu: Some(used / answers), ..run }
}

/// Processor time that all backends of this database have used so far.
async fn database_time(client: &Client) -> Duration {
    let pids = "SELECT pid FROM pg_stat_activity
                WHERE datname = current_database() AND backend_type = 'client backend'";
    let rows = client.query(pids, &[]).await.expect("the backends");
    let pids = rows.iter().map(|row| row.get::<_, i32>(0).unsigned_abs());
    pids.filter_map(cpu_time_while_it_runs).sum()
}

async fn generate(plan: &Plan) -> Report {
    let mut command = Command::from(own_process(Role::Generator));
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("the generator starts");
    let plan = serde_json::to_vec(plan).expect("a plan is JSON");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(&plan).await.expect("the generator reads");
    drop(input);
    let output = child.wait_with_output().await.expect("the generator ends");
    assert!(output.status.success(), "the generator gave up; it says why above");
    serde_json::from_slice(&output.stdout).expect("a report")
}

/// Two sides, and the median of the ratios of their rates.
pub(crate) struct Compared {
    pub(crate) ours: Run,
    pub(crate) other: Run,
    pub(crate) ratio: f64,
}

/// Gives each side its turns, one after the other.
pub(crate) async fn in_turn(
    turns: usize,
    ours: impl AsyncFn(usize) -> Run,
    other: impl AsyncFn(usize) -> Run,
) -> Compared {
    let mut pairs = Vec::new();
    for turn in 0..turns {
        let reference = other(turn).await;
        pairs.push((ours(turn).await, reference));
    }
    compared(pairs)
}

/// The pair with the median ratio stands for all.
fn compared(pairs: Vec<(Run, Run)>) -> Compared {
    let ratio = |(ours, other): &(Run, Run)| ours.report.per_second / other.report.per_second;
    let (ours, other) = median_by(pairs, ratio);
    let ratio = ours.report.per_second / other.report.per_second;
    Compared { ours, other, ratio }
}

/// The element in the middle by this measure.
pub(crate) fn median_by<T>(mut all: Vec<T>, measure: impl Fn(&T) -> f64) -> T {
    all.sort_by(|a, b| measure(a).total_cmp(&measure(b)));
    let middle = all.len() / 2;
    all.swap_remove(middle)
}

/// Resident memory in MiB.
pub(crate) fn resident_mib(server: &impl Server) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "far less than 2^52 bytes")]
    let bytes = process::resident_bytes(server.pid()) as f64;
    bytes / (1024.0 * 1024.0)
}
