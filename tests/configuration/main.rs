//! The configuration as an operator meets it: files, variables, and what is said of bad ones.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy allows these in tests by itself, but not in what tests share"
)]

mod files;
mod leaks;
mod openapi;
mod operator;
mod reference;
mod secrets;
mod unknown;
mod values;
