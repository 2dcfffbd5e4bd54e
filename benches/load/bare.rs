//! What PostgreSQL gives to a client that does nothing else: the same statements, prepared.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, Object, Pool};
use fleetgate::domain::device::DeviceId;
use fleetgate::registry::connection::LOOK_UP_PLANS;
use fleetgate::registry::events;
use fleetgate::registry::lookup::LOOK_UP;
use fleetgate::registry::presence::SessionChange;
use fleetgate::registry::reports::{DeviceUpdate, Report as Value};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use crate::latencies::Latencies;
use crate::sessions::{Happening, Sessions};
use crate::support::registry::connect;
use crate::support::requests::device_name;
use crate::turns::Run;

/// Loads each of the first `devices` records once, over this many connections, planned as Fleetgate has
/// it planned.
pub(crate) async fn loads(url: &str, connections: usize, devices: u32) -> Run {
    let next = Arc::new(AtomicU32::new(0));
    let options = LOOK_UP_PLANS.map(|(name, value)| format!("-c {name}={value}")).join(" ");
    let url = format!("{url} options='{options}'");
    let mut clients = Vec::new();
    for _ in 0..connections {
        let client = connect(&url).await;
        let statement = client.prepare(LOOK_UP).await.expect("the statement");
        clients.push((client, statement));
    }
    let (mut tasks, began) = (JoinSet::new(), Instant::now());
    for (client, statement) in clients {
        let next = next.clone();
        tasks.spawn(async move {
            let mut latencies = Latencies::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= devices {
                    return latencies;
                }
                let sent = Instant::now();
                let row = client.query_opt(&statement, &[&[device_name(number)].as_slice()]).await;
                row.expect("an answer").expect("a device");
                latencies.record(sent);
            }
        });
    }
    let all = joined(tasks).await;
    run(&all, u64::from(devices), began.elapsed())
}

/// Writes, as Fleetgate does, batches of `batch` events for `time` over each of these connections, and commits each.
pub(crate) async fn events(
    url: &str,
    connections: usize,
    batch: usize,
    devices: u32,
    since_ms: i64,
    time: Duration,
) -> Run {
    let ids = device_ids(url).await;
    let written = Arc::new(AtomicU64::new(0));
    let config = url.parse().expect("a connection string");
    let pool = Pool::builder(Manager::new(config, NoTls)).max_size(connections).build();
    let pool = pool.expect("a pool");
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(pool.get().await.expect("a connection"));
    }
    let (mut tasks, began) = (JoinSet::new(), Instant::now());
    for (number, client) in clients.into_iter().enumerate() {
        let mine = (0..devices).skip(number).step_by(connections).collect();
        let (ids, written) = (ids.clone(), written.clone());
        tasks.spawn(async move {
            let mut sessions = Sessions::new(mine, since_ms);
            write_batches(client, &mut sessions, &ids, batch, began + time, &written).await
        });
    }
    let all = joined(tasks).await;
    run(&all, written.load(Ordering::Relaxed), began.elapsed())
}

/// As by default.
const KEEP_SESSIONS: Duration = Duration::from_secs(7 * 86_400);

async fn write_batches(
    client: Object,
    sessions: &mut Sessions,
    ids: &[i64],
    batch: usize,
    until: Instant,
    written: &AtomicU64,
) -> Latencies {
    let mut latencies = Latencies::new();
    while Instant::now() < until {
        let (moves, news) = rows(sessions, ids, batch);
        let sent = Instant::now();
        let moves: Vec<&SessionChange> = moves.iter().collect();
        let news: Vec<&DeviceUpdate> = news.iter().collect();
        events::write(&client, &moves, &news, &[], KEEP_SESSIONS).await.expect("a batch");
        latencies.record(sent);
        written.fetch_add(batch as u64, Ordering::Relaxed);
    }
    latencies
}

/// What Fleetgate makes of these events: rows in the order in which they are locked.
fn rows(
    sessions: &mut Sessions,
    ids: &[i64],
    batch: usize,
) -> (Vec<SessionChange>, Vec<DeviceUpdate>) {
    let (mut moves, mut news) = (Vec::new(), Vec::new());
    for _ in 0..batch {
        let (number, happening) = sessions.next();
        let device_id = DeviceId(ids[number as usize]);
        let client_id = device_name(number);
        let session = |connected_at_ms, ended_at_ms: Option<i64>| SessionChange {
            client_id,
            device_id,
            connected_at: timestamp(connected_at_ms),
            ended_at: ended_at_ms.map(timestamp),
            inferred: false,
            owned: true,
        };
        let seen = |at_ms| {
            let at = timestamp(at_ms);
            DeviceUpdate { seen_at: Some(at), ..DeviceUpdate::new(device_id, at) }
        };
        match happening {
            Happening::Connected { at_ms } => {
                moves.push(session(at_ms, None));
                news.push(seen(at_ms));
            }
            Happening::Disconnected { began_ms, at_ms } => {
                moves.push(session(began_ms, Some(at_ms)));
                news.push(seen(at_ms));
            }
            Happening::ReportedBinding { at_ms, id } => {
                let value = Some(r#"{"c":21.5}"#.into());
                let mut heard = seen(at_ms);
                let report = Value { at: timestamp(at_ms), id: id.into(), value, as_text: None };
                heard.reports.insert("main".into(), report);
                news.push(heard);
            }
        }
    }
    moves.sort_by(|a, b| a.client_id.cmp(&b.client_id));
    news.sort_by_key(|news| news.device_id);
    (moves, news)
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).expect("a year before 9999")
}

async fn device_ids(url: &str) -> Arc<[i64]> {
    let rows = connect(url).await.query("SELECT id FROM devices ORDER BY name", &[]).await;
    rows.expect("the devices").iter().map(|row| row.get(0)).collect()
}

async fn joined(mut tasks: JoinSet<Latencies>) -> Latencies {
    let mut all = Latencies::new();
    while let Some(one) = tasks.join_next().await {
        all.add(&one.expect("a connection does its part"));
    }
    all
}

fn run(latencies: &Latencies, answers: u64, time: Duration) -> Run {
    Run { report: latencies.report(answers, answers, time), cpu: None, database_cpu: None }
}
