//! Waits until the service decides, so that what is printed works when it is typed.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// `/readyz` has to be asked: it is what operators ask as well.
const ASK_AGAIN: Duration = Duration::from_millis(10);
const REQUEST: &[u8] = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// Returns when the service is ready, `true`, or told to stop, `false`.
pub(super) async fn ready(address: SocketAddr, stop: &CancellationToken) -> bool {
    let asking = async {
        while !is_ready(address).await.unwrap_or(false) {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = asking => true,
    }
}

async fn is_ready(address: SocketAddr) -> std::io::Result<bool> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(REQUEST).await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}
