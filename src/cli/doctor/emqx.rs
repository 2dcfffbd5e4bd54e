//! Checks of EMQX: its REST API, and what it is configured to.

mod broker;
mod evidence;
mod listener;

use std::time::Instant;

use super::LIMIT;
use super::finding::{Finding, Report, Status};
use crate::cli::emqx;
use crate::clock::Clock;
use crate::config::{EmqxApi as ApiSettings, Settings};
use crate::emqx::{EmqxApi, Place};
use crate::secret::Secret;

pub(super) const API: &str = "EMQX's REST API";

pub(super) async fn examine(settings: &Settings, clock: &Clock, report: &mut Report) {
    match settings.emqx_api() {
        Err(problems) => report.add(Finding::error(API, problems)),
        Ok(None) => report.add(Finding::ok(
            API,
            "none (emqx.api_url): sessions keep rights that are taken away, and presence is not \
             repaired after a broker's crash",
        )),
        Ok(Some(api)) => {
            examine_broker(&api, settings, report).await;
            report.add(listener::examine(&api.url, clock).await);
        }
    }
}

async fn examine_broker(settings: &ApiSettings, all: &Settings, report: &mut Report) {
    let api = match emqx::open(settings) {
        Ok(api) => api,
        Err(error) => return report.add(Finding::error(API, error)),
    };
    let finding = called(&api, settings).await;
    let is_well = finding.status == Status::Ok;
    report.add(finding);
    if is_well {
        let token = all.emqx().map_or_else(|_| Secret::generate(), |emqx| emqx.webhook_token);
        broker::examine(&api, token, report).await;
    } else {
        report.skip(&broker::CHECKS, "EMQX's REST API does not work, see above");
    }
}

async fn called(api: &EmqxApi, settings: &ApiSettings) -> Finding {
    let began = Instant::now();
    match tokio::time::timeout(LIMIT, api.clients(&Place::Start)).await {
        Ok(Ok(_)) => Finding::ok(
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
