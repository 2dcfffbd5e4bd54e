//! Signals, logs, a clean end: what a process owes whoever runs it.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat};

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
    /// Whether it is in [`HOLDING_BACK`], where it must not be twice.
    listed: bool,
}

impl LogThrottle {
    /// A throttle for lines about one thing, in the words of the log line.
    #[must_use]
    pub const fn new(about: &'static str) -> Self {
        Self { about, state: Mutex::new(Throttled { last: None, unsaid: 0, listed: false }) }
    }

    /// Whether to say something now: then how often it was not since the last time.
    ///
    /// That is `None` for never, which a log line leaves out.
    pub fn now(&'static self) -> Option<Option<u64>> {
        self.at(Instant::now()).map(|unsaid| (unsaid > 0).then_some(unsaid))
    }

    fn at(&'static self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < SELDOM) {
            state.unsaid += 1;
            let listed = std::mem::replace(&mut state.listed, true);
            drop(state);
            if !listed {
                lock(&HOLDING_BACK).push(self);
            }
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }

    /// What is held back for longer than a minute, or at all; then it is no longer listed.
    fn overdue(&self, now: Instant, all: bool) -> Option<u64> {
        let mut state = lock(&self.state);
        let over = |last| now.saturating_duration_since(last) >= SELDOM;
        if !all && !state.last.is_none_or(over) {
            return None;
        }
        state.listed = false;
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
        tracing::warn!(unsaid, "{about}: {unsaid} more since the last line");
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

/// Lets this process open as many files as the operating system allows it, instead of the few that shells
/// start with, and returns how many that are. Every connection is a file.
pub fn raise_open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Not allowed in some sandboxes: then what there is has to do.
    let _kept = setrlimit(Resource::Nofile, raised);
    open_files()
}

/// How many files this process may have open.
#[must_use]
pub fn open_files() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Whether this process may have so many more threads at the same time.
///
/// # Errors
/// Why the operating system refuses one of them.
pub fn try_threads(count: usize) -> io::Result<()> {
    let all_started = Mutex::new(());
    std::thread::scope(|scope| {
        let starting = lock(&all_started);
        let mut threads = (0..count)
            .map(|_| std::thread::Builder::new().spawn_scoped(scope, || drop(lock(&all_started))));
        let started = threads.try_for_each(|thread| thread.map(drop));
        drop(starting);
        started
    })
}

/// Sends logs to standard error, so that standard output stays free for results.
///
/// A second call in one process changes nothing.
pub fn start_logging(log: &Log) {
    // Said by Fleetgate itself, shorter. What the setting says of them comes later and wins.
    let filter = EnvFilter::new(format!("refinery_core=warn,actix_server=warn,{}", log.filter));
    let colour = io::stderr().is_terminal();
    // A log that nobody reads any more is told to nobody: telling standard error about it would panic.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(colour)
        .log_internal_errors(false);
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

    #[test]
    fn a_steady_stream_is_listed_once() {
        static THROTTLE: LogThrottle = LogThrottle::new("a steady stream");
        let listed = || {
            let all = lock(&HOLDING_BACK);
            all.iter().filter(|throttle| std::ptr::eq(**throttle, &raw const THROTTLE)).count()
        };
        // Ahead of the clock, so that a look at what is overdue finds a line of a moment ago.
        let began = Instant::now() + SELDOM;
        for minute in 0..10 {
            let at = began + SELDOM * minute;
            assert!(THROTTLE.at(at).is_some());
            assert_eq!(THROTTLE.at(at + Duration::from_secs(1)), None);
            tell_unsaid(false);
            assert_eq!(listed(), 1, "minute {minute}");
        }
        tell_unsaid(true);
        assert_eq!(listed(), 0);
        assert_eq!(THROTTLE.at(Instant::now()), None);
        assert_eq!(listed(), 1, "what is held back later is told too");
    }
}
