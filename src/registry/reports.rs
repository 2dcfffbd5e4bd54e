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
    /// Why the value is a string that holds JSON instead of that JSON; `None` where it is as it came.
    pub as_text: Option<&'static str>,
}

/// A report that is merged into the last known value; see `sql/V5__state.sql`.
#[derive(Debug, Clone, PartialEq)]
pub struct Partial {
    /// The binding it is for.
    pub binding: Box<str>,
    /// When the broker received it, ms since 1970.
    pub at_ms: i64,
    /// The message's id.
    pub id: Box<str>,
    /// The merge patch (RFC 7396), JSON text that jsonb holds; `None` clears the value.
    pub patch: Option<Box<str>>,
    /// How many members the patch has, at all levels together.
    pub members: usize,
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

/// What one event says of its device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceNews {
    /// The device.
    pub device_id: DeviceId,
    /// When the device was heard, ms since 1970; `None`: this event is no word of its own.
    pub seen_ms: Option<i64>,
    /// The event's latest timestamp, ms since 1970: it tells a clock that is ahead.
    pub stamp_ms: i64,
    /// The broker node that told it.
    pub node: Option<Box<str>>,
    /// The value of each binding.
    pub reports: BTreeMap<Box<str>, Report>,
    /// Reports of bindings that merge, all of them: none of them stands for another.
    pub partials: Vec<Partial>,
    /// A violation.
    pub violation: Option<BrokenReport>,
}

impl DeviceNews {
    /// News without content, with its event's latest timestamp.
    #[must_use]
    pub fn new(device_id: DeviceId, stamp_ms: i64) -> Self {
        let reports = BTreeMap::new();
        Self {
            device_id,
            seen_ms: None,
            stamp_ms,
            node: None,
            reports,
            partials: Vec::new(),
            violation: None,
        }
    }
}

/// News of one device with one report at most: an element of what `fleetgate_write_reports` takes.
struct NewsItem<'a> {
    news: &'a DeviceNews,
    report: Option<(&'a str, &'a Report)>,
    violation: Option<&'a BrokenReport>,
}

/// One item for each report; one at least.
fn items(news: &DeviceNews) -> impl Iterator<Item = NewsItem<'_>> {
    let bare = news.reports.is_empty().then_some(None);
    let reports = news.reports.iter().map(|(binding, report)| Some((&**binding, report)));
    bare.into_iter().chain(reports).enumerate().map(|(position, report)| NewsItem {
        news,
        report,
        violation: news.violation.as_ref().filter(|_| position == 0),
    })
}

impl Report {
    /// As it is stored.
    fn json(&self) -> String {
        let value = self.value.as_ref().map(|value| format!("\"value\":{value},"));
        let as_text = self.as_text.map(|why| format!("\"kept_as_text\":{},", json!(why)));
        let (value, as_text) = (value.unwrap_or_default(), as_text.unwrap_or_default());
        format!("{{{value}{as_text}\"at\":{},\"id\":{}}}", self.at_ms, json!(self.id))
    }
}

impl BrokenReport {
    /// As it is stored.
    fn json(&self) -> String {
        let Self { at_ms, binding, pointer, message } = self;
        json!({"at": at_ms, "binding": binding, "pointer": pointer, "message": message}).to_string()
    }
}

/// News as `fleetgate_write_reports` takes them: one array a column.
pub(super) struct NewsColumns<'a> {
    pub(super) device_ids: Vec<i64>,
    pub(super) stamps: Vec<Timestamp>,
    pub(super) seen: Vec<Option<Timestamp>>,
    pub(super) nodes: Vec<Option<&'a str>>,
    pub(super) bindings: Vec<Option<&'a str>>,
    pub(super) reports: Vec<Option<String>>,
    pub(super) violations: Vec<Option<String>>,
}

impl<'a> NewsColumns<'a> {
    /// # Errors
    /// Moments that are none.
    pub(super) fn new(all: &[&'a DeviceNews]) -> Result<Self, RegistryError> {
        let items: Vec<_> = all.iter().copied().flat_map(items).collect();
        let stamps = items.iter().map(|item| moment(item.news.stamp_ms));
        let seen = items.iter().map(|item| item.news.seen_ms.map(moment).transpose());
        Ok(Self {
            device_ids: items.iter().map(|item| item.news.device_id.0).collect(),
            stamps: stamps.collect::<Result<_, _>>()?,
            seen: seen.collect::<Result<_, _>>()?,
            nodes: items.iter().map(|item| item.news.node.as_deref()).collect(),
            bindings: items.iter().map(|item| item.report.map(|(binding, _)| binding)).collect(),
            reports: items
                .iter()
                .map(|item| item.report.map(|(_, report)| report.json()))
                .collect(),
            violations: items.iter().map(|item| item.violation.map(BrokenReport::json)).collect(),
        })
    }
}

/// Most bytes that one merged value takes with the stamps of its members.
const MOST_MERGED_BYTES: i32 = 512 * 1024;

/// Partial reports as `fleetgate_merge_reports` takes them: one array a column.
#[derive(Default)]
pub(super) struct PartialColumns<'a> {
    /// Every device of the batch, once there is anything to merge.
    pub(super) locked: Vec<i64>,
    pub(super) device_ids: Vec<i64>,
    pub(super) bindings: Vec<&'a str>,
    pub(super) patches: Vec<Option<&'a str>>,
    pub(super) stamps: Vec<i64>,
    pub(super) ids: Vec<&'a str>,
    pub(super) most_bytes: i32,
}

impl<'a> PartialColumns<'a> {
    pub(super) fn new(partials: &[(DeviceId, &'a Partial)], batch: &[i64]) -> Self {
        if partials.is_empty() {
            return Self::default();
        }
        Self {
            locked: batch.to_vec(),
            device_ids: partials.iter().map(|(device, _)| device.0).collect(),
            bindings: partials.iter().map(|(_, one)| &*one.binding).collect(),
            patches: partials.iter().map(|(_, one)| one.patch.as_deref()).collect(),
            stamps: partials.iter().map(|(_, one)| one.at_ms).collect(),
            ids: partials.iter().map(|(_, one)| &*one.id).collect(),
            most_bytes: MOST_MERGED_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_item_a_report_and_one_at_least() {
        let report = |id: &str| Report { at_ms: 1, id: id.into(), value: None, as_text: None };
        let broken = BrokenReport {
            at_ms: 1,
            binding: "c".into(),
            pointer: String::new(),
            message: "breaks it".to_owned(),
        };
        let bare = DeviceNews { violation: Some(broken), ..DeviceNews::new(DeviceId(7), 5) };
        let two = BTreeMap::from([("a".into(), report("0A")), ("b".into(), report("0B"))]);
        let full = DeviceNews { reports: two, seen_ms: Some(4), ..bare.clone() };
        let columns = NewsColumns::new(&[&bare, &full]).unwrap();
        assert_eq!(columns.device_ids, [7, 7, 7]);
        assert_eq!(columns.bindings, [None, Some("a"), Some("b")]);
        assert_eq!(columns.seen[0], None);
        let broken = columns.violations.iter().map(Option::is_some);
        assert_eq!(broken.collect::<Vec<_>>(), [true, true, false], "once an event");
    }
}
