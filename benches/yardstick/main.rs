//! `make yardstick`: today's Fleetgate against a fixed commit, each measured by its own benchmark.
//!
//! A later schema makes the old binary useless on today's database, so the old commit is checked out
//! into a worktree below `target/` and runs its own `cargo bench --bench load` there. The two take
//! turns, because a machine's speed changes within minutes; what is compared is the service's
//! processor time for each answer, which depends least on what else the machine is doing. Rates are
//! shown beside it.
//!
//! Words after `--` choose scenarios, as `make bench-load` takes them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark fails by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use comfy_table::{Table, presets};
use serde_json::Value;

/// What everything since is measured against: the last commit before the large rebuild of 2026-11.
const COMMIT: &str = "f4e3b7c";

/// How often each side runs; the median of each figure is compared.
const TURNS: usize = 3;

/// The figures of one scenario, one of each turn.
#[derive(Default)]
struct Figures {
    cpu_us: Vec<f64>,
    per_second: Vec<f64>,
}

type Scenarios = BTreeMap<String, Figures>;

fn main() {
    let chosen: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let today = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let old = check_out(&today);
    let (mut before, mut after) = (Scenarios::new(), Scenarios::new());
    for turn in 1..=TURNS {
        eprintln!("turn {turn} of {TURNS}");
        measure(&old, &chosen, &mut before);
        measure(&today, &chosen, &mut after);
    }
    show(&before, &after);
}

/// The old commit's worktree, made where it is not there yet.
fn check_out(today: &Path) -> PathBuf {
    let place = today.join("target/yardstick").join(COMMIT);
    if !place.join("Cargo.toml").exists() {
        let mut git = Command::new("git");
        git.current_dir(today).args(["worktree", "add", "--force", "--detach"]);
        let added = git.arg(&place).arg(COMMIT).status().expect("git is installed");
        assert!(
            added.success(),
            "commit {COMMIT} is not here: this needs a clone with its history"
        );
    }
    place
}

/// Runs a checkout's own benchmark and takes its figures from the JSON that it leaves.
fn measure(checkout: &Path, chosen: &[String], into: &mut Scenarios) {
    let mut bench = Command::new("cargo");
    bench.current_dir(checkout).args(["bench", "--locked", "--bench", "load", "--"]).args(chosen);
    // Each side builds below its own directory, and measures its own build.
    for name in ["CARGO_TARGET_DIR", "CARGO_MANIFEST_DIR", "BENCH_FLEETGATE"] {
        bench.env_remove(name);
    }
    let ran = bench.status().expect("cargo is installed");
    assert!(ran.success(), "the benchmark in {} failed", checkout.display());
    let file = checkout.join("target/tmp/bench-load.json");
    let text = fs::read_to_string(&file).expect("the benchmark leaves bench-load.json");
    let table: Value = serde_json::from_str(&text).expect("bench-load.json is JSON");
    for row in table["rows"].as_array().expect("rows") {
        let (Some(scenario), Some(cpu_us)) = (row["scenario"].as_str(), row["cpu_us"].as_f64())
        else {
            continue;
        };
        let figures = into.entry(scenario.to_owned()).or_default();
        figures.cpu_us.push(cpu_us);
        figures.per_second.extend(row["per_second"].as_f64());
    }
}

fn show(before: &Scenarios, after: &Scenarios) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "scenario",
        "CPU µs then",
        "CPU µs now",
        "now / then",
        "/s then",
        "/s now",
    ]);
    for (scenario, now) in after {
        let Some(then) = before.get(scenario) else { continue };
        let (cpu_then, cpu_now) = (median(&then.cpu_us), median(&now.cpu_us));
        table.add_row([
            scenario.clone(),
            format!("{cpu_then:.1}"),
            format!("{cpu_now:.1}"),
            format!("{:.2}", cpu_now / cpu_then),
            format!("{:.0}", median(&then.per_second)),
            format!("{:.0}", median(&now.per_second)),
        ]);
    }
    println!("\n{COMMIT} and today, medians of {TURNS} turns each\n\n{table}");
    let only = |one: &Scenarios, other: &Scenarios| {
        let names = one.keys().filter(|name| !other.contains_key(*name));
        names.cloned().collect::<Vec<_>>().join(", ")
    };
    println!("\nonly then: {}\nonly now: {}", only(before, after), only(after, before));
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
