//! How long the oldest event that is not committed has waited.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// When the oldest event of each batch under way was submitted; a handful at most.
#[derive(Default)]
pub(super) struct Oldest(Mutex<Vec<Instant>>);

impl Oldest {
    /// Notes a batch for as long as what this returns lives.
    pub(super) fn note(&self, since: Instant) -> Noted<'_> {
        self.noted().push(since);
        Noted { oldest: self, since }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.noted().iter().min().map_or(0.0, |since| since.elapsed().as_secs_f64())
    }

    fn noted(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch under way.
pub(super) struct Noted<'a> {
    oldest: &'a Oldest,
    since: Instant,
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        let mut noted = self.oldest.noted();
        if let Some(position) = noted.iter().position(|since| *since == self.since) {
            noted.swap_remove(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn tells_of_the_oldest_batch_under_way() {
        let oldest = Oldest::default();
        assert!(oldest.seconds() <= 0.0);
        let now = Instant::now();
        let younger = oldest.note(now);
        let older = oldest.note(now - Duration::from_secs(5));
        assert!(oldest.seconds() >= 5.0);
        drop(older);
        assert!(oldest.seconds() < 5.0);
        drop(younger);
        assert!(oldest.seconds() <= 0.0);
    }
}
