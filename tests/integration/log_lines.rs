//! However much a stranger sends and however much fails, the log stays short and says how many
//! lines were suppressed.

use std::net::TcpListener;

use fleetgate::domain::api_token::Scope;

use crate::support::api::{ApiClient, make_token};
use crate::support::app::{TOKEN, action_body, eventually, login_body};
use crate::support::postgres::{as_owner, connect, fresh_database};
use crate::support::serve::Serve;
use crate::support::wire::{Connection, post};

/// How often each thing is done.
const TIMES: usize = 300;

async fn repeat(serve: &Serve, request: &[u8], status: u16) {
    for _ in 0..TIMES {
        let mut connection = Connection::open(serve.address).await;
        assert_eq!(connection.exchange(request).await.status, status);
    }
}

#[tokio::test]
async fn a_minute_of_failures_is_a_line_a_cause() {
    // Nobody listens on port 1.
    let serve = Serve::start(&[(
        "FLEETGATE_DATABASE_URL",
        "postgresql://nobody@127.0.0.1:1/none".to_owned(),
    )]);
    let mut connection = Connection::open(serve.address).await;
    for name in 0..TIMES {
        let body = login_body("a", &format!("stranger-{name}"), "x", "").to_string();
        assert_eq!(connection.exchange(&post("/emqx/authn", TOKEN, &body)).await.status, 503);
    }
    let action = action_body("stranger", "publish", "a").to_string();
    repeat(&serve, &post("/emqx/authz", TOKEN, &action), 503).await;
    repeat(&serve, &post("/emqx/authn", "wrong", "{}"), 401).await;
    repeat(&serve, &post("/emqx/authz", TOKEN, "{"), 400).await;
    repeat(&serve, &post("/emqx/events", TOKEN, "[]"), 400).await;
    let event = r#"{"event":"client.connected","clientid":"a","username":"a","connected_at":-5}"#;
    repeat(&serve, &post("/emqx/events", TOKEN, event), 400).await;
    for _ in 0..TIMES {
        let mut garbage = Connection::open(serve.address).await;
        garbage.send(b"\x00\xff\r\n\r\n").await;
        while garbage.receive().await.is_some() {}
    }
    let log = serve.stop();
    let lines: Vec<_> = log.lines().collect();
    assert!(lines.len() < 40, "{} lines:\n{log}", lines.len());
    let logged = |about: &str, suppressed: usize| {
        let found = lines
            .iter()
            .any(|line| line.contains(about) && line.contains(&format!("suppressed={suppressed}")));
        assert!(found, "{about} {suppressed}:\n{log}");
    };
    // Logins and actions; each attempt to load fails once.
    logged("a device could not be loaded: the database cannot be reached", 2 * TIMES - 1);
    logged("requests without the webhook token", TIMES - 1);
    logged("requests that are not EMQX's", 3 * TIMES - 1);
    logged("malformed events (json)", TIMES - 1);
    logged("malformed events (time)", TIMES - 1);
}

#[tokio::test]
async fn requests_to_the_api_that_postgresql_fails_are_a_line_a_minute() {
    let database = fresh_database().await;
    let token = make_token(&database.url, "root", &[Scope::Admin]).await;
    // Others take their ports of another address.
    let address = TcpListener::bind("127.0.0.77:0").unwrap().local_addr().unwrap();
    let serve = Serve::start(&[
        ("FLEETGATE_DATABASE_URL", database.url.clone()),
        ("FLEETGATE_API_LISTEN", address.to_string()),
    ]);
    let owner = connect(&as_owner(&database.url)).await;
    eventually("it serves", || async {
        let replicas = owner.query_one("SELECT count(*) FROM replicas", &[]).await.unwrap();
        replicas.get::<_, i64>(0) == 1
    })
    .await;
    owner.batch_execute("ALTER TABLE routing_rules RENAME TO gone").await.unwrap();
    let api = ApiClient { address, token };
    for _ in 0..5 {
        assert!(api.get("/rules").await.status >= 500);
    }
    let log = serve.stop();
    let told: Vec<_> = log.lines().filter(|line| line.contains("an API request failed")).collect();
    assert!(told.len() == 2 && told[0].contains("/api/v1/rules"), "{log}");
    assert!(told[1].contains("suppressed=4"), "{log}");
}
