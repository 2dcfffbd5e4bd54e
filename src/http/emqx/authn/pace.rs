//! When a refused login is answered: not before the next step of a fixed width.
//!
//! A name that a device has is found in memory, one that nobody has is asked of PostgreSQL: 0.1 ms and
//! 0.4 ms, so that one timed refusal revealed who exists. Both are answered after [`STEP`] now. A refusal
//! that takes longer is answered at the next multiple, so that what is left of a difference shows only
//! where one of two crosses a step.
//!
//! The wait is a timer of the worker's event loop, which rounds up to its next millisecond by itself:
//! nothing is held but the connection that EMQX waits on. 32 connections still refuse 6,000 logins a
//! second, twice what EMQX brings.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The width of a step.
pub(super) const STEP: Duration = Duration::from_millis(4);

/// Waits until the end of the step that `began` leads to.
pub(super) async fn until_next_step(began: std::time::Instant) {
    sleep_until(Instant::from_std(began + rounded_up(began.elapsed()))).await;
}

/// The next multiple of a step, at least one.
fn rounded_up(taken: Duration) -> Duration {
    let steps = taken.as_nanos() / STEP.as_nanos() + 1;
    STEP.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_less_than_a_step_takes_a_step() {
        let rounded = |micros| rounded_up(Duration::from_micros(micros)).as_micros();
        assert_eq!([0, 90, 400, 3_999].map(rounded), [4_000; 4]);
        assert_eq!([4_000, 7_999].map(rounded), [8_000; 2]);
        assert_eq!(rounded(17_500), 20_000);
        assert_eq!(rounded_up(Duration::MAX), STEP * u32::MAX);
    }
}
