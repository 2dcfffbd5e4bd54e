//! What the parts of a decision cost, each by itself: `make bench`, or
//! `cargo bench --bench micro -- topics` for one group.
//!
//! Times are this machine's; compare them with each other, or with a baseline of the same machine
//! (`--save-baseline`, `--baseline`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a bench that cannot run panics"
)]

mod actions;
mod bodies;
mod memory;
mod passwords;
mod topics;

use criterion::{Criterion, criterion_group, criterion_main};

criterion_group! {
    name = benches;
    config = Criterion::default();
    targets = topics::bench, actions::bench, bodies::bench, memory::bench, passwords::bench
}
criterion_main!(benches);
