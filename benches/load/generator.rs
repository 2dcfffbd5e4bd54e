//! The process that makes the load: one thread, as few system calls as the requests need.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use tokio::task::LocalSet;

use crate::latencies::Latencies;
use crate::plan::{Length, Plan, Report};
use crate::support::connection::Connection;
use crate::traffic::Requests;

/// Reads a plan from standard input, does it, writes the report to standard output.
pub(crate) fn run() {
    let plan: Plan = serde_json::from_reader(io::stdin()).expect("a plan");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = LocalSet::new().block_on(&runtime, drive(plan));
    serde_json::to_writer(io::stdout(), &report).expect("somebody reads the report");
}

/// What one connection measured.
struct Measured {
    latencies: Latencies,
    answers: u64,
}

/// From when on answers count, and until when requests are sent.
struct Window {
    counted_from: Instant,
    until: Option<Instant>,
}

async fn drive(plan: Plan) -> Report {
    let plan = Rc::new(plan);
    let mut connections = Vec::new();
    for number in 0..plan.connections {
        let requests = Requests::share(&plan.traffic, number, plan.connections);
        let connection = Connection::open(plan.address).await.expect("the server listens");
        connections.push((connection, requests));
    }
    let began = Instant::now();
    let window = Rc::new(match plan.length {
        Length::Time(time) => Window { counted_from: began + time / 4, until: Some(began + time) },
        Length::Once => Window { counted_from: began, until: None },
    });
    let tasks = connections.into_iter().map(|(connection, requests)| {
        tokio::task::spawn_local(serve(connection, requests, plan.clone(), window.clone()))
    });
    let tasks: Vec<_> = tasks.collect();
    let mut all = Measured { latencies: Latencies::new(), answers: 0 };
    for task in tasks {
        let one = task.await.expect("a connection does its part");
        all.latencies.add(&one.latencies);
        all.answers += one.answers;
    }
    let time = window.counted_from.elapsed();
    all.latencies.report(all.latencies.count(), all.answers, time)
}

async fn serve(
    mut connection: Connection,
    mut requests: Requests,
    plan: Rc<Plan>,
    window: Rc<Window>,
) -> Measured {
    let mut measured = Measured { latencies: Latencies::new(), answers: 0 };
    let rounds = if window.until.is_some() { usize::MAX } else { requests.len() };
    for _ in 0..rounds {
        let sent = Instant::now();
        if window.until.is_some_and(|until| sent >= until) {
            break;
        }
        let (request, due) = requests.next();
        let answer = connection.exchange(request).await.expect("an answer");
        assert!(
            !plan.checked || due.is_met_by(&answer),
            "{due:?} was due, not {} {}, to {}",
            answer.status,
            String::from_utf8_lossy(answer.body),
            String::from_utf8_lossy(request)
        );
        measured.answers += 1;
        if sent >= window.counted_from {
            measured.latencies.record(sent);
        }
        if !plan.pause.is_zero() {
            tokio::time::sleep(plan.pause).await;
        }
    }
    measured
}
