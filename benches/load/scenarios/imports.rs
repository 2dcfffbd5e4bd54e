//! How many devices an import brings in a second: files through the command line, as a process of its own, into a PostgreSQL
//! that others leave alone.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fleetgate::fleet::imports::measure_one;
use serde_json::json;
use tokio::process::Command;
use tokio_postgres::Client;

use crate::support::fleetgate::command;
use crate::support::process::{children, cpu_time_of_ended_children, parent};
use crate::support::registry::connect;
use crate::table::{Bar, Row};

/// Devices of a file.
const DEVICES: u32 = 100_000;
/// The same where each has a password in plain text, which takes tens of milliseconds to hash.
const PASSWORDS: u32 = 1_000;
/// What an import must bring in a second: a million devices in minutes.
const A_SECOND: f64 = 5_000.0;
/// Passwords have nothing to do but to be hashed: how near their import must come to that.
const OF_THE_HASHES: f64 = 0.8;

/// A kind of file.
struct Kind {
    scenario: &'static str,
    devices: u32,
    header: Option<&'static str>,
    line: fn(u32) -> String,
    options: &'static [&'static str],
    makes_secrets: bool,
}

const HASHES: Kind = Kind {
    scenario: "import: users of EMQX with SHA-256",
    devices: DEVICES,
    header: Some("user_id,password_hash,salt,is_superuser"),
    line: |number| format!("user-{number:07},{number:064x},{number:016x},false"),
    options: &["--format", "emqx-users", "--algorithm", "sha256,prefix"],
    makes_secrets: false,
};

const SECRETS: Kind = Kind {
    scenario: "import: generated secrets",
    devices: DEVICES,
    header: Some("name,kind,area,floor,generate"),
    line: |number| format!("made-{number:07},sensor,lab,2,yes"),
    options: &["--format", "csv"],
    makes_secrets: true,
};

const OWN: Kind = Kind {
    scenario: "import: lines of an export, hash, binding and grant",
    devices: DEVICES,
    header: None,
    line: exported,
    options: &[],
    makes_secrets: false,
};

const IN_PLAIN_TEXT: Kind = Kind {
    scenario: "import: passwords in plain text",
    devices: PASSWORDS,
    header: Some("name,kind,area,floor,secret"),
    line: |number| format!("plain-{number:07},sensor,lab,2,a password like {number}"),
    options: &["--format", "csv"],
    makes_secrets: false,
};

/// As an export has it.
pub(super) fn exported(number: u32) -> String {
    let name = format!("copy-{number:07}");
    json!({"device": {
        "name": name, "client_id": null, "area": "lab", "floor": "2", "kind": "sensor", "gateway": null,
        "availability_topic": null, "enabled": true, "meta": {"rack": number},
        "capabilities": [],
        "bindings": [{"name": "main", "state_topic": format!("lab/{name}/state"),
            "command_topic": format!("lab/{name}/set"), "reply_topic": null, "merge": false}],
        "grants": [{"action": "publish", "topic_filter": format!("lab/{name}/log/#")}],
        "credentials": [{"kind": "password", "common_name": null, "certificate_required": null, "label": null,
            "hash": format!("$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA${number:042}0"),
            "not_before": null, "expires_at": null, "revoked_at": null}],
    }})
    .to_string()
}

/// What an import took.
struct Taken {
    time: Duration,
    /// Processor time of the command.
    cpu: Duration,
    /// The same of PostgreSQL.
    database_cpu: Duration,
}

pub(super) async fn files(url: &str) -> Vec<Row> {
    let database = connect(url).await;
    let mut rows = Vec::new();
    for kind in [HASHES, SECRETS, OWN] {
        let taken = import(url, &database, &kind).await;
        let rate = f64::from(kind.devices) / taken.time.as_secs_f64();
        rows.push(row(&kind, &taken, rate, "devices/s", A_SECOND));
    }
    let (each, _) = measure_one();
    let taken = import(url, &database, &IN_PLAIN_TEXT).await;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = u32::try_from(threads).expect("a few");
    let hashing = each * PASSWORDS / threads;
    let share = hashing.as_secs_f64() / taken.time.as_secs_f64();
    let what = "of the speed of hashing alone";
    rows.push(row(&IN_PLAIN_TEXT, &taken, share, what, OF_THE_HASHES));
    rows
}

fn row(kind: &Kind, taken: &Taken, figure: f64, unit: &'static str, bar: f64) -> Row {
    let each = |time: Duration| Some(time.as_secs_f64() * 1e6 / f64::from(kind.devices));
    Row {
        per_second: Some(f64::from(kind.devices) / taken.time.as_secs_f64()),
        cpu_us: each(taken.cpu),
        database_cpu_us: each(taken.database_cpu),
        ..Row::figure(kind.scenario, figure, unit, Bar::AtLeast(bar))
    }
}

/// Writes a file and imports it.
async fn import(url: &str, database: &Client, kind: &Kind) -> Taken {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("devices");
    write(&file, kind);
    // So that no file pays for what the one before left to be written.
    database.batch_execute("CHECKPOINT").await.expect("a checkpoint");
    let mut command = Command::from(command(url));
    command.arg("import").arg(&file).args(kind.options).arg("--json");
    if kind.makes_secrets {
        command.arg("--secrets-out").arg(directory.path().join("secrets"));
    }
    let backend = database.query_one("SELECT pg_backend_pid()", &[]).await.expect("a number");
    let postmaster = parent(backend.get::<_, i32>(0).unsigned_abs());
    let before = children(postmaster);
    let of_children =
        || (cpu_time_of_ended_children(std::process::id()), cpu_time_of_ended_children(postmaster));
    let (cpu, database_cpu) = of_children();
    let began = Instant::now();
    let output = command.stderr(Stdio::inherit()).output().await.expect("fleetgate starts");
    let time = began.elapsed();
    assert!(output.status.success(), "{}: {}", kind.scenario, output.status);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["added"], kind.devices, "{told}");
    // What a backend used is counted once PostgreSQL has heard of its end, a little later than its client.
    while !children(postmaster).is_subset(&before) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (cpu_after, database_cpu_after) = of_children();
    Taken { time, cpu: cpu_after - cpu, database_cpu: database_cpu_after - database_cpu }
}

fn write(path: &Path, kind: &Kind) {
    let mut file = BufWriter::new(fs::File::create(path).expect("a new file"));
    if let Some(header) = kind.header {
        writeln!(file, "{header}").expect("room");
    }
    for number in 0..kind.devices {
        writeln!(file, "{}", (kind.line)(number)).expect("room");
    }
    file.flush().expect("room");
}
