//! Signals, logs, a clean end: what a process owes whoever runs it.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

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

/// Throttles that keep something unsaid, for [`tell_unsaid`].
static HOLDING_BACK: Mutex<Vec<&'static LogThrottle>> = Mutex::new(Vec::new());

/// Lets one log line a minute through and counts the others: for whatever a stranger, a device or a
/// dependency that fails can cause again and again. One a cause, in a `static` beside its log line.
///
/// What was held back is told by the next line about the same thing, else within two minutes or at the
/// end by [`tell_unsaid`].
#[derive(Debug)]
pub struct LogThrottle {
    about: &'static str,
    state: Mutex<Throttled>,
}

#[derive(Debug)]
struct Throttled {
    last: Option<Instant>,
    unsaid: u64,
}

impl LogThrottle {
    /// A throttle for lines about one thing, in the words of the log line.
    #[must_use]
    pub const fn new(about: &'static str) -> Self {
        Self { about, state: Mutex::new(Throttled { last: None, unsaid: 0 }) }
    }

    /// Whether to say something now: then how often it was not since the last time.
    pub fn now(&'static self) -> Option<u64> {
        self.at(Instant::now())
    }

    fn at(&'static self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < SELDOM) {
            state.unsaid += 1;
            let first = state.unsaid == 1;
            drop(state);
            if first {
                lock(&HOLDING_BACK).push(self);
            }
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }

    /// What is held back for longer than a minute, or at all.
    fn overdue(&self, now: Instant, all: bool) -> Option<u64> {
        let mut state = lock(&self.state);
        let over = |last| now.saturating_duration_since(last) >= SELDOM;
        if !all && !state.last.is_none_or(over) {
            return None;
        }
        if state.unsaid > 0 {
            state.last = Some(now);
        }
        Some(std::mem::take(&mut state.unsaid))
    }
}

/// Tells how many log lines throttles hold back for longer than a minute; with `all` at once, at the
/// end of a process.
pub fn tell_unsaid(all: bool) {
    let now = Instant::now();
    let mut told = Vec::new();
    lock(&HOLDING_BACK).retain(|throttle| match throttle.overdue(now, all) {
        Some(unsaid) => {
            told.push((throttle.about, unsaid));
            false
        }
        None => true,
    });
    for (about, unsaid) in told.into_iter().filter(|(_, unsaid)| *unsaid > 0) {
        tracing::warn!(unsaid, "{about}: `unsaid` more since the last line about it");
    }
}

/// Calls [`tell_unsaid`] once a minute; never ends.
pub async fn keep_telling() {
    loop {
        tokio::time::sleep(SELDOM).await;
        tell_unsaid(false);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Holds log lines of libraries to one a minute from each place in their code: a stranger's broken
/// requests, or a socket that cannot be accepted, would else write as many as there are.
///
/// Fleetgate's own lines have their [`LogThrottle`]s, by cause; lines below `info` are somebody's wish.
#[derive(Default)]
struct OthersThrottled(Mutex<HashMap<Identifier, &'static LogThrottle>>);

impl OthersThrottled {
    fn passes(&self, metadata: &'static Metadata<'static>) -> bool {
        if metadata.target().starts_with("fleetgate") || *metadata.level() > Level::INFO {
            return true;
        }
        // Leaked on purpose: as many as there are places that log.
        let new = || &*Box::leak(Box::new(LogThrottle::new(metadata.name())));
        lock(&self.0).entry(metadata.callsite()).or_insert_with(new).now().is_some()
    }
}

impl<S> Filter<S> for OthersThrottled {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.passes(event.metadata())
    }
}

/// Sends logs to standard error, so that standard output stays free for results.
///
/// A second call in one process changes nothing.
pub fn start_logging(log: &Log) {
    // Said by Fleetgate itself, shorter. What the setting says of them comes later and wins.
    let filter = EnvFilter::new(format!("refinery_core=warn,actix_server=warn,{}", log.filter));
    let colour = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(colour);
    let lines = match log.format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let lines = lines.with_filter(OthersThrottled::default()).with_filter(filter);
    let _already_started = tracing_subscriber::registry().with(lines).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_and_a_count_of_the_others() {
        static THROTTLE: LogThrottle = LogThrottle::new("a test");
        let began = Instant::now();
        let after = |seconds| THROTTLE.at(began + Duration::from_secs(seconds));
        assert_eq!(after(0), Some(0));
        assert_eq!((after(1), after(59)), (None, None));
        assert_eq!(after(60), Some(2));
        assert_eq!(after(61), None);
        assert_eq!(THROTTLE.overdue(began + Duration::from_secs(100), false), None);
        assert_eq!(THROTTLE.overdue(began + Duration::from_secs(120), false), Some(1));
        assert_eq!(after(130), None, "what was told late counts as a line");
        assert_eq!(THROTTLE.overdue(began + Duration::from_secs(131), true), Some(1));
        assert_eq!(after(200), Some(0), "nothing is told twice");
    }
}
