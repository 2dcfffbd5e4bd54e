//! All of the fleet as lines of JSON.

use std::time::Duration;

use reqwest::Method;

use super::{Remote, RemoteError};
use crate::fleet::exports::Exported;
use crate::fleet::wire::LEFT_OUT;

/// Longest time of an export, its answer included: a little more than the API's own.
const TIMEOUT: Duration = Duration::from_secs(330);

/// Exports the registry, piece by piece as it comes, and tells what it was.
///
/// # Errors
/// What `write` says; an export that broke off: what was written is not the whole then.
pub async fn export<E: From<RemoteError>>(
    api: &Remote,
    with_credentials: bool,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<Exported, E> {
    let call = api.get(&["exports"]).with("with_credentials", Some(with_credentials));
    let mut response = call.within(TIMEOUT).respond().await?;
    let left_out = response.headers().get(LEFT_OUT).and_then(|count| count.to_str().ok());
    let left_out = left_out.and_then(|count| count.parse().ok());
    let credentials_left_out =
        left_out.ok_or_else(|| api.not_understood(format!("it does not tell {LEFT_OUT}")))?;
    let mut exported = Exported { lines: 0, credentials_left_out };
    let broke_off = |error: reqwest::Error| api.unreachable(&Method::GET, TIMEOUT, &error);
    while let Some(piece) = response.chunk().await.map_err(broke_off)? {
        exported.lines += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
        write(&piece)?;
    }
    Ok(exported)
}
