//! `make storm`: what a reconnect storm needs, by simulation, and how far the simulation is right.
//!
//! Words after `--` choose parts (`real`, `pools`, `smallest`, `passwords`, `sizes`, `one`; without
//! any: all but the last) and change what is simulated: `cargo bench --bench storm -- one clients=50000 window=10s
//! pool=16 replicas=3 decision=40us`. `docs/SCALE.md` says what the figures mean.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod costs;
mod events;
mod forecast;
mod generator;
mod measured;
mod real;
mod simulation;
mod sizes;
mod table;
mod words;

use tokio::task::LocalSet;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Cargo adds options of its own.
    let words = words.iter().map(String::as_str).filter(|word| !word.starts_with("--"));
    let (changes, parts): (Vec<&str>, Vec<&str>) = words.partition(|word| word.contains('='));
    let storm = words::apply(forecast::usual(), &changes);
    let wanted = |part: &str| parts.contains(&part) || (parts.is_empty() && part != "one");
    if wanted("real") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, real::compare());
    }
    if wanted("sizes") {
        sizes::reconnect();
        sizes::every_day();
    }
    if wanted("one") {
        forecast::one(&storm);
    }
    if wanted("pools") {
        forecast::pools(&storm);
    }
    if wanted("smallest") {
        forecast::smallest(&storm);
    }
    if wanted("passwords") {
        forecast::passwords(&storm);
    }
}
