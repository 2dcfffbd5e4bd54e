//! Events that are not committed yet: a bounded queue of those that wait, and the batches under way.
//!
//! A channel would wake the writer for every event. This queue wakes it once a batch, and lets what
//! merges little pass what merges much.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::ingest::{IngestError, Submission};

/// Most work with partial reports in one batch, in members of merge patches: some 30 ms of PostgreSQL's time.
pub(super) const MOST_MERGE_WORK: usize = 2000;

/// Submissions in the order in which they came. Many put in, one takes out.
pub(super) struct Queue {
    capacity: usize,
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    waiting: Vec<Submission>,
    /// With how many waiting the writer is to be woken; 0: it does not wait for any.
    wanted: usize,
    closed: bool,
    under_way: Vec<UnderWay>,
}

#[derive(Clone, Copy, PartialEq)]
struct UnderWay {
    began: Instant,
    /// When the first of its events came.
    since: Instant,
}

/// Events to be written together; under way until this is dropped.
pub(super) struct Batch<'a> {
    pub(super) submissions: Vec<Submission>,
    queue: &'a Queue,
    under_way: UnderWay,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        let state = State { waiting: Vec::new(), wanted: 0, closed: false, under_way: Vec::new() };
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
    /// their place. `None` when nothing waits.
    pub(super) fn take(&self, most: usize) -> Option<Batch<'_>> {
        let mut state = self.state();
        let submissions = take_bounded(&mut state.waiting, most);
        let since = submissions.first()?.since;
        let under_way = UnderWay { began: Instant::now(), since };
        state.under_way.push(under_way);
        Some(Batch { submissions, queue: self, under_way })
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// When the oldest event came that waits or is under way.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let state = self.state();
        let waiting = state.waiting.first().map(|first| first.since);
        state.under_way.iter().map(|batch| batch.since).chain(waiting).min()
    }

    /// When the batch began that is under way and began last.
    pub(super) fn last_began(&self) -> Option<Instant> {
        self.state().under_way.iter().map(|batch| batch.began).max()
    }

    /// Takes nothing more in; what waits can still be taken out.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Closes it and gives up all that wait.
    pub(super) fn abandon(&self) {
        self.close();
        let waiting = std::mem::take(&mut self.state().waiting);
        drop(waiting);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        if let Some(position) = state.under_way.iter().position(|other| *other == self.under_way) {
            state.under_way.swap_remove(position);
        }
    }
}

fn take_bounded(waiting: &mut Vec<Submission>, most: usize) -> Vec<Submission> {
    let first = waiting.iter().take(most);
    if first.map(|one| one.change.merge_work()).sum::<usize>() <= MOST_MERGE_WORK {
        let rest = waiting.split_off(most.min(waiting.len()));
        return std::mem::replace(waiting, rest);
    }
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
    use std::time::Duration;

    use futures_util::FutureExt;
    use jiff::Timestamp;
    use tokio::sync::oneshot;

    use super::*;
    use crate::domain::device::DeviceId;
    use crate::ingest::Change;
    use crate::registry::reports::{DeviceUpdate, Partial};

    pub(in crate::ingest) fn submission(device: i64) -> Submission {
        let change = Change {
            session: None,
            updates: vec![DeviceUpdate::new(DeviceId(device), Timestamp::UNIX_EPOCH)],
        };
        Submission { change, since: Instant::now(), answer: oneshot::channel().0 }
    }

    fn devices(taken: Option<Batch<'_>>) -> Vec<i64> {
        let taken = taken.map(|mut batch| std::mem::take(&mut batch.submissions));
        let update = taken.into_iter().flatten().flat_map(|submission| submission.change.updates);
        update.map(|update| update.device_id.0).collect()
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
        assert!(queue.take(9).is_none());
    }

    #[test]
    fn what_merges_much_waits_for_the_next_batch_and_lets_others_pass() {
        let heavy = |device, members| {
            let mut heavy = submission(device);
            let update = heavy.change.updates.first_mut().unwrap();
            let (binding, id, patch) = ("main".into(), "0A".into(), None);
            update.partials.push(Partial {
                binding,
                at: Timestamp::UNIX_EPOCH,
                id,
                patch,
                members,
            });
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

    #[test]
    fn the_oldest_event_waits_or_is_under_way() {
        let queue = Queue::new(10);
        assert_eq!((queue.oldest(), queue.last_began()), (None, None));
        let now = Instant::now();
        let came = |seconds_ago| now.checked_sub(Duration::from_secs(seconds_ago)).unwrap();
        let put = |since| queue.put(Submission { since, ..submission(1) }).unwrap();
        put(came(5));
        assert_eq!(queue.oldest(), Some(came(5)), "it waits");
        let older = queue.take(1).unwrap();
        put(came(1));
        let younger = queue.take(1).unwrap();
        put(now);
        assert_eq!(queue.oldest(), Some(came(5)), "it is under way");
        assert_eq!(queue.last_began(), Some(younger.under_way.began));
        drop(older);
        assert_eq!(queue.oldest(), Some(came(1)));
        drop(younger);
        assert_eq!((queue.oldest(), queue.last_began()), (Some(now), None));
    }

    #[tokio::test]
    async fn the_writer_is_woken_by_the_last_one_wanted() {
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
        assert_eq!(devices(queue.take(1)), [1]);
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
        assert!(queue.take(9).is_none());
    }
}
