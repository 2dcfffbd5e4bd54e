//! What a batch of 1,000 events comes to: the last move of each client id, the newest news of each
//! device.

use std::collections::BTreeMap;

use criterion::{Criterion, Throughput};
use fleetgate::domain::device::DeviceId;
use fleetgate::presence::coalesce;
use fleetgate::registry::presence::SessionMove;
use fleetgate::registry::reports::{DeviceNews, Report, merge};

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
        let value = Some(r#"{"celsius":21.5}"#.into());
        let report = Report { at_ms, id, value, as_text: None };
        let reports = BTreeMap::from([("temperature".into(), report)]);
        DeviceNews { reports, ..DeviceNews::seen(DeviceId((event % devices).into()), at_ms) }
    };
    (0..EVENTS).map(reported).collect()
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coalescing");
    group.throughput(Throughput::Elements(EVENTS.into()));
    for devices in [10, EVENTS] {
        group.bench_function(format!("1000 moves of {devices} devices"), |bencher| {
            let moves = moves(devices);
            bencher.iter(|| coalesce(&moves));
        });
        group.bench_function(format!("1000 reports of {devices} devices"), |bencher| {
            let news = news(devices);
            bencher.iter(|| merge(&news));
        });
    }
}
