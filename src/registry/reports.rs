//! What devices report: last seen, last known values, the last violation (`device_state`).
//!
//! The order of reports is (time, message id in bytes), of violations (time, binding, pointer,
//! message). [`DeviceNews::absorb`] and the functions in `sql/V4__presence_and_state.sql` keep the
//! same order, so that it makes no difference which reports meet in one batch.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use jiff::Timestamp;
use serde_json::json;
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::domain::device::DeviceId;
use crate::registry::error::RegistryError;
use crate::registry::presence::moment;

/// One reported value.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// When the broker received it, ms since 1970.
    pub at_ms: i64,
    /// The message's id.
    pub id: Box<str>,
    /// JSON text that jsonb holds; `None` clears the value.
    pub value: Option<Box<str>>,
}

/// A report that broke its capability's schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BrokenReport {
    /// When the broker received it, ms since 1970.
    pub at_ms: i64,
    /// The binding it was for.
    pub binding: Box<str>,
    /// JSON pointer into the payload.
    pub pointer: String,
    /// Which rule it broke. Never the payload.
    pub message: String,
}

/// What was heard of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceNews {
    /// The device.
    pub device_id: DeviceId,
    /// The latest moment, ms since 1970.
    pub seen_ms: i64,
    /// The newest value of each binding.
    pub reports: BTreeMap<Box<str>, Report>,
    /// The newest violation.
    pub violation: Option<BrokenReport>,
}

impl DeviceNews {
    /// News that the device was heard, and nothing more.
    #[must_use]
    pub fn seen(device_id: DeviceId, seen_ms: i64) -> Self {
        Self { device_id, seen_ms, reports: BTreeMap::new(), violation: None }
    }

    /// Takes further news of the same device in; what is newer stays.
    pub fn absorb(&mut self, other: Self) {
        self.seen_ms = self.seen_ms.max(other.seen_ms);
        self.violation = self.violation.take().max(other.violation);
        for (binding, report) in other.reports {
            match self.reports.entry(binding) {
                Entry::Vacant(entry) => {
                    entry.insert(report);
                }
                Entry::Occupied(mut entry) => {
                    let known = entry.get();
                    if (report.at_ms, &report.id) > (known.at_ms, &known.id) {
                        entry.insert(report);
                    }
                }
            }
        }
    }

    fn reports_json(&self) -> String {
        let entries = self.reports.iter().map(|(binding, report)| {
            let value = report.value.as_ref().map(|value| format!("\"value\":{value},"));
            let (value, at) = (value.unwrap_or_default(), report.at_ms);
            format!("{}:{{{value}\"at\":{at},\"id\":{}}}", json!(binding), json!(report.id))
        });
        format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
    }

    fn violation_json(&self) -> Option<String> {
        self.violation.as_ref().map(|broken| {
            json!({"at": broken.at_ms, "binding": broken.binding, "pointer": broken.pointer,
                "message": broken.message})
            .to_string()
        })
    }
}

/// A row whose values would not change is not written. `outdated` looks at the state before this
/// statement. A device that is gone by now has no state.
const WRITE: &str = "
    WITH news AS MATERIALIZED (
        SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::text[]::jsonb[], $4::text[]::jsonb[])
            AS news (device_id, seen, reports, violation)
    ), outdated AS (
        SELECT count(*) AS reports
        FROM news JOIN device_state USING (device_id) CROSS JOIN jsonb_each(news.reports) AS report
        WHERE NOT fleetgate_is_newer_report(report.value, state -> report.key)
    ), written AS (
        INSERT INTO device_state AS known (device_id, last_seen, state, last_violation)
        SELECT device_id, seen, reports, violation FROM news JOIN devices ON devices.id = device_id
        ORDER BY device_id
        ON CONFLICT (device_id) DO UPDATE SET
            last_seen = greatest(known.last_seen, EXCLUDED.last_seen),
            state = known.state || fleetgate_newer_reports(known.state, EXCLUDED.state),
            last_violation = CASE
                WHEN fleetgate_is_newer_violation(EXCLUDED.last_violation, known.last_violation)
                THEN EXCLUDED.last_violation ELSE known.last_violation END
        WHERE known.last_seen IS NULL OR EXCLUDED.last_seen > known.last_seen
           OR fleetgate_newer_reports(known.state, EXCLUDED.state) <> '{}'
           OR fleetgate_is_newer_violation(EXCLUDED.last_violation, known.last_violation)
    )
    SELECT reports FROM outdated";

/// Writes news, at most one a device; within a transaction, after everything else of it that locks.
/// Gives the number of reports that were not newer than what was known.
///
/// # Errors
/// [`RegistryError::BadData`] for a value that jsonb cannot hold, a database that is away.
pub async fn write(tx: &impl GenericClient, news: &[DeviceNews]) -> Result<u64, RegistryError> {
    if news.is_empty() {
        return Ok(0);
    }
    let devices: Vec<i64> = news.iter().map(|news| news.device_id.0).collect();
    let seen = news.iter().map(|news| moment(news.seen_ms));
    let seen = seen.collect::<Result<Vec<Timestamp>, _>>()?;
    let reports: Vec<String> = news.iter().map(DeviceNews::reports_json).collect();
    let violations: Vec<Option<String>> = news.iter().map(DeviceNews::violation_json).collect();
    let rows = tx
        .query_typed(
            WRITE,
            &[
                (&devices, Type::INT8_ARRAY),
                (&seen, Type::TIMESTAMPTZ_ARRAY),
                (&reports, Type::TEXT_ARRAY),
                (&violations, Type::TEXT_ARRAY),
            ],
        )
        .await
        .map_err(RegistryError::on("the state of devices"))?;
    let outdated = rows.first().map_or(0, |row| row.get::<_, i64>(0));
    Ok(u64::try_from(outdated).unwrap_or(0))
}
