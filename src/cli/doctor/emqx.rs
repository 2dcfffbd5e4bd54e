//! Checks of EMQX's REST API.

use std::time::Instant;

use super::LIMIT;
use super::finding::{Finding, Report};
use crate::config::{EmqxApi as ApiSettings, Settings};
use crate::emqx::{EmqxApi, EmqxError, Place};
use crate::metrics::Metrics;

const API: &str = "EMQX's REST API";

/// The checks of this module, in order.
pub(super) const CHECKS: [&str; 1] = [API];

pub(super) async fn examine(settings: &Settings, report: &mut Report) {
    report.add(match settings.emqx_api() {
        Err(problems) => Finding::error(API, problems),
        Ok(None) => Finding::ok(
            API,
            "none (emqx.api_url): sessions keep rights that are taken away, and presence is not \
             repaired after a broker's crash",
        ),
        Ok(Some(api)) => called(&api).await,
    });
}

async fn called(settings: &ApiSettings) -> Finding {
    let began = Instant::now();
    match tokio::time::timeout(LIMIT, first_page(settings)).await {
        Ok(Ok(())) => Finding::ok(
            API,
            format!("{} takes the key, answers within {:?}", settings.url, began.elapsed()),
        ),
        Ok(Err(error)) => Finding::error(API, error),
        Err(_) => Finding::failure(
            API,
            format!("no answer within {LIMIT:?}"),
            "check that EMQX runs, that emqx.api_url is right, and that no firewall is between",
        ),
    }
}

async fn first_page(settings: &ApiSettings) -> Result<(), EmqxError> {
    let metrics = Metrics::new().map_err(|error| EmqxError::Settings(error.to_string()))?;
    EmqxApi::new(settings, metrics.emqx)?.clients(&Place::Start).await.map(drop)
}
