//! EMQX's side: nodes, and the connections of their pools with what waits on each.

use std::collections::VecDeque;

use super::processors::{Machine, Processors, Thread};
use super::storm::{AttemptId, Task};
use super::world::{Machines, Storm};

/// Where a node's own work is done.
pub(super) enum Node {
    /// EMQX: one process a client, on any of the machine's processors.
    Machine(Machine),
    /// The generator of the real run.
    Thread(Thread),
}

/// A keep-alive connection, which belongs to one worker of one replica.
pub(super) struct Connection {
    pub(super) replica: usize,
    pub(super) worker: usize,
    waiting: VecDeque<AttemptId>,
    busy: bool,
}

pub(super) struct Broker {
    nodes: Vec<Node>,
    connections: Vec<Connection>,
    pool: u32,
}

impl Broker {
    /// Connections go to replicas in turn, as a load balancer hands them out, and there to workers in
    /// turn, as actix does.
    pub(super) fn new(storm: &Storm, processors: &mut Processors<Task>, shared: Machine) -> Self {
        let node = |_| match storm.machines {
            Machines::Apart { node, .. } => Node::Machine(processors.machine(node)),
            Machines::Shared { .. } => Node::Thread(processors.thread(shared)),
        };
        let nodes = (0..storm.nodes).map(node).collect();
        let (replicas, workers) = (storm.replicas as usize, storm.replica.workers as usize);
        let connection = |number: usize| Connection {
            replica: number % replicas,
            worker: number / replicas % workers,
            waiting: VecDeque::new(),
            busy: false,
        };
        let connections = (storm.nodes * storm.pool) as usize;
        Self { nodes, connections: (0..connections).map(connection).collect(), pool: storm.pool }
    }

    fn node_number(&self, client: u32) -> usize {
        client as usize % self.nodes.len()
    }

    pub(super) fn node(&self, client: u32) -> &Node {
        &self.nodes[self.node_number(client)]
    }

    /// The connection that a client's node means by this number of its pool.
    pub(super) fn connection_of(&self, client: u32, choice: u32) -> usize {
        self.node_number(client) * self.pool as usize + choice as usize
    }

    pub(super) fn connection(&self, number: usize) -> &Connection {
        &self.connections[number]
    }

    pub(super) fn queue(&mut self, number: usize, attempt: AttemptId) {
        self.connections[number].waiting.push_back(attempt);
    }

    /// The answer to what was under way has come.
    pub(super) fn answered(&mut self, number: usize) {
        self.connections[number].busy = false;
    }

    /// What is sent now, if nothing is under way: the first that is still wanted.
    pub(super) fn send(
        &mut self,
        number: usize,
        is_wanted: impl Fn(AttemptId) -> bool,
    ) -> Option<AttemptId> {
        let connection = &mut self.connections[number];
        if connection.busy {
            return None;
        }
        while let Some(attempt) = connection.waiting.pop_front() {
            if is_wanted(attempt) {
                connection.busy = true;
                return Some(attempt);
            }
        }
        None
    }
}
