//! The scenarios, and what each must reach on two cores.

mod beside;
mod changes;
mod commands;
mod decisions;
mod events;
mod hashing;
mod idle;
mod imports;
mod large;
mod selectors;
mod storm;
mod strangers;
mod timing;

use crate::support::registry::Registry;
use crate::table::{Row, Table};

/// The small registry: 1,000 devices with generated secrets, and some with chosen passwords.
const SMALL: &str = "small";
const GENERATED: std::ops::Range<u32> = 0..1000;
const CHOSEN: std::ops::Range<u32> = 1000..1065;

/// The registry of the storm after a cold start.
const STORM: &str = "storm";

/// The registry that strangers try.
const STRANGERS: &str = "strangers";

/// The registry whose devices are commanded.
const COMMANDED: &str = "commanded";

/// The registry that selectors look at.
const SELECTED: &str = "selected";

/// The registry that files are imported into.
const IMPORTED: &str = "imported";

/// The registry that is imported into and exported while devices use it.
const BESIDE: &str = "beside";

/// The large registry.
const LARGE: &str = "large";

/// Runs those scenarios whose name is among `chosen`, or all.
pub(crate) async fn run(chosen: &[&str]) -> Table {
    let wanted = |name: &str| chosen.is_empty() || chosen.contains(&name);
    let registry = Registry::start();
    registry.create(SMALL, CHOSEN.end, CHOSEN).await;
    let url = registry.url(SMALL);
    let mut rows: Vec<Row> = Vec::new();
    if wanted("authz") {
        rows.push(decisions::actions(&url).await);
    }
    if wanted("authn") {
        rows.extend(decisions::logins(&url).await);
    }
    if wanted("storm") {
        registry.create(STORM, storm::DEVICES, 0..0).await;
        rows.push(storm::cold_start(&registry.url(STORM)).await);
    }
    if wanted("hashing") {
        rows.push(hashing::full_queue(&url).await);
    }
    if wanted("strangers") {
        registry.create(STRANGERS, strangers::DEVICES, strangers::CHOSEN).await;
        rows.extend(strangers::floods(&registry.url(STRANGERS)).await);
    }
    if wanted("timing") {
        rows.extend(timing::refusals(&url).await);
    }
    if wanted("events") {
        rows.extend(events::durable(&url).await);
    }
    if wanted("changes") {
        rows.push(changes::two_replicas(&url).await);
    }
    if wanted("commands") {
        registry.create(COMMANDED, commands::DEVICES, 0..0).await;
        rows.push(commands::sent(&registry.url(COMMANDED)).await);
    }
    if wanted("selectors") {
        registry.create(SELECTED, selectors::DEVICES, 0..0).await;
        rows.extend(selectors::found(&registry.url(SELECTED)).await);
    }
    if wanted("imports") {
        registry.create(IMPORTED, 0, 0..0).await;
        rows.extend(imports::files(&registry.url(IMPORTED)).await);
    }
    if wanted("beside") {
        registry.create(BESIDE, beside::DEVICES, 0..0).await;
        rows.extend(beside::busy_api(&registry.url(BESIDE)).await);
    }
    if wanted("large") {
        registry.create(LARGE, large::DEVICES, 0..0).await;
        rows.extend(large::registry(&url, &registry.url(LARGE)).await);
    }
    if wanted("idle") {
        rows.extend(idle::service(&url).await);
    }
    Table::new(rows)
}
