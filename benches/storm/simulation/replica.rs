//! One replica of Fleetgate: workers, loaders, hash threads, and what it has in memory.

use std::collections::VecDeque;
use std::time::Duration;

use super::Moment;
use super::processors::{Machine, Processors, Thread};
use super::storm::{AttemptId, Task};
use super::world::{Machines, Storm};

/// Queries side by side, and the most names in one (`src/registry/loads.rs`).
const LOADERS: usize = 4;
const BATCH: usize = 64;

/// `database.query_timeout`: how long a request waits for its device.
pub(super) const LOAD_PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct ReplicaState {
    pub(super) machine: Machine,
    workers: Vec<Thread>,
    /// Where loaders gather names and make records of rows.
    registry: Vec<Thread>,
    wanted: VecDeque<AttemptId>,
    /// What each loader is asking for; nothing: it is idle.
    loaders: Vec<Vec<AttemptId>>,
    /// Whether one of the idle ones is waking up. The others wait behind it (`queue.lock()` there).
    waking: bool,
    idle_hash_threads: u32,
    hash_queue: usize,
    hashes: VecDeque<(AttemptId, Moment)>,
    /// By client: whether its device is in memory, and whether its chosen password has been seen.
    known: Vec<bool>,
    verified: Vec<bool>,
}

impl ReplicaState {
    pub(super) fn new(storm: &Storm, processors: &mut Processors<Task>, shared: Machine) -> Self {
        let machine = match storm.machines {
            Machines::Apart { replica, .. } => processors.machine(replica),
            Machines::Shared { .. } => shared,
        };
        let clients = storm.clients as usize;
        Self {
            machine,
            workers: (0..storm.replica.workers).map(|_| processors.thread(machine)).collect(),
            registry: (0..storm.replica.registry).map(|_| processors.thread(machine)).collect(),
            wanted: VecDeque::new(),
            loaders: vec![Vec::new(); LOADERS],
            waking: false,
            idle_hash_threads: storm.replica.hash_threads,
            hash_queue: storm.replica.hash_queue,
            hashes: VecDeque::new(),
            known: vec![storm.warm; clients],
            verified: vec![false; clients],
        }
    }

    pub(super) fn worker(&self, number: usize) -> Thread {
        self.workers[number]
    }

    pub(super) fn knows(&self, client: u32) -> bool {
        self.known[client as usize]
    }

    pub(super) fn learn(&mut self, client: u32) {
        self.known[client as usize] = true;
    }

    pub(super) fn want(&mut self, attempt: AttemptId) {
        self.wanted.push_back(attempt);
    }

    /// The loader that has to wake up now.
    pub(super) fn wakes_loader(&mut self) -> Option<usize> {
        if self.waking || self.wanted.is_empty() {
            return None;
        }
        let loader = self.loaders.iter().position(Vec::is_empty)?;
        self.waking = true;
        Some(loader)
    }

    /// The thread that a loader runs on.
    pub(super) fn registry(&self, loader: usize) -> Thread {
        self.registry[loader % self.registry.len()]
    }

    /// The loader that begins now: one that is idle takes what waits and is still wanted.
    pub(super) fn take_batch(&mut self, is_wanted: impl Fn(AttemptId) -> bool) -> Option<usize> {
        self.waking = false;
        let loader = self.loaders.iter().position(Vec::is_empty)?;
        while !self.wanted.is_empty() {
            let taken = self.wanted.len().min(BATCH);
            let names = self.wanted.drain(..taken).filter(|attempt| is_wanted(*attempt));
            self.loaders[loader] = names.collect();
            if !self.loaders[loader].is_empty() {
                return Some(loader);
            }
        }
        None
    }

    pub(super) fn names(&self, loader: usize) -> u32 {
        u32::try_from(self.loaders[loader].len()).unwrap_or(u32::MAX)
    }

    /// A loader is idle again; whom it asked for.
    pub(super) fn loaded(&mut self, loader: usize) -> Vec<AttemptId> {
        std::mem::take(&mut self.loaders[loader])
    }

    pub(super) fn has_verified(&self, client: u32) -> bool {
        self.verified[client as usize]
    }

    /// Whether there is a place for a hash.
    pub(super) fn queue_hash(&mut self, attempt: AttemptId, now: Moment) -> bool {
        if self.hashes.len() >= self.hash_queue {
            return false;
        }
        self.hashes.push_back((attempt, now));
        true
    }

    /// The hash that begins now, and since when it waits.
    pub(super) fn begin_hash(&mut self) -> Option<(AttemptId, Moment)> {
        if self.idle_hash_threads == 0 {
            return None;
        }
        let next = self.hashes.pop_front()?;
        self.idle_hash_threads -= 1;
        Some(next)
    }

    /// A hash thread is idle again.
    pub(super) fn end_hash(&mut self, verified: Option<u32>) {
        self.idle_hash_threads += 1;
        if let Some(client) = verified {
            self.verified[client as usize] = true;
        }
    }
}
