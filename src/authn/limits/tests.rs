use super::softlock::DELAYS_SECONDS;
use super::*;
use crate::registry::locks::{LockNotice, LockRow, LockScope};
use jiff::SignedDuration;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);
const SECOND: SignedDuration = SignedDuration::from_secs(1);

fn limits_with(exempt: &[&str]) -> Limits {
    let exempt = exempt.iter().map(|network| network.parse().unwrap()).collect();
    let settings = LimitSettings { enabled: true, exempt };
    Limits::new(settings, crate::metrics::Metrics::new().unwrap().limits)
}

fn limits() -> Limits {
    limits_with(&[])
}

/// A guess of a password with this digest.
struct Try(DeviceName, Option<Address>, u64);

fn guess(name: &str, address: &str, digest: u64) -> Try {
    Try(name.parse().unwrap(), Address::of_peer(address), digest)
}

impl Try {
    fn guess(&self) -> Guess<'_> {
        Guess { name: &self.0, address: self.1, digest: self.2 }
    }

    /// Whether it is hashed; it is wrong if so.
    fn is_hashed(&self, limits: &Limits, now: Timestamp) -> bool {
        let hashed = matches!(limits.admit(&self.guess(), now), Admission::Hash(_));
        if hashed {
            limits.failed(&self.guess(), now);
        }
        hashed
    }
}

#[test]
fn guesses_at_one_device_from_one_address_wait_longer_and_longer() {
    let limits = limits();
    let (mut now, mut digest) = (NOW, 0);
    let mut next = || {
        digest += 1;
        guess("d", "192.0.2.7", digest)
    };
    for delay in DELAYS_SECONDS.map(SignedDuration::from_secs) {
        assert!(next().is_hashed(&limits, now));
        let early = now + delay - SignedDuration::from_micros(1);
        assert!(!next().is_hashed(&limits, early), "{delay}");
        now += delay;
    }
    assert!(next().is_hashed(&limits, now));
    // Neither another device there nor this device elsewhere is touched.
    assert!(guess("other", "192.0.2.7", 1).is_hashed(&limits, now));
    assert!(guess("d", "192.0.2.8", 1).is_hashed(&limits, now));
}

#[test]
fn the_same_wrong_password_again_is_no_new_guess() {
    let limits = limits();
    let saved = guess("d", "192.0.2.7", 77);
    assert!(saved.is_hashed(&limits, NOW));
    // Ten clients, every second, for ten minutes.
    for second in 0..600 {
        for _ in 0..10 {
            let admission = limits.admit(&saved.guess(), NOW + SECOND * second);
            assert!(matches!(admission, Admission::KnownWrong));
        }
    }
    let corrected = guess("d", "192.0.2.7", 78);
    let admission = limits.admit(&corrected.guess(), NOW + SECOND);
    assert!(matches!(admission, Admission::Hash(_)), "after a second, whatever they do");
}

#[test]
fn a_right_password_ends_what_came_before() {
    let limits = limits();
    for digest in 0..3 {
        limits.failed(&guess("d", "192.0.2.7", digest).guess(), NOW);
    }
    let right = guess("d", "192.0.2.7", 9);
    assert!(matches!(limits.admit(&right.guess(), NOW), Admission::Refused));
    limits.succeeded(&right.guess(), NOW);
    assert!(matches!(limits.admit(&right.guess(), NOW), Admission::Hash(_)));
    assert_eq!(limits.locked(NOW), (0, 0));
}

#[test]
fn an_address_that_tries_many_names_waits_unless_many_devices_share_it() {
    let limits = limits();
    let tried = |count: u64, from: u64| {
        (from..from + count)
            .filter(|n| guess(&format!("made-up-{n}"), "192.0.2.7", *n).is_hashed(&limits, NOW))
            .count()
    };
    assert_eq!(tried(100, 0), 21, "twenty free ones, and the one that locks");
    for n in 0..=shared::DEVICES {
        limits.logged_in(Address::of_peer("192.0.2.7"), &format!("real-{n}"), NOW);
    }
    assert_eq!(limits.shared(NOW), 1);
    assert_eq!(tried(100, 1000), 100, "no limit by address where it is shared");
    // The IPv6 addresses of one /64 are one.
    let hashed = (0..100_u64).filter(|n| {
        guess(&format!("m{n}"), &format!("2001:db8::{n:x}"), *n).is_hashed(&limits, NOW)
    });
    assert_eq!(hashed.count(), 21);
}

#[test]
fn all_addresses_together_have_a_rate_a_device_and_lock_nothing() {
    let limits = limits();
    let from = |n: i32, now| {
        let address = format!("10.{}.{}.{}", n / 65536, n / 256 % 256, n % 256);
        guess("d", &address, 1).is_hashed(&limits, now)
    };
    assert_eq!((0..1000).filter(|n| from(*n, NOW)).count(), 20);
    let later = (0..1000).filter(|n| from(1000 + n, NOW + SECOND * 60 * *n / 1000)).count();
    assert_eq!(later, 9, "ten a minute from then on");
    assert!(guess("other", "10.0.0.1", 1).is_hashed(&limits, NOW));
    // Without an address there is only the rate.
    let unknown = (0..100).filter(|n| guess("x", "undefined", *n).is_hashed(&limits, NOW)).count();
    assert_eq!(unknown, 20);
}

#[test]
fn exempt_networks_have_no_limit_by_address() {
    let limits = limits_with(&["10.0.0.0/8"]);
    let hashed = (0..100).filter(|n| guess("d", "10.1.2.3", *n).is_hashed(&limits, NOW)).count();
    assert_eq!(hashed, 20, "only the rate of the device");
    let names =
        (0..100).filter(|n| guess(&format!("n{n}"), "10.1.2.3", *n).is_hashed(&limits, NOW));
    assert_eq!(names.count(), 100);
}

#[test]
fn limits_can_be_off() {
    let settings = LimitSettings { enabled: false, exempt: Vec::new() };
    let limits = Limits::new(settings, crate::metrics::Metrics::new().unwrap().limits);
    assert!((0..100).all(|n| guess("d", "192.0.2.7", n % 2).is_hashed(&limits, NOW)));
}

#[test]
fn a_full_table_gives_up_what_would_be_forgotten_first() {
    let mut map: HashMap<i32, Timestamp> = (0..100).map(|n| (n, NOW + SECOND * n)).collect();
    make_room(&mut map, 100, |at| *at, NOW + SECOND * 10);
    assert_eq!(map.len(), 75);
    assert!(map.values().all(|at| *at >= NOW + SECOND * 25));
    make_room(&mut map, 100, |at| *at, NOW + SECOND * 90);
    assert_eq!(map.len(), 75, "there is room");
    let mut same: HashMap<i32, Timestamp> = (0..100).map(|n| (n, NOW + SECOND * 5)).collect();
    make_room(&mut same, 100, |at| *at, NOW);
    assert!(same.len() < 100);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// However guesses come: no device is out of reach of an address that has guessed nothing for
    /// longer than the rate takes to give one back, and no (device, address) is locked for longer than
    /// a quarter of an hour.
    #[test]
    fn nobody_is_kept_out_from_elsewhere(
        guesses in prop::collection::vec((0..3_u8, 0..4_u8, any::<u64>(), 0..30_i32), 1..200),
    ) {
        let limits = limits();
        let mut now = NOW;
        for (name, address, digest, wait) in guesses {
            now += SECOND * wait;
            guess(&format!("d{name}"), &format!("10.0.0.{address}"), digest).is_hashed(&limits, now);
        }
        for name in 0..3 {
            let elsewhere = guess(&format!("d{name}"), "192.0.2.1", 1);
            let admission = limits.admit(&elsewhere.guess(), now + rate::INTERVAL);
            prop_assert!(matches!(admission, Admission::Hash(_)));
        }
        prop_assert_eq!(limits.locked(now + softlock::LONGEST), (0, 0));
    }
}

fn key(name: Option<&str>, address: &str) -> LockKey {
    let name = name.map(|name| name.parse().unwrap());
    LockKey { name, address: Address::of_peer(address).unwrap() }
}

#[test]
fn what_one_replica_counts_holds_on_the_other() {
    let (one, other) = (limits(), limits());
    for (digest, delay) in [(1, 0), (2, 1), (3, 4)] {
        assert!(guess("d", "192.0.2.7", digest).is_hashed(&one, NOW + SECOND * delay));
    }
    let now = NOW + SECOND * 4;
    let outgoing = one.outgoing(10, now);
    let due = LockRow { key: key(Some("d"), "192.0.2.7"), failures: 3, left: SECOND * 5 };
    assert_eq!(outgoing.locks, [due]);
    one.written(&outgoing);
    assert!(one.outgoing(10, now).changes.is_empty());
    for row in &outgoing.locks {
        other.apply_notice(&LockNotice::Lock(row.clone()), now);
        one.apply_notice(&LockNotice::Lock(row.clone()), now);
    }
    assert_eq!((one.locked(now), other.locked(now)), ((1, 0), (1, 0)));
    assert!(!guess("d", "192.0.2.7", 4).is_hashed(&other, now));
    assert!(guess("d", "192.0.2.7", 4).is_hashed(&other, now + SECOND * 5));
    assert_eq!(other.outgoing(10, now + SECOND * 5).locks[0].failures, 4, "it counts on");
    // A right password on one ends it on the other.
    one.succeeded(&guess("d", "192.0.2.7", 9).guess(), now);
    assert_eq!(one.outgoing(10, now).ended, [key(Some("d"), "192.0.2.7")]);
    other.apply_notice(&LockNotice::Ended(key(Some("d"), "192.0.2.7")), now);
    assert_eq!(other.locked(now + SECOND * 5), (0, 0));
}

#[test]
fn rows_that_are_gone_after_a_lost_connection_were_cleared() {
    let limits = limits();
    assert!(guess("written", "192.0.2.7", 1).is_hashed(&limits, NOW));
    let outgoing = limits.outgoing(10, NOW);
    limits.written(&outgoing);
    assert!(guess("new", "192.0.2.7", 1).is_hashed(&limits, NOW));
    limits.apply_rows(&outgoing.locks, &[], NOW);
    assert_eq!(limits.locked(NOW), (2, 0));
    limits.apply_rows(&[], &[], NOW);
    assert_eq!(limits.locked(NOW), (1, 0), "what was never written stays, and waits to be");
    assert_eq!(limits.outgoing(10, NOW).locks[0].key, key(Some("new"), "192.0.2.7"));
}

#[test]
fn clearing_reaches_what_it_names() {
    let cleared = |scope: LockScope| {
        let limits = limits();
        for n in 0..25 {
            guess(&format!("d{n}"), "192.0.2.7", 1).is_hashed(&limits, NOW);
        }
        guess("d0", "192.0.2.8", 1).is_hashed(&limits, NOW);
        assert_eq!(limits.locked(NOW), (22, 1));
        limits.apply_notice(&LockNotice::Cleared(scope), NOW);
        let written = limits.outgoing(100, NOW).locks.len();
        assert_eq!(
            written,
            limits.locked(NOW).0 + limits.locked(NOW).1,
            "nothing of it is written"
        );
        limits.locked(NOW)
    };
    let name: Option<DeviceName> = "d0".parse().ok();
    assert_eq!(cleared(LockScope::default()), (0, 0));
    assert_eq!(cleared(LockScope { name: name.clone(), address: None }), (20, 1));
    let there: Option<IpNet> = "192.0.2.7/32".parse().ok();
    assert_eq!(cleared(LockScope { name: None, address: there }), (1, 0));
    assert_eq!(cleared(LockScope { name, address: there }), (21, 1));
}

#[test]
fn a_row_from_a_hand_cannot_lock_for_longer() {
    let limits = limits();
    let row = |left| LockRow { key: key(Some("d"), "192.0.2.7"), failures: 99, left };
    limits.apply_rows(&[row(SignedDuration::MAX)], &[], NOW);
    assert_eq!(limits.locked(NOW), (1, 0));
    assert_eq!(limits.locked(NOW + softlock::LONGEST), (0, 0));
    limits.apply_notice(&LockNotice::Lock(row(SignedDuration::MIN)), NOW);
    limits.clean_up(NOW + softlock::LONGEST + softlock::MEMORY);
    assert!(limits.memory().pairs.is_empty());
}
