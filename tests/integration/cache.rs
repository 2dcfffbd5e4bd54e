//! The cache never serves a record older than the last change it has heard of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fleetgate::metrics::Metrics;
use fleetgate::registry::cache::DeviceCache;
use fleetgate::registry::changes::ChangeListener;
use fleetgate::registry::connection::Target;
use fleetgate::registry::freshness::Freshness;
use fleetgate::registry::locks::LockFeed;
use fleetgate::registry::pool::Postgres;
use fleetgate::registry::schemas::SchemaCache;
use fleetgate::registry::work::WorkNotices;
use prometheus::IntCounter;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::support::app::{config, eventually, start};
use crate::support::fleet::Fleet;
use crate::support::postgres::fresh_database;

const UPDATES: u64 = 400;

/// A cache of very few devices in front of a database, and the metrics that tell what it heard.
fn cache(url: &str, stop: CancellationToken) -> (Arc<DeviceCache>, Arc<Freshness>, Metrics) {
    let mut config = config(url);
    config.cache.devices = 2;
    let metrics = Metrics::new().unwrap();
    let freshness = Arc::new(Freshness::new(Duration::from_secs(60)));
    let postgres = Postgres::new(&config.database, Handle::current()).unwrap();
    let cache = Arc::new(DeviceCache::new(
        &config.cache,
        &postgres,
        freshness.clone(),
        metrics.cache.clone(),
    ));
    let schemas = Arc::new(SchemaCache::new(postgres, freshness.clone()));
    let target = Target::new(&config.database).unwrap();
    let listener = ChangeListener::new(
        target,
        cache.clone(),
        schemas,
        freshness.clone(),
        metrics.listen.clone(),
        WorkNotices::default(),
        LockFeed::new().0,
    );
    tokio::spawn(listener.run(stop));
    (cache, freshness, metrics)
}

/// The number in the topic `v/<number>` that the device may publish to.
fn version(device: &fleetgate::domain::device::DeviceRecord) -> u64 {
    let topic = device.rights.publish_topics().next().unwrap().as_str();
    topic.strip_prefix("v/").unwrap().parse().unwrap()
}

/// Reads until it is done; tells how often.
async fn read(cache: &DeviceCache, done: &AtomicBool, heard: &IntCounter, crowd_out: bool) -> u64 {
    let mut reads = 0_u64;
    while !done.load(Ordering::SeqCst) {
        let least = heard.get();
        let device = cache.find("t").await.unwrap().unwrap();
        assert!(version(&device) >= least, "older than what was heard");
        // Others push it out of the little cache from time to time.
        if crowd_out {
            cache.find(if reads.is_multiple_of(2) { "u" } else { "w" }).await.unwrap();
        }
        reads += 1;
    }
    reads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_record_is_never_older_than_a_change_that_was_heard() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    for name in ["t", "u", "w"] {
        fleet.device(name).await.bind(name, "main", Some("v/0"), None).await;
    }
    let stop = CancellationToken::new();
    let (cache, freshness, metrics) = cache(&database.url, stop.clone());
    eventually("it listens", || async { freshness.is_listening() }).await;
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..8)
        .map(|reader| {
            let (cache, done) = (cache.clone(), done.clone());
            let heard = metrics.listen.changes.clone();
            // A runtime of its own, as an actix worker has.
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(read(&cache, &done, &heard, reader % 4 == 0))
            })
        })
        .collect();
    for number in 1..=UPDATES {
        let topic = format!("v/{number}");
        fleet
            .sql(
                "UPDATE topic_bindings SET state_topic = $1
                 WHERE device_id = (SELECT id FROM devices WHERE name = 't')",
                &[&topic],
            )
            .await;
    }
    eventually("all is heard", || async { metrics.listen.changes.get() == UPDATES }).await;
    assert_eq!(version(&cache.find("t").await.unwrap().unwrap()), UPDATES);
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
    stop.cancel();
}

#[tokio::test]
async fn a_crowd_is_loaded_together_and_a_row_that_cannot_be_read_fails_alone() {
    const CROWD: usize = 200;
    let (app, fleet, _database) = start().await;
    fleet.device("device-0").await;
    let secret = fleet.secret("device-0").await;
    fleet
        .sql(
            "INSERT INTO devices (name, kind) SELECT 'device-' || n, 'sensor'
             FROM generate_series(1, $1::int - 1) AS n",
            &[&i32::try_from(CROWD).unwrap()],
        )
        .await;
    fleet
        .sql(
            "INSERT INTO device_credentials (device_id, kind, hash)
             SELECT devices.id, known.kind, known.hash
             FROM devices CROSS JOIN device_credentials AS known WHERE devices.id <> known.device_id",
            &[],
        )
        .await;
    fleet.sql("ALTER TABLE devices DROP CONSTRAINT devices_kind_form", &[]).await;
    fleet.sql("UPDATE devices SET kind = '' WHERE name = 'device-7'", &[]).await;
    app.hears(1.0).await;
    let logins = (0..CROWD).map(|number| {
        let (name, app, secret) = (format!("device-{number}"), &app, &secret);
        async move { app.login(&name, secret).await.status }
    });
    let statuses = futures_util::future::join_all(logins).await;
    for (number, status) in statuses.into_iter().enumerate() {
        assert_eq!(status, if number == 7 { 503 } else { 200 }, "device-{number}");
    }
}
