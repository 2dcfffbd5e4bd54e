//! The order of sessions: which devices are online, whatever the order in which events arrive.
//!
//! # What it keeps
//! 1. A client id's row holds the newest session known of it. Sessions are ordered by when they began
//!    (`connected_at`, by the broker's clock, the same in both events of a session); within one session,
//!    open comes before ended. A row moves only forward along that order, in one SQL statement, so the
//!    final row depends on *which* events came, not on their order, number, or the replica that took
//!    them. The order is defined in one place: `fleetgate_session_order()` and
//!    `fleetgate_write_sessions()` of `sql/V4__presence.sql`, which puts a batch in
//!    order as well.
//! 2. A device is online exactly while one of its sessions is open. They are counted by triggers.
//! 3. What is heard of a device moves its `last_seen` forward, never back. What the broker concludes or
//!    says for the device (a keepalive that ran out, a kick-out, a take-over, a will) is not heard.
//! 4. A timestamp that is further ahead of when it was noted than clocks may differ is untrusted:
//!    whatever is trusted comes after it, and untrusted ones are in order among themselves. It is
//!    stored as it came, because it identifies the session, and displayed as no later than it was noted.
//! 5. An event under a client id that is not the device's own (`DeviceRecord::owns_client_id`) opens
//!    nothing and changes no session of another device. Its end closes the session it names, if that is the device's.
//! 6. Sessions that ended longer ago than `ingest.keep_sessions` are removed. Events older than that open
//!    nothing, so none comes back.
//!
//! # Races, and why each comes out right
//! - *A disconnect overtakes its connect*: the row becomes (began, ended) at once; the connect that
//!   follows is older and changes nothing.
//! - *An old session's disconnect comes after the new session's connect* (they run in different
//!   processes of EMQX): it began earlier, so it changes nothing.
//! - *A takeover*: the old session's end has the reason `takenover` or `discarded`. The client goes
//!   on, and some EMQX releases put a wrong `connected_at` there (emqx#13484), so these ends change no
//!   session at all. If the new session's connect is lost for ever, the sweep finds it.
//! - *An event comes twice*, before or after newer ones: it is not newer than what is known.
//! - *Two events of a client id in one batch*: the statement takes the later one by the same order.
//! - *Two replicas write the same client id*: the device's lock orders them, the second compares again.
//! - *Two replicas each close one of a service's two sessions*: each takes one from the count of the
//!   device's row, which is locked.
//! - *A client id passes from one device to another* (renamed in the registry): the newest session
//!   owns the row, and both devices' counts follow.
//! - *A device is deleted between its event's arrival and its write*: the event changes nothing.
//! - *A device is renamed while it is connected*: the disconnect carries the old name, which belongs to
//!   no device; the session stays open until the sweep closes it.
//! - *A sweep concludes an end, wrongly, and the connect it has missed arrives*: only an inferred end
//!   may be taken back, and only by the same session. An end that an event reports replaces it for good.
//! - *A broker's clock runs ahead*, and is put right: the next trusted event, and any sweep, takes the
//!   place of what came meanwhile. While it is ahead, its events change a row once that was not noted
//!   for longer than the tolerance, and the sweep repairs the others.
//! - *An untrusted event comes again after hours* (EMQX repeats what was not answered): its timestamp may
//!   be trusted by then, and it takes the place of sessions that began earlier. The next event of the
//!   client id comes after it, and the next sweep corrects it.
//! - *A broker node's clock jumps back*: sessions that began "earlier" change nothing until the clock
//!   has caught up; the sweep opens those that the broker lists.
//! - *Two sessions of one client within the same millisecond* look like one: its end ends both.
//!   The sweep repairs that too.
//! - *An event waits in EMQX for longer than sessions are kept*: a connect is not taken, and the sweep
//!   opens the session if it is still there; an end still closes the session it names.

use crate::domain::device::DeviceId;
use crate::domain::event::{EndCause, Event, EventKind};
use crate::registry::presence::SessionChange;

/// What an event means for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEffect {
    /// It began or ended.
    Change(SessionChange),
    /// It ended, but its client goes on in another one; the reason as metrics name it.
    TakenOver(&'static str),
    /// Nothing: the event is about a message.
    None,
}

/// What an event of a device means for one of its sessions. `owned`: whether the client id is the
/// device's own.
#[must_use]
pub fn session_effect(event: &Event<'_>, device_id: DeviceId, owned: bool) -> SessionEffect {
    let session = |connected_at, ended_at| {
        let client_id = event.client_id.clone().into_owned();
        SessionEffect::Change(SessionChange {
            client_id,
            device_id,
            connected_at,
            ended_at,
            inferred: false,
            owned,
        })
    };
    match &event.kind {
        EventKind::Connected { connected_at } => session(*connected_at, None),
        EventKind::Disconnected { connected_at, disconnected_at, cause } => match cause {
            EndCause::Closed | EndCause::Gone => session(*connected_at, Some(*disconnected_at)),
            EndCause::TakenOver => SessionEffect::TakenOver("takenover"),
            EndCause::Discarded => SessionEffect::TakenOver("discarded"),
        },
        EventKind::Published(_) | EventKind::Command(_) => SessionEffect::None,
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use jiff::Timestamp;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn session(client_id: &str, began: Timestamp, ended: Option<Timestamp>) -> SessionChange {
        SessionChange {
            client_id: client_id.to_owned(),
            device_id: DeviceId(1),
            connected_at: began,
            ended_at: ended,
            inferred: false,
            owned: true,
        }
    }

    #[test]
    fn a_takeover_ends_no_session() {
        let ended = |cause| Event {
            user_name: Some(Cow::Borrowed("a")),
            client_id: Cow::Borrowed("a"),
            node: None,
            kind: EventKind::Disconnected { connected_at: at(1), disconnected_at: at(2), cause },
        };
        let effect = |cause| session_effect(&ended(cause), DeviceId(1), true);
        assert_eq!(effect(EndCause::TakenOver), SessionEffect::TakenOver("takenover"));
        assert_eq!(effect(EndCause::Discarded), SessionEffect::TakenOver("discarded"));
        for cause in [EndCause::Gone, EndCause::Closed] {
            assert_eq!(effect(cause), SessionEffect::Change(session("a", at(1), Some(at(2)))));
        }
    }
}
