//! What waits to be written: a bounded queue that wakes the writer once a batch, not once an event.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::ingest::{IngestError, Submission};

/// Most work with partial reports in one batch, in members of merge patches: some 30 ms of PostgreSQL's time.
pub(super) const MOST_MERGE_WORK: usize = 2000;

/// Submissions in the order in which they came. Many put in, one gathers at a time.
pub(super) struct Queue {
    capacity: usize,
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    waiting: Vec<Submission>,
    /// With how many waiting the one that gathers wants to be woken; 0: nobody gathers.
    wanted: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        let state = State { waiting: Vec::new(), wanted: 0, closed: false };
        Self { capacity, state: Mutex::new(state), wake: Notify::new() }
    }

    /// # Errors
    /// [`IngestError::QueueFull`], or [`IngestError::Stopped`] after [`Queue::close`].
    pub(super) fn put(&self, submission: Submission) -> Result<(), IngestError> {
        let mut state = self.state();
        if state.closed {
            return Err(IngestError::Stopped);
        }
        if state.waiting.len() >= self.capacity {
            return Err(IngestError::QueueFull);
        }
        state.waiting.push(submission);
        if state.wanted > 0 && state.waiting.len() >= state.wanted {
            state.wanted = 0;
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Returns once so many wait, or the queue is closed.
    pub(super) async fn holds(&self, count: usize) {
        while !self.is_reached(count) {
            self.wake.notified().await;
        }
    }

    /// A wake that comes between this and the waiting for it is kept by [`Notify`].
    fn is_reached(&self, count: usize) -> bool {
        let mut state = self.state();
        let reached = state.closed || state.waiting.len() >= count;
        state.wanted = if reached { 0 } else { count };
        reached
    }

    /// The first that wait, `most` at most, with no more partial reports than [`MOST_MERGE_WORK`] unless one
    /// event alone has more. Further ones are left for the next time, and what waits behind them comes in
    /// their place.
    pub(super) fn take(&self, most: usize) -> Vec<Submission> {
        let mut state = self.state();
        let first = state.waiting.iter().take(most);
        if first.map(|one| one.change.merge_work()).sum::<usize>() > MOST_MERGE_WORK {
            return take_bounded(&mut state.waiting, most);
        }
        let taken = most.min(state.waiting.len());
        let rest = state.waiting.split_off(taken);
        std::mem::replace(&mut state.waiting, rest)
    }

    /// All that wait.
    pub(super) fn take_all(&self) -> Vec<Submission> {
        std::mem::take(&mut self.state().waiting)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// Takes nothing more in; what waits can still be taken out.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_bounded(waiting: &mut Vec<Submission>, most: usize) -> Vec<Submission> {
    let (mut taken, mut merge_work) = (0, 0);
    let fits = |submission: &mut Submission| {
        let more = submission.change.merge_work();
        let fits =
            taken < most && (more == 0 || merge_work == 0 || merge_work + more <= MOST_MERGE_WORK);
        if fits {
            taken += 1;
            merge_work += more;
        }
        fits
    };
    waiting.extract_if(.., fits).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;
    use crate::domain::device::DeviceId;
    use crate::ingest::Change;
    use crate::registry::reports::{DeviceNews, Partial};

    pub(in crate::ingest) fn submission(device: i64) -> Submission {
        let change = Change { session: None, news: Some(DeviceNews::new(DeviceId(device), 0)) };
        Submission { change, since: Instant::now(), answer: oneshot::channel().0 }
    }

    fn devices(taken: Vec<Submission>) -> Vec<i64> {
        let news = taken.into_iter().filter_map(|submission| submission.change.news);
        news.map(|news| news.device_id.0).collect()
    }

    #[test]
    fn takes_in_order_and_refuses_beyond_its_capacity() {
        let queue = Queue::new(3);
        for device in 1..=3 {
            queue.put(submission(device)).unwrap();
        }
        assert!(matches!(queue.put(submission(4)), Err(IngestError::QueueFull)));
        assert_eq!(devices(queue.take(2)), [1, 2]);
        queue.put(submission(5)).unwrap();
        assert_eq!(queue.len(), 2);
        assert_eq!(devices(queue.take(9)), [3, 5]);
        assert!(queue.take(9).is_empty());
    }

    #[test]
    fn what_merges_much_waits_for_the_next_batch_and_lets_others_pass() {
        let heavy = |device, members| {
            let mut heavy = submission(device);
            let news = heavy.change.news.as_mut().unwrap();
            let (binding, id, patch) = ("main".into(), "0A".into(), None);
            news.partials.push(Partial { binding, at_ms: 0, id, patch, members });
            heavy
        };
        let queue = Queue::new(100);
        for device in 1..=3 {
            queue.put(heavy(device, 900)).unwrap();
        }
        queue.put(heavy(4, 5000)).unwrap();
        queue.put(submission(5)).unwrap();
        assert_eq!(devices(queue.take(9)), [1, 2, 5]);
        assert_eq!(devices(queue.take(9)), [3]);
        queue.put(submission(6)).unwrap();
        assert_eq!(devices(queue.take(1)), [4], "alone it may be any size");
        assert_eq!(devices(queue.take(9)), [6]);
    }

    #[tokio::test]
    async fn who_gathers_is_woken_by_the_last_one_wanted() {
        let queue = Arc::new(Queue::new(10));
        queue.put(submission(1)).unwrap();
        queue.holds(1).await;
        let gathering = tokio::spawn({
            let queue = queue.clone();
            async move { queue.holds(3).await }
        });
        tokio::task::yield_now().await;
        queue.put(submission(2)).unwrap();
        tokio::task::yield_now().await;
        assert!(!gathering.is_finished());
        queue.put(submission(3)).unwrap();
        gathering.await.unwrap();
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_leaves_nothing_behind() {
        let queue = Queue::new(10);
        assert!(queue.holds(1).now_or_never().is_none());
        queue.put(submission(1)).unwrap();
        assert_eq!(queue.take(1).len(), 1);
        assert!(queue.holds(1).now_or_never().is_none(), "woken for what is gone by now");
    }

    #[tokio::test]
    async fn a_closed_queue_gives_what_waits_and_takes_nothing() {
        let queue = Queue::new(10);
        queue.put(submission(1)).unwrap();
        queue.close();
        assert!(matches!(queue.put(submission(2)), Err(IngestError::Stopped)));
        queue.holds(5).await;
        assert_eq!(devices(queue.take(9)), [1]);
        queue.holds(1).await;
        assert!(queue.take(9).is_empty());
    }
}
