//! What strangers may cost: floods of made-up names and guesses, and the limits on guessing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;

use crate::support::app::{TOKEN, TestApp, eventually, login_body, start};
use crate::support::wire::{Connection, post};

/// A login from an address.
async fn from(app: &TestApp, address: &str, name: &str, password: &str) -> (u16, String) {
    let mut body = login_body(name, name, password, "");
    body["peerhost"] = json!(address);
    let answer = app.post("/emqx/authn", &body.to_string()).await;
    (answer.status, answer.body)
}

const ALLOW: &str = r#""result":"allow""#;
const DENY: &str = r#"{"result":"deny"}"#;

/// EMQX's pool: 32 connections, one request at a time on each, a login on one of them at random, and
/// given up after 5 s.
struct Pool(Vec<mpsc::UnboundedSender<Login>>);

/// A login that waits for its turn, and who wants to know what became of it.
struct Login {
    body: String,
    asked_at: Instant,
    answered: oneshot::Sender<bool>,
}

const CONNECTIONS: usize = 32;
const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);
/// Logins of strangers that wait on each connection all the time.
const IN_FRONT: usize = 40;

impl Pool {
    async fn open(app: &TestApp) -> Arc<Self> {
        let mut pool = Vec::new();
        for _ in 0..CONNECTIONS {
            let (sender, mut logins) = mpsc::unbounded_channel::<Login>();
            let mut wire = Connection::open(app.address).await;
            tokio::spawn(async move {
                while let Some(Login { body, asked_at, answered }) = logins.recv().await {
                    let in_time = |asked: Instant| asked.elapsed() < GIVEN_UP_AFTER;
                    let mut allowed = in_time(asked_at);
                    if allowed {
                        let answer = wire.exchange(&post("/emqx/authn", TOKEN, &body)).await;
                        allowed = answer.body.contains(ALLOW) && in_time(asked_at);
                    }
                    let _nobody_waits = answered.send(allowed);
                }
            });
            pool.push(sender);
        }
        Arc::new(Self(pool))
    }

    /// Whether the login was let in before EMQX gave it up.
    async fn lets_in(&self, connection: usize, body: serde_json::Value) -> bool {
        let (answered, answer) = oneshot::channel();
        let login = Login { body: body.to_string(), asked_at: Instant::now(), answered };
        self.0[connection % CONNECTIONS].send(login).unwrap();
        answer.await.unwrap_or(false)
    }

    /// Keeps the line of each connection long with logins that are made up by `login`, from their number.
    fn flood(
        self: &Arc<Self>,
        stop: &CancellationToken,
        login: impl Fn(usize) -> serde_json::Value + Send + Sync + Clone + 'static,
    ) {
        for place in 0..CONNECTIONS * IN_FRONT {
            let (pool, stop, login) = (self.clone(), stop.clone(), login.clone());
            tokio::spawn(async move {
                let mut number = place;
                while !stop.is_cancelled() {
                    pool.lets_in(place, login(number)).await;
                    number += CONNECTIONS * IN_FRONT;
                }
            });
        }
    }
}

/// EMQX's connections are full of strangers, from one address and from many, who make up names and guess
/// at a chosen password: whoever shows what nobody can guess is let in before EMQX gives the login up. When
/// every costly check waited for its turn, a login behind forty strangers took longer.
#[tokio::test]
async fn devices_get_in_while_strangers_flood() {
    for many_addresses in [false, true] {
        let (app, fleet, _database) = start().await;
        fleet.device("warm").await.device("cold").await.device("person").await.device("card").await;
        let (warm, cold) = (fleet.secret("warm").await, fleet.secret("cold").await);
        fleet.password("person", "correct horse").await.certificate("card", "cn", false).await;
        fleet.device("guessed").await.password("guessed", "battery staple").await;
        app.hears(9.0).await;
        assert_eq!(app.logs_in("person", "correct horse").await, "allow");
        let (pool, stop) = (Pool::open(&app).await, CancellationToken::new());
        pool.flood(&stop, move |n| {
            let (name, password) = match n % 8 {
                0 => ("guessed".to_owned(), format!("guess-{n}")),
                _ => (format!("made-up-{n}"), "wrong".to_owned()),
            };
            let mut body = login_body(&name, &name, &password, "");
            body["peerhost"] = match many_addresses {
                true => json!(format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255)),
                false => json!("192.0.2.66"),
            };
            body
        });
        // The strangers stand in line first.
        yield_now().await;
        let logins = [
            login_body("warm", "warm", &warm, ""),
            login_body("person", "person", "correct horse", ""),
            login_body("card", "card", "", "cn"),
            login_body("cold", "cold", &cold, ""),
        ];
        let logins = logins.iter().cycle().take(CONNECTIONS).enumerate();
        let let_in = logins.map(|(connection, login)| pool.lets_in(connection, login.clone()));
        assert_eq!(join_all(let_in).await, [true; CONNECTIONS], "many: {many_addresses}");
        stop.cancel();
    }
}

/// The owner of a device whose password is being guessed from elsewhere, at their own address.
#[tokio::test]
async fn a_guessed_device_is_locked_where_it_is_guessed_and_nowhere_else() {
    let (app, fleet, _database) = start().await;
    fleet.device("relay").await.password("relay", "correct horse").await;
    let secret = fleet.secret("relay").await;
    app.hears(3.0).await;
    for n in 0..5 {
        let answer = from(&app, "192.0.2.66", "relay", &format!("guess {n}")).await;
        assert_eq!(answer, (200, DENY.to_owned()));
    }
    let hashed = app.metric("fleetgate_hash_duration_seconds_count").await;
    assert_eq!(hashed, 1.0, "the first one is hashed, the others wait");
    let limited = "fleetgate_login_limited_total{by=\"device_address\"}";
    assert_eq!(app.metric(limited).await, 4.0);
    let refused = "fleetgate_refusals_total{endpoint=\"authn\",reason=\"too_many_guesses\"}";
    assert_eq!(app.metric(refused).await, 4.0);
    // Even the right one is not looked at there, and looks like a wrong one.
    let right = from(&app, "192.0.2.66", "relay", "correct horse").await;
    assert_eq!(right, (200, DENY.to_owned()));
    let neighbour = from(&app, "::ffff:192.0.2.66", "relay", "correct horse").await;
    assert_eq!(neighbour, (200, DENY.to_owned()), "the same address in another notation");
    assert!(from(&app, "192.0.2.66", "relay", &secret).await.1.contains("allow"), "never locked");
    assert!(from(&app, "192.0.2.7", "relay", "correct horse").await.1.contains("allow"));
    assert!(from(&app, "192.0.2.66", "relay", "correct horse").await.1.contains("allow"), "digest");
}

#[tokio::test]
async fn an_unknown_name_and_a_hostile_address_are_answered_alike() {
    let (app, fleet, _database) = start().await;
    fleet.device("known").await.password("known", "correct horse").await;
    for address in ["", "undefined", "not an address", "\u{0}", "2001:db8::1", "1.2.3.4:5"] {
        for name in ["known", "unknown", "undefined", "no/name"] {
            for _ in 0..3 {
                assert_eq!(from(&app, address, name, "wrong").await, (200, DENY.to_owned()));
            }
        }
    }
    // Where the address is not known nobody is locked: only the rate of the device holds.
    assert!(from(&app, "undefined", "known", "correct horse").await.1.contains("allow"));
}

/// A name that is asked of PostgreSQL must not be told from one in memory: neither is refused before the
/// end of a step.
#[tokio::test]
async fn no_refusal_comes_before_the_end_of_a_step() {
    let (app, fleet, _database) = start().await;
    fleet.device("known").await;
    let secret = fleet.secret("known").await;
    app.hears(2.0).await;
    assert_eq!(app.logs_in("known", &secret).await, "allow");
    let mut wire = app.connect().await;
    let mut took = async |name: &str| {
        let began = Instant::now();
        let body = login_body(name, name, "wrong", "").to_string();
        assert_eq!(wire.exchange(&post("/emqx/authn", TOKEN, &body)).await.result(), "deny");
        began.elapsed()
    };
    for n in 0..20 {
        for name in ["known", &format!("unknown-{n}")] {
            assert!(took(name).await >= Duration::from_millis(4), "{name}");
        }
    }
}

/// A person has one outdated password saved in ten clients, which try again and again.
#[tokio::test]
async fn clients_with_an_outdated_password_cost_one_guess() {
    let (app, fleet, _database) = start().await;
    fleet.device("phone").await.password("phone", "new password").await;
    app.hears(2.0).await;
    for _ in 0..10 {
        for _ in 0..10 {
            assert_eq!(from(&app, "192.0.2.7", "phone", "old password").await.1, DENY);
        }
    }
    assert_eq!(app.metric("fleetgate_hash_duration_seconds_count").await, 1.0);
    let waited =
        || async { from(&app, "192.0.2.7", "phone", "new password").await.1.contains("allow") };
    eventually("the second is over, whatever the clients do", waited).await;
    assert_eq!(app.metric("fleetgate_hash_duration_seconds_count").await, 2.0);
}
