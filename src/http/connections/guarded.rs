//! Drives a connection and ends it in time.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

use super::{Closed, Connection, Lease};

/// How often a connection is tried to be ended before others have their turn.
const ATTEMPTS: usize = 3;

/// What serves a connection, until that ends or the connection has to.
pub struct GuardedConnection<F> {
    serving: Pin<Box<F>>,
    connection: Rc<Connection>,
    lease: Lease,
    timer: Pin<Box<Sleep>>,
    /// When the timer will fire. It may be earlier than needed: then it is armed again.
    armed_at: Option<Instant>,
}

impl<F: Future> GuardedConnection<F> {
    /// Guards what serves a connection.
    pub fn new(serving: F, connection: Rc<Connection>, lease: Lease) -> Self {
        Self {
            serving: Box::pin(serving),
            connection,
            lease,
            timer: Box::pin(tokio::time::sleep_until(Instant::now().into())),
            armed_at: None,
        }
    }

    /// Serves, and where a stopping service may end the connection, tries to.
    fn serve(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ATTEMPTS {
            if self.serving.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            let may_end = self.connection.end_at().is_some_and(|at| at <= Instant::now());
            self.connection.ending.set(may_end);
            if !may_end {
                return Poll::Pending;
            }
        }
        self.connection.ending.set(false);
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits for the next time at which something has to be done; `Ready` when that is now.
    fn wait(&mut self, context: &mut Context<'_>, now: Instant) -> Poll<()> {
        let close_at = self.connection.close_at().map(|(at, _)| at);
        let next = [close_at, self.connection.end_at()].into_iter().flatten().min();
        if let Some(next) = next
            && self.armed_at.is_none_or(|armed| next < armed)
        {
            self.timer.as_mut().reset(next.into());
            self.armed_at = Some(next);
        } else if self.armed_at.is_none_or(|armed| now < armed) {
            return Poll::Pending;
        }
        if self.timer.as_mut().poll(context).is_ready() {
            self.armed_at = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<F: Future> Future for GuardedConnection<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.lease.wakes(context.waker());
        loop {
            if this.lease.is_revoked() {
                this.lease.note(Closed::TooMany);
                return Poll::Ready(());
            }
            if this.serve(context).is_ready() {
                return Poll::Ready(());
            }
            let now = Instant::now();
            if let Some((at, why)) = this.connection.close_at()
                && at <= now
            {
                this.lease.note(why);
                return Poll::Ready(());
            }
            if this.wait(context, now).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
