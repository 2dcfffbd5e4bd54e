//! `fleetgate serve` in a process of its own: what it logs, and how it ends.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use super::app::TOKEN;
use super::commands::fleetgate;

/// A running `fleetgate serve`. Dropping it kills it.
pub(crate) struct Serve {
    pub(crate) address: SocketAddr,
    child: Child,
    /// Reads the log, so that the pipe never fills.
    log: Option<JoinHandle<String>>,
}

impl Serve {
    /// Starts it on a free port; returns when it listens.
    pub(crate) fn start(settings: &[(&str, String)]) -> Self {
        Self::spawn(fleetgate(&["serve"]), settings)
    }

    /// The same by a shell script that ends in `exec "$0" "$@"`.
    pub(crate) fn start_by(script: &str, settings: &[(&str, String)]) -> Self {
        let serve = fleetgate(&["serve"]);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).arg(serve.get_program()).args(serve.get_args());
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::spawn(shell, settings)
    }

    fn spawn(mut command: Command, settings: &[(&str, String)]) -> Self {
        command.env("FLEETGATE_HTTP_LISTEN", "127.0.0.1:0").env("FLEETGATE_HTTP_WORKERS", "2");
        command.env("FLEETGATE_API_LISTEN", "off");
        command.env("FLEETGATE_EMQX_WEBHOOK_TOKEN", TOKEN).env("NO_COLOR", "1");
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (before, address) = until_serving(&mut log);
        let log = std::thread::spawn(move || {
            let mut text = before;
            log.read_to_string(&mut text).unwrap();
            text
        });
        Self { address, child, log: Some(log) }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    /// Asks it to stop, as a supervisor does.
    pub(crate) fn terminate(&self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
    }

    /// Waits for its end, which must be a good one, and returns the log.
    pub(crate) fn ended(mut self) -> String {
        let status = self.child.wait().unwrap();
        let log = self.log.take().unwrap().join().unwrap();
        assert!(status.success(), "{status}:\n{log}");
        log
    }

    /// Stops it and returns the log.
    pub(crate) fn stop(self) -> String {
        self.terminate();
        self.ended()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until_serving(log: &mut BufReader<ChildStderr>) -> (String, SocketAddr) {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "it did not start:\n{text}");
        text.push_str(&line);
        if line.contains(" serving ") {
            let address = line.trim_end().rsplit("address=").next().unwrap();
            return (text.clone(), address.parse().unwrap());
        }
    }
}
