//! Logging: where lines go, and how lines that could come again and again are held to one a minute.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

/// Time between two log lines about the same thing.
const INTERVAL: Duration = Duration::from_secs(60);

/// Throttles that suppressed lines since their last one, for [`log_suppressed`].
static SUPPRESSING: Mutex<Vec<&'static LogThrottle>> = Mutex::new(Vec::new());

/// Lets one log line a minute through and counts the others: for whatever a stranger, a device or a
/// dependency that fails can cause again and again. Each cause has its own; see [`log_throttled!`].
///
/// How many lines were suppressed is logged with the next line about the same thing, else within two
/// minutes or at the end by [`log_suppressed`].
#[derive(Debug)]
pub struct LogThrottle {
    about: &'static str,
    state: Mutex<Throttled>,
}

#[derive(Debug)]
struct Throttled {
    last: Option<Instant>,
    suppressed: u64,
    /// Whether it is in [`SUPPRESSING`], where it must not be twice.
    listed: bool,
}

impl LogThrottle {
    /// A throttle for lines about one thing, which `about` names in the log.
    #[must_use]
    pub const fn new(about: &'static str) -> Self {
        Self { about, state: Mutex::new(Throttled { last: None, suppressed: 0, listed: false }) }
    }

    /// Whether to log a line now: then how many were suppressed since the last one.
    ///
    /// That is `None` for none, which a log line leaves out.
    pub fn now(&'static self) -> Option<Option<u64>> {
        self.at(Instant::now()).map(|suppressed| (suppressed > 0).then_some(suppressed))
    }

    fn at(&'static self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            state.suppressed += 1;
            let listed = std::mem::replace(&mut state.listed, true);
            drop(state);
            if !listed {
                lock(&SUPPRESSING).push(self);
            }
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }

    /// How many lines were suppressed for longer than a minute, or at all; then it is no longer listed.
    fn overdue(&self, now: Instant, all: bool) -> Option<u64> {
        let mut state = lock(&self.state);
        let over = |last| now.saturating_duration_since(last) >= INTERVAL;
        if !all && !state.last.is_none_or(over) {
            return None;
        }
        state.listed = false;
        if state.suppressed > 0 {
            state.last = Some(now);
        }
        Some(std::mem::take(&mut state.suppressed))
    }
}

/// The [`LogThrottle`] of the place where this is written, for lines about what the text names.
macro_rules! throttle {
    ($about:literal) => {{
        static THROTTLE: $crate::logging::LogThrottle = $crate::logging::LogThrottle::new($about);
        &THROTTLE
    }};
}

/// Logs a line from this place at most once a minute: the level, the message, and the fields that `tracing`
/// takes. The field `suppressed` counts the lines that were left out before it.
macro_rules! log_throttled {
    ($level:ident, $message:literal $(, $($field:tt)+)?) => {
        if let Some(suppressed) = $crate::logging::throttle!($message).now() {
            tracing::$level!($($($field)+,)? suppressed, $message);
        }
    };
}

pub(crate) use {log_throttled, throttle};

/// Logs how many lines throttles have suppressed for longer than a minute; with `all` at once, at the end
/// of a process.
pub fn log_suppressed(all: bool) {
    let now = Instant::now();
    let mut counts = Vec::new();
    lock(&SUPPRESSING).retain(|throttle| match throttle.overdue(now, all) {
        Some(suppressed) => {
            counts.push((throttle.about, suppressed));
            false
        }
        None => true,
    });
    for (about, suppressed) in counts.into_iter().filter(|(_, suppressed)| *suppressed > 0) {
        tracing::warn!(suppressed, "{about}: {suppressed} more since the last line");
    }
}

/// Calls [`log_suppressed`] once a minute; never ends.
pub async fn keep_logging_suppressed() {
    loop {
        tokio::time::sleep(INTERVAL).await;
        log_suppressed(false);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends logs to standard error, so that standard output stays free for results.
///
/// A second call in one process changes nothing.
pub fn start_logging(log: &Log) {
    let filter = EnvFilter::new(directives(&log.filter));
    let colour = io::stderr().is_terminal();
    // Reporting on standard error that standard error cannot be written to would panic.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(colour)
        .log_internal_errors(false);
    let lines = match log.format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let lines = lines.with_filter(LibraryThrottle::default()).with_filter(filter);
    let _already_started = tracing_subscriber::registry().with(lines).try_init();
}

/// Libraries that say too much at the level of all others, and the level that they are held to.
const HELD: [(&str, LevelFilter); 3] = [
    // Fleetgate logs the same itself, shorter.
    ("refinery_core", LevelFilter::WARN),
    ("actix_server", LevelFilter::WARN),
    // Below that it logs the parameters of every statement: hashes, payloads.
    ("tokio_postgres", LevelFilter::INFO),
];

/// The directives of `log.filter`, behind those for the libraries that are held back: for the same target the later one
/// wins, so whoever wants more of them names them. No library gets a higher level than all others.
fn directives(filter: &str) -> String {
    let of_all = filter.split(',').rev().find_map(|part| part.trim().parse().ok());
    let of_all: LevelFilter = of_all.unwrap_or(LevelFilter::OFF);
    let held = HELD.map(|(target, level)| format!("{target}={},", level.min(of_all)));
    held.concat() + filter
}

/// Holds log lines of libraries to one a minute from each place in their code: a stranger's broken
/// requests, or a socket that cannot be accepted, would otherwise write as many as there are.
///
/// Fleetgate's own lines have their [`LogThrottle`]s, by cause; lines below `info` were asked for.
#[derive(Default)]
struct LibraryThrottle(Mutex<HashMap<Identifier, &'static LogThrottle>>);

impl LibraryThrottle {
    fn passes(&self, metadata: &'static Metadata<'static>) -> bool {
        if metadata.target().starts_with("fleetgate") || *metadata.level() > Level::INFO {
            return true;
        }
        // Leaked on purpose: as many as there are places that log.
        let new = || &*Box::leak(Box::new(LogThrottle::new(metadata.target())));
        lock(&self.0).entry(metadata.callsite()).or_insert_with(new).now().is_some()
    }
}

impl<S> Filter<S> for LibraryThrottle {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.passes(event.metadata())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_held_back_unless_they_are_named() {
        for (filter, held) in [
            ("info", "refinery_core=warn,actix_server=warn,tokio_postgres=info,"),
            ("debug,x=off", "refinery_core=warn,actix_server=warn,tokio_postgres=info,"),
            ("warn", "refinery_core=warn,actix_server=warn,tokio_postgres=warn,"),
            ("ERROR", "refinery_core=error,actix_server=error,tokio_postgres=error,"),
            ("off", "refinery_core=off,actix_server=off,tokio_postgres=off,"),
            ("fleetgate=debug", "refinery_core=off,actix_server=off,tokio_postgres=off,"),
        ] {
            assert_eq!(directives(filter), format!("{held}{filter}"));
        }
        let shown = |filter: &str| {
            let filter = EnvFilter::new(directives(filter));
            tracing::subscriber::with_default(tracing_subscriber::registry().with(filter), || {
                (
                    tracing::enabled!(target: "tokio_postgres::query", Level::DEBUG),
                    tracing::enabled!(target: "fleetgate", Level::DEBUG),
                )
            })
        };
        assert_eq!(shown("debug"), (false, true));
        assert_eq!(shown("trace"), (false, true));
        assert_eq!(shown("debug,tokio_postgres=debug"), (true, true));
        assert_eq!(shown("info"), (false, false));
    }

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
        assert_eq!(after(130), None, "the late count is a line too");
        assert_eq!(THROTTLE.overdue(began + Duration::from_secs(131), true), Some(1));
        assert_eq!(after(200), Some(0), "no line is counted twice");
    }

    #[test]
    fn a_steady_stream_is_listed_once() {
        static THROTTLE: LogThrottle = LogThrottle::new("a steady stream");
        let listed = || {
            let all = lock(&SUPPRESSING);
            all.iter().filter(|throttle| std::ptr::eq(**throttle, &raw const THROTTLE)).count()
        };
        // Ahead of the clock, so that what is overdue includes a line of just now.
        let began = Instant::now() + INTERVAL;
        for minute in 0..10 {
            let at = began + INTERVAL * minute;
            assert!(THROTTLE.at(at).is_some());
            assert_eq!(THROTTLE.at(at + Duration::from_secs(1)), None);
            log_suppressed(false);
            assert_eq!(listed(), 1, "minute {minute}");
        }
        log_suppressed(true);
        assert_eq!(listed(), 0);
        assert_eq!(THROTTLE.at(Instant::now()), None);
        assert_eq!(listed(), 1, "what is suppressed later is logged too");
    }
}
