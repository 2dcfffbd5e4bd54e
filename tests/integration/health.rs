//! `fleetgate health`: what the container's health check asks.

use crate::support::app::{TestApp, config};
use crate::support::commands::{fleetgate, run};
use crate::support::postgres::fresh_database;

/// Runs it on a blocking thread: the service under test answers from another.
async fn health(arguments: &[&str]) -> (i32, String, String) {
    let command = fleetgate(&[&["health"], arguments].concat());
    tokio::task::spawn_blocking(move || run(command)).await.unwrap()
}

#[tokio::test]
async fn a_ready_service_is_healthy() {
    let database = fresh_database().await;
    let app = TestApp::start(config(&database.url)).await;
    app.ready().await;
    let address = app.address.to_string();
    let (code, stdout, stderr) = health(&["--address", &address]).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("is ready"), "{stdout}");
    let (code, stdout, _) = health(&["--json", "--address", &address]).await;
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &told["ready"]), (0, &true.into()));
    assert_eq!(told["answer"]["ready"], true, "JSON within JSON: {told}");
}

#[tokio::test]
async fn a_service_without_its_database_is_not() {
    let app = TestApp::start(config("host=/nowhere user=fleetgate")).await;
    let (code, stdout, stderr) = health(&["--address", &app.address.to_string()]).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("is not ready") && stderr.contains("listening"), "{stderr}");
}

#[tokio::test]
async fn nor_is_one_that_is_not_there() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, _, stderr) = health(&["--address", &free.to_string()]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains(&free.to_string()) && stderr.contains("cannot be asked"), "{stderr}");
}
