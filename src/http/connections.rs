//! Which connections stay open, and for how long.
//!
//! Properties it keeps:
//! * Every new connection is accepted at once, whatever others hold open: operators' endpoints and EMQX's
//!   new connections stay reachable. With `http.max_connections` open, another one is closed instead.
//! * What a connection can hold back is bounded: a request by [`HEAD_LIMIT`] until its head is complete (its body
//!   has a limit of its own), an answer by [`ANSWER_LIMIT`] until it is taken, silence by `http.keep_alive`, or by
//!   [`UNAUTHENTICATED_IDLE_LIMIT`] after an answer to a client without the webhook token. A connection on which
//!   nothing came yet is silent, not late: EMQX opens its own long before it uses them
//!   (docs/EMQX.md).
//! * A service that stops answers everything it has read before it closes a connection.
//!
//! Design: a connection's bytes pass through [`WatchedSocket`], which notes when something was read or written;
//! [`GuardedConnection`] drives actix's dispatcher and looks at those notes after each step, with one timer that
//! is armed seldom. Nothing else decides when a connection ends: actix's own timers are off, because they
//! cannot tell half a request from silence and know only the first request of a connection.
//! Which connection is closed to make room is decided in [`admission`].
//!
//! Known races: what arrives between the last look into a socket and its end was never read; the client
//! sees its connection closed with that request pending. That such requests are few is why a stopping
//! service holds its answers to events until a connection is silent ([`ActiveRequest::until_silent`]).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::HttpRequest;

mod admission;
mod guarded;
mod transport;
mod watched;

pub use admission::{Connections, Lease};
pub use guarded::GuardedConnection;
pub use transport::Transport;
pub use watched::WatchedSocket;

use admission::Slot;

/// Longest time from the first byte of a request to the end of its head.
pub const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// Longest time that a written answer waits for the client to take it.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Longest silence after an answer on a connection that never sent the webhook token. Half a request that
/// was read together with the one before looks like silence (actix holds it), and may not live for
/// `http.keep_alive`. No scraper uses this interval, and a client that comes later opens another connection.
const UNAUTHENTICATED_IDLE_LIMIT: Duration = Duration::from_secs(7);

/// How long a connection must be silent to be closed by a service that stops.
const SILENCE: Duration = Duration::from_millis(200);

/// How long a stopping service waits for that; then a connection ends as soon as it owes no answer.
const MAX_WAIT_FOR_SILENCE: Duration = Duration::from_secs(2);

/// How long a closed connection is read on, so that the last answers are not lost: a socket that is dropped
/// with something unread in it makes its peer forget what was sent before (TCP reset).
const LINGER: Duration = Duration::from_millis(500);

/// What is known of one connection; lives on the worker that serves it.
pub struct Connection {
    all: Arc<Connections>,
    slot: Arc<Slot>,
    /// How many hold the request that is worked on: what stands around every handler, whoever reads the body, whoever sends the answer.
    active: Cell<u32>,
    /// Since when part of a request is there and the rest is not.
    unfinished_since: Cell<Option<Instant>>,
    /// Since when something written is not taken by the client.
    blocked_since: Cell<Option<Instant>>,
    last_read: Cell<Instant>,
    last_written: Cell<Option<Instant>>,
    /// The next look into an empty socket is to be its end.
    ending: Cell<bool>,
    /// The dispatcher was told that nothing more will come.
    ended: Cell<bool>,
    closing_since: Cell<Option<Instant>>,
}

/// Why a connection is closed from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Part of a request, and the rest did not come.
    LateRequest,
    /// The client does not take the answer.
    UnreadAnswer,
    /// Silent for `http.keep_alive`, or an unauthenticated one for [`UNAUTHENTICATED_IDLE_LIMIT`] after an answer.
    Idle,
    /// There were too many, and this one was the least important.
    TooMany,
    /// It was closed, and the client did not close its side.
    Lingered,
}

impl Closed {
    /// The reason as metrics name it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::LateRequest => "late_request",
            Self::UnreadAnswer => "unread_answer",
            Self::Idle => "idle",
            Self::TooMany => "too_many",
            Self::Lingered => "lingered",
        }
    }
}

impl Connection {
    fn new(all: Arc<Connections>, slot: Arc<Slot>) -> Self {
        Self {
            all,
            slot,
            active: Cell::new(0),
            unfinished_since: Cell::new(None),
            blocked_since: Cell::new(None),
            last_read: Cell::new(Instant::now()),
            last_written: Cell::new(None),
            ending: Cell::new(false),
            ended: Cell::new(false),
            closing_since: Cell::new(None),
        }
    }

    fn received(&self) {
        let now = Instant::now();
        self.ending.set(false);
        self.last_read.set(now);
        self.slot.active_at(now);
        if self.active.get() == 0 && self.unfinished_since.get().is_none() {
            self.unfinished_since.set(Some(now));
        }
    }

    /// Something was written, so a request was there as a whole.
    fn sent(&self) {
        self.unfinished_since.set(None);
        self.last_written.set(Some(Instant::now()));
    }

    fn blocked(&self) {
        if self.blocked_since.get().is_none() {
            self.blocked_since.set(Some(Instant::now()));
        }
    }

    fn idle_limit(&self) -> Duration {
        let limit = self.all.idle_limit();
        match self.last_written.get() {
            Some(_) if !self.slot.is_authenticated() => limit.min(UNAUTHENTICATED_IDLE_LIMIT),
            _ => limit,
        }
    }

    fn idle_since(&self) -> Instant {
        self.last_written.get().map_or(self.last_read.get(), |at| at.max(self.last_read.get()))
    }

    /// When it has to be closed unless something happens, and why.
    fn close_at(&self) -> Option<(Instant, Closed)> {
        if let Some(since) = self.closing_since.get() {
            return Some((since + LINGER, Closed::Lingered));
        }
        let blocked = self.blocked_since.get().map(|at| (at + ANSWER_LIMIT, Closed::UnreadAnswer));
        let late = match (self.unfinished_since.get(), self.all.stopping_since()) {
            (Some(since), None) if self.active.get() == 0 => Some(since + HEAD_LIMIT),
            // What was read already takes no time to be noticed.
            (Some(since), Some(stopping)) => {
                Some((since + SILENCE).max(stopping + MAX_WAIT_FOR_SILENCE))
            }
            _ => None,
        };
        let late = late.map(|at| (at, Closed::LateRequest));
        let idle = (self.active.get() == 0 && self.unfinished_since.get().is_none())
            .then(|| (self.idle_since() + self.idle_limit(), Closed::Idle));
        [blocked, late, idle].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// When a stopping service may close it: `None` while it owes an answer or half a request is there.
    fn end_at(&self) -> Option<Instant> {
        let stopping = self.all.stopping_since()?;
        let busy = self.active.get() > 0
            || self.unfinished_since.get().is_some()
            || self.blocked_since.get().is_some();
        (!busy && !self.ended.get() && self.closing_since.get().is_none())
            .then(|| self.silent_at(stopping))
    }

    /// From when on it is silent, in a service that stops.
    fn silent_at(&self, stopping: Instant) -> Instant {
        (self.last_read.get() + SILENCE).min(stopping + MAX_WAIT_FOR_SILENCE)
    }
}

/// One request that a handler works on, until dropped.
pub struct ActiveRequest(Option<Rc<Connection>>);

impl ActiveRequest {
    /// Notes that a handler began. Without a connection that is watched (in unit tests) nothing is noted.
    #[must_use]
    pub fn begin(request: &HttpRequest) -> Self {
        let connection = request.conn_data::<Rc<Connection>>().cloned();
        if let Some(connection) = &connection {
            connection.active.set(connection.active.get() + 1);
            connection.slot.set_busy(true);
            if connection.unfinished_since.get().is_none() {
                connection.unfinished_since.set(Some(Instant::now()));
            }
        }
        Self(connection)
    }

    /// Notes that the request carried the webhook token: its connection is EMQX's and outlives those of
    /// strangers.
    pub fn authenticated(&self) {
        if let Some(connection) = &self.0 {
            connection.all.mark_authenticated(&connection.slot);
        }
    }

    /// Notes that the request was read to its end.
    pub fn body_complete(&self) {
        if let Some(connection) = &self.0 {
            connection.unfinished_since.set(None);
        }
    }

    /// Whether the service is about to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.as_ref().is_some_and(|connection| connection.all.stopping_since().is_some())
    }

    /// In a service that stops: waits until nothing more arrives on the connection, two seconds at
    /// most.
    ///
    /// EMQX sends an event again as soon as its 503 has come. On a silent connection it has sent all that it
    /// may send before an answer; what is answered then leaves hardly anything pending when the connection
    /// is closed right behind it.
    pub async fn until_silent(&self) {
        let Some(connection) = &self.0 else { return };
        while let Some(stopping) = connection.all.stopping_since() {
            let silent_at = connection.silent_at(stopping);
            if silent_at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(silent_at.into()).await; // why: it waits for the absence of bytes
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            let left = connection.active.get().saturating_sub(1);
            connection.active.set(left);
            connection.slot.set_busy(left > 0);
            connection.unfinished_since.set(None);
        }
    }
}
