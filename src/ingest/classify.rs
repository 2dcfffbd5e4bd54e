//! Whose event it is, and what it changes.

use std::collections::BTreeMap;

use serde_json::json;

use crate::domain::availability::Availability;
use crate::domain::device::{DeviceId, DeviceRecord};
use crate::domain::event::{Event, EventKind, Message};
use crate::domain::name::{BindingName, check_name};
use crate::domain::rights::{AVAILABILITY, ReportedBinding};
use crate::domain::schema::Violation;
use crate::domain::value::{AsText, StateValue};
use crate::ingest::{Change, Ingest, IngestError};
use crate::presence::{SessionEffect, session_effect};
use crate::registry::reports::{DeviceUpdate, Partial, Report, ViolationReport};

/// What became of an event that was dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IngestOutcome {
    /// What it says is committed.
    Written,
    /// Only that the device was heard is committed.
    Seen,
    /// No device has its user name.
    NoDevice,
    /// A service's message, which says nothing about a device.
    Service,
    /// A report with a payload over the limit; the device was heard.
    TooLarge,
    /// A report that breaks its capability's schema; that is committed instead.
    Violation,
    /// It came under a client id that is not the device's own.
    ForeignClientId,
    /// The device is disabled.
    Disabled,
    /// What became of a message that is no command of this device.
    NoDelivery,
    /// A service's request for a command; it is committed.
    Request,
    /// A service's request for a command that it may not ask for.
    NotEntitled,
    /// A service's request for a command, while too many of it wait. It is dropped.
    TooManyRequests,
}

impl IngestOutcome {
    /// The outcome as metrics name it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Seen => "seen",
            Self::NoDevice => "no_device",
            Self::Service => "service",
            Self::TooLarge => "too_large",
            Self::Violation => "violation",
            Self::ForeignClientId => "foreign_client_id",
            Self::Disabled => "disabled",
            Self::NoDelivery => "no_delivery",
            Self::Request => "request",
            Self::NotEntitled => "not_entitled",
            Self::TooManyRequests => "too_many_requests",
        }
    }
}

impl Ingest {
    pub(super) async fn classify(
        &self,
        event: Event<'_>,
    ) -> Result<(IngestOutcome, Option<Change>), IngestError> {
        let Some(user_name) = &event.user_name else { return Ok((IngestOutcome::NoDevice, None)) };
        let Some(device) = self.devices.find(user_name).await? else {
            return Ok((IngestOutcome::NoDevice, None));
        };
        let owned = device.owns_client_id(&event.client_id);
        if !owned || !device.enabled {
            return Ok(unentitled(&device, &event, owned));
        }
        let update = update(&device, &event);
        if let EventKind::Published(message) = event.kind {
            return self.classify_message(&device, message, update).await;
        }
        let (outcome, session) = match session_effect(&event, device.id, owned) {
            SessionEffect::Change(session) => (IngestOutcome::Written, Some(session)),
            SessionEffect::TakenOver(reason) => self.stale(reason),
            SessionEffect::None => (IngestOutcome::Seen, None),
        };
        Ok((outcome, Some(Change { session, updates: vec![update] })))
    }

    fn stale<T>(&self, reason: &str) -> (IngestOutcome, Option<T>) {
        self.metrics.stale(reason, 1);
        (IngestOutcome::Seen, None)
    }

    async fn classify_message(
        &self,
        device: &DeviceRecord,
        message: Message<'_>,
        heard: DeviceUpdate,
    ) -> Result<(IngestOutcome, Option<Change>), IngestError> {
        if device.kind.is_service() {
            let request = self.take_request(device, &message).await?;
            return Ok((request.unwrap_or(IngestOutcome::Service), None));
        }
        if device.rights.replies_on(&message.topic) {
            self.note_reply(device, &message).await?;
        }
        let mut updates = Updates::new(heard);
        let payload = message.payload.as_deref().filter(|bytes| bytes.len() <= self.max_payload);
        let mut value = None;
        let mut outcome = IngestOutcome::Seen;
        for reported in device.rights.reported_bindings(&message.topic) {
            let update = updates.of(reported.child.unwrap_or(device.id));
            let Some(payload) = payload else {
                let broken = || self.too_large(&reported.binding, &message);
                update.violation.get_or_insert_with(broken);
                outcome = IngestOutcome::TooLarge;
                continue;
            };
            let value = value.get_or_insert_with(|| StateValue::read(payload)).as_ref();
            if !self.report(update, reported, &message, value).await? {
                outcome = IngestOutcome::Violation;
            } else if outcome == IngestOutcome::Seen {
                outcome = IngestOutcome::Written;
            }
        }
        if let Some(payload) = payload
            && let Some(report) = availability(&message, payload)
        {
            for child in device.rights.availability_of(&message.topic) {
                let (report, is_available) = report.clone();
                updates.add_availability(*child, report, is_available);
                outcome = IngestOutcome::Written;
            }
        }
        Ok((outcome, Some(Change { session: None, updates: updates.all() })))
    }

    fn too_large(&self, binding: &str, message: &Message<'_>) -> ViolationReport {
        let most = self.max_payload;
        let size = message.payload.as_ref().map(|payload| format!(" ({} bytes)", payload.len()));
        ViolationReport {
            at: message.received_at,
            binding: binding.into(),
            pointer: String::new(),
            message: format!(
                "is too large to be stored{}: ingest.max_payload is {most} bytes",
                size.unwrap_or_default()
            ),
        }
    }

    /// Adds a report to the update, or the violation that it is; `false` for the latter. A schema validates
    /// the report as it came, of a binding that merges too.
    async fn report(
        &self,
        update: &mut DeviceUpdate,
        reported: &ReportedBinding,
        message: &Message<'_>,
        value: Option<&StateValue>,
    ) -> Result<bool, IngestError> {
        let binding = &reported.binding;
        let violation = match value {
            Some(value) if **binding != *BindingName::MAIN => {
                self.schemas.find_violation(binding, value.schema_input()).await?
            }
            _ => None,
        };
        let added = violation.map_or(Ok(()), Err).and_then(|()| {
            if reported.merge {
                let patch = value.map(StateValue::merge_patch).transpose();
                let patch = patch.map_err(Violation::of_all)?;
                let members = value.map_or(0, StateValue::patch_members);
                update.partials.push(partial(binding, message, patch, members));
            } else {
                update.reports.insert(binding.clone(), report(message, value));
            }
            Ok(())
        });
        let Err(violation) = added else { return Ok(true) };
        let broken = ViolationReport {
            at: message.received_at,
            binding: binding.clone(),
            pointer: violation.pointer,
            message: violation.message,
        };
        update.violation = update.violation.take().max(Some(broken));
        Ok(false)
    }
}

/// What one message changes: first of the device that it comes from, then of the children that it is about.
struct Updates {
    own: DeviceUpdate,
    children: BTreeMap<DeviceId, DeviceUpdate>,
}

impl Updates {
    fn new(own: DeviceUpdate) -> Self {
        Self { own, children: BTreeMap::new() }
    }

    /// The update of a device, which was heard by the same message.
    fn of(&mut self, device: DeviceId) -> &mut DeviceUpdate {
        if device == self.own.device_id {
            return &mut self.own;
        }
        let seen_at = self.own.seen_at;
        let update = self.of_child(device);
        update.seen_at = seen_at;
        update
    }

    /// The gateway says it; that is not hearing the child.
    fn add_availability(&mut self, child: DeviceId, report: Report, is_available: bool) {
        let update = self.of_child(child);
        update.reports.insert(AVAILABILITY.into(), report);
        update.is_available = is_available;
    }

    fn of_child(&mut self, child: DeviceId) -> &mut DeviceUpdate {
        let Self { own, children } = self;
        children.entry(child).or_insert_with(|| DeviceUpdate {
            node: own.node.clone(),
            ..DeviceUpdate::new(child, own.timestamp)
        })
    }

    fn all(self) -> Vec<DeviceUpdate> {
        std::iter::once(self.own).chain(self.children.into_values()).collect()
    }
}

/// What a message on an availability topic says, as it is stored, and whether the child may be there. An empty one takes
/// back what was said.
fn availability(message: &Message<'_>, payload: &[u8]) -> Option<(Report, bool)> {
    let state = match payload {
        [] => None,
        payload => Some(Availability::read(payload)?),
    };
    let value = state.map(|state| json!({"topic": message.topic, "state": state.word()}));
    let report = Report {
        at: message.received_at,
        id: message.id.as_ref().into(),
        value: value.map(|value| value.to_string().into()),
        as_text: None,
    };
    Some((report, state != Some(Availability::Offline)))
}

fn report(message: &Message<'_>, value: Option<&StateValue>) -> Report {
    Report {
        at: message.received_at,
        id: message.id.as_ref().into(),
        value: value.map(|value| value.json().into()),
        as_text: value.and_then(StateValue::as_text).map(AsText::why),
    }
}

fn partial(binding: &str, message: &Message<'_>, patch: Option<&str>, members: usize) -> Partial {
    Partial {
        binding: binding.into(),
        at: message.received_at,
        id: message.id.as_ref().into(),
        patch: patch.map(Into::into),
        members,
    }
}

/// What an event says of its device before its payload is looked at.
fn update(device: &DeviceRecord, event: &Event<'_>) -> DeviceUpdate {
    DeviceUpdate {
        seen_at: event.heard_at(),
        node: event.node.as_deref().map(Into::into),
        ..DeviceUpdate::new(device.id, event.latest_timestamp())
    }
}

/// What becomes of an event of a device that is disabled, or under a client id that is not its own:
/// nothing, except that a session which ended has ended. The client id may have been the device's own
/// when the session began.
fn unentitled(
    device: &DeviceRecord,
    event: &Event<'_>,
    owned: bool,
) -> (IngestOutcome, Option<Change>) {
    let outcome = if owned { IngestOutcome::Disabled } else { IngestOutcome::ForeignClientId };
    let ended = match session_effect(event, device.id, owned) {
        SessionEffect::Change(session) if session.ended_at.is_some() => Some(session),
        _ => None,
    };
    // Nobody has a session under a client id that is not a name.
    let ended = ended.filter(|session| check_name(&session.client_id).is_ok());
    (outcome, ended.map(|session| Change { session: Some(session), updates: Vec::new() }))
}
