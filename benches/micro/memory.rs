//! A device's record from memory, loaded from a private PostgreSQL once.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use fleetgate::config::{Cache, Database};
use fleetgate::embedded::{Home, PrivatePostgres};
use fleetgate::metrics::Metrics;
use fleetgate::registry::cache::DeviceCache;
use fleetgate::registry::connection::connect;
use fleetgate::registry::freshness::Freshness;
use fleetgate::registry::migrate::migrate;
use fleetgate::registry::pool::Postgres;
use fleetgate::secret::Secret;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::runtime::{Handle, Runtime};

/// Devices in memory: more than a processor's caches hold.
const DEVICES: u32 = 50_000;

pub(crate) fn bench(criterion: &mut Criterion) {
    let server = PrivatePostgres::start(&Home::Temporary, 20).unwrap();
    let runtime = Runtime::new().unwrap();
    let cache = runtime.block_on(filled(&server, runtime.handle().clone()));
    let find = |name: &str| {
        let found = cache.find(black_box(name)).now_or_never();
        found.expect("in memory").unwrap().expect("known")
    };
    let names: Vec<String> =
        (0..DEVICES).map(|number| format!("device-{}", number * 7_919 % DEVICES)).collect();
    let mut names = names.iter().cycle();
    let mut group = criterion.benchmark_group("memory");
    group.bench_function("cache hit, the same device", |bencher| {
        bencher.iter(|| find("device-1"));
    });
    group.bench_function(format!("cache hit, {DEVICES} devices in turn"), |bencher| {
        bencher.iter(|| find(names.next().unwrap()));
    });
}

/// A cache that holds every device of a registry.
async fn filled(server: &PrivatePostgres, runtime: Handle) -> DeviceCache {
    let settings = Database {
        url: Secret::new(server.connection_string("postgres")),
        password: None,
        ca_file: None,
        pool_size: 8,
        connect_timeout: Duration::from_secs(5),
        query_timeout: Duration::from_secs(5),
        directory: PathBuf::new(),
    };
    let mut client = connect(&settings).await.unwrap();
    migrate(&mut client).await.unwrap();
    let devices = format!(
        "INSERT INTO devices (name, kind)
         SELECT 'device-' || n, 'sensor' FROM generate_series(0, {DEVICES} - 1) n;
         INSERT INTO topic_bindings (device_id, name, state_topic, command_topic)
         SELECT id, 'main', 'lab/' || name || '/state', 'lab/' || name || '/set' FROM devices"
    );
    client.batch_execute(&devices).await.unwrap();
    let freshness = Arc::new(Freshness::new(Duration::from_secs(60)));
    let proving = freshness.clone();
    // In place of the heartbeats of a listener.
    runtime.spawn(async move {
        loop {
            proving.listening();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    freshness.listening();
    let limits = Cache {
        devices: 2 * DEVICES as usize,
        unknown_names: 100,
        unknown_ttl: Duration::from_secs(5),
        max_staleness: Duration::from_secs(60),
    };
    let postgres = Postgres::new(&settings, runtime).unwrap();
    let metrics = Metrics::new().unwrap().cache;
    let cache = DeviceCache::new(&limits, &postgres, freshness, metrics);
    let loads = stream::iter(0..DEVICES).map(|number| {
        let cache = &cache;
        async move { cache.find(&format!("device-{number}")).await.unwrap().expect("known") }
    });
    loads.buffer_unordered(64).for_each(|_| async {}).await;
    cache
}
