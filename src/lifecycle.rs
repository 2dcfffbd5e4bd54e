//! Process lifecycle: signals, and what the operating system allows.

use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancelled by the first SIGTERM or SIGINT. A second one ends the process at once.
///
/// Must be called on a tokio runtime.
///
/// # Errors
/// When signal handlers cannot be installed.
pub fn stop_on_signals() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancel = stop.clone();
    tokio::spawn(async move {
        for impatient in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if impatient {
                std::process::exit(130);
            }
            tracing::info!("stopping: finishing what is in flight");
            cancel.cancel();
        }
    });
    Ok(stop)
}

/// Lets this process open as many files as the operating system allows it, instead of the few that shells
/// start with, and returns how many that are. Every connection is a file.
pub fn raise_open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Not allowed in some sandboxes: then what there is has to do.
    let _kept = setrlimit(Resource::Nofile, raised);
    open_files()
}

/// How many files this process may have open.
#[must_use]
pub fn open_files() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Addresses that must be left beside a thread that is tried: glibc takes up to 128 MiB of them for the memory of a new
/// thread. Where hardly any is left, the next allocation of any thread ends the process.
const ROOM_FOR_A_THREAD: usize = 128 << 20;

/// Whether this process may have so many more threads at the same time.
///
/// # Errors
/// Why the operating system refuses one of them, or that there are too few addresses (`ulimit -v`) for its memory.
pub fn try_threads(count: usize) -> io::Result<()> {
    let all_started = Mutex::new(());
    std::thread::scope(|scope| {
        let starting = lock(&all_started);
        let started = (0..count).try_for_each(|_| {
            // Reserved and given back untouched.
            let mut room = Vec::<u8>::new();
            room.try_reserve_exact(ROOM_FOR_A_THREAD).map_err(io::Error::other)?;
            drop(std::hint::black_box(room));
            let thread = std::thread::Builder::new();
            thread.spawn_scoped(scope, || drop(lock(&all_started))).map(drop)
        });
        drop(starting);
        started
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
