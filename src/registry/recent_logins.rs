//! Who was let in lately. An answer that was on its way to EMQX when a right was taken away opens its session after the kick-out;
//! who may have one is asked here ([`crate::kickouts`]).
//!
//! What it keeps:
//! * The newest login of each client id for [`REMEMBERED`] at least.
//! * No more than [`MOST`] of them twice over. Beyond that it is not known who was let in.
//! * A login waits for another one's note, or for a look at the devices that were kicked out lately: for microseconds.

use std::collections::BTreeMap;
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
    /// The newest of each client id, by device.
    logins: BTreeMap<(DeviceName, Box<str>), Instant>,
    /// Whether some were left out.
    is_full: bool,
}

/// A login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentLogin {
    /// Who.
    pub device: DeviceName,
    /// By which client id.
    pub client_id: Box<str>,
    /// When it was decided.
    pub at: Instant,
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
        let key = (device.clone(), client_id.into());
        let mut generations = self.generations();
        let forgotten = generations.turn(at);
        let Generation { logins, is_full } = &mut generations.current;
        if logins.len() < MOST || logins.contains_key(&key) {
            logins.entry(key).and_modify(|newest| *newest = at.max(*newest)).or_insert(at);
        } else {
            *is_full = true;
        }
        // Others need not wait while it is dropped.
        drop(generations);
        drop(forgotten);
    }

    /// The newest login of each client id of these devices; `None`: there were too many to remember all.
    pub fn of<'a>(
        &self,
        devices: impl Iterator<Item = &'a DeviceName>,
        now: Instant,
    ) -> Option<Vec<RecentLogin>> {
        let forgotten = self.generations().turn(now);
        drop(forgotten);
        let mut found = Vec::new();
        for device in devices {
            // Anew for each, so that logins wait for one at most.
            let generations = self.generations();
            let Generations { current, previous, .. } = &*generations;
            if current.is_full || previous.is_full {
                return None;
            }
            let begin = (device.clone(), Box::<str>::default());
            let of_device = |generation: &'_ Generation| {
                let from = generation.logins.range(begin.clone()..);
                let logins = from.take_while(|((of, _), _)| of == device);
                logins.map(|((_, id), at)| (id.clone(), *at)).collect::<BTreeMap<_, _>>()
            };
            let mut logins = of_device(previous);
            logins.extend(of_device(current));
            let login = |(client_id, at)| RecentLogin { device: device.clone(), client_id, at };
            found.extend(logins.into_iter().map(login));
        }
        Some(found)
    }

    /// Forgets a login.
    pub fn forget(&self, login: &RecentLogin) {
        let key = (login.device.clone(), login.client_id.clone());
        let mut generations = self.generations();
        generations.current.logins.remove(&key);
        generations.previous.logins.remove(&key);
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    /// Takes out what is older than is remembered.
    fn turn(&mut self, now: Instant) -> Generation {
        let passed = now.saturating_duration_since(self.began);
        if passed < REMEMBERED {
            return Generation::default();
        }
        self.began = now;
        let current = std::mem::take(&mut self.current);
        if passed < 2 * REMEMBERED {
            return std::mem::replace(&mut self.previous, current);
        }
        // Long ago: both.
        self.previous = Generation::default();
        current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn name(text: &str) -> DeviceName {
        text.parse().unwrap()
    }

    /// Client ids of `a` and `s` with the seconds of their logins.
    fn logins(logins: &RecentLogins, begin: Instant, now: u32) -> Vec<(String, u64)> {
        let devices = [name("a"), name("s")];
        let found = logins.of(devices.iter(), begin + now * SECOND).unwrap();
        let told = |login: RecentLogin| {
            (login.client_id.to_string(), login.at.duration_since(begin).as_secs())
        };
        found.into_iter().map(told).collect()
    }

    #[test]
    fn the_newest_login_of_each_client_id_is_told() {
        let recent = RecentLogins::default();
        let begin = Instant::now();
        for (client_id, device, second) in
            [("a", "a", 1), ("s:1", "s", 2), ("s:2", "s", 2), ("s", "sa", 3), ("s:1", "s", 5)]
        {
            recent.note(client_id, &name(device), begin + second * SECOND);
        }
        let told = [("a".to_owned(), 1), ("s:1".to_owned(), 5), ("s:2".to_owned(), 2)];
        assert_eq!(logins(&recent, begin, 6), told);
        let all = recent.of([name("a")].iter(), begin).unwrap();
        recent.forget(&all[0]);
        assert_eq!(logins(&recent, begin, 6), told[1..]);
    }

    #[test]
    fn a_login_is_remembered_long_enough_and_not_for_ever() {
        let recent = RecentLogins::default();
        let begin = Instant::now();
        recent.note("a", &name("a"), begin + 19 * SECOND);
        recent.note("s", &name("s"), begin + 21 * SECOND);
        assert_eq!(logins(&recent, begin, 38), [("a".to_owned(), 19), ("s".to_owned(), 21)]);
        recent.note("a", &name("a"), begin + 23 * SECOND);
        assert_eq!(logins(&recent, begin, 38), [("a".to_owned(), 23), ("s".to_owned(), 21)]);
        assert_eq!(logins(&recent, begin, 200), []);
    }

    #[test]
    fn beyond_the_bound_not_all_are_known() {
        let recent = RecentLogins::default();
        let begin = Instant::now();
        for number in 0..=MOST {
            recent.note(&format!("s:{number}"), &name("s"), begin);
        }
        assert_eq!(recent.of([name("a")].iter(), begin + SECOND), None);
        assert_eq!(recent.of([name("a")].iter(), begin + 3 * REMEMBERED), Some(Vec::new()));
    }
}
