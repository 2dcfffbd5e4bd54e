//! `fleetgate dev` as a process: what it prints works, it ends in order, and it keeps its data.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command};
use std::time::{Duration, Instant};

use fleetgate::config::{Settings, Sources};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::commands::{fleetgate, run};
use crate::support::fleet::Fleet;

/// A `fleetgate dev` that serves.
struct Dev {
    process: Child,
    stdout: BufReader<ChildStdout>,
    home: PathBuf,
    /// What it printed.
    text: String,
}

impl Dev {
    fn start(home: &Path) -> Self {
        let home_text = home.to_str().unwrap();
        let mut command = fleetgate(&["dev", "--home", home_text, "--listen", "127.0.0.1:0"]);
        command.env("FLEETGATE_DATABASE_URL", "postgres://nowhere.invalid/other");
        command.env("FLEETGATE_LOG_FILTER", "warn").stderr(std::process::Stdio::inherit());
        let mut process = command.spawn().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut text = String::new();
        while !text.contains("Ctrl-C stops everything") {
            assert!(stdout.read_line(&mut text).unwrap() > 0, "dev ended early: {text}");
        }
        Self { process, stdout, home: home.to_owned(), text }
    }

    fn server(&self) -> Pid {
        let file = fs::read_to_string(self.home.join("postgres/data/postmaster.pid")).unwrap();
        Pid::from_raw(file.lines().next().unwrap().parse().unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Ends it with a signal and waits until nothing of it is left.
    fn stop(mut self, signal: Signal) {
        let server = self.server();
        self.signal(signal);
        self.stdout.read_to_string(&mut String::new()).unwrap();
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}");
        assert!(!is_running(server));
    }

    /// The lines of the devices: name and secret.
    fn devices(&self) -> Vec<(&str, &str)> {
        let lines = self.text.lines().skip_while(|line| !line.starts_with("Demo devices"));
        let devices = lines.skip(1).take_while(|line| line.starts_with("  "));
        devices
            .map(|line| {
                let mut words = line.split_whitespace();
                (words.next().unwrap(), words.next().unwrap())
            })
            .collect()
    }

    async fn fleet(&self) -> Fleet {
        let file = Some(self.home.join("fleetgate.toml"));
        let settings =
            Settings::load(&Sources { file, environment: Vec::new(), ..Sources::default() })
                .unwrap();
        Fleet::connect(settings.database().unwrap().url.expose()).await
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_running(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// Waits for what the end of another process brings about; nothing tells of it.
fn wait_until(what: &str, happened: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !happened() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The commands that are printed, each with the answer that is expected.
fn examples(text: &str) -> Vec<(&str, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.windows(2).filter(|pair| pair[1].starts_with("curl "));
    pairs.map(|pair| (pair[1], pair[0].split_once("Expected: ").unwrap().1)).collect()
}

fn answer_of(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn what_it_prints_works_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("the demo's");

    let first = Dev::start(&home);
    let examples = examples(&first.text);
    assert_eq!(examples.len(), 4);
    let has_curl = Command::new("curl").arg("--version").output().is_ok();
    for (command, expected) in examples.into_iter().filter(|_| has_curl) {
        assert_eq!(answer_of(command), expected, "{command}");
    }
    assert_eq!(first.devices().len(), 12);
    for file in ["demo.json", "fleetgate.toml", "token-key.pem"] {
        assert_eq!(mode(&home.join(file)), 0o600, "{file}");
    }
    let fleet = first.fleet().await;
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM devices").await, 12);
    fleet.device("added").await;
    fleet.sql("UPDATE devices SET enabled = false WHERE name = 'co2-2'", &[]).await;
    let before: Vec<(String, String)> =
        first.devices().iter().map(|(n, s)| ((*n).to_owned(), (*s).to_owned())).collect();
    first.stop(Signal::INT);

    let mut second = Dev::start(&home);
    let still: Vec<(&str, &str)> = second.devices();
    let expected = before.iter().filter(|(name, _)| name != "co2-2");
    assert_eq!(still, expected.map(|(n, s)| (n.as_str(), s.as_str())).collect::<Vec<_>>());
    let fleet = second.fleet().await;
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM devices").await, 13);
    let server = second.server();
    second.process.kill().unwrap();
    second.process.wait().unwrap();
    wait_until("the end of PostgreSQL", || !is_running(server));
}

#[tokio::test]
async fn other_commands_work_on_it() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path());
    let file = dev.home.join("fleetgate.toml");
    let config = ["--config", file.to_str().unwrap()];

    let (code, stdout, stderr) = run(fleetgate(&[&config[..], &["doctor", "--json"]].concat()));
    assert_eq!(code, 0, "{stdout}{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["status"] == "ok"), "{stdout}");

    let issue = ["token", "issue", "thermo-2"];
    let (code, token, stderr) = run(fleetgate(&[&config[..], &issue].concat()));
    assert_eq!(code, 0, "{stderr}");
    let login = examples(&dev.text)[0].0.to_owned();
    let (_, secret) = *dev.devices().iter().find(|(name, _)| *name == "thermo-1").unwrap();
    let login = login.replace(secret, token.trim()).replace("thermo-1", "thermo-2");
    if Command::new("curl").arg("--version").output().is_ok() {
        assert!(answer_of(&login).contains(r#""result":"allow""#), "{login}");
    }
    dev.stop(Signal::TERM);
}

#[test]
fn lost_secrets_are_said_to_be_lost() {
    let directory = tempfile::tempdir().unwrap();
    Dev::start(directory.path()).stop(Signal::INT);
    fs::remove_file(directory.path().join("demo.json")).unwrap();
    let dev = Dev::start(directory.path());
    assert!(dev.text.contains("credential add thermo-1 --generate"), "{}", dev.text);
    assert!(dev.devices().is_empty());
    // The token is new, and known.
    let (refused, expected) = examples(&dev.text)[1];
    if Command::new("curl").arg("--version").output().is_ok() {
        assert_eq!(answer_of(refused), expected);
    }
    dev.stop(Signal::INT);
}

#[test]
fn a_taken_address_is_named_before_anything_is_started() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let arguments = ["dev", "--home", home.to_str().unwrap(), "--listen", &address];
    let (code, _, stderr) = run(fleetgate(&arguments));
    assert_eq!(code, 1);
    assert!(stderr.contains(&address) && stderr.contains("--listen"), "{stderr}");
    assert!(!home.exists());
}
