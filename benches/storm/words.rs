//! What the command line changes about a storm.

use std::time::Duration;

use crate::simulation::{Machines, Replica, Storm};

/// Applies words such as `clients=50000` or `decision=40us`.
pub(crate) fn apply(mut storm: Storm, changes: &[&str]) -> Storm {
    for change in changes {
        let (name, value) = change.split_once('=').expect("name=value");
        set(&mut storm, name, value);
    }
    storm
}

fn set(storm: &mut Storm, name: &str, value: &str) {
    let costs = &mut storm.costs;
    match name {
        "clients" => storm.clients = number(value),
        "chosen" => storm.chosen = number(value),
        "window" => storm.window = time(value),
        "nodes" => storm.nodes = number(value),
        "pool" => storm.pool = number(value),
        "timeout" => storm.timeout = time(value),
        "replicas" => storm.replicas = number(value),
        "warm" => storm.warm = value == "true",
        "seed" => storm.seed = number(value).into(),
        "node_cores" | "replica_cores" | "database_cores" => set_cores(storm, name, number(value)),
        "broker" => costs.broker = time(value),
        "decision" => costs.decision = time(value),
        "record" => costs.record = time(value),
        "secret" => costs.secret = time(value),
        "query" => costs.query = time(value),
        "row" => costs.row = time(value),
        "hash" => costs.hash = time(value),
        "wake" => costs.wake = time(value),
        "way" => costs.way = time(value),
        _ => panic!("`{name}` is nothing that can be changed; see benches/storm/words.rs"),
    }
}

fn set_cores(storm: &mut Storm, name: &str, cores: u32) {
    let Machines::Apart { node, replica, database } = &mut storm.machines else { return };
    match name {
        "node_cores" => *node = cores,
        "database_cores" => *database = cores,
        _ => {
            *replica = cores;
            storm.replica = Replica::with_cores(cores);
        }
    }
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or_else(|_| panic!("`{text}` is no number"))
}

/// `5s`, `30ms`, `45us`.
fn time(text: &str) -> Duration {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let count: f64 = digits.parse().unwrap_or_else(|_| panic!("`{text}` is no time"));
    let unit = match &text[digits.len()..] {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        _ => panic!("`{text}` needs a unit: s, ms or us"),
    };
    Duration::from_secs_f64(count * unit)
}
