use super::*;
use crate::domain::password_hash::{Cost, hash_password};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge};

pub(crate) fn metrics() -> HashMetrics {
    let histogram = |name| Histogram::with_opts(HistogramOpts::new(name, "test")).unwrap();
    HashMetrics {
        queued: IntGauge::new("queued", "test").unwrap(),
        wait: histogram("wait"),
        duration: histogram("duration"),
        generated: IntCounter::new("generated", "test").unwrap(),
        shed: IntCounter::new("shed", "test").unwrap(),
        abandoned: IntCounter::new("abandoned", "test").unwrap(),
        rehashed: IntCounter::new("rehashed", "test").unwrap(),
    }
}

fn chosen(password: &str) -> PasswordHash {
    let text = hash_password(password.as_bytes(), &[3; 16], Cost::Chosen);
    PasswordHash::parse(&text).unwrap()
}

#[tokio::test]
async fn the_matching_hash_is_found() {
    let pool = HashThreads::start(2, 8, metrics()).unwrap();
    let hashes = vec![chosen("old"), chosen("new")];
    assert_eq!(pool.find(PlaceOwner::default(), b"new", hashes.clone()).await, Ok(Some(1)));
    assert_eq!(pool.find(PlaceOwner::default(), b"old", hashes.clone()).await, Ok(Some(0)));
    assert_eq!(pool.find(PlaceOwner::default(), b"other", hashes).await, Ok(None));
    assert_eq!(pool.find(PlaceOwner::default(), b"any", vec![]).await, Ok(None));
    assert_eq!(pool.queue.metrics.duration.get_sample_count(), 5);
    assert_eq!(pool.queue.metrics.wait.get_sample_count(), 4);
    assert_eq!(pool.queue.metrics.queued.get(), 0);
}

#[test]
fn a_full_queue_sheds_within_a_millisecond() {
    let pool = HashThreads::without_threads(2, metrics());
    let hashes = vec![chosen("x")];
    let held: Vec<_> =
        (0..2).map(|_| pool.submit(PlaceOwner::default(), b"x", hashes.clone()).unwrap()).collect();
    // The fastest of several, because another process may hold the processor at any one of them.
    let fastest = (0..20).map(|_| {
        let candidates = hashes.clone();
        let start = Instant::now();
        assert_eq!(
            pool.submit(PlaceOwner::default(), b"x", candidates).err(),
            Some(HashError::Overloaded)
        );
        start.elapsed()
    });
    assert!(fastest.min().unwrap() < Duration::from_millis(1));
    assert_eq!(pool.queue.metrics.shed.get(), 20);
    assert_eq!(pool.queue.metrics.queued.get(), 2);
    drop(held);
}

#[tokio::test]
async fn clients_that_went_away_cost_no_hash() {
    let pool = HashThreads::without_threads(8, metrics());
    for _ in 0..5 {
        drop(pool.submit(PlaceOwner::default(), b"x", vec![chosen("x")]).unwrap());
        assert_eq!(pool.queue.metrics.queued.get(), 0);
    }
    let wanted = pool.submit(PlaceOwner::default(), b"x", vec![chosen("x")]).unwrap();
    pool.start_threads(1).unwrap();
    assert_eq!(wanted.answer.await, Ok(Some(0)));
    assert_eq!(pool.queue.metrics.abandoned.get(), 5);
    assert_eq!(pool.queue.metrics.duration.get_sample_count(), 1);
}

#[tokio::test]
async fn a_job_whose_turn_does_not_come_is_answered_and_costs_no_hash() {
    let pool = HashThreads::without_threads(8, metrics());
    let answer = pool.find(PlaceOwner::default(), b"x", vec![chosen("x")]).await;
    assert_eq!(answer, Err(HashError::Overloaded));
    assert_eq!((pool.queue.metrics.shed.get(), pool.queue.metrics.queued.get()), (1, 0));
    let held: Vec<_> =
        std::iter::from_fn(|| pool.submit(PlaceOwner::default(), b"x", vec![chosen("x")]).ok())
            .collect();
    assert_eq!(held.len(), 8, "its place is free again");
    drop(held);
    let wanted = pool.submit(PlaceOwner::default(), b"x", vec![chosen("x")]).unwrap();
    pool.start_threads(1).unwrap();
    assert_eq!(wanted.answer.await, Ok(Some(0)));
    assert_eq!(pool.queue.metrics.abandoned.get(), 9);
    assert_eq!(pool.queue.metrics.duration.get_sample_count(), 1);
}

#[tokio::test]
async fn stopping_gives_up_what_waits_and_joins_the_threads() {
    let pool = HashThreads::without_threads(8, metrics());
    let answer = pool.submit(PlaceOwner::default(), b"x", vec![chosen("x")]).unwrap();
    pool.stop();
    assert!(answer.answer.await.is_err());
    assert_eq!(
        pool.find(PlaceOwner::default(), b"x", vec![chosen("x")]).await,
        Err(HashError::GivenUp)
    );
    assert_eq!(pool.queue.metrics.queued.get(), 0);

    let pool = HashThreads::start(3, 8, metrics()).unwrap();
    let queue = Arc::clone(&pool.queue);
    drop(pool);
    assert_eq!(Arc::strong_count(&queue), 1);
}

#[test]
fn a_panic_is_contained() {
    assert_eq!(catch_panic(|| 1), Some(1));
    assert_eq!(catch_panic(|| -> u32 { panic!("a test's panic") }), None);
}

#[test]
fn hash_threads_are_nice_and_leave_the_others_alone() {
    let own = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
    let before = own();
    let nice = std::thread::spawn(move || {
        lower_priority();
        own()
    });
    assert_eq!(nice.join().unwrap(), before.max(NICENESS));
    assert_eq!(own(), before);
}
