//! Processes, as `/proc` shows them.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long to wait before looking again for something that the kernel does not announce.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Sends a signal. A process that has ended is as good as signalled.
pub(super) fn signal(pid: Pid, signal: Signal) -> std::io::Result<()> {
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The process that a process is a child of.
pub(super) fn parent_of(pid: Pid) -> Option<Pid> {
    Pid::from_raw(status_field(pid, "PPid:")?.parse().ok()?)
}

/// The running children of a process.
pub(super) fn children_of(parent: Pid) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter(|pid| parent_of(*pid) == Some(parent) && is_running(*pid))
        .collect()
}

/// Whether a process is there and not merely waiting to be reaped.
pub(super) fn is_running(pid: Pid) -> bool {
    status_field(pid, "State:").is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// Waits for a process that is no child of ours; `false` if it still runs at the deadline.
pub(super) fn wait_until_ended(pid: Pid, deadline: Instant) -> bool {
    while is_running(pid) {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOOK_AGAIN);
    }
    true
}

/// The directory that a process works in, if we may know.
pub(super) fn working_directory(pid: Pid) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())).ok()
}

fn status_field(pid: Pid, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(field)?.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn sees_a_child_until_it_ends() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let own = Pid::from_raw(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(parent_of(pid), Some(own));
        assert!(children_of(own).contains(&pid));
        signal(pid, Signal::KILL).unwrap();
        assert!(wait_until_ended(pid, Instant::now() + Duration::from_secs(10)));
        child.wait().unwrap();
        signal(pid, Signal::KILL).unwrap();
        assert_eq!(parent_of(pid), None);
    }
}
