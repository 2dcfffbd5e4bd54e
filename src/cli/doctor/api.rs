//! The certificate that the HTTP API presents, and how long it is still valid.

use super::SECONDS_A_DAY;
use super::finding::Finding;
use crate::clock::Clock;
use crate::config::Api;
use crate::tls;

pub(super) const CERTIFICATE: &str = "certificate of the API";

/// Looks into the file: the API need not be served, or not from here.
pub(super) fn examine(settings: &Api, clock: &Clock) -> Finding {
    let Some(file) = settings.listen.and(settings.tls_certificate.as_ref()) else {
        let found = match settings.listen {
            Some(_) => "none (api.tls_certificate): plain HTTP",
            None => "none: there is no API (api.listen)",
        };
        return Finding::ok(CERTIFICATE, found);
    };
    let end = match tls::end_of(file) {
        Ok(end) => end,
        Err(why) => return Finding::error(CERTIFICATE, format!("api.tls_certificate: {why}")),
    };
    let days = (end - clock.now().as_second()).div_euclid(SECONDS_A_DAY);
    let remedy = "run `fleetgate secrets init` (`docker compose up -d` does), or replace the files of \
                  api.tls_certificate and api.tls_key, which `serve` reads again by itself; clients cannot \
                  connect after its end";
    Finding::certificate(CERTIFICATE, &format!("the one in {}", file.display()), days, remedy)
}
