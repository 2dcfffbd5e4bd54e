//! HTTP/1.1 as bytes on a connection: what a library would tidy up is sent as it is.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A response as it came.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The `result` of a decision.
    pub(crate) fn result(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        body["result"].as_str().unwrap().to_owned()
    }
}

/// One keep-alive connection.
pub(crate) struct Connection(BufReader<TcpStream>);

impl From<TcpStream> for Connection {
    fn from(stream: TcpStream) -> Self {
        Self(BufReader::new(stream))
    }
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next response, or `None` when the server closed the connection instead.
    pub(crate) async fn receive(&mut self) -> Option<Response> {
        let mut response = self.head().await?;
        if response.header("transfer-encoding") == Some("chunked") {
            while let Some(piece) = self.piece().await.expect("the response broke off") {
                response.body += &piece;
            }
            return Some(response);
        }
        let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        response.body = String::from_utf8(body).unwrap();
        Some(response)
    }

    /// The head of the next response.
    pub(crate) async fn head(&mut self) -> Option<Response> {
        let status = self.line().await?;
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((key, value)) = line.split_once(": ") else { break };
            headers.push((key.to_lowercase(), value.to_owned()));
        }
        Some(Response { status, headers, body: String::new() })
    }

    /// The next piece of a response that comes in pieces: `Some(None)`: that was all; `None`: it broke off.
    pub(crate) async fn piece(&mut self) -> Option<Option<String>> {
        let length = usize::from_str_radix(&self.line().await?, 16).unwrap();
        let mut piece = vec![0; length + 2];
        self.0.read_exact(&mut piece).await.ok()?;
        piece.truncate(length);
        Some((length > 0).then(|| String::from_utf8(piece).unwrap()))
    }

    pub(crate) async fn exchange(&mut self, bytes: &[u8]) -> Response {
        self.send(bytes).await;
        self.receive().await.expect("the server closed the connection")
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).await.unwrap_or(0);
        (read > 0).then(|| line.trim_end().to_owned())
    }
}

/// A POST with a JSON body, as EMQX writes it.
pub(crate) fn post(path: &str, token: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: fleetgate\r\ncontent-type: application/json\r\n\
         authorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
