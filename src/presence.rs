//! The order of sessions: who is online, whatever the order in which events arrive.
//!
//! # What it keeps
//! 1. A client id's row holds the newest session known of it. Sessions are ordered by the moment they
//!    began (`connected_at`, by the broker's clock, the same in both events of a session); within one
//!    session, open comes before ended. A row moves only forward along that order, in one SQL
//!    statement (`sql/V6__event_batches.sql`), so the final row depends on *which* events came, not on their
//!    order, number, or the replica that took them.
//! 2. A device is online exactly while one of its sessions is open.
//! 3. Every event of a device moves its `last_seen` forward, never back.
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
//! - *Two events of a client id in one batch*: [`coalesce`] keeps the later one by the same order.
//! - *Two replicas write the same client id*: the row lock orders them, the second compares again.
//! - *Two replicas each close one of a service's two sessions*: the flag is computed after the device
//!   row is locked, so the second sees what the first committed.
//! - *A client id passes from one device to another* (renamed in the registry): the newest session
//!   owns the row, and the flags of both devices are computed anew. If the row passes to a third
//!   device between two statements, that device's flag waits for its next event or the sweep.
//! - *A device is deleted between its event's arrival and its write*: the event changes nothing.
//! - *A device is renamed while it is connected*: the disconnect carries the old name and is counted
//!   as nobody's; the session stays open until the sweep closes it.
//! - *A sweep concludes an end, wrongly, and the connect it has missed arrives*: only an inferred end
//!   may be taken back, and only by the same session. An end that was told replaces it for good.
//! - *A broker node's clock jumps back*: sessions that began "earlier" change nothing until the clock
//!   has caught up, or until the sweep repairs the row.
//! - *Two sessions of one client within the same millisecond* look like one: its end counts for both.
//!   The sweep repairs that too.

use std::borrow::Borrow;

use crate::domain::device::DeviceId;
use crate::domain::event::{EndCause, Event, Happening};
use crate::registry::presence::SessionMove;

/// What an event says of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It began or ended.
    Move(SessionMove),
    /// It ended, but its client goes on elsewhere; the reason as metrics name it.
    GoesOn(&'static str),
    /// Nothing: the event is about a message.
    Nothing,
}

/// What an event of a device says of one of its sessions.
#[must_use]
pub fn said(event: &Event<'_>, device_id: DeviceId) -> Said {
    let session = |connected_at_ms, ended_at_ms| {
        let client_id = event.client_id.clone().into_owned();
        Said::Move(SessionMove {
            client_id,
            device_id,
            connected_at_ms,
            ended_at_ms,
            inferred: false,
        })
    };
    match &event.happening {
        Happening::Connected { connected_at_ms } => session(*connected_at_ms, None),
        Happening::Disconnected { connected_at_ms, disconnected_at_ms, cause } => match cause {
            EndCause::Gone => session(*connected_at_ms, Some(*disconnected_at_ms)),
            EndCause::TakenOver => Said::GoesOn("takenover"),
            EndCause::Discarded => Said::GoesOn("discarded"),
        },
        Happening::Published(_) => Said::Nothing,
    }
}

/// The last move of each client id, in the order of client ids.
#[must_use]
pub fn coalesce<M: Borrow<SessionMove>>(moves: impl IntoIterator<Item = M>) -> Vec<M> {
    let mut moves: Vec<M> = moves.into_iter().collect();
    moves.sort_unstable_by(|one, other| {
        let (one, other) = (one.borrow(), other.borrow());
        one.client_id.cmp(&other.client_id).then_with(|| order(other).cmp(&order(one)))
    });
    moves.dedup_by(|again, last| {
        let (again, last): (&SessionMove, &SessionMove) = ((*again).borrow(), (*last).borrow());
        again.client_id == last.client_id
    });
    moves
}

/// Where a move stands: an inferred end gives way to what was told of the same session.
fn order(session: &SessionMove) -> (i64, u8, Option<i64>) {
    let stage = match (session.ended_at_ms, session.inferred) {
        (Some(_), true) => 0,
        (None, _) => 1,
        (Some(_), false) => 2,
    };
    (session.connected_at_ms, stage, session.ended_at_ms)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn session(client_id: &str, began: i64, ended: Option<i64>) -> SessionMove {
        SessionMove {
            client_id: client_id.to_owned(),
            device_id: DeviceId(1),
            connected_at_ms: began,
            ended_at_ms: ended,
            inferred: false,
        }
    }

    #[test]
    fn the_last_move_of_each_client_stays_in_any_order() {
        let moves = [
            session("a", 1, None),
            session("a", 1, Some(2)),
            session("a", 3, None),
            session("b", 1, Some(9)),
        ];
        let last = vec![session("a", 3, None), session("b", 1, Some(9))];
        assert_eq!(coalesce(moves.clone()), last);
        assert_eq!(coalesce(moves.into_iter().rev()), last);
    }

    #[test]
    fn what_was_told_wins_over_what_was_inferred() {
        let inferred = SessionMove { inferred: true, ..session("a", 1, Some(9)) };
        for told in [session("a", 1, None), session("a", 1, Some(2))] {
            let kept = vec![told.clone()];
            assert_eq!(coalesce([inferred.clone(), told.clone()]), kept);
            assert_eq!(coalesce([told, inferred.clone()]), kept);
        }
    }

    #[test]
    fn a_takeover_ends_no_session() {
        let ended = |cause| Event {
            user_name: Some(Cow::Borrowed("a")),
            client_id: Cow::Borrowed("a"),
            happening: Happening::Disconnected { connected_at_ms: 1, disconnected_at_ms: 2, cause },
        };
        let said = |cause| said(&ended(cause), DeviceId(1));
        assert_eq!(said(EndCause::TakenOver), Said::GoesOn("takenover"));
        assert_eq!(said(EndCause::Discarded), Said::GoesOn("discarded"));
        assert_eq!(said(EndCause::Gone), Said::Move(session("a", 1, Some(2))));
    }
}
