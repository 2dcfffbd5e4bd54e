//! What strangers may cost: floods of made-up names and guesses, and the limits on guessing.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::app::{TOKEN, TestApp, eventually, login_body, start, start_with};
use crate::support::wire::{Connection, post};

/// A login from an address.
async fn from(app: &TestApp, address: &str, name: &str, password: &str) -> (u16, String) {
    let mut body = login_body(name, name, password, "");
    body["peerhost"] = json!(address);
    let answer = app.post("/emqx/authn", &body.to_string()).await;
    (answer.status, answer.body)
}

const DENY: &str = r#"{"result":"deny"}"#;

/// Keeps every connection of a broker's pool busy with logins that are made up by `login`, from their
/// number, until it is stopped.
fn flood(
    app: &TestApp,
    connections: u32,
    stop: &CancellationToken,
    login: impl Fn(u32) -> serde_json::Value + Send + Sync + Clone + 'static,
) {
    for connection in 0..connections {
        let (address, stop, login) = (app.address, stop.clone(), login.clone());
        tokio::spawn(async move {
            let mut wire = Connection::open(address).await;
            let mut number = connection;
            while !stop.is_cancelled() {
                wire.exchange(&post("/emqx/authn", TOKEN, &login(number).to_string())).await;
                number += connections;
            }
        });
    }
}

/// As many connections as EMQX has are full of strangers, from one address and from many, who make up
/// names and guess at a chosen password: whoever shows what nobody can guess gets in, every time.
#[tokio::test]
async fn devices_get_in_while_strangers_flood() {
    for many_addresses in [false, true] {
        let (app, fleet, _database) = start_with(|config| config.hashing.queue = 8).await;
        fleet.device("warm").await.device("cold").await.device("person").await.device("card").await;
        let (warm, cold) = (fleet.secret("warm").await, fleet.secret("cold").await);
        fleet.password("person", "correct horse").await.certificate("card", "cn", false).await;
        fleet.device("guessed").await.password("guessed", "battery staple").await;
        app.hears(9.0).await;
        assert_eq!(app.logs_in("person", "correct horse").await, "allow");
        let stop = CancellationToken::new();
        let peer = move |n: u32| match many_addresses {
            true => format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255),
            false => "192.0.2.66".to_owned(),
        };
        flood(&app, 16, &stop, move |n| {
            let mut body = login_body("x", &format!("made-up-{n}"), "wrong", "");
            body["peerhost"] = json!(peer(n));
            body
        });
        flood(&app, 16, &stop, move |n| {
            let mut body = login_body("guessed", "guessed", &format!("guess-{n}"), "");
            body["peerhost"] = json!(peer(n));
            body
        });
        for round in 0..20 {
            assert_eq!(app.logs_in("warm", &warm).await, "allow", "{round}");
            assert_eq!(app.logs_in("person", "correct horse").await, "allow", "{round}");
            let card = login_body("card", "card", "", "cn").to_string();
            assert_eq!(app.post("/emqx/authn", &card).await.result(), "allow", "{round}");
        }
        assert_eq!(app.logs_in("cold", &cold).await, "allow");
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
        let began = std::time::Instant::now();
        let body = login_body(name, name, "wrong", "").to_string();
        assert_eq!(wire.exchange(&post("/emqx/authn", TOKEN, &body)).await.result(), "deny");
        began.elapsed()
    };
    for n in 0..20 {
        for name in ["known", &format!("unknown-{n}")] {
            assert!(took(name).await >= std::time::Duration::from_millis(4), "{name}");
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
