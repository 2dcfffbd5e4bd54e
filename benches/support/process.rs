//! What a process uses, as Linux counts it in `/proc`.

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
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; counted from behind it, fields 12 and 13 are utime, stime.
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u32>().unwrap());
    Some(TICK * ticks.sum::<u32>())
}

/// Resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kibibytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    kibibytes * 1024
}

/// Processor time that the whole machine has used so far, for whatever.
pub(crate) fn busy_time() -> Duration {
    let stat = fs::read_to_string("/proc/stat").expect("Linux tells");
    let all =
        stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).expect("all processors");
    // user nice system idle iowait irq softirq steal; of these, two are rest.
    let ticks = all.split_whitespace().take(8).enumerate();
    let busy = ticks.filter(|(place, _)| !matches!(place, 3 | 4));
    TICK.mul_f64(busy.map(|(_, ticks)| ticks.parse::<f64>().unwrap()).sum())
}

/// How many processors there are.
pub(crate) fn cores() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cores).expect("fewer")
}

/// The processor's name and how many of them there are, for the heading of a table.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name"));
    let name = name.map_or("unknown processor", |line| line.trim_start_matches(['\t', ':', ' ']));
    let cores = cores();
    format!("{cores} × {name}")
}
