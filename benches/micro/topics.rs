//! Whether a filter matches a topic, whether a grant covers a filter.

use std::hint::black_box;

use criterion::Criterion;
use fleetgate::domain::topic::{filter_matches, grant_covers};

pub(crate) fn bench(criterion: &mut Criterion) {
    let topic = "building/floor-2/lab/thermo-17/temperature/state";
    let filters = [
        ("exact", topic),
        ("one level", "building/floor-2/lab/+/temperature/state"),
        ("every level", "+/+/+/+/+/+"),
        ("rest", "building/floor-2/#"),
        ("none", "building/floor-2/lab/thermo-17/temperature/set"),
    ];
    let mut group = criterion.benchmark_group("topics");
    for (name, filter) in filters {
        group.bench_function(format!("match, {name}"), |bencher| {
            bencher.iter(|| filter_matches(black_box(filter), black_box(topic)));
        });
        group.bench_function(format!("coverage, {name}"), |bencher| {
            let asked = "building/floor-2/lab/thermo-17/+/state";
            bencher.iter(|| grant_covers(black_box(filter), black_box(asked)));
        });
    }
}
