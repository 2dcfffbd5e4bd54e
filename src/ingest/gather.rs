//! Which events share a transaction, and when it begins.
//!
//! A transaction costs PostgreSQL about as much as thirty events do, so it should hold many. One batch
//! under way *leads*: it began as soon as there was anything to write. Another begins beside it only
//! when it is worth a transaction of its own, or when the leading one takes so long that it must be
//! held up by something, such as a lock on one device, that need not hold up the others. So a few
//! dozen callers share one transaction at a time, each with all the others; hundreds fill several.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{sleep, timeout};

use crate::config;
use crate::ingest::Submission;
use crate::ingest::queue::Queue;

/// How many events are worth a transaction beside the leading one; docs/PERFORMANCE.md has what
/// others gave.
const WORTH: usize = 64;

/// How long a leading transaction may hold up what comes after it. Several commits of a disk that is
/// fit for a database.
const HELD_UP: Duration = Duration::from_millis(5);

/// Puts batches together, for several writers of one queue.
pub(super) struct Gatherer {
    /// One gathers at a time, so that none takes what another waits for.
    turn: Mutex<()>,
    /// Held by the batch that leads, until its callers know.
    lead: Mutex<()>,
    /// [`WORTH`], or what fills a batch or the queue.
    worth: usize,
    batch: usize,
    linger: Duration,
    /// How many callers the last batch answered, and so how many may be back at once.
    answered: AtomicUsize,
}

/// What is to be written together. It is under way for as long as this lives.
pub(super) struct Gathered<'a> {
    pub(super) submissions: Vec<Submission>,
    lead: Option<MutexGuard<'a, ()>>,
}

impl Gathered<'_> {
    /// Lets another lead: this takes long.
    pub(super) fn stand_aside(&mut self) {
        self.lead = None;
    }
}

impl Gatherer {
    pub(super) fn new(settings: &config::Ingest) -> Self {
        let config::Ingest { queue, batch, linger, .. } = *settings;
        let (turn, lead) = (Mutex::default(), Mutex::default());
        let worth = WORTH.min(batch).min(queue);
        Self { turn, lead, worth, batch, linger, answered: AtomicUsize::new(0) }
    }

    /// What waits, or comes next; nothing when the queue is closed and empty.
    pub(super) async fn gather(&self, queue: &Queue) -> Gathered<'_> {
        let _turn = self.turn.lock().await;
        queue.holds(1).await;
        let lead = tokio::select! {
            biased;
            lead = self.lead.lock() => Some(lead),
            () = queue.holds(self.worth) => None,
            () = sleep(HELD_UP) => None,
        };
        if lead.is_some() {
            self.wait_for_those_answered(queue).await;
        }
        Gathered { submissions: queue.take(self.batch), lead }
    }

    /// To be called when a batch was written and its callers know.
    pub(super) fn answered(&self, callers: usize) {
        self.answered.store(callers, Ordering::Relaxed);
    }

    /// They are likely to be back at once, each with its next event. As many of them as are worth a
    /// transaction are waited for.
    async fn wait_for_those_answered(&self, queue: &Queue) {
        let expected = self.answered.swap(0, Ordering::Relaxed).min(self.worth);
        if expected > 1 && !self.linger.is_zero() {
            let _over = timeout(self.linger, queue.holds(expected)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;
    use crate::ingest::queue::tests::submission;
    use crate::ingest::writer::tests::settings;

    const LONG: Duration = Duration::from_secs(3600);

    fn gatherer(linger: Duration) -> Gatherer {
        Gatherer::new(&config::Ingest { linger, ..settings() })
    }

    fn fill(queue: &Queue, count: usize) {
        for _ in 0..count {
            queue.put(submission(1)).unwrap();
        }
    }

    #[tokio::test]
    async fn the_first_batch_takes_whatever_there_is() {
        let (queue, gatherer) = (Queue::new(1000), gatherer(LONG));
        fill(&queue, 3);
        let gathered = gatherer.gather(&queue).now_or_never().expect("nothing to wait for");
        assert_eq!(gathered.submissions.len(), 3);
    }

    #[tokio::test]
    async fn a_small_one_begins_when_the_leading_one_is_written() {
        let (queue, gatherer) = (Queue::new(1000), gatherer(LONG));
        fill(&queue, 1);
        let leading = gatherer.gather(&queue).await;
        fill(&queue, WORTH - 1);
        let mut next = pin!(gatherer.gather(&queue));
        assert!(next.as_mut().now_or_never().is_none());
        drop(leading);
        let gathered = next.now_or_never().expect("nothing is under way");
        assert_eq!(gathered.submissions.len(), WORTH - 1);
    }

    #[tokio::test]
    async fn a_large_one_begins_beside_the_leading_one() {
        let (queue, gatherer) = (Queue::new(1000), gatherer(LONG));
        fill(&queue, 1);
        let _leading = gatherer.gather(&queue).await;
        fill(&queue, WORTH);
        let beside = gatherer.gather(&queue).now_or_never().expect("worth a transaction");
        assert_eq!(beside.submissions.len(), WORTH);
    }

    #[tokio::test]
    async fn a_leading_one_that_takes_long_holds_up_nobody() {
        let (queue, gatherer) = (Queue::new(1000), gatherer(LONG));
        fill(&queue, 1);
        let _leading = gatherer.gather(&queue).await;
        fill(&queue, 1);
        assert_eq!(gatherer.gather(&queue).await.submissions.len(), 1);
    }

    #[tokio::test]
    async fn those_just_answered_are_waited_for() {
        let (queue, gatherer) = (Queue::new(1000), gatherer(LONG));
        for (answered, share) in [(WORTH / 2, WORTH / 2), (4 * WORTH, WORTH)] {
            gatherer.answered(answered);
            fill(&queue, share - 1);
            let mut gathered = pin!(gatherer.gather(&queue));
            assert!(gathered.as_mut().now_or_never().is_none());
            fill(&queue, 1);
            let gathered = gathered.now_or_never().expect("they are back");
            assert_eq!(gathered.submissions.len(), share);
        }
    }

    #[tokio::test]
    async fn those_who_do_not_come_back_are_not_waited_for() {
        let (queue, gatherer) = (Queue::new(1000), gatherer(Duration::from_millis(1)));
        gatherer.answered(WORTH);
        fill(&queue, 2);
        assert_eq!(gatherer.gather(&queue).await.submissions.len(), 2);
    }

    #[tokio::test]
    async fn a_closed_queue_is_emptied() {
        let (queue, gatherer) = (Queue::new(1000), gatherer(LONG));
        fill(&queue, 600);
        queue.close();
        let first = gatherer.gather(&queue).await;
        let second = gatherer.gather(&queue).await;
        let third = gatherer.gather(&queue).await;
        let counts = [&first, &second, &third].map(|gathered| gathered.submissions.len());
        assert_eq!(counts, [512, 88, 0]);
    }
}
