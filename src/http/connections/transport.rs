//! What HTTP is spoken over: the watched socket itself, or TLS on it.
//!
//! A TLS handshake is made while the first bytes are read, so it counts as a request that is not there as a whole: a client
//! that does not end it in time is closed as one that does not end its request.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::mem::replace;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::{Connection, WatchedSocket};

/// A connection's bytes, as HTTP reads and writes them.
pub struct Transport {
    connection: Rc<Connection>,
    stage: Stage,
}

enum Stage {
    Plain(WatchedSocket),
    Handshake(Box<Accept<WatchedSocket>>),
    Encrypted(Box<TlsStream<WatchedSocket>>),
    /// The handshake failed.
    Failed,
}

impl Transport {
    /// Plain HTTP, or TLS as it says.
    #[must_use]
    pub fn new(socket: WatchedSocket, tls: Option<&Arc<ServerConfig>>) -> Self {
        let connection = socket.connection().clone();
        let stage = match tls {
            None => Stage::Plain(socket),
            Some(tls) => Stage::Handshake(Box::new(TlsAcceptor::from(tls.clone()).accept(socket))),
        };
        Self { connection, stage }
    }

    /// The notes on it.
    #[must_use]
    pub fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// Goes on with the handshake, if it is not over.
    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stage::Handshake(accept) = &mut self.stage else { return Poll::Ready(Ok(())) };
        let made = ready!(Pin::new(accept.as_mut()).poll(context));
        self.stage = Stage::Failed;
        self.stage = Stage::Encrypted(Box::new(made?));
        Poll::Ready(Ok(()))
    }
}

fn failed() -> io::Error {
    ErrorKind::NotConnected.into()
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_handshake(context))?;
        match &mut this.stage {
            Stage::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Stage::Encrypted(stream) => {
                match ready!(Pin::new(stream.as_mut()).poll_read(context, buffer)) {
                    // This side ended it ([`WatchedSocket`] says so), which TLS takes for a cut.
                    Err(error)
                        if error.kind() == ErrorKind::UnexpectedEof
                            && this.connection.ended.get() =>
                    {
                        Poll::Ready(Ok(()))
                    }
                    read => Poll::Ready(read),
                }
            }
            Stage::Handshake(_) | Stage::Failed => Poll::Ready(Err(failed())),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_handshake(context))?;
        match &mut this.stage {
            Stage::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Stage::Encrypted(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
            Stage::Handshake(_) | Stage::Failed => Poll::Ready(Err(failed())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stage {
            Stage::Plain(socket) => Pin::new(socket).poll_flush(context),
            Stage::Encrypted(stream) => Pin::new(stream.as_mut()).poll_flush(context),
            // Nothing was written.
            Stage::Handshake(_) | Stage::Failed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stage {
            Stage::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Stage::Encrypted(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
            Stage::Handshake(_) => {
                // Dropped: nobody waits for an answer.
                drop(replace(&mut self.stage, Stage::Failed));
                Poll::Ready(Ok(()))
            }
            Stage::Failed => Poll::Ready(Ok(())),
        }
    }
}
