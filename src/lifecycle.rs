//! Signals, logs, a clean end: what a process owes whoever runs it.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// How long nothing may arrive before the end: EMQX's connections stay open and idle, so only
/// silence tells that it has nothing more to say.
const QUIET: Duration = Duration::from_millis(100);

/// Time between two looks at the requests in flight, at the end of the grace period.
const GLANCE: Duration = Duration::from_millis(1);

/// Requests that have been read and not yet answered.
#[derive(Debug, Default)]
pub struct InFlight {
    begun: AtomicU64,
    ended: AtomicU64,
    closing: AtomicBool,
}

/// One request in flight, until dropped.
pub struct Passage<'a>(&'a InFlight);

impl InFlight {
    /// Counts a request until the returned value is dropped.
    #[must_use]
    pub fn enter(&self) -> Passage<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Passage(self)
    }

    /// The service is about to end: what can be sent again later is asked for later.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Whether the service is about to end.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Waits until every request is answered and none came for a while.
    pub async fn quiet(&self) {
        loop {
            let begun = self.begun.load(Ordering::Acquire);
            tokio::time::sleep(QUIET).await; // why: it waits for the absence of events
            let ended = self.ended.load(Ordering::Acquire);
            if ended == begun && begun == self.begun.load(Ordering::Acquire) {
                return;
            }
        }
    }

    /// Waits for a moment in which every request is answered. Under steady traffic that is all that
    /// can be had; a connection with more than one request waiting has no such moment.
    pub async fn idle(&self) {
        while self.ended.load(Ordering::Acquire) != self.begun.load(Ordering::Acquire) {
            tokio::time::sleep(GLANCE).await; // why: the counters are not worth a lock a request
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Release);
    }
}

/// Time between two log lines about the same thing.
const SELDOM: Duration = Duration::from_secs(60);

/// Lets one log line a minute through and counts the others.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// Whether it is time to say something: then how often it was not since the last time.
    pub fn now(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, silent) = &mut *state;
        if last.is_some_and(|last| last.elapsed() < SELDOM) {
            *silent += 1;
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(silent))
    }
}

/// Cancelled by the first SIGTERM or SIGINT. A second one ends the process at once.
///
/// Must be called on a tokio runtime.
///
/// # Errors
/// When signal handlers cannot be installed.
pub fn stop_on_signals() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancel = stop.clone();
    tokio::spawn(async move {
        for impatient in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if impatient {
                std::process::exit(130);
            }
            tracing::info!("stopping: finishing what is in flight");
            cancel.cancel();
        }
    });
    Ok(stop)
}

/// Sends logs to standard error, so that standard output stays free for results.
///
/// A second call in one process changes nothing.
pub fn start_logging(log: &Log) {
    // Said by Fleetgate itself, shorter. What the setting says of them comes later and wins.
    let filter = EnvFilter::new(format!("refinery_core=warn,actix_server=warn,{}", log.filter));
    let colour = io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    let _already_started = match log.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
