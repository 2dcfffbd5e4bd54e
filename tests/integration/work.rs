//! The work queue: kinds do not wait for each other, and whoever is away is asked with one row at a time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fleetgate::metrics::Metrics;
use fleetgate::registry::connection::Target;
use fleetgate::registry::error::RegistryError;
use fleetgate::registry::work::Work;
use fleetgate::work::{Carried, Kind, Outcome, PAUSE_FIRST, POLL, Worker};
use tokio::sync::{Notify, Semaphore};
use tokio_postgres::Client;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::app::{config, eventually, start_with};
use crate::support::fake_emqx::FakeEmqx;
use crate::support::fleet::Fleet;
use crate::support::postgres::{TestDatabase, connect, fresh_database};

/// What a test's own kind of work does with a batch.
type CarryOut = Box<dyn FnMut(&[Work]) -> Carried + Send>;

/// A kind that stops in front of each batch until it may go on.
struct Held {
    reached: Arc<Semaphore>,
    released: Arc<Semaphore>,
    /// One for each turn.
    turns: Arc<Semaphore>,
    carry_out: CarryOut,
    /// What it does besides always fails.
    look_after_fails: bool,
}

impl Kind for Held {
    const NAME: &'static str = "held";
    const LOG_NAME: &'static str = "held work";

    async fn carry_out(&mut self, batch: &[Work]) -> Carried {
        self.reached.add_permits(1);
        self.released.acquire().await.unwrap().forget();
        (self.carry_out)(batch)
    }

    async fn look_after(&mut self, _client: &Client) -> Result<Duration, RegistryError> {
        self.turns.add_permits(1);
        if self.look_after_fails {
            return Err(RegistryError::TookTooLong("it always fails".to_owned()));
        }
        Ok(POLL)
    }
}

/// A running worker of such work. Dropping it stops it.
struct HeldWorker {
    reached: Arc<Semaphore>,
    released: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    wake: Arc<Notify>,
    _stop: DropGuard,
}

impl HeldWorker {
    fn start(database: &TestDatabase, carry_out: CarryOut) -> Self {
        Self::start_kind(database, carry_out, false)
    }

    fn start_kind(database: &TestDatabase, carry_out: CarryOut, look_after_fails: bool) -> Self {
        let [reached, released, turns] = [(); 3].map(|()| Arc::new(Semaphore::new(0)));
        let kind = Held {
            reached: reached.clone(),
            released: released.clone(),
            turns: turns.clone(),
            carry_out,
            look_after_fails,
        };
        let target = Target::new(&config(&database.url).database).unwrap();
        let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let worker = Worker::new(kind, target, wake.clone(), Metrics::new().unwrap().work);
        tokio::spawn(worker.run(stop.clone()));
        Self { reached, released, turns, wake, _stop: stop.drop_guard() }
    }

    /// Waits until a batch is about to be carried out.
    async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }
}

async fn queue(fleet: &Fleet, rows: i32) {
    let queue = "SELECT fleetgate_queue_work('held', array_agg(n::text), array_agg('{}'::jsonb))
                 FROM generate_series(1, $1) AS n";
    fleet.sql(queue, &[&rows]).await;
}

/// All of a batch ended alike, and the other side answered, or was not asked.
fn alike(batch: &[Work], outcome: Outcome, answered: bool) -> Carried {
    Carried { outcomes: vec![outcome; batch.len()], answered }
}

fn done(batch: &[Work]) -> Carried {
    alike(batch, Outcome::Done, true)
}

async fn held(fleet: &Fleet) -> i64 {
    fleet.value("SELECT count(*) FROM work_queue WHERE kind = 'held'").await
}

#[tokio::test]
async fn a_kind_that_is_stuck_holds_up_no_kick_out() {
    let emqx = FakeEmqx::start().await;
    let api = emqx.settings();
    let (app, fleet, database) = start_with(|config| config.emqx.api = Some(api)).await;
    let worker = HeldWorker::start(&database, Box::new(done));
    queue(&fleet, 1000).await;
    worker.wake.notify_one();
    worker.reached().await;
    // What it has not taken is stuck in PostgreSQL besides.
    let other = connect(&database.url).await;
    let lock = "BEGIN; SELECT FROM work_queue WHERE kind = 'held' FOR UPDATE";
    other.batch_execute(lock).await.unwrap();
    for n in 0..5 {
        let name = format!("t{n}");
        fleet.device(&name).await.enabled(&name, false).await;
        emqx.deleted(&name).await;
    }
    eventually("no kick-out waits", || async {
        app.metric("fleetgate_work_waiting{kind=\"kick_out\"}").await == 0.0
    })
    .await;
    assert_eq!(held(&fleet).await, 1000);
    other.batch_execute("ROLLBACK").await.unwrap();
    worker.released.add_permits(1000);
    eventually("the other kind goes on", || async { held(&fleet).await == 0 }).await;
}

#[tokio::test]
async fn one_row_finds_out_whether_the_other_side_is_back() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    queue(&fleet, 20).await;
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let noted = sizes.clone();
    let carry_out = move |batch: &[Work]| {
        let mut sizes = noted.lock().unwrap();
        sizes.push(batch.len());
        match sizes.len() {
            1..4 => alike(batch, Outcome::Away("it is away".to_owned()), false),
            // Such a row tells nothing of the other side.
            4..6 => alike(batch, Outcome::Done, false),
            _ => done(batch),
        }
    };
    let worker = HeldWorker::start(&database, Box::new(carry_out));
    worker.released.add_permits(3);
    for _ in 0..4 {
        worker.reached().await;
    }
    let why: String = fleet.value("SELECT min(last_error) FROM work_queue").await;
    assert_eq!(why, "it is away");
    let attempts: i64 = fleet.value("SELECT sum(attempts) FROM work_queue").await;
    assert_eq!(attempts, 1, "only the one that is under way is an attempt");
    worker.released.add_permits(4);
    eventually("all is done", || async { held(&fleet).await == 0 }).await;
    assert_eq!(*sizes.lock().unwrap(), [20, 1, 1, 1, 1, 1, 17]);
}

#[tokio::test]
async fn work_is_done_whatever_becomes_of_what_the_kind_does_besides() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    let worker = HeldWorker::start_kind(&database, Box::new(done), true);
    worker.released.add_permits(10);
    for rows in [1, 5] {
        queue(&fleet, rows).await;
        worker.wake.notify_one();
        eventually("all is done", || async { held(&fleet).await == 0 }).await;
    }
    worker.turns.acquire_many(2).await.unwrap().forget();
}

#[tokio::test]
async fn what_changed_while_it_was_carried_out_is_carried_out_again() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    let payload = "SELECT fleetgate_queue_work('held', '{a}', ARRAY[$1::text::jsonb])";
    fleet.sql(payload, &[&r#"{"stays": 1, "moves": 1}"#]).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let carry_out = move |batch: &[Work]| {
        let payloads = batch.iter().map(|work| work.payload.to_string());
        noted.lock().unwrap().extend(payloads);
        done(batch)
    };
    let worker = HeldWorker::start(&database, Box::new(carry_out));
    worker.reached().await;
    fleet.sql(payload, &[&r#"{"moves": 2}"#]).await;
    worker.released.add_permits(2);
    eventually("all is done", || async { held(&fleet).await == 0 }).await;
    let seen = seen.lock().unwrap();
    assert_eq!(*seen, [r#"{"moves":1,"stays":1}"#, r#"{"moves":2,"stays":1}"#]);
}

#[tokio::test]
async fn a_row_that_somebody_is_changing_is_looked_for_now_and_then() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    queue(&fleet, 1).await;
    let other = connect(&database.url).await;
    other.batch_execute("BEGIN; UPDATE work_queue SET payload = '{\"a\": 1}'").await.unwrap();
    let began = Instant::now();
    let worker = HeldWorker::start(&database, Box::new(done));
    worker.released.add_permits(1);
    // One after each look.
    worker.turns.acquire_many(6).await.unwrap().forget();
    assert!(began.elapsed() >= PAUSE_FIRST * 5, "{:?}", began.elapsed());
    other.batch_execute("COMMIT").await.unwrap();
    eventually("it is done", || async { held(&fleet).await == 0 }).await;
}
