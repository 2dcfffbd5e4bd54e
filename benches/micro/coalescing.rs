//! What a batch of 1,000 events comes to: the last move of each client id, the newest news of each
//! device.

use std::collections::BTreeMap;

use criterion::{BatchSize, Criterion, Throughput};
use fleetgate::domain::device::DeviceId;
use fleetgate::presence::coalesce;
use fleetgate::registry::presence::SessionMove;
use fleetgate::registry::reports::{DeviceNews, Report};

const EVENTS: u32 = 1_000;

fn moves(devices: u32) -> Vec<SessionMove> {
    let began = |event: u32| SessionMove {
        client_id: format!("thermo-{}", event % devices),
        device_id: DeviceId((event % devices).into()),
        connected_at_ms: 1_800_000_000_000 + i64::from(event),
        ended_at_ms: None,
        inferred: false,
    };
    (0..EVENTS).map(began).collect()
}

fn news(devices: u32) -> Vec<DeviceNews> {
    let reported = |event: u32| {
        let at_ms = 1_800_000_000_000 + i64::from(event);
        let id = format!("0006{event:028}").into();
        let report = Report { at_ms, id, value: Some(r#"{"celsius":21.5}"#.into()) };
        let reports = BTreeMap::from([("temperature".into(), report)]);
        DeviceNews { reports, ..DeviceNews::seen(DeviceId((event % devices).into()), at_ms) }
    };
    (0..EVENTS).map(reported).collect()
}

fn absorbed(news: Vec<DeviceNews>) -> BTreeMap<DeviceId, DeviceNews> {
    let mut by_device = BTreeMap::<DeviceId, DeviceNews>::new();
    for one in news {
        match by_device.get_mut(&one.device_id) {
            Some(known) => known.absorb(one),
            None => drop(by_device.insert(one.device_id, one)),
        }
    }
    by_device
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coalescing");
    group.throughput(Throughput::Elements(EVENTS.into()));
    for devices in [10, EVENTS] {
        group.bench_function(format!("1000 moves of {devices} devices"), |bencher| {
            bencher.iter_batched(|| moves(devices), coalesce, BatchSize::LargeInput);
        });
        group.bench_function(format!("1000 reports of {devices} devices"), |bencher| {
            bencher.iter_batched(|| news(devices), absorbed, BatchSize::LargeInput);
        });
    }
}
