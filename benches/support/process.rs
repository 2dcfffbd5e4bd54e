//! What a process uses, as Linux counts it in `/proc`.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

/// The kernel's unit of processor time in `/proc/PID/stat`: a hundredth of a second on every
/// architecture that Linux runs on today.
const TICK: Duration = Duration::from_millis(10);

/// Processor time that a process has used so far, all threads, in user and kernel mode.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    cpu_time_while_it_runs(pid).expect("the process runs")
}

/// The same of a process that may end at any time; then nothing.
pub(crate) fn cpu_time_while_it_runs(pid: u32) -> Option<Duration> {
    ticks(pid, OWN_TIME)
}

/// Processor time of those children of a process that have ended, as far as it has heard of their end.
pub(crate) fn cpu_time_of_ended_children(pid: u32) -> Duration {
    ticks(pid, TIME_OF_CHILDREN).expect("the process runs")
}

/// The process that started this one.
pub(crate) fn parent(pid: u32) -> u32 {
    fields(pid).and_then(|fields| fields[1].parse().ok()).expect("the process runs")
}

/// The processes that a process has started and that it has not heard of the end of.
pub(crate) fn children(pid: u32) -> BTreeSet<u32> {
    let all = fs::read_dir("/proc").expect("Linux");
    let all = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|one| fields(*one).is_some_and(|fields| fields[1] == pid.to_string())).collect()
}

/// Where `utime` and `stime` are in [`fields`], and the same of children.
const OWN_TIME: usize = 11;
const TIME_OF_CHILDREN: usize = 13;

fn ticks(pid: u32, first: usize) -> Option<Duration> {
    let fields = fields(pid)?;
    let ticks = fields[first..first + 2].iter().map(|field| field.parse::<u32>().unwrap());
    Some(TICK * ticks.sum::<u32>())
}

/// What `/proc/PID/stat` says behind the name in parentheses, which may hold spaces.
fn fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// Resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kibibytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    kibibytes * 1024
}

/// The processor's name and how many of them there are, for the heading of a table.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name"));
    let name = name.map_or("unknown processor", |line| line.trim_start_matches(['\t', ':', ' ']));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{cores} × {name}")
}
