//! Fleetgate as an HTTP client: of EMQX's REST API, and of its own `/readyz`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use reqwest::{ClientBuilder, Response, redirect};
use rustls::ClientConfig;

/// What stands for itself in a path or query (RFC 3986).
pub const UNRESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A client that asks whom it was told to ask, and nobody else: no proxy, and no redirects.
pub fn builder(tls: ClientConfig) -> ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .tcp_nodelay(true)
        .no_proxy()
        .redirect(redirect::Policy::none())
}

/// The body, or `None` when it is longer than `limit` bytes.
///
/// # Errors
/// When it broke off.
pub async fn read(mut response: Response, limit: usize) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        if body.len() + piece.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Some(body))
}
