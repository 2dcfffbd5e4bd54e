//! The simulation of a reconnect storm (`benches/storm`) where the result is known beforehand.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy allows these in tests by itself, but not in what tests share"
)]

#[allow(dead_code, unused_imports, reason = "the benchmark uses the rest")]
#[path = "../benches/storm/simulation/mod.rs"]
mod simulation;

use std::time::Duration;

use simulation::{Costs, Machines, Replica, Report, Retry, Storm, run};

const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Nothing costs anything.
const FREE: Costs = Costs {
    broker: Duration::ZERO,
    decision: Duration::ZERO,
    record: Duration::ZERO,
    secret: Duration::ZERO,
    query: Duration::ZERO,
    row: Duration::ZERO,
    hash: Duration::ZERO,
    wake: Duration::ZERO,
    way: Duration::ZERO,
    used: 1.0,
};

/// Clients with generated secrets who come at once, once, to one small replica that knows them.
fn storm(clients: u32, costs: Costs) -> Storm {
    Storm {
        clients,
        chosen: 0,
        window: Duration::ZERO,
        retry: None,
        nodes: 1,
        pool: 1,
        timeout: seconds(5),
        replicas: 1,
        replica: Replica { workers: 1, registry: 1, hash_threads: 1, hash_queue: 64 },
        warm: true,
        machines: Machines::Apart { node: 1, replica: 1, database: 1 },
        costs,
        seed: 1,
    }
}

/// A hard one: cold, some chosen passwords, more than can be done in time, and everybody tries again.
fn hard(seed: u64) -> Storm {
    Storm {
        chosen: 500,
        window: seconds(1),
        retry: Some(Retry { first: seconds(1), longest: seconds(30) }),
        nodes: 2,
        pool: 40,
        replicas: 2,
        warm: false,
        seed,
        ..storm(
            20_000,
            Costs {
                broker: micros(50),
                decision: micros(900),
                record: micros(300),
                secret: micros(50),
                query: micros(200),
                row: micros(200),
                hash: micros(30_000),
                wake: micros(20),
                way: micros(100),
                used: 0.8,
            },
        )
    }
}

fn fates(report: &Report) -> (u32, u32, u32) {
    (report.in_at_once, report.in_later, report.out)
}

#[test]
fn a_lone_login_takes_the_sum_of_its_steps() {
    let costs = Costs {
        broker: micros(1),
        decision: micros(20),
        record: micros(300),
        secret: micros(5),
        query: micros(4_000),
        row: micros(50_000),
        hash: micros(600_000),
        wake: micros(7),
        way: micros(1_000_000 / 4),
        used: 1.0,
    };
    let lone = |chosen, warm| run(&Storm { chosen, warm, ..storm(1, costs) }).latency(1000);
    // The worker has to wake up; the registry's thread and a backend, the former and the worker again.
    let known = costs.wake + 2 * costs.way + micros(21);
    let asked = 4 * costs.wake + 2 * costs.way + micros(54_300);
    assert_eq!(lone(0, true), known);
    assert_eq!(lone(0, false), known + asked + costs.secret);
    assert_eq!(lone(1, true), known + costs.hash + costs.wake);
    assert_eq!(lone(1, false), known + asked + costs.hash);
}

#[test]
fn what_is_lost_of_a_processor_makes_a_step_longer() {
    let lone = |used| run(&storm(1, Costs { decision: micros(30), used, ..FREE })).latency(1000);
    assert_eq!((lone(1.0), lone(0.75)), (micros(30), micros(40)));
}

/// Arrivals at random, one server, constant service: the mean wait is load × service / 2(1 − load)
/// (Pollaczek and Khinchine).
#[test]
fn a_single_server_queues_as_theory_says() {
    for (load, clients) in [(0.5, 100_000), (0.8, 200_000)] {
        let service = micros(1000);
        let window = service.mul_f64(f64::from(clients) / load);
        let costs = Costs { decision: service, ..FREE };
        let report = run(&Storm { window, ..storm(clients, costs) });
        let wait = service.mul_f64(load / (2.0 * (1.0 - load)));
        let ratio = (report.mean_latency() - service).as_secs_f64() / wait.as_secs_f64();
        assert!((0.95..1.05).contains(&ratio), "at a load of {load}: {ratio} of the expected wait");
    }
}

#[test]
fn an_answer_that_comes_too_late_is_a_time_out() {
    // Answered after 3 s; answered after 6 s, which is too late; still waiting when its time is over.
    let report = run(&storm(3, Costs { decision: seconds(3), ..FREE }));
    assert_eq!((fates(&report), report.timed_out, report.refused), ((1, 0, 2), 2, 0));
    assert_eq!(report.latency(1000), seconds(3));
}

#[test]
fn a_full_hash_queue_refuses_at_once() {
    let at_once =
        Storm { pool: 1000, chosen: 100, ..storm(100, Costs { hash: micros(30_000), ..FREE }) };
    let report = run(&at_once);
    // Two clients may have met on one connection; the second of them then finds room.
    let hashed = report.in_at_once;
    assert!((65..=75).contains(&hashed), "{hashed} of one under way and 64 that wait");
    assert_eq!(report.refused, u64::from(100 - hashed));
    assert!(report.latency(1000) >= micros(30_000) * 65);
}

#[test]
fn a_chosen_password_costs_one_hash_a_replica() {
    let retry = Some(Retry { first: seconds(1), longest: seconds(1) });
    let costs = Costs { hash: seconds(3), ..FREE };
    // The second has waited for 3 s when its hash begins and is too late at 6; it comes again and is known.
    let report = run(&Storm { chosen: 2, pool: 64, retry, ..storm(2, costs) });
    assert_eq!((fates(&report), report.timed_out), ((1, 1, 0), 1));
    assert!(report.latency(0) < micros(1), "the second attempt is answered from memory");
}

#[test]
fn a_load_that_takes_too_long_is_unavailable() {
    let costs = Costs { query: seconds(3), ..FREE };
    let report = run(&Storm { warm: false, ..storm(1, costs) });
    assert_eq!((fates(&report), report.refused, report.timed_out), ((0, 0, 1), 1, 0));
}

#[test]
fn loads_travel_together() {
    // 1,000 devices one by one would take PostgreSQL 10 s; four queries at a time of 64 names, 40 ms.
    let costs = Costs { query: micros(10_000), ..FREE };
    let report = run(&Storm { warm: false, pool: 1000, ..storm(1000, costs) });
    assert_eq!(report.in_at_once, 1000);
    assert!(report.over_after() < micros(400_000), "{:?}", report.over_after());
}

#[test]
fn every_client_ends_in_exactly_one_way_and_the_same_storm_ends_the_same() {
    for seed in 0..3 {
        let report = run(&hard(seed));
        assert_eq!(report.clients(), 20_000);
        assert!(report.in_later > 0 && report.timed_out > 0, "{:?}", fates(&report));
        assert_eq!(report, run(&hard(seed)));
        assert_ne!(report, run(&hard(seed + 100)));
    }
}

/// Where Fleetgate is what bounds: with many replicas loads gather less, and PostgreSQL has more to do.
#[test]
fn more_replicas_are_never_worse() {
    let outcome = |replicas| run(&Storm { replicas, warm: true, retry: None, ..hard(7) });
    let mut before = outcome(1);
    for replicas in [2, 4, 8, 16, 32] {
        let report = outcome(replicas);
        assert!(report.in_at_once >= before.in_at_once, "{replicas} replicas");
        // Before everybody is let in, the slowest are refused and do not count.
        if before.out == 0 {
            assert!(report.latency(990) <= before.latency(990), "{replicas} replicas");
        }
        before = report;
    }
    assert_eq!(before.out, 0, "so many are enough");
}
