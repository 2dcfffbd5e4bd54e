//! A connection's bytes, and when they passed.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Connection, LINGER};

/// Bytes that are thrown away at once behind a connection's end.
const DISCARD_BUFFER: usize = 4096;
/// How often at most before others have their turn.
const MAX_READS: usize = 64;

/// A socket that notes for its [`Connection`] what happens.
pub struct WatchedSocket {
    socket: TcpStream,
    peer: SocketAddr,
    connection: Rc<Connection>,
}

impl WatchedSocket {
    /// Watches a socket.
    #[must_use]
    pub fn new(socket: TcpStream, peer: SocketAddr, connection: Rc<Connection>) -> Self {
        Self { socket, peer, connection }
    }

    /// Whose it is.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The notes.
    #[must_use]
    pub fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// Whether the last answers may still be on their way.
    fn has_just_written(&self) -> bool {
        self.connection.last_written.get().is_some_and(|at| at.elapsed() < LINGER)
    }
}

impl AsyncRead for WatchedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.socket).poll_read(context, buffer) {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                self.connection.received();
                Poll::Ready(Ok(()))
            }
            // Nothing is unread and nothing unanswered: now it can end.
            Poll::Pending if self.connection.ending.take() => {
                self.connection.ended.set(true);
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for WatchedSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        match &written {
            Poll::Ready(Ok(_)) => self.connection.sent(),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.connection.blocked(),
        }
        written
    }

    /// actix flushes when all it had has been written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.blocked_since.set(None);
        Pin::new(&mut self.socket).poll_flush(context)
    }

    /// Says that nothing more will be written, and reads on until the client has closed its side too.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.closing_since.get().is_none() {
            ready!(Pin::new(&mut self.socket).poll_shutdown(context))?;
            if !self.has_just_written() {
                return Poll::Ready(Ok(()));
            }
            self.connection.closing_since.set(Some(Instant::now()));
        }
        let mut scratch = [0; DISCARD_BUFFER];
        for _ in 0..MAX_READS {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.socket).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
