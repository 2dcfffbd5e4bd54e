//! Devices whose events took too long to be written, so that they hold up no others when they come again.
//!
//! What it keeps: at most [`KEPT`] devices, each for [`REMEMBERED`]; one writer at a time tries their events.
//! A device that is forgotten too early costs its next batch a few time-outs, no more.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::device::DeviceId;
use crate::ingest::Submission;

const KEPT: usize = 64;
const REMEMBERED: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct SlowDevices {
    /// With when each was last added, the oldest first.
    known: Mutex<Vec<(DeviceId, Instant)>>,
    turn: tokio::sync::Mutex<()>,
}

impl SlowDevices {
    /// A device whose event took too long although it was alone.
    pub(super) fn add(&self, device: Option<DeviceId>) {
        let Some(device) = device else { return };
        let mut known = self.known();
        known.retain(|(known, _)| *known != device);
        if known.len() >= KEPT {
            known.remove(0);
        }
        known.push((device, Instant::now()));
    }

    /// Devices whose events were written.
    pub(super) fn remove(&self, written: &[Submission]) {
        let mut known = self.known();
        if !known.is_empty() {
            known.retain(|(device, _)| {
                !written.iter().any(|one| one.change.device() == Some(*device))
            });
        }
    }

    /// The events of other devices, and those of these.
    pub(super) fn part(&self, all: Vec<Submission>) -> (Vec<Submission>, Vec<Submission>) {
        let mut known = self.known();
        known.retain(|(_, added)| added.elapsed() < REMEMBERED);
        if known.is_empty() {
            return (all, Vec::new());
        }
        all.into_iter().partition(|submission| {
            !known.iter().any(|(device, _)| submission.change.device() == Some(*device))
        })
    }

    /// The turn to try their events; `None` while another writer has it.
    pub(super) fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.turn.try_lock().ok()
    }

    fn known(&self) -> MutexGuard<'_, Vec<(DeviceId, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::queue::tests::submission;

    #[test]
    fn they_are_set_apart_until_they_are_written_and_are_few() {
        let slow = SlowDevices::default();
        let sizes = |slow: &SlowDevices| {
            let (others, slow) = slow.part(vec![submission(1), submission(2)]);
            (others.len(), slow.len())
        };
        assert_eq!(sizes(&slow), (2, 0));
        slow.add(Some(DeviceId(2)));
        assert_eq!(sizes(&slow), (1, 1));
        slow.remove(&[submission(2)]);
        assert_eq!(sizes(&slow), (2, 0));
        slow.add(Some(DeviceId(1)));
        for device in 100..100 + KEPT as i64 {
            slow.add(Some(DeviceId(device)));
        }
        assert_eq!(sizes(&slow), (2, 0), "the oldest was forgotten");
        assert_eq!(slow.known().len(), KEPT);
    }

    #[test]
    fn one_writer_at_a_time_tries_them() {
        let slow = SlowDevices::default();
        let turn = slow.turn();
        assert!(turn.is_some() && slow.turn().is_none());
        drop(turn);
        assert!(slow.turn().is_some());
    }
}
