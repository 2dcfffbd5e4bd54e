//! One keep-alive connection of EMQX's pool: a request goes out, its answer comes back.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// ConnectionLimits for the head of an answer and a login's rules.
const BUFFER_BYTES: usize = 64 * 1024;

/// Headers that an answer may have.
const MAX_HEADERS: usize = 16;

pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
}

/// An answer; its body is in the connection's buffer until the next exchange.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; BUFFER_BYTES].into() })
    }

    /// Sends a whole request and waits for its whole answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            if let Some((status, head, length)) = parse_head(&self.buffer[..filled])?
                && filled >= head + length
            {
                return Ok(Answer { status, body: &self.buffer[head..head + length] });
            }
        }
    }
}

/// Status, length of the head and of the body; `None` while the head is incomplete.
fn parse_head(bytes: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed =
        response.parse(bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    let httparse::Status::Complete(head) = parsed else { return Ok(None) };
    let status = response.code.unwrap_or_default();
    let mut headers = response.headers.iter();
    let length = headers.find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| str::from_utf8(header.value).ok()?.parse().ok());
    Ok(Some((status, head, length.unwrap_or(0))))
}
