//! Work on values that are nested deep, on a thread with the stack for it.
//!
//! Who asks waits without holding up the thread that serves its request. [`THREADS`] run at most; who asks
//! beyond that waits for its turn. Without a thread, or when the work panics, nothing was validated, and that
//! is not held against the value: the system may be short of threads or memory at present.

use std::thread;

use thiserror::Error;
use tokio::sync::{Semaphore, oneshot};

use crate::domain::value::MAX_VALIDATED_DEPTH;

/// Stack in bytes for a value that is nested deeper.
const DEEP_STACK: usize = MAX_VALIDATED_DEPTH * 128 * 1024;
/// Most threads at a time.
const THREADS: usize = 2;

static PLACES: Semaphore = Semaphore::const_new(THREADS);

/// Why a value could not be validated; trying again may help.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotValidated {
    /// The system gave no thread.
    #[error(
        "no thread could be started for a deeply nested value ({0}); check the limits of threads (pids_limit, ulimit -u) and of memory"
    )]
    NoThread(String),
    /// The work panicked; the log has where.
    #[error("validating a deeply nested value panicked")]
    Panicked,
}

/// Runs `work` where values may be nested [`MAX_VALIDATED_DEPTH`] deep.
pub(super) async fn with_deep_stack<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NotValidated> {
    with_stack(DEEP_STACK, work).await
}

async fn with_stack<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NotValidated> {
    let place = PLACES.acquire().await;
    let (sender, receiver) = oneshot::channel();
    let roomy = thread::Builder::new().name("deep-values".to_owned()).stack_size(bytes);
    let spawned = roomy.spawn(move || {
        // Held for as long as the thread runs, whoever waits for it.
        let _place = place;
        drop(sender.send(work()));
    });
    spawned.map_err(|error| NotValidated::NoThread(error.to_string()))?;
    receiver.await.map_err(|_| NotValidated::Panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_thread_nothing_is_said_of_the_value() {
        const MORE_THAN_THERE_IS: usize = 1 << 47;
        for _ in 0..=THREADS {
            let outcome = with_stack(MORE_THAN_THERE_IS, || ()).await;
            assert!(matches!(outcome, Err(NotValidated::NoThread(_))), "{outcome:?}");
            let outcome = with_deep_stack(|| panic!("as some code may")).await;
            assert_eq!(outcome, Err::<(), _>(NotValidated::Panicked));
        }
        assert_eq!(with_deep_stack(|| 5).await, Ok(5), "places are given back");
    }
}
