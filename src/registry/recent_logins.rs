//! Who was let in lately. An answer that was on its way to EMQX when a right was taken away opens its session after the kick-out;
//! who may have one is asked here ([`crate::kickouts`]).
//!
//! What it keeps:
//! * The newest login of each client id for [`REMEMBERED`] at least.
//! * No more than [`MOST`] of them twice over. Beyond that anybody may have been let in.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::name::DeviceName;

/// How long a login is remembered at least.
pub const REMEMBERED: Duration = Duration::from_secs(20);
/// Most client ids that are remembered of such a time.
const MOST: usize = 100_000;

/// See the module documentation.
pub struct RecentLogins {
    generations: Mutex<Generations>,
}

/// Logins since `began`, and those of the time before.
struct Generations {
    began: Instant,
    current: Generation,
    previous: Generation,
}

#[derive(Default)]
struct Generation {
    /// By client id.
    logins: HashMap<Box<str>, Login>,
    /// Whether some were left out.
    is_full: bool,
}

struct Login {
    device: DeviceName,
    at: Instant,
}

/// What is asked of a device: who was let in before this moment, and not again after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// The moment.
    pub moment: Instant,
    /// How long before it at most.
    pub at_most: Duration,
}

/// Who was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetIn {
    /// These client ids, each with its device.
    These(Vec<(String, DeviceName)>),
    /// There were too many to remember all.
    Anybody,
}

impl Default for RecentLogins {
    fn default() -> Self {
        let (current, previous) = Default::default();
        Self { generations: Mutex::new(Generations { began: Instant::now(), current, previous }) }
    }
}

impl RecentLogins {
    /// Notes a login that was decided at this moment.
    pub fn note(&self, client_id: &str, device: &DeviceName, at: Instant) {
        let mut generations = self.generations();
        generations.turn(at);
        let Generation { logins, is_full } = &mut generations.current;
        if let Some(login) = logins.get_mut(client_id) {
            (login.device, login.at) = (device.clone(), login.at.max(at));
        } else if logins.len() < MOST {
            logins.insert(client_id.into(), Login { device: device.clone(), at });
        } else {
            *is_full = true;
        }
    }

    /// The client ids of these devices whose newest login was before the device's moment.
    pub fn before(&self, devices: &BTreeMap<DeviceName, Before>, now: Instant) -> LetIn {
        let mut generations = self.generations();
        generations.turn(now);
        let Generations { current, previous, .. } = &*generations;
        if current.is_full || previous.is_full {
            return LetIn::Anybody;
        }
        let older = previous.logins.iter().filter(|(id, _)| !current.logins.contains_key(*id));
        let before = current.logins.iter().chain(older).filter(|(_, login)| {
            devices.get(&login.device).is_some_and(|Before { moment, at_most }| {
                login.at < *moment && moment.duration_since(login.at) <= *at_most
            })
        });
        LetIn::These(before.map(|(id, login)| (id.to_string(), login.device.clone())).collect())
    }

    /// Forgets these client ids.
    pub fn forget(&self, client_ids: &[&str]) {
        let mut generations = self.generations();
        for client_id in client_ids {
            generations.current.logins.remove(*client_id);
            generations.previous.logins.remove(*client_id);
        }
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    /// Forgets what is older than is remembered.
    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.began);
        if passed < REMEMBERED {
            return;
        }
        let current = std::mem::take(&mut self.current);
        self.previous = if passed < 2 * REMEMBERED { current } else { Generation::default() };
        self.began = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn name(text: &str) -> DeviceName {
        text.parse().unwrap()
    }

    fn before(logins: &RecentLogins, moment: Instant, now: Instant) -> Vec<String> {
        let asked = Before { moment, at_most: 6 * SECOND };
        let devices = BTreeMap::from([(name("a"), asked), (name("s"), asked)]);
        let LetIn::These(these) = logins.before(&devices, now) else { panic!("anybody") };
        let mut ids: Vec<String> = these.into_iter().map(|(id, _)| id).collect();
        ids.sort();
        ids
    }

    #[test]
    fn who_was_let_in_before_and_not_again_is_told() {
        let logins = RecentLogins::default();
        let begin = Instant::now();
        let at = |seconds| begin + seconds * SECOND;
        logins.note("a", &name("a"), at(1));
        logins.note("s:1", &name("s"), at(2));
        logins.note("s:2", &name("s"), at(2));
        logins.note("other", &name("other"), at(2));
        assert_eq!(before(&logins, at(3), at(4)), ["a", "s:1", "s:2"]);
        assert_eq!(before(&logins, at(2), at(4)), ["a"], "those were let in later");
        assert_eq!(before(&logins, at(8), at(9)), ["s:1", "s:2"], "too long ago");
        logins.note("s:1", &name("s"), at(5));
        assert_eq!(before(&logins, at(3), at(6)), ["a", "s:2"], "it was let in again");
        logins.forget(&["a"]);
        assert_eq!(before(&logins, at(3), at(6)), ["s:2"]);
    }

    #[test]
    fn a_login_is_remembered_long_enough_and_not_for_ever() {
        let logins = RecentLogins::default();
        let begin = Instant::now();
        let at = |seconds| begin + seconds * SECOND;
        logins.note("a", &name("a"), at(19));
        logins.note("s", &name("s"), at(21));
        assert_eq!(before(&logins, at(22), at(38)), ["a", "s"]);
        logins.note("a", &name("a"), at(23));
        assert_eq!(before(&logins, at(22), at(38)), ["s"], "in the time after");
        assert_eq!(before(&logins, at(24), at(200)), <[&str; 0]>::default());
    }

    #[test]
    fn beyond_the_bound_it_may_be_anybody() {
        let logins = RecentLogins::default();
        let begin = Instant::now();
        for number in 0..=MOST {
            logins.note(&format!("s:{number}"), &name("s"), begin);
        }
        let asked = Before { moment: begin + SECOND, at_most: SECOND };
        let devices = BTreeMap::from([(name("a"), asked)]);
        assert_eq!(logins.before(&devices, begin + SECOND), LetIn::Anybody);
        let later = begin + 3 * REMEMBERED;
        assert_eq!(logins.before(&devices, later), LetIn::These(Vec::new()));
    }
}
