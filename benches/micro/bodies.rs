//! Reading what EMQX sends, with bodies that it has sent (`tests/recorded`).

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use fleetgate::http::emqx::{authn, authz, events};

const LOGINS: &str = include_str!("../../tests/recorded/authn.jsonl");
const ACTIONS: &str = include_str!("../../tests/recorded/authz.jsonl");
const EVENTS: &str = include_str!("../../tests/recorded/events.jsonl");

/// The first body of a scenario.
fn recorded(file: &str, scenario: &str) -> String {
    let lines = file.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut requests = lines.filter(|request| request["scenario"] == scenario);
    requests.next().expect("a recorded scenario")["body"].as_str().unwrap().to_owned()
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bodies");
    for scenario in ["authn_v5_good", "authn_quotes_in_values", "authn_long_password"] {
        let body = recorded(LOGINS, scenario);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("login, {scenario}"), |bencher| {
            bencher.iter(|| authn::parse(black_box(body.as_bytes())).unwrap());
        });
    }
    for scenario in ["authz_publish_qos1_retain", "authz_subscribe_shared"] {
        let body = recorded(ACTIONS, scenario);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("action, {scenario}"), |bencher| {
            bencher.iter(|| authz::parse(black_box(body.as_bytes())).unwrap());
        });
    }
    for scenario in ["message_json", "message_64k"] {
        let body = recorded(EVENTS, scenario);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("event, {scenario}"), |bencher| {
            bencher.iter(|| events::parse(black_box(body.as_bytes())).unwrap());
        });
    }
}
