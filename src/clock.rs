//! The wall clock, as a value that tests can set.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Where the wall-clock time comes from.
#[derive(Clone, Default)]
pub enum Clock {
    /// The operating system's clock.
    #[default]
    System,
    /// A clock that a test sets, in microseconds since the Unix epoch.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands still at a timestamp.
    #[must_use]
    pub fn manual(at: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(at.as_microsecond())))
    }

    /// The present time.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that may ask the system")]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Manual(micros) => {
                let micros = micros.load(Ordering::Relaxed);
                Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// Moves a manual clock; the system's cannot be moved.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(micros) = self {
            let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
            micros.fetch_add(by, Ordering::Relaxed);
        }
    }
}

/// A timestamp so much later (or earlier), or the last (or first) one that there is.
#[must_use]
pub fn saturating_add(timestamp: Timestamp, duration: SignedDuration) -> Timestamp {
    timestamp.saturating_add(duration).unwrap_or(Timestamp::MAX)
}
