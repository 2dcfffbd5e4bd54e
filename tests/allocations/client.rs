//! A client that allocates nothing for a request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// One keep-alive connection.
pub(crate) struct Client {
    stream: TcpStream,
    received: [u8; 4096],
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, received: [0; 4096] }
    }

    /// Sends a request, and waits for a 200 whose body begins as expected.
    pub(crate) fn exchange(&mut self, request: &[u8], expected: &str) {
        self.stream.write_all(request).unwrap();
        let mut length = 0;
        loop {
            let read = self.stream.read(&mut self.received[length..]).unwrap();
            assert!(read > 0, "the server closed the connection");
            length += read;
            if let Some(body) = complete_body(&self.received[..length]) {
                assert!(self.received.starts_with(b"HTTP/1.1 200 "), "the answer is no 200");
                assert!(body.starts_with(expected.as_bytes()), "the answer is another");
                return;
            }
        }
    }
}

/// The body of a response that has come whole.
fn complete_body(response: &[u8]) -> Option<&[u8]> {
    let head = after(response, b"\r\n\r\n")?;
    let length = after(response, b"content-length: ")?;
    let digits = length.iter().take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    (head.len() >= length).then_some(head)
}

fn after<'a>(text: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    let start = text.windows(mark.len()).position(|window| window == mark)?;
    Some(&text[start + mark.len()..])
}
