//! Passwords and secrets of an import, and their hashes.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::thread::{self, available_parallelism};
use std::time::{Duration, Instant};

use super::foreign::{Entry, Login};
use super::line::{Credential, Item};
use crate::domain::foreign_hash::ForeignHash;
use crate::domain::name::DeviceName;
use crate::domain::password_hash::{Cost, HashMemory, hash_password};
use crate::fleet::credentials::generate_secret;
use crate::secret::{Secret, random_bytes};

/// Hashes the passwords of some entries, on all cores, and makes the secrets that they ask for. What was made is told, with
/// its device.
pub fn hash_logins(entries: &mut [&mut Entry]) -> Vec<(DeviceName, Secret)> {
    let threads = available_parallelism().map_or(1, NonZero::get);
    let share = entries.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let started: Vec<_> = entries
            .chunks_mut(share)
            .map(|some| scope.spawn(|| some.iter_mut().filter_map(|it| hash_login(it)).collect()))
            .collect();
        let made = started.into_iter().map(|thread| {
            let made: Vec<_> =
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            made
        });
        made.flatten().collect()
    })
}

fn hash_login(entry: &mut Entry) -> Option<(DeviceName, Secret)> {
    let Item::Device(device) = &mut entry.item else { return None };
    match std::mem::replace(&mut entry.login, Login::AsItIs) {
        Login::AsItIs => None,
        Login::Password(password) => {
            let hash = hash_password(password.expose().as_bytes(), &random_bytes(), Cost::Chosen);
            device.add_credential("password", hash);
            None
        }
        Login::Generate => {
            let (secret, hash) = generate_secret();
            device.add_credential("secret", hash);
            Some((device.name.clone(), secret))
        }
    }
}

/// How long one chosen password takes to hash here. Its hash is one that no password has, to stand for those of a dry run.
#[must_use]
pub fn measure_one() -> (Duration, String) {
    let begun = Instant::now();
    let hash = hash_password(&random_bytes::<32>(), &random_bytes(), Cost::Chosen);
    (begun.elapsed(), hash)
}

/// How long the passwords of an import take: to hash, and at the first login of each device.
#[derive(Default)]
pub struct Tally {
    /// What hashing one takes here.
    pub each_password: Duration,
    passwords: u32,
    /// By their kind: how many, and what checking one takes here.
    imported: BTreeMap<String, (u32, Duration)>,
}

impl Tally {
    /// Counts what an entry has.
    pub fn add(&mut self, entry: &Entry) {
        if let Login::Password(_) = entry.login {
            self.passwords += 1;
        }
        let Item::Device(device) = &entry.item else { return };
        for hash in device.credentials.iter().filter_map(Credential::foreign_hash) {
            let measured = || (0, measure(&hash));
            self.imported.entry(hash.description()).or_insert_with(measured).0 += 1;
        }
    }

    /// In words.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let mut told = Vec::new();
        if self.passwords > 0 {
            let threads =
                u32::try_from(available_parallelism().map_or(1, NonZero::get)).unwrap_or(1);
            let all = self.each_password * self.passwords / threads;
            told.push(format!(
                "hashing {} passwords takes {} here ({:.0} ms each, {threads} at a time)",
                self.passwords,
                rounded(all),
                self.each_password.as_secs_f64() * 1000.0,
            ));
        }
        for (kind, (count, each)) in &self.imported {
            told.push(format!(
                "first logins: {count} with {kind}, {:.2} ms each, together {} of one hash thread like this machine's",
                each.as_secs_f64() * 1000.0,
                rounded(*each * *count),
            ));
        }
        told
    }
}

/// How long checking a password against such a hash takes here.
fn measure(hash: &ForeignHash) -> Duration {
    let mut memory = HashMemory::default();
    let mut once = || {
        let begun = Instant::now();
        std::hint::black_box(hash.verify_with(b"a password like others", &mut memory));
        begun.elapsed()
    };
    let first = once();
    // A short time says nothing by itself.
    if first > Duration::from_millis(20) {
        first
    } else {
        (0..3).map(|_| once()).fold(first, Duration::min)
    }
}

fn rounded(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ 1..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
