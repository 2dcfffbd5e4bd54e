//! A real PgBouncer in front of PostgreSQL's unix socket.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use tempfile::TempDir;
use tokio::net::UnixStream;

use super::app::eventually;
use super::postgres::{OWNER, SERVING_ROLE};

/// Part of the socket's file name; nothing listens on TCP.
const PORT: u16 = 6432;

/// A running PgBouncer. Dropping it stops it, and so does the end of the thread that started it.
pub(crate) struct Pgbouncer {
    process: Child,
    directory: TempDir,
}

impl Pgbouncer {
    /// Starts one in front of the server behind `upstream`, a socket such as
    /// [`super::postgres::socket_path`] gives, for the roles named beside
    /// the owner and the serving role (without passwords).
    ///
    /// `settings` are those of `pgbouncer.ini`, such as `("pool_mode", "transaction")`; what they leave
    /// out is PgBouncer's default.
    pub(crate) async fn start(upstream: &Path, roles: &[&str], settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new().prefix("pgbouncer-").tempdir().unwrap();
        let configuration = configure(directory.path(), upstream, roles, settings);
        // It refuses root: then it runs as whoever runs PostgreSQL. It ends with the test's thread.
        let owner = fs::metadata(upstream).unwrap();
        let mut command = Command::new("setpriv");
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            let (uid, gid) = (owner.uid(), owner.gid());
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
            command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
            command.arg("--clear-groups");
        }
        let installed = Path::new("/usr/sbin/pgbouncer");
        let program = if installed.exists() { installed } else { Path::new("pgbouncer") };
        command.arg("--pdeathsig=KILL").arg(program).arg("--quiet").arg(configuration);
        let process = command.spawn().expect("docker/install-prerequisites.sh installs pgbouncer");
        let started = Self { process, directory };
        let socket = started.socket_path();
        let answers = || async { UnixStream::connect(&socket).await.is_ok() };
        eventually("PgBouncer answers", answers).await;
        started
    }

    /// The database URL through PgBouncer, from one that goes directly.
    pub(crate) fn url(&self, direct: &str) -> String {
        let is_address = |word: &&str| word.starts_with("host=") || word.starts_with("port=");
        let kept: Vec<&str> = direct.split_whitespace().filter(|word| !is_address(word)).collect();
        format!("host={} port={PORT} {}", self.directory.path().display(), kept.join(" "))
    }

    /// The unix socket itself, for a proxy in front of it.
    pub(crate) fn socket_path(&self) -> PathBuf {
        self.directory.path().join(format!(".s.PGSQL.{PORT}"))
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        let _ended = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// Writes `pgbouncer.ini` and the list of roles; returns the former.
fn configure(
    directory: &Path,
    upstream: &Path,
    roles: &[&str],
    settings: &[(&str, &str)],
) -> PathBuf {
    let users = directory.join("users.txt");
    let roles: BTreeSet<_> = roles.iter().copied().chain([OWNER, SERVING_ROLE]).collect();
    let lines: Vec<String> = roles.iter().map(|role| format!("\"{role}\" \"\"\n")).collect();
    write_for_all(&users, &lines.concat());
    let port = upstream.extension().unwrap().to_str().unwrap();
    let mut text = format!(
        "[databases]\n* = host={} port={port}\n\
         [pgbouncer]\nlisten_port = {PORT}\nunix_socket_dir = {}\nauth_type = trust\n\
         auth_file = {}\n",
        upstream.parent().unwrap().display(),
        directory.display(),
        users.display(),
    );
    for (name, value) in settings {
        text.push_str(&format!("{name} = {value}\n"));
    }
    let configuration = directory.join("pgbouncer.ini");
    write_for_all(&configuration, &text);
    configuration
}

fn write_for_all(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}
