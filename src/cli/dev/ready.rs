//! Waits until the service decides, so that what is printed works when it is typed.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::StatusCode;
use tokio_util::sync::CancellationToken;

use crate::cli::health::Asker;

/// `/readyz` has to be asked: it is what operators ask as well.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// Returns when the service is ready, `true`, or told to stop, `false`.
///
/// # Errors
/// When there is no HTTP client to ask by.
pub(super) async fn ready(address: SocketAddr, stop: &CancellationToken) -> Result<bool, String> {
    let asker = Asker::new()?;
    let asking = async {
        while !matches!(asker.ask(address).await, Ok((StatusCode::OK, _))) {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    Ok(tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = asking => true,
    })
}
