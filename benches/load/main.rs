//! `make bench-load`: how fast Fleetgate is, against what bounds it.
//!
//! Every figure is a ratio between two things run in turn on the same machine in the same run, because
//! machines are noisy; the median of several turns counts. Four kinds of processes, so that none
//! borrows another's time unseen: this one, which sets up and reckons; a private PostgreSQL with fsync
//! on; the server under load (Fleetgate's release build, or the [`ceiling`]); the [`generator`].
//!
//! `docs/PERFORMANCE.md` says what the scenarios mean and holds the latest table. Words after `--`
//! choose scenarios: `cargo bench --bench load -- authz events`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod bare;
mod ceiling;
mod generator;
mod latencies;
mod plan;
mod scenarios;
mod sessions;
mod table;
mod traffic;
mod turns;

use std::process::Command;

/// What this program is when it starts itself.
#[derive(Clone, Copy)]
enum Role {
    Ceiling,
    Generator,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::Ceiling => "role=ceiling",
            Self::Generator => "role=generator",
        }
    }
}

/// This program in another role.
fn own_process(role: Role) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path to this program"));
    command.arg(role.word());
    command
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is = |role: Role| words.iter().any(|word| word == role.word());
    if is(Role::Ceiling) {
        return ceiling::run();
    }
    if is(Role::Generator) {
        return generator::run();
    }
    // Cargo adds options of its own.
    let chosen: Vec<&str> =
        words.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let table = runtime.block_on(scenarios::run(&chosen));
    table.show();
}
