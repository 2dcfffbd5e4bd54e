//! PostgreSQL servers that listen on TCP, with settings of their own: standbys, TLS, passwords.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fleetgate::embedded::Binaries;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::app::eventually;
use super::postgres::{connect, socket_path};

/// The superuser, who needs no password unless `pg_hba.conf` says otherwise.
pub(crate) const SUPERUSER: &str = "fleetgate";

/// A running server. Dropping it stops it, and so does the end of the thread that started it.
pub(crate) struct Cluster {
    pub(crate) port: u16,
    /// Holds `data`, and what a test puts beside it.
    directory: TempDir,
    owner: (u32, u32),
    process: Option<Child>,
}

impl Cluster {
    /// An empty server; `settings` are lines of `postgresql.conf`.
    pub(crate) async fn start(settings: &str) -> Self {
        let mut cluster = Self::directory().await;
        let initdb =
            "--auth=trust --encoding=UTF8 --locale=C --no-sync --no-instructions --username";
        let data = cluster.data();
        let mut command = cluster.command("initdb");
        command.args(initdb.split(' ')).arg(SUPERUSER).arg("-D").arg(&data);
        run_to_end(command);
        cluster.configure(&format!("fsync = off\n{settings}"));
        cluster.run().await;
        cluster
    }

    /// A streaming standby of this server, which calls itself `name`.
    pub(crate) async fn standby(&self, name: &str) -> Self {
        let mut standby = Self::directory().await;
        let source =
            format!("host=127.0.0.1 port={} user={SUPERUSER} application_name={name}", self.port);
        let data = standby.data();
        let mut command = standby.command("pg_basebackup");
        let options = "--checkpoint=fast --no-sync --write-recovery-conf --wal-method=stream";
        command.args(options.split(' ')).arg("-D").arg(&data).arg("-d").arg(source);
        run_to_end(command);
        standby.configure("synchronous_standby_names = ''\n");
        standby.run().await;
        standby
    }

    async fn directory() -> Self {
        let directory = tempfile::Builder::new().prefix("cluster-").tempdir().unwrap();
        // PostgreSQL refuses root: then it runs as whoever runs the shared one.
        let owner = fs::metadata(socket_path().await).unwrap();
        let owner = (owner.uid(), owner.gid());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let made = Self { port, directory, owner, process: None };
        made.give_away(made.directory.path());
        made
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Writes a file that only the server's user can read; returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        self.give_away(&path);
        path
    }

    fn give_away(&self, path: &Path) {
        if is_root() {
            chown(path, Some(self.owner.0), Some(self.owner.1)).unwrap();
        }
    }

    /// Appends to `postgresql.conf`; the last line about a setting counts.
    pub(crate) fn configure(&self, settings: &str) {
        let path = self.data().join("postgresql.conf");
        let before = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{before}\n{settings}\n")).unwrap();
    }

    /// Replaces `pg_hba.conf`.
    pub(crate) fn allow(&self, lines: &str) {
        fs::write(self.data().join("pg_hba.conf"), lines).unwrap();
    }

    /// Has the server read its settings again, and waits until it has.
    pub(crate) async fn reload(&self) {
        let client = connect(&self.socket_url("postgres")).await;
        let loaded = "SELECT extract(epoch FROM pg_conf_load_time())::float8";
        let before: f64 = client.query_one(loaded, &[]).await.unwrap().get(0);
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        eventually("the settings are read", || async {
            client.query_one(loaded, &[]).await.unwrap().get::<_, f64>(0) > before
        })
        .await;
    }

    fn command(&self, program: &str) -> Command {
        let program = Binaries::find().unwrap().directory().join(program);
        let mut command = Command::new("setpriv");
        if is_root() {
            let (uid, gid) = self.owner;
            command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
            command.arg("--clear-groups");
        }
        command.arg("--pdeathsig=KILL").arg(program);
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    async fn run(&mut self) {
        let log = fs::File::create(self.directory.path().join("log")).unwrap();
        let data = self.data();
        let mut command = self.command("postgres");
        command.arg("-D").arg(&data).arg("-p").arg(self.port.to_string());
        command.args(["-c", "listen_addresses=127.0.0.1", "-c"]);
        command.arg(format!("unix_socket_directories={}", self.directory.path().display()));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        let url = self.socket_url("postgres");
        let answers = || async {
            let opened = tokio_postgres::connect(&url, NoTls).await;
            opened.map(|(_, connection)| drop(tokio::spawn(connection))).is_ok()
        };
        eventually(&format!("the server runs:\n{}", self.log()), answers).await;
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// How to reach it over TCP.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user={SUPERUSER} dbname={database}", self.port)
    }

    /// The same over its socket, which `pg_hba.conf` may treat differently.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join(format!(".s.PGSQL.{}", self.port))
    }

    pub(crate) fn socket_url(&self, database: &str) -> String {
        let directory = self.directory.path().display();
        format!("host={directory} port={} user={SUPERUSER} dbname={database}", self.port)
    }

    /// A database of this name, and a connection to it.
    pub(crate) async fn create(&self, database: &str) -> Client {
        let admin = connect(&self.socket_url("postgres")).await;
        admin.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
        connect(&self.socket_url(database)).await
    }

    /// Stops every process of it without ending any: it accepts connections and answers nothing.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Makes a standby the primary.
    pub(crate) async fn promote(&self) {
        let client = connect(&self.socket_url("postgres")).await;
        client.batch_execute("SELECT pg_promote()").await.unwrap();
    }

    fn signal(&self, signal: Signal) {
        let Some(process) = &self.process else { return };
        let postmaster = Pid::from_child(process);
        // First, so that it begins nothing more.
        kill_process(postmaster, signal).unwrap();
        for child in children_of(postmaster) {
            let _ended = kill_process(child, signal);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut process) = self.process.take() {
            let _ended = process.wait();
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn run_to_end(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn children_of(parent: Pid) -> Vec<Pid> {
    let wanted = parent.as_raw_nonzero().to_string();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
        .filter(|pid| {
            let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
            let status = status.unwrap_or_default();
            status.lines().any(|line| {
                line.strip_prefix("PPid:").is_some_and(|parent| parent.trim() == wanted)
            })
        })
        .collect()
}
