//! Allocations a request where a decision comes from memory, beside those of the HTTP layer alone.
//!
//! Counted, not timed, and the same on every machine, so this is a test. It counts the whole
//! process: whoever asks must not allocate ([`client`]). To see the table:
//! `cargo test --test allocations -- --nocapture`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod ceiling;
mod client;
mod support;

use std::alloc::System;
use std::net::SocketAddr;

use serde_json::Value;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::app::{TOKEN, action_body, login_body, start_with};
use support::wire::post;

use ceiling::Ceiling;
use client::Client;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What deciding an action from memory may allocate besides what the HTTP layer does.
const MOST_ABOVE_CEILING: f64 = 2.0;

/// Requests that are counted. What else allocates meanwhile, a heartbeat say, is divided by it.
const REQUESTS: u32 = 2_000;

/// Requests before that, to fill pools and buffers.
const WARM_UP: u32 = 100;

/// Allocations and bytes of one request. Growing an allocation counts as another.
#[derive(Clone, Copy)]
struct Cost {
    allocations: f64,
    bytes: f64,
}

impl Cost {
    fn measure(address: SocketAddr, path: &str, body: &Value, expected: &str) -> Self {
        let request = post(path, TOKEN, &body.to_string());
        let mut client = Client::connect(address);
        for _ in 0..WARM_UP {
            client.exchange(&request, expected);
        }
        let region = Region::new(ALLOCATOR);
        for _ in 0..REQUESTS {
            client.exchange(&request, expected);
        }
        let change = region.change();
        let per_request = |number: usize| number as f64 / f64::from(REQUESTS);
        Self {
            allocations: per_request(change.allocations + change.reallocations),
            bytes: per_request(change.bytes_allocated),
        }
    }

    fn show(self, name: &str, ceiling: Self) {
        let Self { allocations, bytes } = self;
        let above = allocations - ceiling.allocations;
        println!("{name:28} {allocations:8.2} {bytes:10.0} {above:+8.2}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_action_costs_hardly_more_than_http() {
    let (app, fleet, _database) = start_with(|config| config.emqx.acl_in_login = true).await;
    fleet.device("secret-1").await.bind("secret-1", "main", Some("lab/1/t"), Some("lab/1/s")).await;
    let secret = fleet.secret("secret-1").await;
    fleet.device("chosen-1").await.bind("chosen-1", "main", Some("lab/2/t"), Some("lab/2/s")).await;
    fleet.password("chosen-1", "correct horse").await;
    app.hears(6.0).await;
    let ceiling = Ceiling::start().await;

    let bare = action_body("secret-1", "publish", "lab/1/t");
    let bare = Cost::measure(ceiling.address, "/emqx/authz", &bare, r#"{"result":"allow"}"#);
    let authz = |topic, expected| {
        let body = action_body("secret-1", "publish", topic);
        Cost::measure(app.address, "/emqx/authz", &body, expected)
    };
    let authn = |name, password: &str| {
        let body = login_body(name, name, password, "");
        Cost::measure(app.address, "/emqx/authn", &body, r#"{"result":"allow","#)
    };
    let allowed = authz("lab/1/t", r#"{"result":"allow"}"#);
    let denied = authz("lab/2/t", r#"{"result":"deny"}"#);

    println!("{:28} {:>8} {:>10} {:>8}", "a request", "allocs", "bytes", "above");
    bare.show("ceiling", bare);
    allowed.show("authz allowed", bare);
    denied.show("authz denied", bare);
    authn("secret-1", &secret).show("authn, generated secret", bare);
    authn("chosen-1", "correct horse").show("authn, chosen, seen before", bare);
    for (what, cost) in [("allowed", allowed), ("denied", denied)] {
        let above = cost.allocations - bare.allocations;
        assert!(above <= MOST_ABOVE_CEILING, "an action {what}: {above:.2} above the ceiling");
    }
}
