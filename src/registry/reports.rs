//! What devices report: last seen, last known values, the last violation (`device_state`). What is
//! written, and how, is `fleetgate_write_reports` of `sql/V5__state.sql`.
//!
//! The order of reports is (trusted, time, message id in bytes), of violations (trusted, time, binding,
//! pointer, message). It stands in the SQL functions only, and they put a batch in order too, so that
//! it makes no difference which reports meet in one batch.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

use crate::domain::device::DeviceId;

/// One reported value.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// When the broker received it.
    pub at: Timestamp,
    /// The message's id.
    pub id: Box<str>,
    /// JSON text that jsonb holds; `None` clears the value.
    pub value: Option<Box<str>>,
    /// Why the value is a string that holds JSON instead of that JSON; `None` where it is as it came.
    pub as_text: Option<&'static str>,
}

/// A report that is merged into the last known value; see `sql/V5__state.sql`.
#[derive(Debug, Clone, PartialEq)]
pub struct Partial {
    /// The binding it is for.
    pub binding: Box<str>,
    /// When the broker received it.
    pub at: Timestamp,
    /// The message's id.
    pub id: Box<str>,
    /// The merge patch (RFC 7396), JSON text that jsonb holds; `None` clears the value.
    pub patch: Option<Box<str>>,
    /// How many members the patch has, at all levels together.
    pub members: usize,
}

/// A report that broke its capability's schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViolationReport {
    /// When the broker received it.
    pub at: Timestamp,
    /// The binding it was for.
    pub binding: Box<str>,
    /// JSON pointer into the payload.
    pub pointer: String,
    /// Which rule it broke. Never the payload.
    pub message: String,
}

/// What one event changes of its device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceUpdate {
    /// The device.
    pub device_id: DeviceId,
    /// When the device was heard; `None`: the event does not come from the device itself.
    pub seen_at: Option<Timestamp>,
    /// The event's latest timestamp: a clock that is ahead shows in it.
    pub timestamp: Timestamp,
    /// The broker node that sent it.
    pub node: Option<Box<str>>,
    /// The value of each binding.
    pub reports: BTreeMap<Box<str>, Report>,
    /// Reports of bindings that merge, all of them: none of them stands for another.
    pub partials: Vec<Partial>,
    /// A violation.
    pub violation: Option<ViolationReport>,
    /// Whether what waits for the device is to be tried: its gateway says that it reaches it.
    pub is_available: bool,
}

impl DeviceUpdate {
    /// Nothing but its event's latest timestamp.
    #[must_use]
    pub fn new(device_id: DeviceId, timestamp: Timestamp) -> Self {
        let reports = BTreeMap::new();
        Self {
            device_id,
            seen_at: None,
            timestamp,
            node: None,
            reports,
            partials: Vec::new(),
            violation: None,
            is_available: false,
        }
    }
}

/// An update with one report at most: one element of what `fleetgate_write_reports` takes.
struct UpdateRow<'a> {
    update: &'a DeviceUpdate,
    report: Option<(&'a str, &'a Report)>,
    violation: Option<&'a ViolationReport>,
}

/// One row for each report; one at least.
fn rows(update: &DeviceUpdate) -> impl Iterator<Item = UpdateRow<'_>> {
    let bare = update.reports.is_empty().then_some(None);
    let reports = update.reports.iter().map(|(binding, report)| Some((&**binding, report)));
    bare.into_iter().chain(reports).enumerate().map(|(position, report)| UpdateRow {
        update,
        report,
        violation: update.violation.as_ref().filter(|_| position == 0),
    })
}

impl Report {
    /// As it is stored.
    fn json(&self) -> String {
        let value = self.value.as_ref().map(|value| format!("\"value\":{value},"));
        let as_text = self.as_text.map(|why| format!("\"kept_as_text\":{},", json!(why)));
        let (value, as_text) = (value.unwrap_or_default(), as_text.unwrap_or_default());
        format!("{{{value}{as_text}\"at\":{},\"id\":{}}}", self.at.as_millisecond(), json!(self.id))
    }
}

impl ViolationReport {
    /// As it is stored.
    fn json(&self) -> String {
        let Self { at, binding, pointer, message } = self;
        let at = at.as_millisecond();
        json!({"at": at, "binding": binding, "pointer": pointer, "message": message}).to_string()
    }
}

/// Updates as `fleetgate_write_reports` takes them: one array a column.
pub(super) struct UpdateColumns<'a> {
    pub(super) device_ids: Vec<i64>,
    pub(super) stamps: Vec<Timestamp>,
    pub(super) seen: Vec<Option<Timestamp>>,
    pub(super) nodes: Vec<Option<&'a str>>,
    pub(super) bindings: Vec<Option<&'a str>>,
    pub(super) reports: Vec<Option<String>>,
    pub(super) violations: Vec<Option<String>>,
}

impl<'a> UpdateColumns<'a> {
    pub(super) fn new(updates: &[&'a DeviceUpdate]) -> Self {
        let rows: Vec<_> = updates.iter().copied().flat_map(rows).collect();
        Self {
            device_ids: rows.iter().map(|row| row.update.device_id.0).collect(),
            stamps: rows.iter().map(|row| row.update.timestamp).collect(),
            seen: rows.iter().map(|row| row.update.seen_at).collect(),
            nodes: rows.iter().map(|row| row.update.node.as_deref()).collect(),
            bindings: rows.iter().map(|row| row.report.map(|(binding, _)| binding)).collect(),
            reports: rows.iter().map(|row| row.report.map(|(_, report)| report.json())).collect(),
            violations: rows.iter().map(|row| row.violation.map(ViolationReport::json)).collect(),
        }
    }
}

/// Most bytes that one merged value takes with the stamps of its members.
const MOST_MERGED_BYTES: i32 = 512 * 1024;

/// Partial reports as `fleetgate_merge_reports` takes them: one array a column.
#[derive(Default)]
pub(super) struct MergeColumns<'a> {
    /// Every device of the batch, once there is anything to merge.
    pub(super) locked: Vec<i64>,
    pub(super) device_ids: Vec<i64>,
    pub(super) bindings: Vec<&'a str>,
    pub(super) patches: Vec<Option<&'a str>>,
    pub(super) stamps: Vec<i64>,
    pub(super) ids: Vec<&'a str>,
    pub(super) most_bytes: i32,
}

impl<'a> MergeColumns<'a> {
    pub(super) fn new(partials: &[(DeviceId, &'a Partial)], batch: &[i64]) -> Self {
        if partials.is_empty() {
            return Self::default();
        }
        Self {
            locked: batch.to_vec(),
            device_ids: partials.iter().map(|(device, _)| device.0).collect(),
            bindings: partials.iter().map(|(_, one)| &*one.binding).collect(),
            patches: partials.iter().map(|(_, one)| one.patch.as_deref()).collect(),
            stamps: partials.iter().map(|(_, one)| one.at.as_millisecond()).collect(),
            ids: partials.iter().map(|(_, one)| &*one.id).collect(),
            most_bytes: MOST_MERGED_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_row_a_report_and_one_at_least() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let report = |id: &str| Report { at: at(1), id: id.into(), value: None, as_text: None };
        let broken = ViolationReport {
            at: at(1),
            binding: "c".into(),
            pointer: String::new(),
            message: "breaks it".to_owned(),
        };
        let bare =
            DeviceUpdate { violation: Some(broken), ..DeviceUpdate::new(DeviceId(7), at(5)) };
        let two = BTreeMap::from([("a".into(), report("0A")), ("b".into(), report("0B"))]);
        let full = DeviceUpdate { reports: two, seen_at: Some(at(4)), ..bare.clone() };
        let columns = UpdateColumns::new(&[&bare, &full]);
        assert_eq!(columns.device_ids, [7, 7, 7]);
        assert_eq!(columns.bindings, [None, Some("a"), Some("b")]);
        assert_eq!(columns.seen[0], None);
        let broken = columns.violations.iter().map(Option::is_some);
        assert_eq!(broken.collect::<Vec<_>>(), [true, true, false], "once an event");
    }
}
