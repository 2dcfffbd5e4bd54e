//! The tables of `docs/SCALE.md` follow from the costs in its first one.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy allows these in tests by itself, but not in what tests share"
)]

use std::collections::BTreeMap;

/// The share of a processor that is planned with: the page's `u`.
const BUSY: f64 = 0.7;

/// How far a printed figure may be from the computed one: it has two digits.
const ROUNDING: f64 = 0.06;

const MIB: f64 = 1_048_576.0;

fn page() -> String {
    std::fs::read_to_string("docs/SCALE.md").expect("docs/SCALE.md")
}

/// The rows below a table's head, as cells.
fn rows(page: &str, head: &str) -> Vec<Vec<String>> {
    let (_, below) = page.split_once(head).unwrap_or_else(|| panic!("no table {head}"));
    let lines = below.lines().skip(2).take_while(|line| line.starts_with('|'));
    lines
        .map(|line| line.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect())
        .collect()
}

/// Times in seconds, sizes in bytes, by symbol.
fn costs(page: &str) -> BTreeMap<String, f64> {
    let rows = rows(page, "| symbol | what | cost | printed by |");
    let cost = |text: &str| {
        let (number, unit) = text.split_once(' ').expect("a number and its unit");
        let number: f64 = number.parse().expect("a number");
        match unit {
            "µs" => number / 1e6,
            "bytes" => number,
            other => panic!("what is {other}?"),
        }
    };
    rows.iter().map(|row| (row[0].trim_matches('`').to_owned(), cost(&row[2]))).collect()
}

/// A figure as the page writes it: `1.7 million`, `3,333`, `5 min`, `48 MiB`, `1.2 GB`.
fn figure(text: &str) -> f64 {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number: f64 = number.replace(',', "").parse().unwrap_or_else(|_| panic!("{text}"));
    number
        * match unit {
            "" => 1.0,
            "million" => 1e6,
            "min" => 60.0,
            "MiB" => MIB,
            "GiB" => 1024.0 * MIB,
            "MB" => 1e6,
            "GB" => 1e9,
            other => panic!("what is {other}?"),
        }
}

fn assert_follows(row: &[String], computed: &[f64]) {
    for (cell, computed) in row.iter().zip(computed) {
        let (low, high) =
            (computed * (1.0 - ROUNDING) - 0.005, computed * (1.0 + ROUNDING) + 0.005);
        assert!((low..=high).contains(&figure(cell)), "{row:?}: {cell} should be {computed}");
    }
}

#[test]
fn what_a_reconnect_needs_follows_from_the_costs() {
    let page = page();
    let cost = costs(&page);
    let head = "| devices | within | logins/s | Fleetgate cores | PostgreSQL cores | EMQX cores |";
    let rows = rows(&page, head);
    assert_eq!(rows.len(), 6);
    for row in rows {
        let logins = figure(&row[0]) / figure(&row[1]);
        let cores = |each: f64| logins * each / BUSY;
        let fleetgate = cores(cost["f"] + 2.0 * cost["e"]);
        let postgresql = cores(cost["p"] + 2.0 * cost["n"]);
        assert_follows(&row[2..], &[logins, fleetgate, postgresql, cores(cost["b"])]);
    }
}

#[test]
fn what_every_day_needs_follows_from_the_costs() {
    let page = page();
    let cost = costs(&page);
    let head = "| devices | events/s | Fleetgate cores | PostgreSQL cores | memory of each replica | disk |";
    let rows = rows(&page, head);
    assert_eq!(rows.len(), 3);
    for row in rows {
        let devices = figure(&row[0]);
        let events = devices / 60.0 + 2.0 * devices / 86_400.0;
        let cores = |each: f64| events * each / BUSY;
        let memory = 40.0 * MIB + devices * cost["m"];
        let computed = [events, cores(cost["e"]), cores(cost["n"]), memory, devices * cost["k"]];
        assert_follows(&row[1..], &computed);
    }
}
