//! What the generator is to do and what it says afterwards: the words between the two processes.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A run of the generator.
#[derive(Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    /// Keep-alive connections, each with one request at a time.
    pub(crate) connections: usize,
    /// How long each waits after an answer before it sends the next request.
    pub(crate) pause: Duration,
    pub(crate) traffic: Traffic,
    pub(crate) length: Length,
    /// Whether an answer other than the one that is due ends the run. The ceiling answers anything.
    pub(crate) checked: bool,
}

/// What is sent.
#[derive(Serialize, Deserialize, Clone)]
pub(crate) enum Traffic {
    /// Publishes and subscribes of these devices, half of them allowed.
    Actions(Range<u32>),
    /// Logins of these devices.
    Logins(Range<u32>),
    /// Logins of these devices with a wrong password: each is hashed.
    WrongLogins(Range<u32>),
    /// Sessions of these devices: connect, two reports, disconnect.
    Events {
        devices: Range<u32>,
        /// Moments begin here, in ms since 1970; every run needs a later start than the one before.
        since_ms: i64,
    },
}

/// When a run ends.
#[derive(Serialize, Deserialize, Clone, Copy)]
pub(crate) enum Length {
    /// After this time; the first quarter is not counted.
    Time(Duration),
    /// When every request has been sent once. All count.
    Once,
}

/// What a run was like.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(crate) struct Report {
    /// Counted answers a second.
    pub(crate) per_second: f64,
    /// All answers, the uncounted ones too.
    pub(crate) answers: u64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) p999: Duration,
}
