//! What devices report: last seen, last known values, the last violation (`device_state`). What is
//! written, and how, is `fleetgate_write_news` of `sql/V6__event_batches.sql`.
//!
//! The order of reports is (time, message id in bytes), of violations (time, binding, pointer,
//! message). [`merge`] and the functions in `sql/V4__presence_and_state.sql` keep the same order, so that
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

/// A report that is merged into the last known value; see `sql/V11__merged_reports.sql`.
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
    /// Reports of bindings that merge, all of them: none of them stands for another.
    pub partials: Vec<Partial>,
    /// The newest violation.
    pub violation: Option<BrokenReport>,
}

impl DeviceNews {
    /// News that the device was heard, and nothing more.
    #[must_use]
    pub fn seen(device_id: DeviceId, seen_ms: i64) -> Self {
        Self { device_id, seen_ms, reports: BTreeMap::new(), partials: Vec::new(), violation: None }
    }
}

/// News of one device with one report at most: an element of what `fleetgate_write_news` takes.
#[derive(Debug, Clone, PartialEq)]
pub struct NewsItem<'a> {
    device_id: DeviceId,
    seen_ms: i64,
    report: Option<(&'a str, &'a Report)>,
    violation: Option<&'a BrokenReport>,
    /// Which of the device's items it is, from 1: PostgreSQL writes a row once a statement.
    turn: i32,
}

/// What is newest of each device and, where there are several, of each binding; in the order of device
/// ids, which is the order of locks.
#[must_use]
pub fn merge<'a>(news: impl IntoIterator<Item = &'a DeviceNews>) -> Vec<NewsItem<'a>> {
    let mut by_device = BTreeMap::<DeviceId, Newest<'a>>::new();
    for news in news {
        by_device.entry(news.device_id).or_insert_with(|| Newest::of(news.seen_ms)).absorb(news);
    }
    let mut items = Vec::with_capacity(by_device.len());
    for (device_id, newest) in by_device {
        newest.add_items(device_id, &mut items);
    }
    items
}

struct Newest<'a> {
    seen_ms: i64,
    reports: Vec<(&'a str, &'a Report)>,
    violation: Option<&'a BrokenReport>,
}

impl<'a> Newest<'a> {
    fn of(seen_ms: i64) -> Self {
        Self { seen_ms, reports: Vec::new(), violation: None }
    }

    fn absorb(&mut self, news: &'a DeviceNews) {
        self.seen_ms = self.seen_ms.max(news.seen_ms);
        self.violation = self.violation.max(news.violation.as_ref());
        for (binding, report) in &news.reports {
            match self.reports.iter_mut().find(|(known, _)| *known == &**binding) {
                Some((_, known)) if report.order() > known.order() => *known = report,
                Some(_) => {}
                None => self.reports.push((binding, report)),
            }
        }
    }

    fn add_items(self, device_id: DeviceId, items: &mut Vec<NewsItem<'a>>) {
        let Self { seen_ms, reports, violation } = self;
        let item = |report, turn| NewsItem { device_id, seen_ms, report, violation, turn };
        if reports.is_empty() {
            items.push(item(None, 1));
        }
        items.extend(reports.into_iter().zip(1..).map(|(report, turn)| item(Some(report), turn)));
    }
}

impl Report {
    fn order(&self) -> (i64, &str) {
        (self.at_ms, &self.id)
    }

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

/// News as `fleetgate_write_news` takes them: one array a column.
pub(super) struct NewsColumns<'a> {
    pub(super) device_ids: Vec<i64>,
    pub(super) seen: Vec<Timestamp>,
    pub(super) bindings: Vec<Option<&'a str>>,
    pub(super) reports: Vec<Option<String>>,
    pub(super) violations: Vec<Option<String>>,
    pub(super) turns: Vec<i32>,
}

impl<'a> NewsColumns<'a> {
    /// # Errors
    /// Moments that are none.
    pub(super) fn new(items: &[NewsItem<'a>]) -> Result<Self, RegistryError> {
        let seen = items.iter().map(|item| moment(item.seen_ms));
        Ok(Self {
            device_ids: items.iter().map(|item| item.device_id.0).collect(),
            seen: seen.collect::<Result<_, _>>()?,
            bindings: items.iter().map(|item| item.report.map(|(binding, _)| binding)).collect(),
            reports: items
                .iter()
                .map(|item| item.report.map(|(_, report)| report.json()))
                .collect(),
            violations: items.iter().map(|item| item.violation.map(BrokenReport::json)).collect(),
            turns: items.iter().map(|item| item.turn).collect(),
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

    fn news(device: i64, at_ms: i64, reports: &[(&str, &str)]) -> DeviceNews {
        let report = |id: &str| Report { at_ms, id: id.into(), value: None, as_text: None };
        let reports = reports.iter().map(|(binding, id)| ((*binding).into(), report(id)));
        DeviceNews { reports: reports.collect(), ..DeviceNews::seen(DeviceId(device), at_ms) }
    }

    /// `device seen binding id turn` of each item.
    fn shown(items: &[NewsItem<'_>]) -> Vec<String> {
        let shown = |item: &NewsItem<'_>| {
            let (binding, id) = item.report.map_or(("-", "-"), |(name, report)| (name, &report.id));
            format!("{} {} {binding} {id} {}", item.device_id.0, item.seen_ms, item.turn)
        };
        items.iter().map(shown).collect()
    }

    #[test]
    fn the_newest_report_of_each_binding_stays_in_any_order() {
        let all = [
            news(2, 5, &[("a", "0A")]),
            news(2, 5, &[("a", "0B")]),
            news(2, 4, &[("a", "0F"), ("b", "01")]),
            news(1, 3, &[]),
            news(2, 9, &[]),
        ];
        let merged = merge(&all);
        assert_eq!(shown(&merged), ["1 3 - - 1", "2 9 a 0B 1", "2 9 b 01 2"]);
        let mut rotated = all.to_vec();
        rotated.rotate_left(2);
        assert_eq!(shown(&merge(&rotated)), ["1 3 - - 1", "2 9 a 0B 1", "2 9 b 01 2"]);
    }

    #[test]
    fn the_newest_violation_stays() {
        let broken = |at_ms, pointer: &str| {
            let (pointer, message) = (pointer.to_owned(), String::new());
            let violation = Some(BrokenReport { at_ms, binding: "a".into(), pointer, message });
            DeviceNews { violation, ..DeviceNews::seen(DeviceId(1), at_ms) }
        };
        let all = [broken(2, "/b"), broken(2, "/c"), broken(1, "/d"), news(1, 7, &[])];
        let merged = merge(&all);
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].violation, all[1].violation.as_ref());
    }
}
