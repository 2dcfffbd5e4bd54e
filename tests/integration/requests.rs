//! What is not a proper request, and what HTTP promises about the others.

use std::time::Duration;

use crate::support::app::{TOKEN, action_body, login_body, start, start_with};
use crate::support::wire::post;

#[tokio::test]
async fn nobody_asks_without_the_token() {
    let (app, _fleet, _database) = start().await;
    for path in ["/emqx/authn", "/emqx/authz"] {
        for header in [
            "",
            "authorization: Bearer wrong\r\n",
            "authorization: Basic abc\r\n",
            "authorization: \r\n",
        ] {
            let request =
                format!("POST {path} HTTP/1.1\r\nhost: x\r\n{header}content-length: 2\r\n\r\n{{}}");
            let answer = app.connect().await.exchange(request.as_bytes()).await;
            assert_eq!(answer.status, 401, "{path} {header}");
            assert!(!answer.body.contains(TOKEN));
        }
    }
}

#[tokio::test]
async fn bad_bodies_are_named_and_never_repeated() {
    let (app, _fleet, _database) = start().await;
    let bodies = [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "wrong type"),
        ("{}", "is missing"),
        (r#"{"clientid":"a","username":"a"}"#, "password is missing"),
        (r#"{"clientid":"a","username":"a","password":271828}"#, "wrong type"),
        (r#"{"clientid":"a","clientid":"a","username":"a","password":"271828"}"#, "wrong type"),
        ("{\"clientid\":\"\\ud800\",\"username\":\"a\",\"password\":\"271828\"}", "not JSON"),
    ];
    for (body, why) in bodies {
        let answer = app.post("/emqx/authn", body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.body.contains(why), "{body}: {}", answer.body);
        assert!(!answer.body.contains("271828"), "{}", answer.body);
    }
    let mut broken = post("/emqx/authz", TOKEN, "{\"username\":\"\u{20ac}\"}");
    let position = broken.len() - 4;
    broken[position] = 0xff;
    assert_eq!(app.connect().await.exchange(&broken).await.status, 400);
    // A field that nobody reads may hold anything.
    let unread =
        "{\"username\":\"a\",\"action\":\"publish\",\"topic\":\"t\",\"other\":\"\u{20ac}\"}";
    let mut broken = post("/emqx/authz", TOKEN, unread);
    let position = broken.len() - 4;
    broken[position] = 0xff;
    assert_eq!(app.connect().await.exchange(&broken).await.result(), "deny");
    let further =
        r#"{"username":"a","action":"publish","topic":"t","new_in_emqx_7":[1,{"a":null}]}"#;
    assert_eq!(app.post("/emqx/authz", further).await.status, 200);
}

#[tokio::test]
async fn bodies_are_bounded_in_size_and_time() {
    let (app, _fleet, _database) = start().await;
    let password = "x".repeat(64 * 1024);
    let answer = app.login("a", &password).await;
    assert_eq!(answer.status, 413);
    let body = login_body("a", "a", &"x".repeat(60 * 1024), "").to_string();
    assert_eq!(app.post("/emqx/authn", &body).await.result(), "deny");
    let slow = async |path: &str| {
        let mut slow = app.connect().await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 100\r\n\r\n{{"
        );
        slow.send(head.as_bytes()).await;
        let answer = tokio::time::timeout(Duration::from_secs(8), slow.receive()).await.unwrap();
        answer.unwrap().status
    };
    let statuses = tokio::join!(slow("/emqx/authn"), slow("/emqx/authz"), slow("/emqx/events"));
    assert_eq!(statuses, (408, 408, 503), "EMQX sends an event again after 503 alone");
}

#[tokio::test]
async fn other_paths_and_methods_do_not_exist() {
    let (app, _fleet, _database) = start().await;
    assert_eq!(app.get("/").await.status, 404);
    assert_eq!(app.get("/emqx/authn").await.status, 405);
    assert_eq!(app.get("/healthz").await.body, "ok\n");
    let ready = app.get("/readyz").await;
    assert_eq!((ready.status, ready.body.contains("\"listening\":true")), (200, true));
}

#[tokio::test]
async fn thirty_two_pipelined_requests_come_back_in_order() {
    let (app, fleet, _database) = start().await;
    fleet.device("thermo").await.bind("thermo", "main", Some("t/0"), None).await;
    let allowed = |n: usize| n.is_multiple_of(3);
    let mut bytes = Vec::new();
    for n in 0..32 {
        let topic = if allowed(n) { "t/0".to_owned() } else { format!("t/{n}") };
        let body = action_body("thermo", "publish", &topic).to_string();
        bytes.extend(post("/emqx/authz", TOKEN, &body));
    }
    let mut connection = app.connect().await;
    connection.send(&bytes).await;
    for n in 0..32 {
        let answer = connection.receive().await.unwrap();
        assert_eq!(answer.result() == "allow", allowed(n), "request {n}");
    }
}

#[tokio::test]
async fn a_connection_may_be_opened_long_before_it_is_used() {
    let (app, _fleet, _database) = start().await;
    let mut early = app.connect().await;
    let silence = tokio::time::timeout(Duration::from_secs(6), early.receive()).await;
    assert!(silence.is_err(), "the server said something, or closed the connection: {silence:?}");
    let body = action_body("nobody", "publish", "a").to_string();
    assert_eq!(early.exchange(&post("/emqx/authz", TOKEN, &body)).await.result(), "deny");
}

#[tokio::test]
async fn stopping_answers_what_was_read() {
    let (app, fleet, _database) = start_with(|config| config.http.workers = 1).await;
    fleet.device("chosen").await.password("chosen", "correct horse").await;
    let mut connection = app.connect().await;
    let body = login_body("chosen", "chosen", "correct horse", "").to_string();
    connection.send(&post("/emqx/authn", TOKEN, &body)).await;
    crate::support::app::eventually("the login is being hashed", || async {
        app.metric("fleetgate_hash_wait_seconds_count").await > 0.0
    })
    .await;
    let stopping = tokio::task::spawn_blocking(move || app.stop());
    assert_eq!(connection.receive().await.unwrap().result(), "allow");
    drop(connection);
    stopping.await.unwrap().unwrap();
}
