//! A reconnect storm, event by event: clients that lost their broker come back through EMQX's pool of
//! HTTP connections, Fleetgate's replicas and PostgreSQL.
//!
//! # What is modelled
//! ```text
//! client ─► EMQX node ─► one of its pool's connections ─► worker of a replica ─► answer
//!   ▲       (processors)  (random; one request at a time)    │            ▲
//!   └── back-off ◄── refused, or no answer in time           ├─► loads: gathered, PostgreSQL
//!                                                            └─► hash threads, bounded queue
//! ```
//! - EMQX gives each login to a random connection of its node's pool, where it waits behind others
//!   (emqx_authn_http sets `pool_type = random`; ehttpc keeps a queue for each connection). What has
//!   waited longer than `request_timeout` is never sent. What was sent stays on its connection until
//!   Fleetgate answers, wanted or not. The login is refused half a second after the time-out (ehttpc
//!   waits that much longer), and never asked again by EMQX.
//! - A connection belongs to one replica, and there to one worker.
//! - Threads take their turns on a machine's processors, first come, first served; hash threads, which
//!   run at a lower priority, only when nobody else wants one.
//!
//! # What is not
//! TCP and TLS handshakes, lost packets, EMQX's health check (it only connects), events that the logins
//! cause, vacuum and checkpoints of PostgreSQL, caches of processors. Costs are constants: a real
//! operation takes now less, now more, so real tails are longer.
//!
//! Everything drawn comes from the seed; no clock is read. The same storm gives the same report.

mod broker;
mod calendar;
mod processors;
mod replica;
mod report;
mod storm;
mod world;

pub(crate) use report::{Fate, Report};
pub(crate) use storm::run;
pub(crate) use world::{Costs, Machines, Replica, Retry, Storm, arrival, choice};

/// A moment: the time since the storm began.
type Moment = std::time::Duration;
