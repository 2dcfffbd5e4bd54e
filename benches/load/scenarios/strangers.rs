//! Do devices get in while strangers flood the broker? A model of EMQX's dispatch, since how many logins
//! Fleetgate takes a second says nothing about who waits behind whom.
//!
//! EMQX's HTTP authenticator has 32 connections and picks one at random for each login (`pool_type`
//! of its own pool is `random`; only the connector of events hashes by client id), sends one request at a
//! time on each (`enable_pipelining = 1`), and gives a login up after 5 s. Devices that get in are
//! counted; strangers send 300 logins a second, whatever becomes of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetgate::authn::token::{issue, read_signing_key};
use fleetgate::clock::Clock;
use fleetgate::secret::random_bytes;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{MissedTickBehavior, interval};

use crate::support::connection::Connection;
use crate::support::fleetgate::Fleetgate;
use crate::support::registry::{SECRET, connect};
use crate::support::requests::{device_name, login_of};
use crate::table::{Bar, Row};
use crate::turns::POOL;

/// Devices: those before have secrets, those of [`CHOSEN`] chosen passwords.
pub(super) const DEVICES: u32 = 4_000;
pub(super) const CHOSEN: std::ops::Range<u32> = 3_990..DEVICES;
const GUESSED: u32 = 3_990;
const PERSON: u32 = 3_991;
const TOKEN: u32 = 0;
const CARD: u32 = 1;
const WARM: u32 = 2;
/// Each logs in once.
const COLD: std::ops::Range<u32> = 100..3_900;

/// How long a run takes, and how often each victim comes.
const RUN: Duration = Duration::from_secs(10);
const VICTIM_EVERY: Duration = Duration::from_millis(100);
/// Logins of strangers a second, of each kind.
const RATE: u32 = 300;
/// After this EMQX gives a login up.
const PATIENCE: Duration = Duration::from_secs(5);

/// A login on its way. `victim` is none of a stranger's.
struct Job {
    request: Vec<u8>,
    sent: Instant,
    victim: Option<&'static str>,
}

/// What became of the victims: times of those that got in, and how many did not.
#[derive(Default)]
struct Fates {
    got_in: BTreeMap<&'static str, Vec<Duration>>,
    refused: BTreeMap<&'static str, u32>,
}

/// EMQX's pool.
struct Dispatch(Vec<mpsc::UnboundedSender<Job>>);

impl Dispatch {
    async fn open(service: &Fleetgate, fates: &Arc<Mutex<Fates>>) -> Self {
        let mut connections = Vec::new();
        for _ in 0..POOL {
            let (sender, jobs) = mpsc::unbounded_channel();
            let connection = Connection::open(service.address()).await.expect("fleetgate listens");
            tokio::spawn(work(connection, jobs, fates.clone()));
            connections.push(sender);
        }
        Self(connections)
    }

    fn send(&self, request: Vec<u8>, victim: Option<&'static str>) {
        let [random] = random_bytes::<1>();
        let connection = &self.0[usize::from(random) % self.0.len()];
        connection.send(Job { request, sent: Instant::now(), victim }).expect("it works");
    }
}

async fn work(
    mut connection: Connection,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    fates: Arc<Mutex<Fates>>,
) {
    while let Some(Job { request, sent, victim }) = jobs.recv().await {
        let allowed = if sent.elapsed() < PATIENCE {
            let answer = connection.exchange(&request).await.expect("an answer");
            answer.status == 200 && answer.body.starts_with(br#"{"result":"allow""#)
        } else {
            false
        };
        let Some(victim) = victim else { continue };
        let (took, mut fates) = (sent.elapsed(), fates.lock().await);
        if allowed && took < PATIENCE {
            fates.got_in.entry(victim).or_default().push(took);
        } else {
            *fates.refused.entry(victim).or_default() += 1;
        }
    }
}

/// Which strangers there are.
#[derive(Clone, Copy)]
struct Strangers {
    names: bool,
    guesses: bool,
    many_addresses: bool,
}

impl Strangers {
    fn words(self) -> String {
        let what = match (self.names, self.guesses) {
            (true, true) => "300 made-up names/s and 300 guesses/s",
            (true, false) => "300 made-up names/s",
            _ => "300 guesses/s at one password",
        };
        let from = if self.many_addresses { "many addresses" } else { "one address" };
        format!("{what}, {from}")
    }
}

pub(super) async fn floods(url: &str) -> Vec<Row> {
    let keys = tempfile::tempdir().expect("a directory");
    let (signing, verification) = signing_keys(keys.path());
    provide(url).await;
    let mut rows = Vec::new();
    for many_addresses in [false, true] {
        for (names, guesses) in [(true, false), (false, true), (true, true)] {
            let strangers = Strangers { names, guesses, many_addresses };
            let settings = [("FLEETGATE_TOKENS_VERIFICATION_KEYS", verification.as_str())];
            let service = Fleetgate::start(url, &settings).await;
            rows.extend(flood(&service, strangers, &token(&signing)).await);
        }
    }
    rows
}

async fn flood(service: &Fleetgate, strangers: Strangers, token: &str) -> [Row; 2] {
    let fates = Arc::new(Mutex::new(Fates::default()));
    let dispatch = Arc::new(Dispatch::open(service, &fates).await);
    let mut first = Connection::open(service.address()).await.expect("fleetgate listens");
    for number in [WARM, PERSON] {
        let request = login_of(&device_name(number), SECRET, "192.0.2.1", "");
        assert_eq!(first.exchange(&request).await.expect("an answer").status, 200);
    }
    let flooding = tokio::spawn(flooding(dispatch.clone(), strangers));
    tokio::time::sleep(RUN / 10).await;
    let mut ticks = interval(VICTIM_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let victims = usize::try_from(RUN.as_millis() / VICTIM_EVERY.as_millis()).expect("few");
    for cold in COLD.take(victims) {
        ticks.tick().await;
        let from = "192.0.2.1";
        let send = |victim, number, password: &str, card: &str| {
            dispatch.send(login_of(&device_name(number), password, from, card), Some(victim));
        };
        send("secret", WARM, SECRET, "");
        send("secret, not in memory", cold, SECRET, "");
        send("token", TOKEN, token, "");
        send("certificate", CARD, "", "card");
        send("verified password", PERSON, SECRET, "");
    }
    tokio::time::sleep(PATIENCE).await;
    flooding.abort();
    let fates = fates.lock().await;
    rows(&strangers.words(), &fates, victims * 5)
}

async fn flooding(dispatch: Arc<Dispatch>, strangers: Strangers) {
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0_u32.. {
        ticks.tick().await;
        let address = match strangers.many_addresses {
            true => format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255),
            false => "203.0.113.9".to_owned(),
        };
        if strangers.names {
            let name = format!("made-up-{number}");
            dispatch.send(login_of(&name, "a guess", &address, ""), None);
        }
        if strangers.guesses {
            let guess = format!("guess-{number}");
            dispatch.send(login_of(&device_name(GUESSED), &guess, &address, ""), None);
        }
    }
}

fn rows(words: &str, fates: &Fates, due: usize) -> [Row; 2] {
    let mut all: Vec<Duration> = fates.got_in.values().flatten().copied().collect();
    all.sort();
    for (victim, times) in &fates.got_in {
        let mut times = times.clone();
        times.sort();
        let p99 = times[times.len() * 99 / 100];
        let refused = fates.refused.get(victim).copied().unwrap_or(0);
        println!("{words}: {victim}: {} in, {refused} not, p99 {p99:.1?}", times.len());
    }
    #[allow(clippy::cast_precision_loss, reason = "a few hundred")]
    let share = all.len() as f64 * 100.0 / due as f64;
    let p99 = all.get(all.len() * 99 / 100).map_or(f64::INFINITY, |p99| p99.as_secs_f64() * 1e3);
    let name = format!("{words}: {} of {due} devices get in", all.len());
    [
        Row::figure(&name, share, "% get in", Bar::AtLeast(100.0)).quantiles(&all),
        Row::figure(words, p99, "ms, p99", Bar::AtMost(250.0)),
    ]
}

fn signing_keys(directory: &Path) -> (std::path::PathBuf, String) {
    let file = directory.join("signing.pem");
    let made = Command::new(env!("CARGO_BIN_EXE_fleetgate"))
        .args(["token", "key", "generate", "--out"])
        .arg(&file)
        .output()
        .expect("fleetgate runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let public = directory.join("signing.pub.pem").to_str().expect("a path").to_owned();
    (file, public)
}

fn token(signing: &Path) -> String {
    let key = read_signing_key(signing).expect("a key");
    let now = Clock::System.now();
    issue(&key, "fleetgate", &device_name(TOKEN), now, now + jiff::SignedDuration::from_hours(1))
}

/// Gives two devices a token and a certificate.
async fn provide(url: &str) {
    let client = connect(url).await;
    let credential = "INSERT INTO device_credentials (device_id, kind, not_before, common_name, certificate_required)
        SELECT id, $2, CASE WHEN $2 = 'token' THEN now() - interval '1 minute' END, $3, $4
        FROM devices WHERE name = $1";
    let none: (Option<&str>, Option<bool>) = (None, None);
    for (number, kind, (name, required)) in
        [(TOKEN, "token", none), (CARD, "certificate", (Some("card"), Some(false)))]
    {
        let device = device_name(number);
        client.execute(credential, &[&device, &kind, &name, &required]).await.expect("a row");
    }
}
