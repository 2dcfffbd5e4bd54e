//! One action by a device's rights: a few, as devices have them, and very many, as services may.

use std::hint::black_box;

use criterion::Criterion;
use fleetgate::authz::{AccessRequest, Decision, decide};
use fleetgate::domain::acl::Action;
use fleetgate::domain::device::{DeviceId, DeviceRecord};
use fleetgate::domain::rights::Rights;
use fleetgate::domain::topic::TopicFilter;

const NAME: &str = "thermo-17";

fn device(rights: Rights) -> DeviceRecord {
    DeviceRecord {
        id: DeviceId(1),
        name: NAME.parse().unwrap(),
        client_id: None,
        kind: "sensor".parse().unwrap(),
        enabled: true,
        credentials: Box::default(),
        rights,
    }
}

fn with_bindings(count: usize) -> DeviceRecord {
    let state = |n: usize| {
        (format!("lab/2/{NAME}/{n}/state").parse().unwrap(), n.to_string().as_str().into())
    };
    let command = |n: usize| format!("lab/2/{NAME}/{n}/set").parse().unwrap();
    device(Rights::new(
        (0..count).map(state).collect(),
        (0..count).map(command).collect(),
        vec![],
        vec![],
    ))
}

fn with_grants(count: usize) -> DeviceRecord {
    let grants = |end: &str| -> Vec<TopicFilter> {
        (0..count).map(|n| format!("lab/{n}/+/{end}").parse().unwrap()).collect()
    };
    device(Rights::new(vec![], vec![], grants("set"), grants("state")))
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("actions");
    for count in [1, 10, 1_000] {
        let last = count - 1;
        let (bound, granted) = (with_bindings(count), with_grants(count));
        let mut ask = |name: &str, device: &DeviceRecord, action, topic: &str, allowed| {
            let question = AccessRequest { user_name: NAME, action: Some(action), topic };
            assert_eq!(decide(Some(device), &question) == Decision::Allow, allowed, "{name}");
            group.bench_function(format!("{name}, {count}"), |bencher| {
                bencher.iter(|| decide(Some(device), black_box(&question)));
            });
        };
        let state = format!("lab/2/{NAME}/{last}/state");
        ask("publish to a binding", &bound, Action::Publish, &state, true);
        ask("publish to no binding", &bound, Action::Publish, "lab/2/other/0/state", false);
        let set = format!("lab/{last}/x/set");
        ask("publish to a grant", &granted, Action::Publish, &set, true);
        let filter = format!("lab/{last}/+/state");
        ask("subscribe to a grant", &granted, Action::Subscribe, &filter, true);
        ask("subscribe to no grant", &granted, Action::Subscribe, "lab/#", false);
    }
}
