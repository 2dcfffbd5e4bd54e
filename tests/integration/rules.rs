//! Routing rules: which devices get a command that names none.

use fleetgate::domain::name::CapabilityName;
use fleetgate::domain::routing::Strategy;
use fleetgate::fleet::commands::{self, NewCommand};
use fleetgate::fleet::error::{ErrorKind, Field, Rule};
use fleetgate::fleet::routing::{Bounds, To};
use fleetgate::fleet::rules::{self, NewRule, RuleChange};
use fleetgate::fleet::{FleetError, Part};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::commands::{BOUNDS, name, new};
use crate::support::commands::{fleetgate, run};
use crate::support::fleet::Fleet;
use crate::support::postgres::{TestDatabase, as_owner, connect, fresh_database};

struct Home {
    fleet: Fleet,
    database: TestDatabase,
    client: Client,
}

impl Home {
    /// Relays `a`, `b` and `c` with the capability `switch`; and `deaf`, which has it without a command topic.
    async fn new() -> Self {
        let database = fresh_database().await;
        let fleet = Fleet::connect(&database.url).await;
        for relay in ["a", "b", "c"] {
            let topics = [format!("{relay}/state"), format!("{relay}/set")];
            fleet.device_of_kind(relay, "relay").await;
            fleet.bind(relay, "switch", Some(&topics[0]), Some(&topics[1])).await;
        }
        fleet.device("deaf").await.bind("deaf", "switch", Some("deaf/state"), None).await;
        let client = connect(&as_owner(&database.url)).await;
        Self { fleet, database, client }
    }

    async fn rule(&self, rule: &str, selector: &str, strategy: Strategy, priority: i32) {
        let new = NewRule {
            name: rule.parse().unwrap(),
            capability: "switch".parse().unwrap(),
            selector: selector.parse().unwrap(),
            strategy,
            priority,
        };
        rules::add(&self.client, &new).await.unwrap();
    }

    async fn online(&self, names: &[&str]) {
        let online = "UPDATE devices SET online = name = ANY ($1)";
        self.client.execute(online, &[&names]).await.unwrap();
    }

    /// Sends a command: the devices that get it, and the rule that chose them.
    async fn sends(&mut self, to: To) -> Result<(String, Option<String>), FleetError> {
        let sent = commands::send(&mut self.client, &NewCommand { to, ..new("1") }).await?;
        let devices = sent.deliveries.iter().map(|delivery| delivery.device.as_str());
        Ok((devices.collect::<Vec<_>>().join(" "), sent.command.rule))
    }

    async fn routed(&mut self) -> String {
        let (devices, rule) = self.sends(To::Rules).await.unwrap();
        format!("{devices} by {}", rule.unwrap())
    }
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, FleetError>) -> Rule {
    match outcome.unwrap_err() {
        FleetError::Rule { rule, .. } => rule,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_first_rule_that_yields_a_device_decides() {
    let mut home = Home::new().await;
    assert_eq!(refusal(home.sends(To::Rules).await), Rule::NoRules);
    home.rule("rest", "", Strategy::All, -5).await;
    home.rule("one", "name=c", Strategy::All, 7).await;
    home.rule("online", "online", Strategy::All, 9).await;
    assert_eq!(home.routed().await, "c by one", "nobody is online");
    home.online(&["a", "deaf"]).await;
    assert_eq!(home.routed().await, "a by online");
    let disabled = RuleChange { enabled: Some(false), ..RuleChange::default() };
    for rule in ["online", "one"] {
        rules::set(&home.client, &rule.parse().unwrap(), &disabled).await.unwrap();
    }
    assert_eq!(home.routed().await, "a b c by rest");
    home.fleet.enabled("b", false).await;
    assert_eq!(home.routed().await, "a c by rest", "what is disabled gets nothing");
    let named = |rule: &str| To::Rule(rule.parse().unwrap());
    assert_eq!(refusal(home.sends(named("one")).await), Rule::RuleDisabled);
    assert_eq!(home.sends(named("rest")).await.unwrap().0, "a c");
    rules::set(&home.client, &"rest".parse().unwrap(), &disabled).await.unwrap();
    assert_eq!(refusal(home.sends(To::Rules).await), Rule::NoRules);
}

#[tokio::test]
async fn any_takes_one_that_is_online_and_was_commanded_longest_ago() {
    let mut home = Home::new().await;
    home.rule("any", "kind=relay", Strategy::Any, 0).await;
    let mut chosen = Vec::new();
    for _ in 0..4 {
        chosen.push(home.routed().await);
    }
    assert_eq!(chosen, ["a by any", "b by any", "c by any", "a by any"]);
    home.online(&["a", "c"]).await;
    assert_eq!([home.routed().await, home.routed().await], ["c by any", "a by any"]);
    home.online(&[]).await;
    let first = RuleChange { strategy: Some(Strategy::First), ..RuleChange::default() };
    rules::set(&home.client, &"any".parse().unwrap(), &first).await.unwrap();
    assert_eq!([home.routed().await, home.routed().await], ["a by any", "a by any"]);
}

/// Two at a time do not take the same device: the second waits until the first is committed.
#[tokio::test]
async fn commands_that_are_sent_at_a_time_go_to_different_devices() {
    let mut home = Home::new().await;
    home.rule("any", "", Strategy::Any, 0).await;
    let (mut first, mut second) = (
        connect(&as_owner(&home.database.url)).await,
        connect(&as_owner(&home.database.url)).await,
    );
    let command = NewCommand { to: To::Rules, ..new("1") };
    let mut open = first.transaction().await.unwrap();
    let sent = commands::send(&mut open, &command).await.unwrap();
    assert_eq!(sent.deliveries[0].device, "a");
    let waiting = tokio::spawn(async move {
        let command = NewCommand { to: To::Rules, ..new("1") };
        commands::send(&mut second, &command).await.unwrap().deliveries.remove(0).device
    });
    crate::support::app::eventually("the second waits for the lock", || async {
        home.fleet.value::<i64>("SELECT count(*) FROM pg_locks WHERE NOT granted").await > 0
    })
    .await;
    open.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap(), "b");
    assert_eq!(home.routed().await, "c by any");
}

#[tokio::test]
async fn a_selector_means_what_can_get_the_command() {
    let mut home = Home::new().await;
    let by = |selector: &str| To::Selector(selector.parse().unwrap());
    assert_eq!(home.sends(by("")).await.unwrap(), ("a b c".to_owned(), None));
    assert_eq!(home.sends(by("name in (c,deaf,a)")).await.unwrap().0, "a c");
    for nobody in ["name=deaf", "kind=lamp", "!enabled"] {
        assert_eq!(refusal(home.sends(by(nobody)).await), Rule::NoMatch, "{nobody}");
    }
    let bounds = Bounds { max_payload: 3, max_devices: 2, has_broker: true };
    let small = |payload: &str, to: To| NewCommand { to, bounds, ..new(payload) };
    for (command, rule) in [
        (small("1234", by("name=a")), Rule::PayloadTooLarge(3)),
        (small("1", by("")), Rule::TooManyDevices(2)),
        (small("1", To::Devices(vec![name("a"), name("b"), name("c")])), Rule::TooManyDevices(2)),
    ] {
        assert_eq!(refusal(commands::send(&mut home.client, &command).await), rule);
    }
    home.client.batch_execute("UPDATE capabilities SET confirm = 'reply'").await.unwrap();
    assert_eq!(refusal(home.sends(by("")).await), Rule::NoMatch, "no one replies");
    let stored: i64 = home.fleet.value("SELECT count(*) FROM commands").await;
    assert_eq!(stored, 2, "what is refused stores nothing");
    let selectors = "SELECT count(*) FROM commands WHERE selector IN ('{}', '{\"name\": [\"c\", \"deaf\", \"a\"]}')";
    assert_eq!(home.fleet.value::<i64>(selectors).await, 2);
}

#[tokio::test]
async fn rules_are_refused_with_the_reason() {
    let home = Home::new().await;
    home.rule("r", "", Strategy::All, 0).await;
    let other: CapabilityName = "dim".parse().unwrap();
    let rule = |name: &str, capability: &CapabilityName, priority: i32| NewRule {
        name: name.parse().unwrap(),
        capability: capability.clone(),
        selector: "".parse().unwrap(),
        strategy: Strategy::All,
        priority,
    };
    let switch: CapabilityName = "switch".parse().unwrap();
    let taken = rules::add(&home.client, &rule("r", &switch, 0)).await.unwrap_err();
    assert_eq!((taken.kind(), taken.field()), (ErrorKind::Conflict, Some(Field::Name)));
    let unknown = rules::add(&home.client, &rule("s", &other, 0)).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    let far = rules::add(&home.client, &rule("s", &switch, 1_000_001)).await.unwrap_err();
    assert_eq!((far.kind(), far.field()), (ErrorKind::Invalid, Some(Field::Priority)));
    for (statement, part) in [
        ("UPDATE routing_rules SET selector = '{\"colour\": 1}'", "/colour: is not a field"),
        ("UPDATE routing_rules SET strategy = 'some'", "routing_rules_strategy_known"),
        ("DELETE FROM capabilities", "device_capabilities_capability"),
    ] {
        let refused = home.client.batch_execute(statement).await.unwrap_err();
        let message = refused.as_db_error().unwrap().message();
        assert!(message.contains(part), "{statement}: {message}");
    }
}

/// Where a command failed it may be sent again; devices that can be sent nothing by then are passed over and named.
#[tokio::test]
async fn retrying_passes_over_what_can_be_sent_nothing() {
    let mut home = Home::new().await;
    let to = To::Devices(vec![name("a"), name("b"), name("c")]);
    let sent = commands::send(&mut home.client, &NewCommand { to, ..new("1") }).await.unwrap();
    let ends = "UPDATE command_deliveries SET ended_at = now(), ended_as = CASE device_name WHEN 'c' THEN 'cancelled' ELSE 'expired' END";
    home.client.batch_execute(ends).await.unwrap();
    home.fleet.enabled("b", false).await;
    let again = commands::retry(
        &mut home.client,
        &Part::whole(),
        &sent.command.id,
        "a test".into(),
        BOUNDS,
    )
    .await
    .unwrap();
    let devices: Vec<_> = again.details.deliveries.iter().map(|one| one.device.as_str()).collect();
    assert_eq!((devices, again.passed_over), (vec!["a"], vec!["b".to_owned()]));
    home.fleet.sql("DELETE FROM devices WHERE name = 'a'", &[]).await;
    let nobody = commands::retry(
        &mut home.client,
        &Part::whole(),
        &sent.command.id,
        "a test".into(),
        BOUNDS,
    )
    .await;
    assert_eq!(refusal(nobody), Rule::NoDeviceToRetry(vec!["a".to_owned(), "b".to_owned()]));
}

#[tokio::test]
async fn the_command_line_makes_rules_and_tries_them() {
    let home = Home::new().await;
    let url = &home.database.url;
    let run = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let mut command = fleetgate(&words);
        command
            .env("FLEETGATE_DATABASE_URL", url)
            .env("FLEETGATE_EMQX_API_URL", "http://127.0.0.1:1");
        command.env("FLEETGATE_EMQX_API_KEY", "key").env("FLEETGATE_EMQX_API_SECRET", "secret");
        run(command)
    };
    for (line, code, part) in [
        (
            "rule add near --capability switch --selector name=a --priority 5",
            0,
            "fleetgate rule test near",
        ),
        ("rule add all --capability switch", 0, "is added"),
        ("rule add one --capability switch --strategy any --priority -3", 0, "is added"),
        ("rule add near --capability switch", 1, "exists already"),
        ("rule add x --capability fly", 3, "capability list"),
        ("rule add x --capability switch --selector colour=red", 2, "/colour: is not a field"),
        ("rule add x --capability switch --strategy some", 2, "[possible values: all, any, first]"),
        ("rule add x --capability switch --priority 1000001", 2, "from -1000000 to 1000000"),
        ("rule list", 0, "near  switch      5         yes      all       name=a"),
        ("rule test near", 0, "It yields 1 device: a (offline)."),
        (
            "rule test all",
            0,
            "It yields 3 devices: a (offline), b (offline), c (offline). It is not asked: rule \"near\" comes before it",
        ),
        ("command send switch 1 --dry-run", 0, "1 device: a (offline), by rule \"near\""),
        ("command send switch 1 --dry-run --rule all", 0, "3 devices"),
        (
            "command send switch 1 --dry-run --selector name!=a",
            0,
            "2 devices: b (offline), c (offline). Nothing",
        ),
        ("command send switch 1 --device a --rule all", 2, "cannot be used with"),
        ("command send switch 1 --selector name=deaf", 1, "no device can get it"),
        ("command send switch 1 --rule nobody", 3, "rule list"),
        ("rule disable near", 0, "is disabled"),
        ("rule test near", 0, "It is disabled, and passed over."),
        ("rule set near --selector online", 0, "online"),
        ("rule enable near", 0, "is enabled"),
        ("rule test near", 0, "It yields no device."),
        ("rule set near", 2, "--selector"),
        ("rule show nobody", 3, "rule list"),
        ("command send switch 1", 0, "is on its way"),
        ("rule remove near", 0, "is removed"),
        ("rule remove near", 3, "rule list"),
        ("capability remove switch", 1, "devices still have it"),
    ] {
        let (is, stdout, stderr) = run(line);
        assert_eq!(is, code, "{line}: {stdout}{stderr}");
        assert!(stdout.contains(part) || stderr.contains(part), "{line}: {stdout}{stderr}");
    }
    let list: Value = serde_json::from_str(&run("--json command list").1).unwrap();
    let newest = &list[0];
    assert_eq!((&newest["rule"], &newest["devices"]), (&json!("all"), &json!(3)));
    let shown = run(&format!("command show {}", newest["id"].as_str().unwrap())).1;
    assert!(shown.contains("Its devices were chosen by rule \"all\"."), "{shown}");
}
