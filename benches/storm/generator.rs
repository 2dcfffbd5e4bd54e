//! EMQX's part in the real run: clients that come when they come, and a pool of connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::simulation::{Fate, Report, Storm, arrival, choice};
use crate::support::connection::Connection;
use crate::support::registry::SECRET;
use crate::support::requests::{device_name, login};

/// A client and the moment at which it was to come.
type Arrival = (u32, Instant);

/// What became of one login.
struct Outcome {
    began: Duration,
    answered: Duration,
    ending: Ending,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Allowed,
    Unavailable,
    TimedOut,
}

/// The storm's clients, each at its moment, over the connections that the storm chooses for them.
/// Latencies count from the moment at which a client was to come, whenever its turn was.
pub(crate) async fn storm(address: SocketAddr, storm: &Storm) -> Report {
    let mut arrivals: Vec<_> =
        (0..storm.clients).map(|client| (arrival(storm, client), client)).collect();
    arrivals.sort_unstable();
    let choices = arrivals.iter().map(|(_, client)| choice(storm, *client, 0) as usize).collect();
    let began = Instant::now();
    let (queues, connections) = open(address, storm, began).await;
    std::thread::spawn(move || pace(&arrivals, choices, began, &queues));
    let mut report = Report::new();
    for connection in connections {
        for outcome in connection.await.expect("a connection does its part") {
            count(&mut report, &outcome);
        }
    }
    report.finished()
}

/// A thread of its own, because tokio's timers know nothing finer than a millisecond.
fn pace(
    arrivals: &[(Duration, u32)],
    choices: Vec<usize>,
    began: Instant,
    queues: &[mpsc::UnboundedSender<Arrival>],
) {
    for ((at, client), choice) in arrivals.iter().zip(choices) {
        std::thread::sleep((began + *at).saturating_duration_since(Instant::now()));
        queues[choice].send((*client, began + *at)).expect("the connection takes it");
    }
}

async fn open(
    address: SocketAddr,
    storm: &Storm,
    began: Instant,
) -> (Vec<mpsc::UnboundedSender<Arrival>>, Vec<JoinHandle<Vec<Outcome>>>) {
    let (mut queues, mut connections) = (Vec::new(), Vec::new());
    for _ in 0..storm.pool {
        let connection = Connection::open(address).await.expect("the server listens");
        let (queue, waiting) = mpsc::unbounded_channel();
        queues.push(queue);
        let serving = serve(connection, waiting, began, storm.timeout);
        connections.push(tokio::task::spawn_local(serving));
    }
    (queues, connections)
}

/// One request at a time; what has waited longer than the time-out is not sent.
async fn serve(
    mut connection: Connection,
    mut waiting: mpsc::UnboundedReceiver<Arrival>,
    began: Instant,
    timeout: Duration,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    while let Some((client, arrived)) = waiting.recv().await {
        let ending = if arrived.elapsed() > timeout {
            Ending::TimedOut
        } else {
            let request = login(&device_name(client), SECRET);
            let answer = connection.exchange(&request).await.expect("an answer");
            match answer.status {
                _ if arrived.elapsed() > timeout => Ending::TimedOut,
                200 if answer.body.starts_with(br#"{"result":"allow""#) => Ending::Allowed,
                503 => Ending::Unavailable,
                other => panic!("{other} {}", String::from_utf8_lossy(answer.body)),
            }
        };
        outcomes.push(Outcome { began: arrived - began, answered: began.elapsed(), ending });
    }
    outcomes
}

fn count(report: &mut Report, outcome: &Outcome) {
    match outcome.ending {
        Ending::Allowed => report.allowed(outcome.began, outcome.answered),
        Ending::Unavailable => report.refused += 1,
        Ending::TimedOut => report.timed_out += 1,
    }
    let is_in = outcome.ending == Ending::Allowed;
    report.ended(if is_in { Fate::InAtOnce } else { Fate::Out });
}

/// A request of each client as soon as a connection is free, and how long all took. A client's
/// requests keep to one connection.
pub(crate) async fn closed_loop(
    address: SocketAddr,
    clients: u32,
    connections: u32,
    request: impl Fn(u32) -> Vec<u8> + Copy + 'static,
) -> Duration {
    let mut tasks = Vec::new();
    for number in 0..connections {
        let mut connection = Connection::open(address).await.expect("the server listens");
        let mine = (number..clients).step_by(connections as usize);
        tasks.push(async move {
            for client in mine {
                let answer = connection.exchange(&request(client)).await.expect("an answer");
                let is_good = matches!(answer.status, 200 | 204);
                assert!(is_good, "{} {}", answer.status, String::from_utf8_lossy(answer.body));
            }
        });
    }
    let began = Instant::now();
    let tasks: Vec<_> = tasks.into_iter().map(tokio::task::spawn_local).collect();
    for task in tasks {
        task.await.expect("a connection does its part");
    }
    began.elapsed()
}
