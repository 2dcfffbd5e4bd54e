//! The shells that outlive this process long enough to clean up after it.
//!
//! Two small scripts, each reading a pipe whose other end only this process holds. A pipe closes
//! when its holder ends in whatever way, `SIGKILL` included, and then
//!
//! * a *watcher*, the parent of one run of PostgreSQL, shuts PostgreSQL down. The watcher ends when
//!   PostgreSQL ends, so that waiting for the one is waiting for the other;
//! * the *janitor* removes the temporary directories. Watchers and `initdb` hold its pipe open too
//!   (the *leash*), so that it acts only when none of them is left.
//!
//! Both ignore a terminal's signals and are in process groups of their own. The pipes are closed on
//! exec, as all of Rust's are, so that no other child of this process keeps them open.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, io};

use rustix::process::{Pid, Signal};

use super::EmbeddedError;
use super::process;

/// Waits for the pipe to close, then removes the paths it was given.
const JANITOR: &str = r#"
trap "" INT TERM HUP
read -r _
rm -rf -- "$@"
"#;

/// Runs a command with the data directory as file descriptor 9, and sends it a signal when the pipe
/// closes. Frozen processes, its children too, have to go on to be able to stop. A fast shutdown that
/// came in the midst of a crash recovery may never end (seen with 15.18), hence `SIGQUIT` 20 s later.
const WATCHER: &str = r#"
trap "" INT TERM HUP
exec 3<&0 </dev/null 9<"$1" || exit
signal=$2
shift 2
"$@" 3<&- >&2 &
server=$!
{
  read -r _
  kill -$signal $server
  kill -CONT $server $(grep -ls "^PPid:[[:space:]]*$server\$" /proc/[0-9]*/status | cut -d/ -f3)
  for second in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 1; done
  kill -QUIT $server
} <&3 9<&- >/dev/null 2>&1 &
reader=$!
exec 3<&- 9<&-
wait $server
{ kill -KILL $reader; wait $reader; } 2>/dev/null
"#;

/// Becomes a command with the data directory as file descriptor 9.
const WITH_DATA: &str = r#"
exec 9<"$1" || exit
shift
exec "$@" >&2
"#;

/// The data directory as the scripts pass it on. Opening it takes no right to walk there, which root
/// has but the user that PostgreSQL runs as may not. (The working directory would do as well, but
/// PostgreSQL 15 leaves it for a moment and could not come back.)
pub(super) const DATA: &str = "/proc/self/fd/9";

/// A shell that ends after its pipe closed. Dropping it closes the pipe and waits.
#[derive(Debug)]
struct Watching(Child);

impl Watching {
    fn start(mut command: Command) -> Result<Self, EmbeddedError> {
        command.stdin(Stdio::piped()).process_group(0);
        command.spawn().map(Self).map_err(EmbeddedError::system("start", Path::new("sh")))
    }

    /// `wait` closes the pipe first.
    fn finish(&mut self) -> Result<(), EmbeddedError> {
        self.0.wait().map(drop).map_err(EmbeddedError::system("wait for", Path::new("sh")))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Nothing is left to do about an error: the pipe is closed in any case.
        let _ = self.finish();
    }
}

/// Removes directories when this process and every run of PostgreSQL have ended.
#[derive(Debug)]
pub(super) struct Janitor(Watching);

impl Janitor {
    pub(super) fn start(temporary: &[PathBuf]) -> Result<Self, EmbeddedError> {
        let mut command = shell(JANITOR, temporary);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Watching::start(command).map(Self)
    }

    /// Removes them now; every run must have ended.
    pub(super) fn finish(&mut self) -> Result<(), EmbeddedError> {
        self.0.finish()
    }

    /// What a process holds so that the janitor waits for it.
    fn leash(&self) -> Result<Stdio, EmbeddedError> {
        let pipe =
            self.0.0.stdin.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe));
        pipe.and_then(|pipe| pipe.as_fd().try_clone_to_owned())
            .map(Stdio::from)
            .map_err(EmbeddedError::system("share the pipe of", Path::new("sh")))
    }
}

/// Runs a command to its end, with the data directory as [`DATA`] and its output in the log.
pub(super) fn run_to_end(
    data: &Path,
    command: Vec<OsString>,
    log: File,
    janitor: &Janitor,
) -> Result<ExitStatus, EmbeddedError> {
    let mut shell = shell(WITH_DATA, [data.into()].into_iter().chain(command));
    // It reads nothing; its standard input only has to stay open as long as it runs.
    shell.stdin(janitor.leash()?).stdout(Stdio::null()).stderr(log);
    shell.status().map_err(EmbeddedError::system("run", Path::new("sh")))
}

/// How PostgreSQL ends when its owner does.
#[derive(Debug, Clone, Copy)]
pub(super) enum AtTheEnd {
    /// In order, with a checkpoint: the data stay.
    Fast,
    /// At once: the data go, and writing hundreds of test databases out first would take its time.
    Immediate,
}

/// A watcher whose PostgreSQL is coming up.
pub(super) struct Starting(Watching);

impl Starting {
    /// Runs a server with the data directory as [`DATA`] and its output in the log.
    pub(super) fn new(
        data: &Path,
        command: Vec<OsString>,
        end: AtTheEnd,
        log: File,
        janitor: &Janitor,
    ) -> Result<Self, EmbeddedError> {
        let signal = match end {
            AtTheEnd::Fast => "INT",
            AtTheEnd::Immediate => "QUIT",
        };
        let mut shell = shell(WATCHER, [data.into(), signal.into()].into_iter().chain(command));
        shell.stdout(janitor.leash()?).stderr(log);
        Watching::start(shell).map(Self)
    }

    /// Waits until `ready` names this watcher's server.
    pub(super) fn wait_until(
        mut self,
        limit: Duration,
        ready: impl Fn() -> Option<Pid>,
    ) -> Result<Run, &'static str> {
        let watcher = Pid::from_child(&self.0.0);
        let deadline = Instant::now() + limit;
        loop {
            if let Some(server) = ready().filter(|pid| process::parent_of(*pid) == Some(watcher)) {
                return Ok(Run { watcher: self.0, server });
            }
            if !matches!(self.0.0.try_wait(), Ok(None)) {
                return Err("ended at once");
            }
            if Instant::now() >= deadline {
                return Err("did not get ready in time");
            }
            std::thread::sleep(process::LOOK_AGAIN);
        }
    }
}

/// A PostgreSQL that takes connections, and its watcher. Dropping it shuts PostgreSQL down.
#[derive(Debug)]
pub(super) struct Run {
    watcher: Watching,
    server: Pid,
}

impl Run {
    /// Ends it as it ends with its owner.
    pub(super) fn finish(mut self) -> Result<(), EmbeddedError> {
        self.watcher.finish()
    }

    /// Shuts it down in order.
    pub(super) fn shut_down(mut self) -> Result<(), EmbeddedError> {
        // Kept open until PostgreSQL has ended: `wait` would close it and so call for another end.
        let _pipe = self.watcher.0.stdin.take();
        self.signal(self.server, Signal::INT)?;
        self.resume()?;
        self.watcher.finish()
    }

    pub(super) fn pause(&self) -> Result<(), EmbeddedError> {
        // The server first: frozen, it starts no more children.
        self.signal(self.server, Signal::STOP)?;
        self.signal_children(Signal::STOP)
    }

    pub(super) fn resume(&self) -> Result<(), EmbeddedError> {
        self.signal_children(Signal::CONT)?;
        self.signal(self.server, Signal::CONT)
    }

    /// Ends every process at once. All are gone when this returns, so that a new server finds the
    /// shared memory free.
    pub(super) fn kill(mut self) -> Result<(), EmbeddedError> {
        self.signal(self.server, Signal::STOP)?;
        let children = process::children_of(self.server);
        self.signal_children(Signal::KILL)?;
        self.signal(self.server, Signal::KILL)?;
        self.watcher.finish()?;
        let deadline = Instant::now() + Duration::from_secs(10);
        children.into_iter().all(|child| process::wait_until_ended(child, deadline));
        Ok(())
    }

    fn signal_children(&self, signal: Signal) -> Result<(), EmbeddedError> {
        process::children_of(self.server)
            .into_iter()
            .try_for_each(|child| self.signal(child, signal))
    }

    fn signal(&self, pid: Pid, signal: Signal) -> Result<(), EmbeddedError> {
        process::signal(pid, signal).map_err(EmbeddedError::system("signal", Path::new("postgres")))
    }
}

/// A shell with a script, in an environment that holds nothing of the caller's: PostgreSQL's
/// programs heed `PGDATA`, `PGPORT`, `NOTIFY_SOCKET` and more.
fn shell(script: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(script).arg("sh").args(arguments).current_dir("/");
    command.env_clear().env("LC_ALL", "C").env("TZ", "UTC");
    for name in ["PATH", "LD_LIBRARY_PATH"] {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}
