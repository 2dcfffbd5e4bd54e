//! The storm itself: what follows from what.

use std::time::Duration;

use fleetgate::authn::password::PATIENCE as HASH_PATIENCE;

use super::Moment;
use super::broker::{Broker, Node};
use super::calendar::Calendar;
use super::processors::{Machine, Processors, Slice, Thread};
use super::replica::{LOAD_PATIENCE, ReplicaState};
use super::report::{Fate, Report};
use super::world::{Costs, Machines, Storm, arrival, back_off, choice};

/// ehttpc waits so much longer than the time-out before it tells the client.
const NOTICE: Duration = Duration::from_millis(500);

/// Who is not in by then, after the window, stays out.
const AFTERMATH: Duration = Duration::from_secs(600);

/// One attempt of a client, by its place in the list of all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AttemptId(usize);

struct Attempt {
    client: u32,
    /// How many came before it.
    number: u32,
    connection: usize,
    began: Moment,
    /// From when on EMQX does not want the answer any more.
    expires: Moment,
    /// Whether the client has been told something.
    told: bool,
    load: Load,
    /// Whether Fleetgate answers 503.
    unavailable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    NotAsked,
    Wanted,
    Over,
}

/// Work on a processor.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// EMQX has read the CONNECT.
    Connect(AttemptId),
    /// Fleetgate has read the request and looked into its memory.
    Read(AttemptId),
    /// A loader has woken up to take what waits.
    Gather { replica: usize },
    /// PostgreSQL has answered a loader's query.
    Query { replica: usize, loader: usize },
    /// Fleetgate has made records of the rows.
    Records { replica: usize, loader: usize },
    /// A hash thread is done.
    Hash { replica: usize, attempt: AttemptId },
    /// Fleetgate has written the answer.
    Decide(AttemptId),
}

enum Event {
    Arrives { client: u32, attempt: u32 },
    Ends(Slice<Task>),
    Asked(AttemptId),
    Answered(AttemptId),
    TimedOut(AttemptId),
    LoadTimedOut(AttemptId),
    QueryArrives { replica: usize, loader: usize },
    RowsArrive { replica: usize, loader: usize },
}

/// Runs a storm to its end.
pub(crate) fn run(storm: &Storm) -> Report {
    let mut course = Course::new(storm);
    for client in 0..storm.clients {
        course.calendar.after(arrival(storm, client), Event::Arrives { client, attempt: 0 });
    }
    while let Some(event) = course.calendar.next() {
        course.happens(event);
    }
    course.report.finished()
}

struct Course<'s> {
    storm: &'s Storm,
    costs: Costs,
    calendar: Calendar<Event>,
    processors: Processors<Task>,
    broker: Broker,
    replicas: Vec<ReplicaState>,
    database: Machine,
    attempts: Vec<Attempt>,
    report: Report,
}

impl<'s> Course<'s> {
    fn new(storm: &'s Storm) -> Self {
        let costs = storm.costs.on_the_clock();
        let mut processors = Processors::new(costs.wake);
        let cores = match storm.machines {
            Machines::Apart { database, .. } => database,
            Machines::Shared { cores } => cores,
        };
        let database = processors.machine(cores);
        let broker = Broker::new(storm, &mut processors, database);
        let replica = |_| ReplicaState::new(storm, &mut processors, database);
        let replicas = (0..storm.replicas).map(replica).collect();
        Self {
            storm,
            costs,
            calendar: Calendar::new(),
            processors,
            broker,
            replicas,
            database,
            attempts: Vec::new(),
            report: Report::new(),
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives { client, attempt } => self.arrives(client, attempt),
            Event::Ends(slice) => {
                let (task, begun) = self.processors.end(self.calendar.now(), slice);
                begun.into_iter().for_each(|slice| self.plan(Some(slice)));
                if let Some(task) = task {
                    self.done(task);
                }
            }
            Event::Asked(attempt) => {
                self.on_worker(attempt, self.costs.decision / 2, Task::Read(attempt));
            }
            Event::Answered(attempt) => self.answered(attempt),
            Event::TimedOut(attempt) => self.timed_out(attempt),
            Event::LoadTimedOut(attempt) => self.load_timed_out(attempt),
            Event::QueryArrives { replica, loader } => self.query_arrives(replica, loader),
            Event::RowsArrive { replica, loader } => self.rows_arrive(replica, loader),
        }
    }

    fn done(&mut self, task: Task) {
        match task {
            Task::Connect(attempt) => self.connected(attempt),
            Task::Read(attempt) => self.read(attempt),
            Task::Gather { replica } => self.gather(replica),
            Task::Query { replica, loader } => {
                self.calendar.after(self.costs.way, Event::RowsArrive { replica, loader });
            }
            Task::Records { replica, loader } => self.loaded(replica, loader),
            Task::Hash { replica, attempt } => {
                let client = self.attempts[attempt.0].client;
                self.replicas[replica].end_hash(Some(client));
                self.decide(attempt);
                self.hash_next(replica);
            }
            Task::Decide(attempt) => {
                self.calendar.after(self.costs.way, Event::Answered(attempt));
            }
        }
    }

    /// A slice that begins now ends after its time.
    fn plan(&mut self, slice: Option<Slice<Task>>) {
        if let Some(slice) = slice {
            self.calendar.after(slice.lasts, Event::Ends(slice));
        }
    }

    // ---- EMQX ----

    fn arrives(&mut self, client: u32, number: u32) {
        let connection = self.broker.connection_of(client, choice(self.storm, client, number));
        let (began, expires) = (self.calendar.now(), Moment::MAX);
        let (told, load, unavailable) = (false, Load::NotAsked, false);
        let attempt = AttemptId(self.attempts.len());
        self.attempts.push(Attempt {
            client,
            number,
            connection,
            began,
            expires,
            told,
            load,
            unavailable,
        });
        let (cost, task) = (self.costs.broker, Task::Connect(attempt));
        let slice = match *self.broker.node(client) {
            Node::Machine(machine) => self.processors.on_machine(machine, cost, task),
            Node::Thread(thread) => return self.on_thread(thread, cost, task),
        };
        self.plan(slice);
    }

    fn connected(&mut self, attempt: AttemptId) {
        let this = &mut self.attempts[attempt.0];
        this.expires = self.calendar.now() + self.storm.timeout;
        let connection = this.connection;
        self.calendar.after(self.storm.timeout + NOTICE, Event::TimedOut(attempt));
        self.broker.queue(connection, attempt);
        self.send(connection);
    }

    fn send(&mut self, connection: usize) {
        let (attempts, now) = (&self.attempts, self.calendar.now());
        let wanted = |attempt: AttemptId| now <= attempts[attempt.0].expires;
        if let Some(attempt) = self.broker.send(connection, wanted) {
            self.calendar.after(self.costs.way, Event::Asked(attempt));
        }
    }

    fn answered(&mut self, attempt: AttemptId) {
        let now = self.calendar.now();
        let this = &mut self.attempts[attempt.0];
        let (connection, in_time) = (this.connection, now <= this.expires && !this.told);
        this.told |= in_time;
        self.broker.answered(connection);
        self.send(connection);
        let Attempt { began, number, unavailable, .. } = self.attempts[attempt.0];
        if in_time && unavailable {
            self.report.refused += 1;
            self.come_again(attempt);
        } else if in_time {
            self.report.allowed(began, now);
            self.report.ended(if number == 0 { Fate::InAtOnce } else { Fate::InLater });
        }
    }

    fn timed_out(&mut self, attempt: AttemptId) {
        if !std::mem::replace(&mut self.attempts[attempt.0].told, true) {
            self.report.timed_out += 1;
            self.come_again(attempt);
        }
    }

    fn come_again(&mut self, attempt: AttemptId) {
        let Attempt { client, number, .. } = self.attempts[attempt.0];
        let wait = self.storm.retry.map(|retry| back_off(self.storm, retry, client, number));
        let over = self.storm.window + AFTERMATH;
        match wait.filter(|wait| self.calendar.now() + *wait <= over) {
            Some(wait) => {
                self.calendar.after(wait, Event::Arrives { client, attempt: number + 1 });
            }
            None => self.report.ended(Fate::Out),
        }
    }

    // ---- Fleetgate ----

    fn replica_of(&self, attempt: AttemptId) -> usize {
        self.broker.connection(self.attempts[attempt.0].connection).replica
    }

    fn on_worker(&mut self, attempt: AttemptId, cost: Duration, task: Task) {
        let connection = self.broker.connection(self.attempts[attempt.0].connection);
        let worker = self.replicas[connection.replica].worker(connection.worker);
        self.on_thread(worker, cost, task);
    }

    fn on_thread(&mut self, thread: Thread, cost: Duration, task: Task) {
        let slice = self.processors.on_thread(self.calendar.now(), thread, cost, task);
        self.plan(slice);
    }

    fn read(&mut self, attempt: AttemptId) {
        let replica = self.replica_of(attempt);
        let this = &mut self.attempts[attempt.0];
        if self.replicas[replica].knows(this.client) {
            return self.found(attempt, Duration::ZERO);
        }
        this.load = Load::Wanted;
        self.replicas[replica].want(attempt);
        self.calendar.after(LOAD_PATIENCE, Event::LoadTimedOut(attempt));
        self.load_next(replica);
    }

    /// Wakes a loader, if one is idle and a name waits. It has to wait for a processor as others do, and
    /// names gather meanwhile.
    fn load_next(&mut self, replica: usize) {
        if let Some(loader) = self.replicas[replica].wakes_loader() {
            let registry = self.replicas[replica].registry(loader);
            self.on_thread(registry, Duration::ZERO, Task::Gather { replica });
        }
    }

    fn gather(&mut self, replica: usize) {
        let attempts = &self.attempts;
        let wanted = |attempt: AttemptId| attempts[attempt.0].load == Load::Wanted;
        if let Some(loader) = self.replicas[replica].take_batch(wanted) {
            self.calendar.after(self.costs.way, Event::QueryArrives { replica, loader });
        }
        self.load_next(replica);
    }

    fn query_arrives(&mut self, replica: usize, loader: usize) {
        let costs = &self.costs;
        // A loader's connection has a backend of its own, which slept until now.
        let cost = costs.wake + costs.query + costs.row * self.replicas[replica].names(loader);
        let task = Task::Query { replica, loader };
        let slice = self.processors.on_machine(self.database, cost, task);
        self.plan(slice);
    }

    fn rows_arrive(&mut self, replica: usize, loader: usize) {
        let state = &self.replicas[replica];
        let cost = self.costs.record * state.names(loader);
        self.on_thread(state.registry(loader), cost, Task::Records { replica, loader });
    }

    fn loaded(&mut self, replica: usize, loader: usize) {
        for attempt in self.replicas[replica].loaded(loader) {
            let this = &mut self.attempts[attempt.0];
            self.replicas[replica].learn(this.client);
            if std::mem::replace(&mut this.load, Load::Over) == Load::Wanted {
                self.found(attempt, self.costs.secret);
            }
        }
        self.load_next(replica);
    }

    fn load_timed_out(&mut self, attempt: AttemptId) {
        let this = &mut self.attempts[attempt.0];
        if std::mem::replace(&mut this.load, Load::Over) == Load::Wanted {
            this.unavailable = true;
            self.decide(attempt);
        }
    }

    /// The device is known; is its password? `secret`: what it takes to check a generated one.
    fn found(&mut self, attempt: AttemptId, secret: Duration) {
        let (replica, client) = (self.replica_of(attempt), self.attempts[attempt.0].client);
        let state = &mut self.replicas[replica];
        if client >= self.storm.chosen {
            self.on_worker(attempt, self.costs.decision / 2 + secret, Task::Decide(attempt));
        } else if state.has_verified(client) {
            self.decide(attempt);
        } else if state.queue_hash(attempt, self.calendar.now()) {
            self.hash_next(replica);
        } else {
            self.attempts[attempt.0].unavailable = true;
            self.decide(attempt);
        }
    }

    fn hash_next(&mut self, replica: usize) {
        while let Some((attempt, since)) = self.replicas[replica].begin_hash() {
            if self.calendar.now() - since > HASH_PATIENCE {
                self.replicas[replica].end_hash(None);
                self.attempts[attempt.0].unavailable = true;
                self.decide(attempt);
                continue;
            }
            let (machine, cost) = (self.replicas[replica].machine, self.costs.hash);
            let task = Task::Hash { replica, attempt };
            let slice = self.processors.in_background(machine, cost, task);
            self.plan(slice);
        }
    }

    fn decide(&mut self, attempt: AttemptId) {
        self.on_worker(attempt, self.costs.decision / 2, Task::Decide(attempt));
    }
}
