//! The cluster's files, and PostgreSQL's programs run on them.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::account::Account;
use super::binaries::Binaries;
use super::watch::{self, AtTheEnd, Janitor, Run, Starting};
use super::{EmbeddedError, USER, process};

/// Part of the socket's file name; nothing listens on TCP.
pub(super) const PORT: u16 = 5432;

/// How long PostgreSQL may take to get ready, recovery after a crash included, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many lines of the log an error carries.
const LOG_LINES: usize = 20;

/// Where a home's data are.
pub(super) fn data_directory(home: &Path) -> PathBuf {
    home.join("data")
}

/// The right to use a home, held by at most one process.
#[derive(Debug)]
pub(super) struct Lock(
    // The lock ends with the file's closing.
    #[allow(dead_code)] File,
);

impl Lock {
    pub(super) fn take(home: &Path) -> Result<Self, EmbeddedError> {
        let path = home.join("lock");
        let options = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = options.map_err(EmbeddedError::system("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(EmbeddedError::InUse { home: home.to_owned() }),
            Err(TryLockError::Error(error)) => Err(EmbeddedError::system("lock", &path)(error)),
        }
    }
}

/// A database cluster that is ready to be run.
#[derive(Debug)]
pub(super) struct Cluster {
    binaries: Binaries,
    account: Account,
    data: PathBuf,
    log: PathBuf,
    max_connections: u16,
    end: AtTheEnd,
}

impl Cluster {
    /// Opens the cluster of a home whose lock is held, making it if it is not there.
    pub(super) fn open(
        home: &Path,
        account: Account,
        max_connections: u16,
        end: AtTheEnd,
        janitor: &Janitor,
    ) -> Result<Self, EmbeddedError> {
        let (data, log) = (data_directory(home), home.join("postgres.log"));
        let exists = data.exists();
        let binaries = if exists { binaries_of(&data)? } else { Binaries::find()? };
        let cluster = Self { binaries, account, data, log, max_connections, end };
        File::create(&cluster.log).map_err(EmbeddedError::system("write", &cluster.log))?;
        if exists {
            cluster.end_leftover_server()?;
        } else {
            cluster.create(janitor)?;
        }
        Ok(cluster)
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Starts PostgreSQL and waits until it takes connections.
    pub(super) fn run(&self, socket: &Path, janitor: &Janitor) -> Result<Run, EmbeddedError> {
        let (command, log) = (self.server(socket), self.log_file()?);
        let starting = Starting::new(&self.data, command, self.end, log, janitor)?;
        starting.wait_until(PATIENCE, || self.ready_server()).map_err(|what| {
            EmbeddedError::NotReady { what, path: self.log.clone(), log: self.log_end() }
        })
    }

    /// The server's command line. fsync stays on: `fleetgate dev` keeps its data.
    fn server(&self, socket: &Path) -> Vec<OsString> {
        let directory = socket.to_string_lossy().replace('"', "\"\"");
        let settings = [
            "listen_addresses=".to_owned(),
            format!("unix_socket_directories=\"{directory}\""),
            format!("port={PORT}"),
            format!("max_connections={}", self.max_connections),
            "logging_collector=off".to_owned(),
            "log_destination=stderr".to_owned(),
        ];
        let mut command = self.account.command(self.binaries.program("postgres"));
        command.extend(["-D", watch::DATA].map(OsString::from));
        command.extend(settings.into_iter().flat_map(|setting| ["-c".into(), setting.into()]));
        command
    }

    /// Makes the cluster under another name first, so that `data` is complete or absent.
    fn create(&self, janitor: &Janitor) -> Result<(), EmbeddedError> {
        let unfinished = self.data.with_file_name("data.unfinished");
        self.clear(&unfinished)?;
        let options = "--auth=trust --encoding=UTF8 --locale=C --no-sync --no-instructions";
        let mut command = self.account.command(self.binaries.program("initdb"));
        command.extend(["-D", watch::DATA, "--username", USER].map(OsString::from));
        command.extend(options.split(' ').map(OsString::from));
        let status = watch::run_to_end(&unfinished, command, self.log_file()?, janitor)?;
        if !status.success() {
            return Err(EmbeddedError::Initdb { data: self.data.clone(), log: self.log_end() });
        }
        fs::rename(&unfinished, &self.data).map_err(EmbeddedError::system("make", &self.data))
    }

    /// Leaves an empty directory, whatever a start that was cut short left there.
    fn clear(&self, directory: &Path) -> Result<(), EmbeddedError> {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(EmbeddedError::system("remove", directory)(error));
            }
            _ => {}
        }
        let made = DirBuilder::new().mode(0o700).create(directory);
        made.map_err(EmbeddedError::system("make the directory", directory))?;
        self.account.take_over(directory)
    }

    /// Ends the server of an owner that was killed together with its watcher.
    ///
    /// We hold the lock, so a server on these data is nobody's any more. A server works in its data
    /// directory: a process elsewhere merely got the number that a dead server had, and is left
    /// alone, but its number would keep PostgreSQL from starting.
    fn end_leftover_server(&self) -> Result<(), EmbeddedError> {
        let Some(pid) =
            self.pid_file().and_then(|file| file.pid).filter(|pid| process::is_running(*pid))
        else {
            return Ok(());
        };
        let (data, path) = (self.data.canonicalize().ok(), self.data.join("postmaster.pid"));
        if data.is_none() || process::working_directory(pid) != data {
            return fs::remove_file(&path).map_err(EmbeddedError::system("remove", &path));
        }
        let stopping = "stop the PostgreSQL left behind in";
        // In order; a server that is itself recovering from a crash may not heed that.
        for signal in [Signal::INT, Signal::QUIT] {
            process::signal(pid, signal)
                .and_then(|()| process::signal(pid, Signal::CONT))
                .map_err(EmbeddedError::system(stopping, &self.data))?;
            if process::wait_until_ended(pid, Instant::now() + PATIENCE / 2) {
                return Ok(());
            }
        }
        Err(EmbeddedError::system(stopping, &self.data)(ErrorKind::TimedOut.into()))
    }

    /// The server that says it takes connections; the file may be one from before a crash.
    fn ready_server(&self) -> Option<Pid> {
        self.pid_file().filter(|file| file.ready).and_then(|file| file.pid)
    }

    fn pid_file(&self) -> Option<PidFile> {
        fs::read_to_string(self.data.join("postmaster.pid")).ok().map(|text| PidFile::parse(&text))
    }

    fn log_file(&self) -> Result<File, EmbeddedError> {
        let file = OpenOptions::new().append(true).open(&self.log);
        file.map_err(EmbeddedError::system("open", &self.log))
    }

    fn log_end(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let end = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
        end.join("\n")
    }
}

/// The binaries of the version that wrote the data.
fn binaries_of(data: &Path) -> Result<Binaries, EmbeddedError> {
    let path = data.join("PG_VERSION");
    let text = fs::read_to_string(&path).map_err(EmbeddedError::system("read", &path))?;
    let invalid = || EmbeddedError::system("read", &path)(ErrorKind::InvalidData.into());
    Binaries::find_for(data, text.trim().parse().map_err(|_| invalid())?)
}

/// What `postmaster.pid` says: the process on line 1, its state on line 8.
#[derive(Debug, PartialEq, Eq)]
struct PidFile {
    pid: Option<Pid>,
    ready: bool,
}

impl PidFile {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let pid = lines.next().and_then(|line| Pid::from_raw(line.trim().parse().ok()?));
        Self { pid, ready: lines.nth(6).is_some_and(|line| line.trim() == "ready") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_postmaster_pid() {
        let begun = "4711\n/proc/self/fd/9\n1795361834\n5432\n/tmp/x\n\n 10117130         4\n";
        let pid = Pid::from_raw(4711);
        assert_eq!(PidFile::parse(begun), PidFile { pid, ready: false });
        assert_eq!(PidFile::parse(&format!("{begun}starting\n")), PidFile { pid, ready: false });
        assert_eq!(PidFile::parse(&format!("{begun}ready   \n")), PidFile { pid, ready: true });
        assert_eq!(PidFile::parse(""), PidFile { pid: None, ready: false });
    }

    #[test]
    fn a_home_has_one_lock() {
        let home = tempfile::tempdir().unwrap();
        let held = Lock::take(home.path()).unwrap();
        assert!(matches!(Lock::take(home.path()), Err(EmbeddedError::InUse { .. })));
        drop(held);
        Lock::take(home.path()).unwrap();
    }
}
