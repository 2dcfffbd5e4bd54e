//! The hash threads: argon2 for chosen passwords, and the hashes that imports brought, bounded, away from everything else.
//!
//! # Properties kept
//! - A fixed number of threads hashes; a storm of logins can take no more processors than these, and
//!   they run at a lower priority, so that other logins and authorizations go first.
//! - **Places are few**: logins that wait or are being hashed hold one each, and each keeps one of EMQX's
//!   connections busy (EMQX has 32, one request at a time on each). Without a free place the answer
//!   comes at once ([`HashError::Overloaded`]); nobody waits for a place. So most connections stay free
//!   for logins that cost nothing, whatever strangers do.
//! - One name holds at most a quarter of the places and one address at most half, but two are never too many.
//! - A place is held for as long as the hashes before it take, and on a machine that is busy with other
//!   things for [`LONGEST_WAIT`] and its own hash at most: a job whose turn has not come by then is
//!   answered as one without a place.
//! - A job whose client went away, or whose turn did not come, gives its place back at once and costs no hash.
//! - Imported hashes, which may cost a second, have a thread and half as many places of their own, at least 4: they
//!   never make a chosen password wait.
//! - A hash that panics loses its own job, is logged, and leaves the thread working.
//! - Passwords are wiped as soon as they have been checked or given up.
//!
//! # Design
//! One mutex and one condition variable around a `VecDeque`: a hash takes 15 ms and more, so the lock
//! is never what is waited for. Each thread keeps its 19 MiB from one hash to the next. All hashes of
//! one login are one job, so that a device with two passwords takes one place. A [`Place`] is given back
//! when it is dropped, wherever its job ends.
//!
//! # Known races
//! - A client that goes away while its hash is being computed costs the rest of that hash; the check
//!   is made between hashes.
//! - Between the queue and the answer a credential may be revoked. [`super::Authenticator`] looks at
//!   the registry again before it allows.

mod places;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::domain::password_hash::{HashMemory, PasswordHash};
use crate::logging::log_throttled;
use crate::metrics::HashMetrics;
pub use places::PlaceOwner;
use places::{Place, Places};

/// How long a job may wait for its turn. Places are few, so this is many times what waiting takes on a
/// machine with processor time to spare. On one without, hash threads (which are nice) get little of it,
/// and a longer wait would keep EMQX's connections busy that devices with good secrets need.
pub const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// The niceness of hash threads.
const NICENESS: i32 = 10;

/// Why there is no answer about a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HashError {
    /// All places are taken, or all that this name or address may have, or the job's turn did not come.
    #[error(
        "too many passwords are being checked (hashing.queue), or too many of this name or address"
    )]
    Overloaded,
    /// The hash panicked or the threads are being stopped.
    #[error("the password hash was given up; an earlier log line says why if it was a failure")]
    GivenUp,
}

/// How many places imported hashes have besides so many for others.
#[must_use]
pub fn imported_places(places: usize) -> usize {
    (places / 2).max(4)
}

/// The threads for hashes that were made here, and the one for imported ones.
pub struct HashLanes {
    own: HashThreads,
    foreign: HashThreads,
}

impl HashLanes {
    /// Starts so many threads for so many jobs, those being hashed included; and one for half as many jobs with imported
    /// hashes, at least 4, so that no address alone takes all.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(threads: usize, places: usize, metrics: &HashMetrics) -> std::io::Result<Self> {
        let own = HashThreads::start(threads, places, metrics.clone())?;
        let foreign = HashThreads::start(1, imported_places(places), metrics.clone())?;
        Ok(Self { own, foreign })
    }

    /// What is measured here.
    #[must_use]
    pub fn metrics(&self) -> &HashMetrics {
        &self.own.queue.metrics
    }

    /// Which of the hashes this password belongs to: those that were made here come first; `None` for none of them.
    ///
    /// # Errors
    /// As [`HashThreads::find`].
    pub async fn find(
        &self,
        owner: PlaceOwner,
        password: &[u8],
        hashes: Vec<PasswordHash>,
    ) -> Result<Option<usize>, HashError> {
        let (foreign, own): (Vec<_>, Vec<_>) =
            hashes.into_iter().enumerate().partition(|(_, hash)| hash.is_foreign());
        for (threads, some) in [(&self.own, own), (&self.foreign, foreign)] {
            let (positions, hashes): (Vec<_>, Vec<_>) = some.into_iter().unzip();
            if hashes.is_empty() {
                continue;
            }
            if let Some(found) = threads.find(owner.clone(), password, hashes).await? {
                return Ok(positions.get(found).copied());
            }
        }
        Ok(None)
    }

    /// Stops the threads, as [`HashThreads::stop`].
    pub fn stop(&self) {
        self.own.stop();
        self.foreign.stop();
    }
}

struct Job {
    password: Zeroizing<Box<[u8]>>,
    hashes: Vec<PasswordHash>,
    queued_at: Instant,
    number: u64,
    reply: oneshot::Sender<Option<usize>>,
    _place: Place,
}

/// A job on its way.
struct Submitted {
    answer: oneshot::Receiver<Option<usize>>,
    turn: Turn,
}

/// The turn that a job waits for. Whoever drops it needs no answer any more.
struct Turn {
    queue: Arc<Queue>,
    number: u64,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// How many came.
    jobs_so_far: u64,
    closed: bool,
}

struct Queue {
    waiting: Mutex<Waiting>,
    arrival: Condvar,
    places: Arc<Places>,
    metrics: HashMetrics,
}

/// The queue and its threads. Dropping it stops the threads and waits for the hashes in progress.
pub struct HashThreads {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl HashThreads {
    /// Starts so many threads for so many jobs, those being hashed included.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn start(threads: usize, places: usize, metrics: HashMetrics) -> std::io::Result<Self> {
        let pool = Self::without_threads(places, metrics);
        pool.start_threads(threads)?;
        Ok(pool)
    }

    /// The queue alone: whatever comes in waits until [`Self::start_threads`].
    fn without_threads(places: usize, metrics: HashMetrics) -> Self {
        let (waiting, places) = (Mutex::new(Waiting::default()), Places::new(places));
        let queue = Queue { waiting, arrival: Condvar::new(), places, metrics };
        Self { queue: Arc::new(queue), threads: Mutex::new(Vec::new()) }
    }

    fn start_threads(&self, threads: usize) -> std::io::Result<()> {
        let mut started = lock(&self.threads);
        for number in 0..threads {
            let queue = Arc::clone(&self.queue);
            let builder = std::thread::Builder::new().name(format!("hash-{number}"));
            started.push(builder.spawn(move || queue.work())?);
        }
        Ok(())
    }

    /// Which of the hashes this password belongs to, checked in order; `None` for none of them.
    ///
    /// The password is copied here, and wiped when it has been checked. `owner` is whose place it takes.
    ///
    /// # Errors
    /// [`HashError::Overloaded`] at once if no place is free for the owner, and after [`LONGEST_WAIT`] if
    /// its turn has not come; [`HashError::GivenUp`] if no thread could answer.
    pub async fn find(
        &self,
        owner: PlaceOwner,
        password: &[u8],
        hashes: Vec<PasswordHash>,
    ) -> Result<Option<usize>, HashError> {
        let Submitted { mut answer, turn } = self.submit(owner, password, hashes)?;
        let answered = match timeout(LONGEST_WAIT, &mut answer).await {
            Ok(answered) => answered,
            Err(_) if turn.give_up() => {
                self.queue.metrics.shed.inc();
                return Err(HashError::Overloaded);
            }
            Err(_) => answer.await,
        };
        answered.map_err(|_| HashError::GivenUp)
    }

    fn submit(
        &self,
        owner: PlaceOwner,
        password: &[u8],
        hashes: Vec<PasswordHash>,
    ) -> Result<Submitted, HashError> {
        let mut waiting = lock(&self.queue.waiting);
        if waiting.closed {
            return Err(HashError::GivenUp);
        }
        let Some(place) = self.queue.places.take(owner) else {
            self.queue.metrics.shed.inc();
            return Err(HashError::Overloaded);
        };
        let (reply, answer) = oneshot::channel();
        let (password, queued_at) = (Zeroizing::new(password.into()), Instant::now());
        waiting.jobs_so_far += 1;
        let number = waiting.jobs_so_far;
        waiting.jobs.push_back(Job { password, hashes, queued_at, number, reply, _place: place });
        self.queue.metrics.queued.inc();
        drop(waiting);
        self.queue.arrival.notify_one();
        Ok(Submitted { answer, turn: Turn { queue: Arc::clone(&self.queue), number } })
    }

    /// Stops the threads: hashes in progress finish, jobs that wait are given up. Blocks for one
    /// hash at most; nothing happens the second time.
    pub fn stop(&self) {
        let mut waiting = lock(&self.queue.waiting);
        waiting.closed = true;
        let given_up = waiting.jobs.drain(..).count();
        drop(waiting);
        self.queue.metrics.queued.sub(i64::try_from(given_up).unwrap_or(i64::MAX));
        self.queue.arrival.notify_all();
        for thread in lock(&self.threads).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a hash thread had ended by a panic");
            }
        }
    }
}

impl Drop for HashThreads {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Turn {
    /// Takes the job out of the queue, and with it its place; `false` once its turn has come.
    fn give_up(&self) -> bool {
        let mut waiting = lock(&self.queue.waiting);
        let position = waiting.jobs.iter().position(|job| job.number == self.number);
        let Some(_job) = position.and_then(|position| waiting.jobs.remove(position)) else {
            return false;
        };
        self.queue.metrics.queued.dec();
        self.queue.metrics.abandoned.inc();
        true
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Queue {
    fn work(&self) {
        lower_priority();
        let mut memory = HashMemory::default();
        while let Some(job) = self.next() {
            self.metrics.wait.observe(job.queued_at.elapsed().as_secs_f64());
            if catch_panic(|| self.answer(job, &mut memory)).is_none() {
                // What a panic left in there is of no use to the next hash.
                memory = HashMemory::default();
            }
        }
    }

    /// The next job, once there is one; `None` when the threads are to end.
    fn next(&self) -> Option<Job> {
        let mut waiting = lock(&self.waiting);
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                self.metrics.queued.dec();
                return Some(job);
            }
            if waiting.closed {
                return None;
            }
            waiting = self.arrival.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn answer(&self, job: Job, memory: &mut HashMemory) {
        for (index, hash) in job.hashes.iter().enumerate() {
            if job.reply.is_closed() {
                self.metrics.abandoned.inc();
                return;
            }
            let timer = self.metrics.duration.start_timer();
            let matched = hash.verify_with(&job.password, memory);
            timer.observe_duration();
            if matched {
                // The receiver may have gone meanwhile: then the answer is not needed.
                let _ = job.reply.send(Some(index));
                return;
            }
        }
        let _ = job.reply.send(None);
    }
}

/// Runs a piece of work; a panic in it is logged and becomes `None`.
fn catch_panic<T>(work: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    let complain = |_: &_| {
        log_throttled!(error, "a password hash panicked; its login gets 503");
    };
    outcome.inspect_err(complain).ok()
}

/// Nothing panics while it holds these locks, and what they guard is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets other threads go first from now on. On Linux niceness is a thread's own, though POSIX says the process's. A process
/// that was started nicer than this stays so.
pub fn lower_priority() {
    let thread = Some(rustix::thread::gettid());
    let lowered = rustix::process::getpriority_process(thread)
        .and_then(|niceness| rustix::process::setpriority_process(thread, niceness.max(NICENESS)));
    if let Err(error) = lowered {
        tracing::warn!(%error, "hash threads keep the normal priority");
    }
}

#[cfg(test)]
pub(super) mod tests;
