//! What a stranger who times refusals can tell: the best guess from one probe.
//!
//! Probes of two kinds alternate on one connection with nothing else going on, the best case for a
//! stranger. The figure is how often the best threshold tells the kind by one probe: 50 % is chance.

use std::time::{Duration, Instant};

use super::GENERATED;
use crate::support::connection::Connection;
use crate::support::fleetgate::Fleetgate;
use crate::support::requests::{device_name, login_of};
use crate::table::{Bar, Row};

/// Probes of each kind.
const PROBES: u32 = 2_000;

/// A password in the shape of a token.
const TOKEN_SHAPED: &str = "eyJhbGciOiJFZERTQSIsImtpZCI6IngifQ.e30.AA";

pub(super) async fn refusals(url: &str) -> Vec<Row> {
    let service = Fleetgate::start(url, &[]).await;
    let mut connection = Connection::open(service.address()).await.expect("fleetgate listens");
    let known = |number: u32| device_name(number % GENERATED.end);
    for number in GENERATED {
        exchange(&mut connection, &login_of(&known(number), "x", "192.0.2.1", "")).await;
    }
    let mut rows = Vec::new();
    for (what, password) in [("wrong password", "wrong"), ("token-shaped password", TOKEN_SHAPED)] {
        let (mut of_known, mut of_unknown) = (Vec::new(), Vec::new());
        let mut unknown = 0_u32;
        while of_unknown.len() < PROBES as usize {
            let number = unknown;
            unknown += 1;
            // Never asked for before, so PostgreSQL is asked.
            let name = format!("unknown-{what}-{number}").replace(' ', "-");
            let took = exchange(&mut connection, &login_of(&name, password, "192.0.2.1", "")).await;
            let device = known(number);
            let other =
                exchange(&mut connection, &login_of(&device, password, "192.0.2.1", "")).await;
            // Half of the unknown names look like a chosen password, and are not what is asked here.
            if took < Duration::from_millis(9) || unknown > 8 * PROBES {
                of_unknown.push(took);
                of_known.push(other);
            }
        }
        let accuracy = best_accuracy(&of_known, &of_unknown) * 100.0;
        let (a, b) = (median(&mut of_known), median(&mut of_unknown));
        println!("{what}: known {a:.1?}, unknown {b:.1?}, median");
        let name = format!("who exists, by one timed {what}");
        rows.push(Row::figure(&name, accuracy, "% right", Bar::AtMost(60.0)));
    }
    rows
}

async fn exchange(connection: &mut Connection, request: &[u8]) -> Duration {
    let sent = Instant::now();
    let answer = connection.exchange(request).await.expect("an answer");
    assert!(matches!(answer.status, 200 | 503), "{}", answer.status);
    sent.elapsed()
}

/// How often the best threshold is right about one probe of either kind.
fn best_accuracy(one: &[Duration], other: &[Duration]) -> f64 {
    let mut all: Vec<(Duration, i32)> =
        one.iter().map(|t| (*t, 1)).chain(other.iter().map(|t| (*t, -1))).collect();
    all.sort();
    let (mut balance, mut best) = (0_i32, 0_i32);
    for (_, kind) in all {
        balance += kind;
        best = best.max(balance.abs());
    }
    0.5 + f64::from(best) / f64::from(2 * PROBES)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}
