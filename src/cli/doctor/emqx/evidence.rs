//! Whether Fleetgate takes EMQX's token, as far as EMQX's counters tell.
//!
//! EMQX does not show the token. A refused call (401) is for its authenticator and source like no
//! answer, and an event that is lost.

use serde_json::Value;

use super::super::finding::Finding;
use crate::emqx::setup::SetupError;
use crate::emqx::{EmqxApi, EmqxError};

/// A path with counters, those that only an accepted call raises, and those that a refused one does.
type Counters = (&'static str, &'static [&'static str], &'static [&'static str]);

const COUNTERS: [Counters; 3] = [
    ("authentication/password_based:http/status", &["success", "failed"], &["nomatch"]),
    ("authorization/sources/http/status", &["allow", "deny"], &["nomatch", "ignore"]),
    ("actions/http:fleetgate_events/metrics", &["success"], &["failed"]),
];

/// The status or the counters at a path; nothing where EMQX has none.
///
/// How EMQX says that it has none is not in docs/EMQX.md for every path, and that the thing itself is
/// missing has a finding of its own.
pub(super) async fn read(api: &EmqxApi, path: &str) -> Result<Option<Value>, SetupError> {
    match api.configuration(path).await {
        Err(EmqxError::NotFound { .. } | EmqxError::Rejected { .. }) => Ok(None),
        Err(error) => Err(SetupError::Call { call: format!("GET /api/v5/{path}"), error }),
        Ok(status) => Ok(status),
    }
}

pub(super) async fn token(check: &'static str, api: &EmqxApi) -> Result<Finding, SetupError> {
    let (mut taken, mut refused) = (0, 0);
    for (path, good, bad) in COUNTERS {
        let answer = read(api, path).await?.unwrap_or_default();
        taken += sum(&answer, good);
        refused += sum(&answer, bad);
    }
    Ok(finding_of(check, taken, refused))
}

fn sum(answer: &Value, names: &[&str]) -> u64 {
    let metrics = answer.get("metrics");
    names.iter().filter_map(|name| metrics?.get(*name)?.as_u64()).sum()
}

fn finding_of(check: &'static str, taken: u64, refused: u64) -> Finding {
    let found = format!("{taken} calls got an answer that EMQX could use, {refused} did not");
    let remedy = "if Fleetgate's log tells of wrong tokens, run `fleetgate emqx apply --rotate-token`; \
                  otherwise Fleetgate was away or too slow";
    match (taken, refused) {
        (0, 0) => Finding::ok(check, "EMQX has not called Fleetgate yet, so it cannot be told"),
        (_, 0) => Finding::ok(check, format!("accepted: {found}")),
        (0, _) => Finding::failure(check, found, remedy),
        (_, _) => Finding::warning(check, found, remedy),
    }
}
