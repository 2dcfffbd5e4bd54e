//! Commands go down to devices, and what becomes of each is known.

use std::sync::Arc;
use std::time::Duration;

use fleetgate::commands::{Commands, GRACE};
use fleetgate::config::Config;
use fleetgate::domain::delivery::{Confirmation, End};
use fleetgate::domain::device::DeviceId;
use fleetgate::domain::name::DeviceName;
use fleetgate::emqx::EmqxApi;
use fleetgate::fleet::commands::{self, DeliveryRow, MOST_OPEN, NewCommand, Resumed, Retried};
use fleetgate::fleet::error::{ErrorKind, Field, Rule};
use fleetgate::fleet::routing::{Bounds, To};
use fleetgate::fleet::{FleetError, Part};
use fleetgate::metrics::Metrics;
use fleetgate::registry::commands::{Fact, note};
use fleetgate::registry::connection::Target;
use fleetgate::registry::work::Work;
use fleetgate::work::{Kind, Outcome};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::app::{TOKEN, TestApp, config, eventually, start_with};
use crate::support::bus::{command, connected, disconnected, now};
use crate::support::commands::{fleetgate, run};
use crate::support::database::Database;
use crate::support::fake_emqx::{FakeEmqx, Mood};
use crate::support::fleet::Fleet;
use crate::support::postgres::{SERVING_ROLE, TestDatabase, as_owner, connect, fresh_database};
use crate::support::serve::Serve;
use crate::support::wire::{Connection, post};

pub(crate) struct Bench {
    pub(crate) emqx: FakeEmqx,
    pub(crate) app: TestApp,
    pub(crate) fleet: Fleet,
    pub(crate) database: TestDatabase,
    pub(crate) client: Client,
}

impl Bench {
    /// A device `relay` with a capability `switch`, whose command topic is `relay/set`.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let emqx = FakeEmqx::start().await;
        let api = emqx.settings();
        let (app, fleet, database) = start_with(|config| {
            config.emqx.api = Some(api);
            change(config);
        })
        .await;
        fleet.device("relay").await;
        fleet.bind("relay", "switch", Some("relay/state"), Some("relay/set")).await;
        let client = connect(&as_owner(&database.url)).await;
        Self { emqx, app, fleet, database, client }
    }

    /// The device connects, and EMQX knows and tells it.
    pub(crate) async fn online(&self) {
        let at = now();
        self.emqx.connect("relay", "relay", at);
        assert_eq!(self.app.event(&connected("relay", "relay", at)).await.status, 204);
    }

    pub(crate) async fn online_and_subscribed(&self) {
        self.emqx.subscribe("relay", "relay/set", 1);
        self.online().await;
    }

    pub(crate) async fn tells(
        &self,
        event: &str,
        client_id: &str,
        name: &str,
        delivery: &str,
        qos: u8,
    ) {
        let answer = self.app.event(&command(event, client_id, name, delivery, qos)).await;
        assert_eq!(answer.status, 204);
    }

    pub(crate) async fn acks(&self, delivery: &str) {
        self.tells("message.acked", "relay", "relay", delivery, 1).await;
    }

    pub(crate) async fn send(&mut self, payload: &str) -> String {
        self.send_new(new(payload)).await
    }

    pub(crate) async fn send_new(&mut self, new: NewCommand) -> String {
        commands::send(&mut self.client, &new).await.unwrap().command.id
    }

    pub(crate) async fn delivery(&self, id: &str) -> DeliveryRow {
        let details = commands::show(&self.client, &Part::whole(), id).await.unwrap();
        let [delivery] = details.deliveries.try_into().unwrap();
        delivery
    }

    /// Waits until the delivery has ended, and noted so.
    pub(crate) async fn ended(&self, id: &str) -> DeliveryRow {
        eventually("the delivery has ended", || async { self.is_noted(id).await }).await;
        self.delivery(id).await
    }

    pub(crate) async fn is_noted(&self, id: &str) -> bool {
        let noted = "SELECT bool_and(ended_at IS NOT NULL) FROM command_deliveries WHERE command_id = $1::text::uuid";
        self.client.query_one(noted, &[&id]).await.unwrap().get(0)
    }

    pub(crate) async fn sql(&self, statement: &str) {
        self.client.batch_execute(statement).await.unwrap();
    }
}

pub(crate) fn name(text: &str) -> DeviceName {
    text.parse().unwrap()
}

pub(crate) fn new(payload: &str) -> NewCommand {
    NewCommand {
        capability: "switch".parse().unwrap(),
        payload: payload.parse().unwrap(),
        to: To::Devices(vec![name("relay")]),
        expires_in: None,
        confirm: None,
        asked_by: "a test".into(),
        requested: None,
        bounds: BOUNDS,
        part: Part::whole(),
    }
}

pub(crate) const BOUNDS: Bounds =
    Bounds { max_payload: 65_536, max_devices: 10_000, has_broker: true };

#[tokio::test]
async fn a_command_goes_down_once_and_its_receipt_comes_back() {
    let mut bench = Bench::start().await;
    bench.online_and_subscribed().await;
    let id = bench.send("\"on\"").await;
    let message = bench.emqx.published(1).await;
    assert_eq!((message.topic.as_str(), message.payload.as_str()), ("relay/set", "\"on\""));
    assert_eq!((message.qos, message.retain), (1, false));
    assert!((50..=60).contains(&message.expiry), "{message:?}");
    assert_eq!(message.correlation, bench.delivery(&id).await.id);
    bench.tells("message.delivered", "relay", "relay", &message.correlation, 1).await;
    assert_eq!(bench.delivery(&id).await.state, "sent");
    bench.acks(&message.correlation).await;
    let ended = bench.ended(&id).await;
    assert_eq!((ended.state.as_str(), ended.attempts, ended.succeeded), ("delivered", 1, true));
    assert_eq!(ended.topic.as_deref(), Some("relay/set"));
    eventually("nothing is left to do", || async {
        bench.fleet.value::<i64>("SELECT count(*) FROM work_queue").await == 0
    })
    .await;
    assert_eq!(bench.emqx.all_published().len(), 1);
    let counted =
        bench.app.counted("fleetgate_command_deliveries_total{state=\"delivered\"}").await;
    assert_eq!(counted, 1.0);
}

/// Every subscriber acknowledges for itself: a dashboard that listens to `#`, another device, a foreign client id.
#[tokio::test]
async fn only_the_devices_own_receipt_counts() {
    let mut bench = Bench::start().await;
    bench.fleet.device("dashboard").await;
    bench.online_and_subscribed().await;
    let id = bench.send("1").await;
    let delivery = bench.emqx.published(1).await.correlation;
    bench.tells("message.acked", "dashboard", "dashboard", &delivery, 1).await;
    bench.tells("message.acked", "relay:2", "relay", &delivery, 1).await;
    bench.tells("message.delivered", "dashboard", "dashboard", &delivery, 0).await;
    for other in ["", "cmd-1", "\u{fffd}", "0ea7a7a2-9a5e-4e62-8a3e-0d3c1c2b4a5f"] {
        bench.tells("message.acked", "relay", "relay", other, 1).await;
    }
    let open = bench.delivery(&id).await;
    assert_eq!((open.state.as_str(), open.acked_at, open.written_at), ("sent", None, None));
    bench.acks(&delivery).await;
    assert_eq!(bench.ended(&id).await.state, "delivered");
}

#[tokio::test]
async fn a_command_waits_for_a_device_that_is_offline() {
    let mut bench = Bench::start().await;
    let id = bench.send("1").await;
    eventually("the command was looked at", || async {
        bench
            .fleet
            .value::<bool>("SELECT bool_and(due_at > now() + interval '5 seconds') FROM work_queue")
            .await
    })
    .await;
    assert_eq!(bench.delivery(&id).await.state, "queued");
    bench.online_and_subscribed().await;
    let message = bench.emqx.published(1).await;
    bench.acks(&message.correlation).await;
    assert_eq!(bench.ended(&id).await.attempts, 1);
}

/// A listener to `#` makes EMQX answer 200 for a device that has not subscribed yet.
#[tokio::test]
async fn a_command_waits_until_the_device_itself_has_subscribed() {
    let mut bench = Bench::start().await;
    bench.emqx.connect("listener", "listener", now());
    bench.emqx.subscribe("listener", "#", 1);
    bench.online().await;
    let id = bench.send("1").await;
    eventually("EMQX was asked for its subscriptions", || async {
        bench.fleet.value::<bool>("SELECT coalesce(bool_or(last_error LIKE '%not subscribed%'), false) FROM work_queue").await
    })
    .await;
    assert_eq!(bench.emqx.all_published(), []);
    let waiting = bench.delivery(&id).await;
    assert_eq!((waiting.state.as_str(), waiting.attempts), ("queued", 0));
    bench.emqx.subscribe("relay", "relay/+", 1);
    let message = bench.emqx.published(1).await;
    bench.acks(&message.correlation).await;
    assert_eq!(bench.ended(&id).await.state, "delivered");
}

/// A device that never seemed to be away connects anew: what waits is tried at once, not when its wait is over.
#[tokio::test]
async fn every_connect_wakes_what_waits() {
    let mut bench = Bench::start().await;
    bench.online().await;
    let id = bench.send("1").await;
    let put_off = "UPDATE work_queue SET due_at = now() + interval '1 hour' WHERE kind = 'command' AND last_error IS NOT NULL";
    eventually("the line was put off", || async { bench.fleet.sql(put_off, &[]).await == 1 }).await;
    bench.online_and_subscribed().await;
    let message = bench.emqx.published(1).await;
    bench.acks(&message.correlation).await;
    assert_eq!(bench.ended(&id).await.state, "delivered");
}

#[tokio::test]
async fn commands_of_a_line_go_in_their_order_one_at_a_time() {
    let mut bench = Bench::start().await;
    let mut ids = Vec::new();
    for payload in ["1", "2", "3", "4", "5"] {
        ids.push(bench.send(payload).await);
    }
    bench.online_and_subscribed().await;
    for (number, id) in (1..).zip(&ids) {
        let message = bench.emqx.published(number).await;
        assert_eq!(message.payload, number.to_string());
        assert_eq!(bench.emqx.all_published().len(), number, "one at a time");
        bench.acks(&message.correlation).await;
        bench.ended(id).await;
    }
    assert_eq!(bench.emqx.all_published().len(), 5);
}

#[tokio::test]
async fn a_device_that_subscribes_with_qos_0_gets_each_command_once() {
    let mut bench = Bench::start().await;
    bench.emqx.subscribe("relay", "relay/set", 0);
    bench.online().await;
    let id = bench.send("1").await;
    let delivery = bench.emqx.published(1).await.correlation;
    bench.tells("message.delivered", "relay", "relay", &delivery, 0).await;
    let ended = bench.ended(&id).await;
    assert_eq!((ended.state.as_str(), ended.succeeded, ended.attempts), ("sent", true, 1));
    let next = bench.send("2").await;
    assert_eq!(bench.emqx.published(2).await.payload, "2");
    assert_eq!(bench.delivery(&next).await.state, "sent");
}

/// Its first attempt had a receipt to come; that of the second cannot come.
#[tokio::test]
async fn a_device_that_comes_back_with_qos_0_gets_it_no_third_time() {
    let mut bench = Bench::start().await;
    bench.online_and_subscribed().await;
    let id = bench.send("1").await;
    let delivery = bench.emqx.published(1).await.correlation;
    bench.tells("message.delivered", "relay", "relay", &delivery, 1).await;
    assert!(!bench.is_noted(&id).await);
    bench.tells("message.delivered", "relay", "relay", &delivery, 0).await;
    let ended = bench.ended(&id).await;
    assert_eq!((ended.state.as_str(), ended.succeeded), ("sent", true));
}

/// Not the one that has its name today.
#[tokio::test]
async fn a_command_is_asked_for_again_at_the_device_that_it_was_for() {
    let mut bench = Bench::start().await;
    bench.fleet.device("other").await;
    bench.fleet.bind("other", "switch", None, Some("other/set")).await;
    let id = bench.send("1").await;
    commands::cancel(&mut bench.client, &Part::whole(), &id, "a test").await.unwrap();
    bench
        .sql(
            "UPDATE command_deliveries SET ended_as = 'expired', cancelled_at = NULL, cancelled_why = NULL,
                 ended_at = clock_timestamp();
             UPDATE devices SET name = 'third' WHERE name = 'relay';
             UPDATE devices SET name = 'relay' WHERE name = 'other'",
        )
        .await;
    let retry = async |client: &mut Client| {
        commands::retry(client, &Part::whole(), &id, "a test".into(), BOUNDS).await.unwrap()
    };
    let devices = |retried: Retried| retried.details.deliveries.into_iter().map(|it| it.device);
    let again = retry(&mut bench.client).await;
    assert!(devices(again).eq(["third"]));
    // Two that would have the same name now are one.
    bench.fleet.device("fourth").await;
    bench.fleet.bind("fourth", "switch", None, Some("fourth/set")).await;
    let both = NewCommand { to: To::Devices(vec![name("third"), name("fourth")]), ..new("1") };
    let both = bench.send_new(both).await;
    bench
        .sql(
            "UPDATE command_deliveries SET ended_as = 'expired', ended_at = clock_timestamp() WHERE ended_at IS NULL;
             DELETE FROM devices WHERE name = 'fourth';
             UPDATE devices SET name = 'fourth' WHERE name = 'third'",
        )
        .await;
    let again =
        commands::retry(&mut bench.client, &Part::whole(), &both, "a test".into(), BOUNDS).await;
    assert!(devices(again.unwrap()).eq(["fourth"]));
    bench.sql("UPDATE devices SET name = 'third'  WHERE name = 'fourth'").await;
    // One that was replaced by another of its name.
    bench.sql("DELETE FROM devices WHERE name = 'third'").await;
    let again = retry(&mut bench.client).await;
    assert!(devices(again).eq(["relay"]));
}

#[tokio::test]
async fn commands_expire_and_nothing_outdated_is_sent() {
    let mut bench = Bench::start().await;
    let short = NewCommand { expires_in: Some(Duration::from_secs(1)), ..new("1") };
    let id = bench.send_new(short).await;
    let ended = bench.ended(&id).await;
    assert_eq!((ended.state.as_str(), ended.attempts, ended.succeeded), ("expired", 0, false));
    bench.online_and_subscribed().await;
    let id = bench.send("2").await;
    let message = bench.emqx.published(1).await;
    assert_eq!(message.payload, "2");
    bench.acks(&message.correlation).await;
    bench.ended(&id).await;
}

#[tokio::test]
async fn a_receipt_may_come_before_emqx_answers_the_publish() {
    let mut bench = Bench::start().await;
    bench.online_and_subscribed().await;
    let hold = bench.emqx.hold_publish();
    let id = bench.send("1").await;
    hold.reached().await;
    let delivery = bench.emqx.published(1).await.correlation;
    bench.acks(&delivery).await;
    hold.release();
    let ended = bench.ended(&id).await;
    assert_eq!((ended.state.as_str(), ended.attempts), ("delivered", 1));
    eventually("the answer is noted as well", || async {
        bench.delivery(&id).await.published_at.is_some()
    })
    .await;
}

#[tokio::test]
async fn what_was_cancelled_stays_cancelled_and_a_late_receipt_is_shown() {
    let mut bench = Bench::start().await;
    bench.online_and_subscribed().await;
    let id = bench.send("1").await;
    let delivery = bench.emqx.published(1).await.correlation;
    assert_eq!(
        commands::cancel(&mut bench.client, &Part::whole(), &id, "somebody").await.unwrap(),
        1
    );
    let ended = bench.ended(&id).await;
    assert_eq!((ended.state.as_str(), ended.reason.as_deref()), ("cancelled", Some("by somebody")));
    bench.acks(&delivery).await;
    let late = bench.delivery(&id).await;
    assert_eq!(late.state, "cancelled");
    assert!(late.acked_at > late.ended_at);
    assert_eq!(
        commands::cancel(&mut bench.client, &Part::whole(), &id, "somebody").await.unwrap(),
        0
    );
}

/// Where a command goes, and whether it may, is read when it is sent.
#[tokio::test]
async fn what_changes_while_commands_wait_is_minded() {
    let mut bench = Bench::start().await;
    let moved = bench.send("1").await;
    bench.sql("UPDATE topic_bindings SET command_topic = 'relay/elsewhere'").await;
    // A topic that is taken away ends the session.
    bench.emqx.deleted("relay").await;
    bench.emqx.subscribe("relay", "#", 1);
    bench.online().await;
    let message = bench.emqx.published(1).await;
    assert_eq!(message.topic, "relay/elsewhere");
    bench.acks(&message.correlation).await;
    bench.ended(&moved).await;

    bench.fleet.device("other").await;
    bench.fleet.bind("other", "switch", None, Some("other/set")).await;
    for (statement, why) in [
        (
            "UPDATE topic_bindings SET command_topic = NULL, state_topic = 'other/state' WHERE command_topic = 'other/set'",
            "no command topic",
        ),
        (
            "DELETE FROM device_capabilities WHERE device_id = (SELECT id FROM devices WHERE name = 'other')",
            "no command topic",
        ),
        ("UPDATE devices SET enabled = false WHERE name = 'other'", "disabled"),
        ("DELETE FROM devices WHERE name = 'other'", "removed"),
    ] {
        bench.sql("UPDATE devices SET enabled = true").await;
        bench.fleet.sql("INSERT INTO device_capabilities SELECT id, 'switch' FROM devices WHERE name = 'other' ON CONFLICT DO NOTHING", &[]).await;
        bench.fleet.sql("INSERT INTO topic_bindings (device_id, name, command_topic) SELECT id, 'switch', 'other/set' FROM devices WHERE name = 'other'
             ON CONFLICT (device_id, name) DO UPDATE SET command_topic = 'other/set'", &[]).await;
        let waiting = NewCommand { to: To::Devices(vec![name("other")]), ..new("1") };
        let id = bench.send_new(waiting).await;
        bench.sql(statement).await;
        // Whatever wakes the line next finds it.
        bench.sql("UPDATE work_queue SET due_at = now(), changed_at = clock_timestamp() WHERE kind = 'command'").await;
        let ended = bench.ended(&id).await;
        assert_eq!(ended.state, "cancelled", "{statement}");
        assert!(ended.reason.as_deref().unwrap().contains(why), "{ended:?}");
    }
    assert_eq!(bench.emqx.all_published().len(), 1);
}

#[tokio::test]
async fn emqx_may_be_away_for_a_while() {
    let mut bench = Bench::start().await;
    bench.online_and_subscribed().await;
    bench.emqx.set(Mood::ServerError);
    let id = bench.send("1").await;
    eventually("EMQX was asked in vain", || async {
        bench.fleet.value::<bool>("SELECT coalesce(bool_or(last_error IS NOT NULL), false) FROM work_queue WHERE kind = 'command'").await
    })
    .await;
    assert_eq!(bench.delivery(&id).await.attempts, 0, "asking is no attempt");
    bench.emqx.set(Mood::Well);
    let message = bench.emqx.published(1).await;
    bench.acks(&message.correlation).await;
    assert_eq!(bench.ended(&id).await.attempts, 1);
}

/// The process dies when EMQX has the message and before its answer is noted: what starts next does not send it
/// again while its receipt may still come.
#[tokio::test]
async fn a_process_that_died_leaves_no_command_behind_and_none_twice() {
    let mut bench = Bench::start().await;
    bench.online_and_subscribed().await;
    let hold = bench.emqx.hold_publish();
    let id = bench.send("1").await;
    hold.reached().await;
    let delivery = bench.emqx.published(1).await.correlation;
    let Bench { emqx, app, fleet, database, client } = bench;
    app.stop().unwrap();
    // As a process that was killed leaves it: an attempt without an outcome, its line still leased.
    fleet.sql("UPDATE command_deliveries SET published_at = NULL, attempted_at = now() - interval '1 hour', ended_at = NULL, ended_as = NULL", &[]).await;
    fleet.sql("SELECT fleetgate_queue_work('command', ARRAY(SELECT fleetgate_command_line(device_id, binding) FROM command_deliveries), ARRAY['{}'::jsonb])", &[]).await;
    let mut settings = config(&database.url);
    settings.emqx.api = Some(emqx.settings());
    let app = TestApp::start(settings).await;
    app.ready().await;
    let bench = Bench { emqx, app, fleet, database, client };
    eventually("the line was looked at", || async {
        bench.fleet.value::<bool>("SELECT bool_and(due_at > now() + interval '5 seconds') FROM work_queue WHERE kind = 'command'").await
    })
    .await;
    assert_eq!(bench.delivery(&id).await.attempts, 1);
    bench.acks(&delivery).await;
    assert_eq!(bench.ended(&id).await.state, "delivered");
    assert_eq!(bench.emqx.all_published().len(), 1);
}

#[tokio::test]
async fn an_attempt_without_receipt_is_made_again_and_not_for_ever() {
    let mut bench = Bench::start().await;
    bench.online_and_subscribed().await;
    let id = bench.send("1").await;
    let first = bench.emqx.published(1).await;
    // Its ack timeout runs out; in the first half minute of a process that is not held against it.
    let run_out = "UPDATE command_deliveries SET attempted_at = attempted_at - interval '1 hour'";
    let wake = "UPDATE work_queue SET due_at = now(), changed_at = clock_timestamp() WHERE kind = 'command'";
    bench.sql(run_out).await;
    bench.sql(wake).await;
    eventually("the line was looked at", || async {
        bench.fleet.value::<bool>("SELECT bool_and(due_at > now() + interval '5 seconds') FROM work_queue WHERE kind = 'command'").await
    })
    .await;
    assert_eq!(bench.emqx.all_published(), std::slice::from_ref(&first));
    // With all attempts made, it ends as soon as that counts.
    bench.sql("UPDATE command_deliveries SET attempts = 5").await;
    assert_eq!(bench.delivery(&id).await.state, "undeliverable");
}

/// Who sends commands, without a service around it, and by a clock that is moved; with a command to `relay` that waits.
struct Alone {
    emqx: FakeEmqx,
    worker: Commands,
    client: Client,
    database: Database,
}

impl Alone {
    async fn start() -> Self {
        let (database, client) = Database::migrated().await;
        client
            .batch_execute(
                "INSERT INTO capabilities (name) VALUES ('switch');
                 INSERT INTO devices (name, kind, online) VALUES ('relay', 'relay', true);
                 INSERT INTO device_capabilities (device_id, capability) SELECT id, 'switch' FROM devices;
                 INSERT INTO topic_bindings (device_id, name, command_topic) SELECT id, 'switch', 'relay/set' FROM devices",
            )
            .await
            .unwrap();
        let mut asking = database.connect().await;
        let long = NewCommand { expires_in: Some(Duration::from_secs(86_400)), ..new("1") };
        commands::send(&mut asking, &long).await.unwrap();
        let emqx = FakeEmqx::start().await;
        let (settings, metrics) = (config(&database.url()), Metrics::new().unwrap());
        let api = Arc::new(EmqxApi::new(&emqx.settings(), metrics.emqx.clone()).unwrap());
        let target = Target::new(&settings.database).unwrap();
        let keep = Duration::from_secs(3_600);
        let worker = Commands::new(Some(api), target, keep, metrics.commands);
        let alone = Self { emqx, worker, client, database };
        alone.relay_connects();
        alone
    }

    fn relay_connects(&self) {
        self.emqx.connect("relay", "relay", now());
        self.emqx.subscribe("relay", "relay/set", 1);
    }

    /// Deals with the line, whose last attempt is overdue, if there was one; tells how many messages have gone out since the
    /// beginning.
    async fn carry_out(&mut self) -> usize {
        let overdue =
            "UPDATE command_deliveries SET attempted_at = attempted_at - interval '1 hour'";
        self.client.batch_execute(overdue).await.unwrap();
        self.look(1).await
    }

    /// Deals with the line as it is, for the so-manieth time since something woke it; tells how many messages have gone out.
    async fn look(&mut self, looks: u32) -> usize {
        self.outcome(looks).await;
        self.emqx.all_published().len()
    }

    async fn outcome(&mut self, looks: u32) -> Outcome {
        let line = "SELECT fleetgate_command_line(device_id, binding), now() FROM command_deliveries LIMIT 1";
        let row = self.client.query_one(line, &[]).await.unwrap();
        let (key, at) = (row.get(0), row.get(1));
        let work = Work { key, payload: json!({}), changed_at: at, seen_at: at, attempts: looks };
        let [outcome] = self.worker.carry_out(&[work]).await.outcomes.try_into().unwrap();
        outcome
    }

    async fn attempts(&self) -> i32 {
        let attempts = "SELECT attempts FROM command_deliveries";
        self.client.query_one(attempts, &[]).await.unwrap().get(0)
    }
}

async fn half_a_minute() {
    tokio::time::pause();
    tokio::time::advance(GRACE).await;
    tokio::time::resume();
}

/// What was sent before the start, or before PostgreSQL was away, may have been received: EMQX holds what it could not tell. So
/// nothing is sent again for half a minute.
#[tokio::test]
async fn nothing_is_sent_again_while_receipts_may_still_come() {
    let mut alone = Alone::start().await;
    let before = "UPDATE command_deliveries SET attempts = 1, attempted_at = clock_timestamp()";
    alone.client.batch_execute(before).await.unwrap();
    assert_eq!(alone.carry_out().await, 0, "at the start");
    half_a_minute().await;
    assert_eq!(alone.carry_out().await, 1);
    assert_eq!(alone.carry_out().await, 2);
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND usename = $1";
    let cut = alone.client.query_one(cut, &[&SERVING_ROLE]).await.unwrap();
    assert_eq!(cut.get::<_, i64>(0), 1, "the worker's");
    while alone.carry_out().await == 2 && !opened_again(&alone.client).await {}
    assert_eq!(alone.carry_out().await, 2, "PostgreSQL was away");
    half_a_minute().await;
    assert_eq!(alone.carry_out().await, 3);
}

/// EMQX starts again and has lost what it held: the command goes out once more, with the same id, once the device is back; and
/// a receipt of either is one of both.
#[tokio::test]
async fn what_emqx_forgot_is_sent_again() {
    let mut alone = Alone::start().await;
    assert_eq!(alone.carry_out().await, 1);
    half_a_minute().await;
    alone.emqx.go_away();
    assert_eq!(alone.carry_out().await, 1);
    alone.emqx.disconnect("relay");
    alone.emqx.come_back().await;
    assert_eq!(alone.carry_out().await, 1, "the device is not back");
    assert_eq!(alone.attempts().await, 1, "that was no attempt");
    alone.relay_connects();
    assert_eq!(alone.carry_out().await, 2);
    let sent = alone.emqx.all_published();
    assert_eq!(sent[0].correlation, sent[1].correlation);
    let device = alone.client.query_one("SELECT id FROM devices", &[]).await.unwrap().get(0);
    let stamp = alone.client.query_one("SELECT now()", &[]).await.unwrap().get(0);
    let receipt = Fact::Acknowledged { stamp };
    let noted = note(&alone.client, &sent[0].correlation, DeviceId(device), &receipt).await;
    assert!(noted.unwrap());
    assert_eq!(alone.carry_out().await, 2);
    let end = "SELECT ended_as FROM command_deliveries WHERE attempts = 2";
    let end: String = alone.client.query_one(end, &[]).await.unwrap().get(0);
    assert_eq!(end, "delivered");
}

/// PostgreSQL stood still, and only the worker's other connection noticed.
#[tokio::test]
async fn nothing_is_sent_again_after_another_connection_found_postgresql_away() {
    let mut alone = Alone::start().await;
    assert_eq!(alone.carry_out().await, 1);
    half_a_minute().await;
    assert_eq!(alone.carry_out().await, 2);
    alone.worker.reconnected();
    assert_eq!(alone.carry_out().await, 2);
    half_a_minute().await;
    assert_eq!(alone.carry_out().await, 3);
}

#[tokio::test]
async fn what_has_no_receipt_gives_way_to_a_newer_one_that_takes_its_place() {
    let mut alone = Alone::start().await;
    assert_eq!(alone.carry_out().await, 1);
    half_a_minute().await;
    let mut asking = alone.database.connect().await;
    commands::send(&mut asking, &new("2")).await.unwrap();
    let of_old = "UPDATE command_deliveries SET attempted_at = attempted_at - interval '1 hour'";
    alone.client.batch_execute(of_old).await.unwrap();
    assert_eq!(
        alone.look(1).await,
        2,
        "unless the capability says so, all are sent in their order"
    );
    alone.client.batch_execute("UPDATE capabilities SET only_latest = true").await.unwrap();
    alone.client.batch_execute(of_old).await.unwrap();
    alone.look(1).await;
    let payloads: Vec<_> =
        alone.emqx.all_published().into_iter().map(|message| message.payload).collect();
    assert_eq!(payloads, ["1", "1", "2"]);
    let ended = "SELECT ended_as FROM command_deliveries WHERE ended_at IS NOT NULL";
    let ended: String = alone.client.query_one(ended, &[]).await.unwrap().get(0);
    assert_eq!(ended, "superseded");
}

/// The device connected just before the command was committed: nobody wakes the line.
#[tokio::test]
async fn a_device_that_is_offline_is_soon_looked_at_again() {
    let mut alone = Alone::start().await;
    alone.client.batch_execute("UPDATE devices SET online = false").await.unwrap();
    for (looks, wait) in [(1, 1), (2, 5), (3, 300)] {
        let outcome = alone.outcome(looks).await;
        let Outcome::Again { after, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(after, Duration::from_secs(wait), "look {looks}");
    }
    alone.client.batch_execute("UPDATE devices SET online = true").await.unwrap();
    assert_eq!(alone.look(2).await, 1);
}

#[tokio::test]
async fn what_a_revoked_token_asked_for_is_not_sent() {
    let mut alone = Alone::start().await;
    alone
        .client
        .batch_execute(
            "INSERT INTO api_tokens (name, hash, scopes) VALUES ('t', sha256('t'), '{commands}');
             UPDATE commands SET token_id = (SELECT id FROM api_tokens);
             UPDATE api_tokens SET revoked_at = now()",
        )
        .await
        .unwrap();
    assert_eq!(alone.look(1).await, 0);
    let why = "SELECT cancelled_why FROM command_deliveries";
    let why: String = alone.client.query_one(why, &[]).await.unwrap().get(0);
    assert!(why.contains("revoked"), "{why}");
}

async fn opened_again(client: &Client) -> bool {
    let open = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = $1)";
    client.query_one(open, &[&SERVING_ROLE]).await.unwrap().get(0)
}

/// A command that EMQX refuses waits, holds up no other, and says why.
#[tokio::test]
async fn what_emqx_refuses_holds_up_nothing_else() {
    let mut bench = Bench::start().await;
    bench.fleet.bind("relay", "fan", None, Some("fan/set")).await;
    bench.emqx.subscribe("relay", "#", 1);
    bench.online().await;
    bench.emqx.refuse_topic(Some("relay/set"));
    let refused = bench.send("1").await;
    eventually("it was refused", || async { bench.delivery(&refused).await.reason.is_some() })
        .await;
    let waits = bench.delivery(&refused).await;
    assert_eq!((waits.state.as_str(), waits.attempts), ("queued", 0), "that was no attempt");
    assert!(waits.reason.unwrap().contains("topic_name_invalid"));
    let fan = NewCommand { capability: "fan".parse().unwrap(), ..new("2") };
    let id = bench.send_new(fan).await;
    let message = bench.emqx.published(1).await;
    assert_eq!(message.topic, "fan/set");
    bench.acks(&message.correlation).await;
    assert_eq!(bench.ended(&id).await.state, "delivered");
    bench.emqx.refuse_topic(None);
    bench.sql("UPDATE work_queue SET due_at = now() WHERE kind = 'command'").await;
    let message = bench.emqx.published(2).await;
    assert_eq!(message.topic, "relay/set");
}

/// What was read is looked at again before it is sent: the stop button stops what is next, too.
#[tokio::test]
async fn what_changes_while_emqx_is_asked_is_minded() {
    let mut bench = Bench::start().await;
    bench.online_and_subscribed().await;
    let changes = [
        (
            "INSERT INTO command_pauses (capability, paused_by) VALUES ('', 'a test')",
            "DELETE FROM command_pauses",
        ),
        ("UPDATE devices SET enabled = false", "UPDATE devices SET enabled = true"),
        (
            "UPDATE topic_bindings SET command_topic = 'relay/other'",
            "UPDATE topic_bindings SET command_topic = 'relay/set'",
        ),
    ];
    for (change, back) in changes {
        let hold = bench.emqx.hold_subscriptions();
        let id = bench
            .send_new(NewCommand { expires_in: Some(Duration::from_secs(600)), ..new("1") })
            .await;
        hold.reached().await;
        bench.sql(change).await;
        hold.release();
        eventually("it was looked at again", || async {
            let delivery = bench.delivery(&id).await;
            let looked_at = "SELECT NOT EXISTS (SELECT FROM work_queue WHERE kind = 'command' AND due_at <= now() + interval '1 minute')";
            delivery.ended || bench.fleet.value::<bool>(looked_at).await
                || change.contains("topic") && bench.fleet.value("SELECT EXISTS (SELECT FROM work_queue WHERE last_error LIKE '%subscribed%')").await
        })
        .await;
        assert_eq!(bench.emqx.all_published(), [], "{change}");
        assert_eq!(bench.delivery(&id).await.attempts, 0, "{change}");
        commands::cancel(&mut bench.client, &Part::whole(), &id, "a test").await.unwrap();
        bench.sql(back).await;
        bench.ended(&id).await;
    }
}

/// What was sent too late would be outdated: PostgreSQL may take its time between the look and the publish.
#[tokio::test]
async fn nothing_leaves_after_its_time() {
    let mut bench = Bench::start().await;
    bench.online_and_subscribed().await;
    let hold = bench.emqx.hold_subscriptions();
    let id =
        bench.send_new(NewCommand { expires_in: Some(Duration::from_secs(2)), ..new("1") }).await;
    hold.reached().await;
    let mut other = connect(&as_owner(&bench.database.url)).await;
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute("SELECT FROM command_deliveries FOR UPDATE").await.unwrap();
    hold.release();
    eventually("less than a second is left", || async {
        bench
            .fleet
            .value("SELECT expires_at < clock_timestamp() + interval '900 ms' FROM commands")
            .await
    })
    .await;
    transaction.commit().await.unwrap();
    let ended = bench.ended(&id).await;
    assert_eq!((ended.state.as_str(), ended.attempts), ("expired", 0));
    assert_eq!(bench.emqx.all_published(), []);
}

/// What expires ends, wherever it stands in its line, and whether EMQX is there or not.
#[tokio::test]
async fn a_command_expires_behind_one_that_waits_longer() {
    let mut bench = Bench::start().await;
    let long = NewCommand { expires_in: Some(Duration::from_secs(86_400)), ..new("1") };
    let first = bench.send_new(long).await;
    bench.emqx.set(Mood::Closing);
    bench.online().await;
    let second =
        bench.send_new(NewCommand { expires_in: Some(Duration::from_secs(1)), ..new("2") }).await;
    assert_eq!(bench.ended(&second).await.state, "expired");
    assert_eq!(bench.delivery(&first).await.state, "queued");
}

/// An answer that is noted while its time-out is being noted is the end.
#[tokio::test]
async fn an_answer_is_worth_more_than_a_time_out_that_is_noted_later() {
    let mut bench = Bench::start().await;
    let id = bench.send("1").await;
    let delivery = bench.delivery(&id).await.id;
    let now = bench.client.query_one("SELECT now()", &[]).await.unwrap().get(0);
    let timed_out = [(delivery.as_str(), End::TimedOut, now)];
    bench.sql("UPDATE command_deliveries SET answered_at = now(), answered_ok = true").await;
    let noted = fleetgate::registry::commands::end(&bench.client, &timed_out).await.unwrap();
    assert_eq!(noted.len(), 0);
    bench.sql("UPDATE command_deliveries SET answered_at = NULL, answered_ok = NULL").await;
    let noted = fleetgate::registry::commands::end(&bench.client, &timed_out).await.unwrap();
    assert_eq!(noted.len(), 1);
}

#[tokio::test]
async fn what_waits_for_a_device_is_bounded() {
    let mut bench = Bench::start().await;
    let id = bench.send("1").await;
    bench
        .sql(&format!(
            "INSERT INTO command_deliveries (command_id, device_id, device_name, binding)
             SELECT command_id, device_id, device_name, binding FROM command_deliveries, generate_series(2, {MOST_OPEN})
             WHERE command_id = '{id}'"
        ))
        .await;
    let refused = commands::send(&mut bench.client, &new("2")).await.map(drop);
    assert!(
        matches!(&refused, Err(FleetError::Rule { rule: Rule::TooManyOpen(MOST_OPEN), .. })),
        "{refused:?}"
    );
    assert_eq!(
        commands::list(&bench.client, &Part::whole(), None, None, 10).await.unwrap().len(),
        1
    );
    commands::cancel(&mut bench.client, &Part::whole(), &id, "a test").await.unwrap();
    bench.send("2").await;
}

#[tokio::test]
async fn a_device_that_is_named_twice_gets_a_command_once() {
    let mut bench = Bench::start().await;
    let twice = To::Devices(vec![name("relay"), name("relay")]);
    let id = bench.send_new(NewCommand { to: twice, ..new("1") }).await;
    assert_eq!(
        commands::show(&bench.client, &Part::whole(), &id).await.unwrap().deliveries.len(),
        1
    );
}

/// Whoever connects wakes lines too, in an order of its own: of two that wait for each other PostgreSQL ends one.
#[tokio::test]
async fn a_command_is_stored_although_another_change_gets_in_the_way() {
    let mut bench = Bench::start().await;
    bench.fleet.device("second").await;
    bench.fleet.bind("second", "switch", None, Some("second/set")).await;
    let to = || NewCommand { to: To::Devices(vec![name("relay"), name("second")]), ..new("1") };
    bench.send_new(to()).await;
    // As by presence, which locks what it wakes one after the other.
    let line = |device: &str| {
        format!(
            "SELECT FROM work_queue WHERE key = (SELECT fleetgate_command_line(id, 'switch') FROM devices WHERE name = '{device}') FOR UPDATE"
        )
    };
    let mut other = connect(&as_owner(&bench.database.url)).await;
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute(&line("second")).await.unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let fleet = &bench.fleet;
    let in_the_way = async {
        eventually("it waits", || async { fleet.value::<i64>(waits).await == 1 }).await;
        // Whichever of the two PostgreSQL ends, the command is stored.
        let _ = transaction.batch_execute(&line("relay")).await;
        transaction.rollback().await.unwrap();
    };
    let new = to();
    let (sent, ()) = tokio::join!(commands::send(&mut bench.client, &new), in_the_way);
    assert_eq!(sent.unwrap().deliveries.len(), 2);
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM commands").await, 2);
}

/// A command of a newer release, or that somebody wrote in `psql`, holds up no other.
#[tokio::test]
async fn a_command_that_cannot_be_read_holds_up_nothing_else() {
    let mut bench = Bench::start().await;
    bench.fleet.bind("relay", "fan", None, Some("fan/set")).await;
    bench.emqx.subscribe("relay", "#", 1);
    let unreadable = bench.send("1").await;
    bench.sql("UPDATE commands SET confirm = 'telepathy'").await;
    bench.online().await;
    let fan = NewCommand { capability: "fan".parse().unwrap(), ..new("2") };
    let id = bench.send_new(fan).await;
    let message = bench.emqx.published(1).await;
    assert_eq!(message.topic, "fan/set");
    bench.acks(&message.correlation).await;
    assert_eq!(bench.ended(&id).await.state, "delivered");
    let waits = "SELECT EXISTS (SELECT FROM work_queue WHERE last_error LIKE '%telepathy%')";
    eventually("the other waits", || async { bench.fleet.value::<bool>(waits).await }).await;
    bench.sql("UPDATE commands SET confirm = 'delivered'").await;
    bench.sql("UPDATE work_queue SET due_at = now() WHERE kind = 'command'").await;
    let message = bench.emqx.published(2).await;
    bench.acks(&message.correlation).await;
    assert_eq!(bench.ended(&unreadable).await.state, "delivered");
}

/// Replicas side by side: each command leaves once, and each line keeps its order, whoever hears what.
#[tokio::test]
async fn replicas_share_the_commands() {
    let bench = Bench::start().await;
    let mut settings = config(&bench.database.url);
    settings.emqx.api = Some(bench.emqx.settings());
    let other = TestApp::start(settings).await;
    other.ready().await;
    let names: Vec<String> = (0..25).map(|n| format!("d{n}")).collect();
    for name in &names {
        bench.fleet.device(name).await;
        bench.fleet.bind(name, "switch", None, Some(&format!("{name}/set"))).await;
        bench.emqx.subscribe(name, &format!("{name}/set"), 1);
    }
    let at = now();
    for (place, name) in names.iter().enumerate() {
        bench.emqx.connect(name, name, at);
        let app = if place % 2 == 0 { &bench.app } else { &other };
        assert_eq!(app.event(&connected(name, name, at)).await.status, 204);
    }
    let mut client = connect(&as_owner(&bench.database.url)).await;
    for payload in ["1", "2", "3"] {
        let to = To::Selector("name!=relay".parse().unwrap());
        let sent = commands::send(&mut client, &NewCommand { to, ..new(payload) }).await.unwrap();
        assert_eq!(sent.deliveries.len(), names.len());
    }
    for number in 1..=3 * names.len() {
        let message = bench.emqx.published(number).await;
        let name = message.topic.strip_suffix("/set").unwrap();
        let app = if number % 2 == 0 { &bench.app } else { &other };
        let ack = command("message.acked", name, name, &message.correlation, 1);
        assert_eq!(app.event(&ack).await.status, 204);
    }
    let open = "SELECT count(*) FROM command_deliveries WHERE ended_as IS DISTINCT FROM 'delivered' OR attempts <> 1";
    eventually("all is delivered", || async { bench.fleet.value::<i64>(open).await == 0 }).await;
    let published = bench.emqx.all_published();
    assert_eq!(published.len(), 3 * names.len(), "none was sent twice");
    for name in &names {
        let topic = format!("{name}/set");
        let payloads = published.iter().filter(|message| message.topic == topic);
        assert_eq!(payloads.map(|message| message.payload.as_str()).collect::<String>(), "123");
    }
}

#[tokio::test]
async fn the_latest_command_replaces_those_that_were_not_sent() {
    let mut bench = Bench::start().await;
    bench.sql("UPDATE capabilities SET only_latest = true").await;
    let old = bench.send("1").await;
    let new = bench.send("2").await;
    let ended = bench.ended(&old).await;
    assert_eq!((ended.state.as_str(), ended.attempts), ("superseded", 0));
    bench.online_and_subscribed().await;
    let message = bench.emqx.published(1).await;
    assert_eq!(message.payload, "2");
    bench.acks(&message.correlation).await;
    bench.ended(&new).await;
}

#[tokio::test]
async fn nothing_leaves_while_commands_are_paused() {
    let mut bench = Bench::start().await;
    let capability = "switch".parse().unwrap();
    commands::pause(&bench.client, Some(&capability), "a test").await.unwrap();
    bench.online_and_subscribed().await;
    let id = bench.send("1").await;
    eventually("the line was looked at", || async {
        bench.fleet.value::<bool>("SELECT bool_and(due_at > now() + interval '5 seconds') FROM work_queue WHERE kind = 'command'").await
    })
    .await;
    assert_eq!(bench.emqx.all_published(), []);
    let resumed = commands::resume(&bench.client, None).await.unwrap();
    assert!(!resumed.was_paused, "all were never paused");
    let resumed = commands::resume(&bench.client, Some(&capability)).await.unwrap();
    assert_eq!(resumed, Resumed { was_paused: true, all_are_paused: false });
    bench.acks(&bench.emqx.published(1).await.correlation).await;
    bench.ended(&id).await;
}

#[tokio::test]
async fn sent_is_enough_where_nothing_more_is_asked_for() {
    let mut bench = Bench::start().await;
    bench.online_and_subscribed().await;
    let mut ids = Vec::new();
    for payload in ["1", "2", "3"] {
        let sent = NewCommand { confirm: Some(Confirmation::Sent), ..new(payload) };
        ids.push(bench.send_new(sent).await);
    }
    for id in &ids {
        assert_eq!(bench.ended(id).await.state, "sent");
    }
    let payloads: Vec<_> =
        bench.emqx.all_published().into_iter().map(|message| message.payload).collect();
    assert_eq!(payloads, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_command_that_breaks_a_rule_is_refused_and_nothing_is_stored() {
    let mut bench = Bench::start().await;
    bench.sql(r#"UPDATE capabilities SET command_schema = '{"type": "object", "properties": {"level": {"maximum": 9}}}'"#).await;
    bench.fleet.device("bare").await.device("off").await;
    bench.fleet.bind("off", "switch", None, Some("off/set")).await.enabled("off", false).await;
    let refuse = |new: NewCommand| {
        let url = as_owner(&bench.database.url);
        async move {
            let mut client = connect(&url).await;
            commands::send(&mut client, &new).await.unwrap_err()
        }
    };
    let level = refuse(new(r#"{"level": 10}"#)).await;
    assert_eq!((level.kind(), level.field()), (ErrorKind::Invalid, Some(Field::Payload)));
    let FleetError::Rule { rule: Rule::Payload(violation), .. } = level else {
        panic!("{level:?}")
    };
    assert_eq!(violation.pointer, "/level");
    let fine = || new(r#"{"level": 1}"#);
    let unknown = refuse(NewCommand { capability: "fly".parse().unwrap(), ..fine() }).await;
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    let nobody =
        refuse(NewCommand { to: To::Devices(vec![name("relay"), name("nobody")]), ..fine() }).await;
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
    let none = refuse(NewCommand { to: To::Devices(Vec::new()), ..fine() }).await;
    assert!(matches!(none, FleetError::Rule { rule: Rule::NoDevices, .. }));
    let off = refuse(NewCommand { to: To::Devices(vec![name("off")]), ..fine() }).await;
    assert!(matches!(off, FleetError::Rule { rule: Rule::DeviceDisabled, .. }));
    let bare = refuse(NewCommand { to: To::Devices(vec![name("bare")]), ..fine() }).await;
    assert!(matches!(bare, FleetError::Rule { rule: Rule::NoCommandTopic(_), .. }));
    for seconds in [0, 31 * 24 * 3600] {
        let expiry = Some(Duration::from_secs(seconds));
        let refused = refuse(NewCommand { expires_in: expiry, ..fine() }).await;
        assert_eq!(refused.field(), Some(Field::ExpiresIn), "{seconds}");
    }
    let stored =
        "SELECT (SELECT count(*) FROM commands) + (SELECT count(*) FROM command_deliveries)
                  + (SELECT count(*) FROM work_queue WHERE kind = 'command')";
    assert_eq!(bench.fleet.value::<i64>(stored).await, 0);
    commands::send(&mut bench.client, &fine()).await.unwrap();
}

/// A device that flaps while commands wait gets them in order, each once if it acknowledges.
#[tokio::test]
async fn a_device_that_flaps_gets_each_command_once_and_in_order() {
    let mut bench = Bench::start().await;
    let mut ids = Vec::new();
    for payload in 1..=50 {
        ids.push(bench.send(&payload.to_string()).await);
    }
    let mut at = now();
    for (number, id) in (1..).zip(&ids) {
        bench.emqx.subscribe("relay", "relay/set", 1);
        bench.emqx.connect("relay", "relay", at);
        bench.app.event(&connected("relay", "relay", at)).await;
        let message = bench.emqx.published(number).await;
        assert_eq!(message.payload, number.to_string());
        bench.emqx.disconnect("relay");
        bench.app.event(&disconnected("relay", "relay", at, at + 1, "tcp_closed")).await;
        bench.acks(&message.correlation).await;
        bench.ended(id).await;
        at += 2;
    }
    assert_eq!(bench.emqx.all_published().len(), 50);
}

#[tokio::test]
async fn commands_are_forgotten_after_their_time() {
    let mut bench = Bench::start().await;
    let id = bench.send("1").await;
    commands::cancel(&mut bench.client, &Part::whole(), &id, "a test").await.unwrap();
    bench.ended(&id).await;
    let open = bench.send("2").await;
    bench.sql("UPDATE commands SET asked_at = asked_at - interval '31 days'").await;
    let prune = || {
        fleetgate::registry::commands::prune(&bench.client, Duration::from_secs(30 * 86_400), 10, 1)
    };
    assert!(!prune().await.unwrap());
    assert_eq!(bench.delivery(&id).await.state, "cancelled", "it ended a moment ago");
    bench.sql("UPDATE command_deliveries SET ended_at = ended_at - interval '31 days' WHERE ended_at IS NOT NULL").await;
    // A delivery at a time here, and the command with the last of them.
    bench
        .sql(&format!(
            "INSERT INTO command_deliveries (command_id, device_id, device_name, binding, ended_at, ended_as)
             VALUES ('{id}', 0, 'gone', 'switch', now() - interval '31 days', 'expired')"
        ))
        .await;
    assert!(prune().await.unwrap(), "there is more");
    assert_eq!(
        commands::list(&bench.client, &Part::whole(), None, None, 10).await.unwrap().len(),
        2
    );
    assert!(prune().await.unwrap());
    assert!(!prune().await.unwrap());
    assert_eq!(bench.delivery(&open).await.state, "queued");
    assert_eq!(
        json!(commands::list(&bench.client, &Part::whole(), None, None, 10).await.unwrap())[0]["id"],
        open
    );
}

impl Bench {
    /// Runs `fleetgate command …` beside the service.
    fn run(&self, arguments: &[&str]) -> tokio::task::JoinHandle<(i32, String, String)> {
        let api = self.emqx.settings();
        let mut command = fleetgate(arguments);
        command.env("FLEETGATE_DATABASE_URL", &self.database.url);
        command.env("FLEETGATE_EMQX_API_URL", &api.url);
        command.env("FLEETGATE_EMQX_API_KEY", &api.key);
        command.env("FLEETGATE_EMQX_API_SECRET", api.secret.expose());
        command.env("FLEETGATE_EMQX_WEBHOOK_TOKEN", TOKEN);
        tokio::task::spawn_blocking(|| run(command))
    }
}

#[tokio::test]
async fn the_command_line_sends_waits_and_shows() {
    let bench = Bench::start().await;
    let send = ["command", "send", "switch", "\"on\"", "--device", "relay"];
    let dry = bench.run(&[&send[..], &["--dry-run"]].concat()).await.unwrap();
    assert_eq!(
        (dry.0, dry.1.contains("It would go to 1 device: relay (offline).")),
        (0, true),
        "{dry:?}"
    );

    let waiting = bench.run(&[&send[..], &["--wait", "--device", "relay"]].concat());
    bench.online_and_subscribed().await;
    bench.acks(&bench.emqx.published(1).await.correlation).await;
    let (code, stdout, stderr) = waiting.await.unwrap();
    assert_eq!((code, stdout.as_str()), (0, "relay: delivered\n"), "{stderr}");

    let failing = bench.run(&[&send[..], &["--wait"]].concat());
    bench.emqx.published(2).await;
    let list = bench.run(&["command", "list", "--json"]).await.unwrap();
    let list: Value = serde_json::from_str(&list.1).unwrap();
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!((&list[0]["open"], &list[1]["succeeded"]), (&json!(1), &json!(1)));
    let cancelled = bench.run(&["command", "cancel", id]).await.unwrap();
    assert!(cancelled.1.contains("cancelled at 1 device"), "{cancelled:?}");
    let (code, stdout, stderr) = failing.await.unwrap();
    assert_eq!(
        (code, stdout.as_str()),
        (1, "relay: cancelled (by the command line)\n"),
        "{stderr}"
    );
    assert!(stderr.contains("failed at 1 of 1 devices"), "{stderr}");
    let shown = bench.run(&["command", "show", id]).await.unwrap().1;
    for part in ["switch \"on\"", "Asked by the command line", "cancelled", "by the command line"] {
        assert!(shown.contains(part), "{shown}");
    }

    let decided = bench.run(&["command", "retry", id]).await.unwrap();
    assert!(decided.0 == 1 && decided.2.contains("there is no device at which"), "{decided:?}");

    bench.run(&["command", "pause"]).await.unwrap();
    let expired = bench.run(&[&send[..], &["--expires", "2s", "--wait"]].concat()).await.unwrap();
    assert_eq!((expired.0, expired.1.as_str()), (1, "relay: expired\n"), "{}", expired.2);
    bench.run(&["command", "resume"]).await.unwrap();
    let list = bench.run(&["command", "list", "--json"]).await.unwrap();
    let list: Value = serde_json::from_str(&list.1).unwrap();
    let id = list[0]["id"].as_str().unwrap();
    let again = bench.run(&["command", "retry", id, "--wait"]);
    bench.acks(&bench.emqx.published(3).await.correlation).await;
    let (code, stdout, stderr) = again.await.unwrap();
    assert_eq!((code, stdout.as_str()), (0, "relay: delivered\n"), "{stderr}");
    let list = bench.run(&["command", "list", "--json"]).await.unwrap();
    let list: Value = serde_json::from_str(&list.1).unwrap();
    let newest = list[0]["id"].as_str().unwrap();
    let pages = list.as_array().unwrap().iter().map(|command| command["id"].as_str().unwrap());
    let pages: Vec<&str> = pages.collect();
    assert_eq!(pages.len(), 4);
    let (code, _, stderr) = bench.run(&["command", "list", "--limit", "2"]).await.unwrap();
    let more = format!("There may be more: add --after {}", pages[1]);
    assert_eq!((code, stderr.trim_end()), (0, more.as_str()));
    let rest = ["command", "list", "--limit", "3", "--after", pages[1], "--json"];
    let rest: Value = serde_json::from_str(&bench.run(&rest).await.unwrap().1).unwrap();
    assert_eq!((&rest[0]["id"], &rest[1]["id"]), (&json!(pages[2]), &json!(pages[3])));
    assert_eq!(rest.as_array().unwrap().len(), 2);
    let nothing = bench.run(&["command", "retry", newest]).await.unwrap();
    assert!(nothing.0 == 1 && nothing.2.contains("there is no device at which"), "{nothing:?}");

    for (arguments, code, part) in [
        (
            vec!["command", "send", "switch", "on", "--device", "relay"],
            2,
            "a text needs its quotes",
        ),
        (vec!["command", "send", "switch", "1"], 1, "give --device, --selector, or a rule"),
        (
            vec!["command", "send", "switch", "1", "--device", "relay", "--expires", "31d"],
            2,
            "30 days",
        ),
        (vec!["command", "send", "fly", "1", "--device", "relay"], 3, "capability list"),
        (vec!["command", "send", "switch", "1", "--device", "nobody"], 3, "device list"),
        (vec!["command", "show", "nonsense"], 3, "command list"),
        (vec!["command", "list", "--after", "nonsense"], 3, "command list"),
        (vec!["binding", "remove", "relay", "nothing"], 3, "`fleetgate binding list DEVICE`"),
        (vec!["capability", "set", "switch", "--ack-timeout", "1s"], 2, "5 seconds"),
        (vec!["capability", "set", "switch", "--only-latest", "maybe"], 2, "yes or no"),
        (vec!["capability", "set", "switch", "--answer-in", "2h"], 2, "1 hour"),
        (
            vec!["command", "send", "switch", "1", "--device", "relay", "--confirm", "reply"],
            1,
            "no reply topic",
        ),
    ] {
        let (is, _, stderr) = bench.run(&arguments).await.unwrap();
        assert_eq!(is, code, "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    }
    let terms = [
        "--confirm",
        "sent",
        "--command-expiry",
        "2h",
        "--ack-timeout",
        "1m",
        "--only-latest",
        "yes",
    ];
    let set = [&["capability", "set", "switch", "--json"], &terms[..]].concat();
    let set: Value = serde_json::from_str(&bench.run(&set).await.unwrap().1).unwrap();
    assert_eq!((&set["confirm"], &set["command_expiry"]), (&json!("sent"), &json!(7200)));
    assert_eq!((&set["ack_timeout"], &set["only_latest"]), (&json!(60), &json!(true)));
    let paused = bench.run(&["command", "pause"]).await.unwrap().1;
    assert!(paused.contains("until `fleetgate command resume`"), "{paused}");
    bench.run(&["command", "pause", "--capability", "switch"]).await.unwrap();
    let pauses = bench.run(&["command", "pauses"]).await.unwrap().1;
    let whose: Vec<&str> =
        pauses.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(whose, ["CAPABILITY", "(all)", "switch"], "{pauses}");
    let resume = ["command", "resume", "--capability", "switch"];
    for _ in 0..2 {
        let resumed = bench.run(&resume).await.unwrap().1;
        assert!(resumed.contains("all commands are paused"), "{resumed}");
    }
    assert!(bench.run(&["command", "resume"]).await.unwrap().1.contains("sent again"));
    let (code, _, stderr) = bench.run(&["command", "resume", "--capability", "no"]).await.unwrap();
    assert!(code == 3 && stderr.contains("\"no\""), "{stderr}");
    assert!(bench.run(&["command", "resume"]).await.unwrap().1.contains("not paused"));

    let mut without_api = fleetgate(&send);
    without_api.env("FLEETGATE_DATABASE_URL", &bench.database.url);
    let (code, _, stderr) = tokio::task::spawn_blocking(|| run(without_api)).await.unwrap();
    assert!(code == 1 && stderr.contains("emqx.api_url"), "{stderr}");
}

/// How far a delivery has come when the service is killed.
#[derive(Debug, Clone, Copy)]
enum Killed {
    /// EMQX was asked for the device's subscriptions.
    Asking,
    /// EMQX has the message, and its answer was not read.
    Publishing,
    /// EMQX's answer is noted.
    Waiting,
    /// The receipt is committed.
    Acknowledged,
}

async fn tell(serve: &Serve, event: &Value) -> u16 {
    let mut connection = Connection::open(serve.address).await;
    connection.exchange(&post("/emqx/events", TOKEN, &event.to_string())).await.status
}

async fn is_told(serve: &Serve, event: &Value) {
    eventually("the event is taken", || async { tell(serve, event).await == 204 }).await;
}

/// `kill -9` at each step: nothing is lost, and nothing is sent again whose receipt may still come or has come.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_at_any_step_loses_nothing_and_sends_nothing_twice() {
    for step in [Killed::Asking, Killed::Publishing, Killed::Waiting, Killed::Acknowledged] {
        let emqx = FakeEmqx::start().await;
        let database = fresh_database().await;
        let fleet = Fleet::connect(&database.url).await;
        fleet.device("relay").await;
        fleet.bind("relay", "switch", None, Some("relay/set")).await;
        let mut client = connect(&as_owner(&database.url)).await;
        let api = emqx.settings();
        let settings = [
            ("FLEETGATE_DATABASE_URL", database.url.clone()),
            ("FLEETGATE_EMQX_API_URL", api.url.clone()),
            ("FLEETGATE_EMQX_API_KEY", api.key.clone()),
            ("FLEETGATE_EMQX_API_SECRET", api.secret.expose().to_owned()),
        ];
        let serve = Serve::start(&settings);
        let at = now();
        emqx.subscribe("relay", "relay/set", 1);
        emqx.connect("relay", "relay", at);
        is_told(&serve, &connected("relay", "relay", at)).await;

        let asking = matches!(step, Killed::Asking).then(|| emqx.hold_subscriptions());
        let publishing = matches!(step, Killed::Publishing).then(|| emqx.hold_publish());
        let id = commands::send(&mut client, &new("1")).await.unwrap().command.id;
        let delivery = async || {
            commands::show(&client, &Part::whole(), &id).await.unwrap().deliveries.remove(0)
        };
        let ack = command("message.acked", "relay", "relay", &delivery().await.id, 1);
        match step {
            Killed::Asking => asking.unwrap().reached().await,
            Killed::Publishing => publishing.unwrap().reached().await,
            Killed::Waiting => {
                eventually("EMQX's answer is noted", || async {
                    delivery().await.published_at.is_some()
                })
                .await;
            }
            Killed::Acknowledged => {
                emqx.published(1).await;
                is_told(&serve, &ack).await;
            }
        }
        drop(serve);

        let serve = Serve::start(&settings);
        // The lease of the one that died is over.
        fleet.sql("UPDATE work_queue SET due_at = now() WHERE kind = 'command'", &[]).await;
        emqx.published(1).await;
        is_told(&serve, &ack).await;
        eventually("the delivery has ended", || async { delivery().await.ended }).await;
        let ended = delivery().await;
        assert_eq!((ended.state.as_str(), ended.attempts), ("delivered", 1), "{step:?}");
        assert_eq!(emqx.all_published().len(), 1, "{step:?}");
    }
}

/// What each recorded run ends as: the state, and whether that is an end.
const RECORDED: &[(&str, &str, bool)] = &[
    ("online_qos1_acked", "delivered", true),
    ("online_v311_qos1_acked", "delivered", true),
    ("online_subscribed_qos0", "sent", true),
    ("online_qos2", "delivered", true),
    ("persistent_session_resumes", "delivered", true),
    ("persistent_session_message_expires", "sent", false),
    ("never_acked_then_reconnects", "delivered", true),
    ("never_acked_then_gone", "sent", false),
    ("two_subscribers_one_persistent_offline", "delivered", true),
    ("only_a_wildcard_service_listens", "sent", false),
];

/// A recorded event as the rule in `emqx-config/` tells it, of the delivery with this id; `None` for one that the
/// rule is not about.
fn as_the_rule_tells_it(body: &Value, delivery: &str) -> Option<Value> {
    let told = ["message.delivered", "message.acked", "delivery.dropped"];
    let is_told = told.contains(&body["event"].as_str()?);
    if !is_told || body["from_clientid"] != "http_api" {
        return None;
    }
    let fields =
        ["event", "id", "clientid", "username", "topic", "qos", "reason", "timestamp", "node"];
    let mut event = serde_json::Map::new();
    for field in fields {
        let value = body.get(field).cloned().unwrap_or_else(|| json!("undefined"));
        event.insert(field.to_owned(), value);
    }
    body["pub_props"]["Correlation-Data"].as_str()?;
    event.insert("correlation".to_owned(), json!(delivery));
    Some(Value::Object(event))
}

#[tokio::test]
async fn each_recorded_run_ends_in_the_right_state() {
    let recordings = [
        include_str!("../recorded/commands.jsonl"),
        include_str!("../recorded/emqx-6.2.2/commands.jsonl"),
    ];
    // Nothing is sent here: the messages are those of the recording.
    let (app, fleet, database) = start_with(|_| {}).await;
    let mut client = connect(&as_owner(&database.url)).await;
    fleet.device("relay-1").await.device("dashboard").await;
    fleet.bind("relay-1", "switch", None, Some("lab/1/relay-1/switch/set")).await;
    for recording in recordings {
        for (scenario, state, ended) in RECORDED {
            let to = NewCommand { to: To::Devices(vec![name("relay-1")]), ..new("\"on\"") };
            let id = commands::send(&mut client, &to).await.unwrap().command.id;
            let attempt = "UPDATE command_deliveries SET attempts = 1, attempted_at = now() WHERE attempts = 0";
            client.execute(attempt, &[]).await.unwrap();
            let delivery =
                commands::show(&client, &Part::whole(), &id).await.unwrap().deliveries.remove(0).id;
            let mut told = 0;
            for line in recording.lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                if line["scenario"] != *scenario {
                    continue;
                }
                let body: Value = serde_json::from_str(line["body"].as_str().unwrap()).unwrap();
                if let Some(event) = as_the_rule_tells_it(&body, &delivery) {
                    assert_eq!(app.event(&event).await.status, 204, "{event}");
                    told += 1;
                }
            }
            assert!(told > 0, "{scenario}");
            let is =
                commands::show(&client, &Part::whole(), &id).await.unwrap().deliveries.remove(0);
            assert_eq!((is.state.as_str(), is.ended), (*state, *ended), "{scenario}");
        }
    }
}
