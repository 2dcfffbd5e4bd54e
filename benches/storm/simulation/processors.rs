//! Machines with processors, and threads that take turns on them.
//!
//! A thread does one thing at a time, a machine as many as it has processors. A thread that has been idle
//! needs some time more, to wake up. Work of low priority
//! begins only when no other waits, a quantum at a time, as the kernel's scheduler would have it.

use std::collections::VecDeque;
use std::time::Duration;

use super::Moment;

/// How long a thread that has more to do, or work of low priority, keeps a processor from others.
const QUANTUM: Duration = Duration::from_millis(1);

/// A place to work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Machine(usize);

/// A thread of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Thread(usize);

/// A piece of work on a processor; [`Processors::end`] must be told when its time is over.
#[derive(Debug)]
pub(super) struct Slice<T> {
    machine: Machine,
    thread: Option<Thread>,
    /// How long it keeps the processor now, and how much is left after that.
    pub(super) lasts: Duration,
    left: Duration,
    low: bool,
    task: T,
}

struct Processor<T> {
    free: u32,
    waiting: VecDeque<Slice<T>>,
    low: VecDeque<Slice<T>>,
}

struct Turns<T> {
    machine: Machine,
    busy: bool,
    idle_since: Moment,
    /// Since it got its processor.
    used: Duration,
    waiting: VecDeque<(Duration, T)>,
}

pub(super) struct Processors<T> {
    /// What waking up costs.
    wake: Duration,
    machines: Vec<Processor<T>>,
    threads: Vec<Turns<T>>,
}

impl<T> Processors<T> {
    pub(super) fn new(wake: Duration) -> Self {
        Self { wake, machines: Vec::new(), threads: Vec::new() }
    }

    pub(super) fn machine(&mut self, cores: u32) -> Machine {
        let machine = Processor { free: cores, waiting: VecDeque::new(), low: VecDeque::new() };
        self.machines.push(machine);
        Machine(self.machines.len() - 1)
    }

    pub(super) fn thread(&mut self, machine: Machine) -> Thread {
        self.threads.push(Turns {
            machine,
            busy: false,
            idle_since: Moment::ZERO,
            used: Duration::ZERO,
            waiting: VecDeque::new(),
        });
        Thread(self.threads.len() - 1)
    }

    /// Work that any thread of a machine may do: what begins now, if a processor is free.
    pub(super) fn on_machine(
        &mut self,
        machine: Machine,
        cost: Duration,
        task: T,
    ) -> Option<Slice<T>> {
        let slice =
            Slice { machine, thread: None, lasts: cost, left: Duration::ZERO, low: false, task };
        self.begin(slice)
    }

    /// Work of low priority on a machine.
    pub(super) fn in_background(
        &mut self,
        machine: Machine,
        cost: Duration,
        task: T,
    ) -> Option<Slice<T>> {
        let lasts = cost.min(QUANTUM);
        self.begin(Slice { machine, thread: None, lasts, left: cost - lasts, low: true, task })
    }

    /// Work of one thread. `now`: when it comes to it.
    pub(super) fn on_thread(
        &mut self,
        now: Moment,
        thread: Thread,
        cost: Duration,
        task: T,
    ) -> Option<Slice<T>> {
        let turns = &mut self.threads[thread.0];
        if turns.busy {
            turns.waiting.push_back((cost, task));
            return None;
        }
        let sleeps = now > turns.idle_since;
        self.turn(thread, if sleeps { cost + self.wake } else { cost }, task)
    }

    fn turn(&mut self, thread: Thread, cost: Duration, task: T) -> Option<Slice<T>> {
        let slice = self.next_slice(thread, cost, task, Duration::ZERO);
        self.begin(slice)
    }

    fn next_slice(&mut self, thread: Thread, lasts: Duration, task: T, used: Duration) -> Slice<T> {
        let turns = &mut self.threads[thread.0];
        turns.busy = true;
        turns.used = used + lasts;
        let (machine, left) = (turns.machine, Duration::ZERO);
        Slice { machine, thread: Some(thread), lasts, left, low: false, task }
    }

    /// What a thread does next without giving its processor back.
    fn keeps_on(&mut self, thread: Thread) -> Option<Slice<T>> {
        let turns = &mut self.threads[thread.0];
        let used = turns.used;
        if used >= QUANTUM {
            return None;
        }
        let (cost, task) = turns.waiting.pop_front()?;
        Some(self.next_slice(thread, cost, task, used))
    }

    fn begin(&mut self, slice: Slice<T>) -> Option<Slice<T>> {
        let machine = &mut self.machines[slice.machine.0];
        if machine.free > 0 {
            machine.free -= 1;
            return Some(slice);
        }
        if slice.low { &mut machine.low } else { &mut machine.waiting }.push_back(slice);
        None
    }

    /// Ends a slice: the task, if that was all of it, and what begins now.
    pub(super) fn end(&mut self, now: Moment, slice: Slice<T>) -> (Option<T>, Vec<Slice<T>>) {
        let Slice { machine, thread, left, low, task, .. } = slice;
        if let Some(next) = thread.and_then(|thread| self.keeps_on(thread)) {
            return (Some(task), vec![next]);
        }
        self.machines[machine.0].free += 1;
        let mut begun = Vec::new();
        // Who waited goes before the next piece of who has just had a turn.
        begun.extend(self.next_of(machine));
        let done = if left.is_zero() {
            Some(task)
        } else {
            let lasts = left.min(QUANTUM);
            begun.extend(self.begin(Slice {
                machine,
                thread,
                lasts,
                left: left - lasts,
                low,
                task,
            }));
            None
        };
        if let Some(thread) = thread {
            let turns = &mut self.threads[thread.0];
            (turns.busy, turns.idle_since) = (false, now);
            let next = turns.waiting.pop_front();
            begun.extend(next.and_then(|(cost, task)| self.turn(thread, cost, task)));
        }
        (done, begun)
    }

    fn next_of(&mut self, machine: Machine) -> Option<Slice<T>> {
        let machine = &mut self.machines[machine.0];
        let next = machine.waiting.pop_front().or_else(|| machine.low.pop_front())?;
        machine.free -= 1;
        Some(next)
    }
}
