//! A service that cannot start says why, and one whose log nobody reads goes on.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::support::app::TOKEN;
use crate::support::commands::{fleetgate, run};
use crate::support::wire::{Connection, post};
use rustix::process::{Pid, Signal, kill_process};

const NO_DATABASE: &str = "postgresql://nobody@127.0.0.1:1/none";

#[test]
fn an_address_that_cannot_be_had_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    // The others are documentation's and nobody's.
    for address in [taken.as_str(), "192.0.2.1:8080", "[2001:db8::1]:8080"] {
        let mut command = fleetgate(&["serve"]);
        command.env("FLEETGATE_HTTP_LISTEN", address).env("FLEETGATE_DATABASE_URL", NO_DATABASE);
        command.env("FLEETGATE_EMQX_WEBHOOK_TOKEN", TOKEN);
        let (code, stdout, stderr) = run(command);
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains(&format!("cannot listen on {address}")), "{stderr}");
        assert!(stderr.contains("something else uses it") || stderr.contains("no interface"));
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn too_few_open_files_are_told() {
    let script = |files: u32| {
        let serve = fleetgate(&["serve"]);
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(format!("ulimit -n {files}; exec \"$0\" \"$@\""));
        shell.arg(serve.get_program()).args(serve.get_args());
        shell
            .env("FLEETGATE_HTTP_LISTEN", "127.0.0.1:0")
            .env("FLEETGATE_DATABASE_URL", NO_DATABASE);
        shell.env("FLEETGATE_EMQX_WEBHOOK_TOKEN", TOKEN);
        run(shell)
    };
    for files in [7, 12, 20, 40] {
        let (code, _, stderr) = script(files);
        assert_eq!(code, 1, "{files}: {stderr}");
        assert!(stderr.contains(&format!("may have {files} files open")), "{files}: {stderr}");
        assert!(!stderr.contains("panicked"), "{files}: {stderr}");
    }
}

#[test]
fn threads_that_cannot_start_are_told() {
    let serve = fleetgate(&["serve"]);
    let mut shell = std::process::Command::new("sh");
    // Each thread takes two MiB of addresses.
    shell.arg("-c").arg("ulimit -v 500000; exec \"$0\" \"$@\"");
    shell.arg(serve.get_program()).args(serve.get_args());
    shell.env("FLEETGATE_HTTP_LISTEN", "127.0.0.1:0").env("FLEETGATE_DATABASE_URL", NO_DATABASE);
    shell.env("FLEETGATE_EMQX_WEBHOOK_TOKEN", TOKEN).env("FLEETGATE_HTTP_WORKERS", "300");
    let (code, _, stderr) = run(shell);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("cannot set up threads") && stderr.contains("ulimit -u"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn no_command_panics_where_no_thread_can_start() {
    // Root may start any number: the program runs as a user without processes, from where that user finds it.
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    let program = home.path().join("fleetgate");
    fs::copy(fleetgate(&[]).get_program(), &program).unwrap();
    for arguments in [&["device", "list"][..], &["serve"], &["dev", "--listen", "127.0.0.1:0"]] {
        let mut command = if rustix::process::getuid().is_root() {
            let mut other = std::process::Command::new("setpriv");
            other.args(["--reuid=60321", "--regid=60321", "--clear-groups", "prlimit"]);
            other
        } else {
            std::process::Command::new("prlimit")
        };
        command.arg("--nproc=1").arg(&program).args(arguments).current_dir(home.path());
        command.env("FLEETGATE_EMQX_WEBHOOK_TOKEN", TOKEN);
        command.env("FLEETGATE_DATABASE_URL", "host=localhost port=1");
        let (code, _, stderr) = run(command);
        assert_eq!(code, 1, "{arguments:?}: {stderr}");
        assert!(stderr.contains("ulimit -u") && !stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn nobody_has_to_read_help_to_its_end() {
    for arguments in [&["--help"][..], &["serve", "--help"], &["completions", "bash"]] {
        let command = fleetgate(arguments);
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg("{ sleep 0.2; \"$0\" \"$@\"; echo \"code $?\" >&2; } | true");
        shell.arg(command.get_program()).args(arguments);
        let (_, _, stderr) = run(shell);
        assert_eq!(stderr, "code 0\n", "{arguments:?}");
    }
    let mut full = std::process::Command::new("sh");
    let command = fleetgate(&["--help"]);
    full.arg("-c").arg("exec \"$0\" --help >/dev/full").arg(command.get_program());
    let (code, _, stderr) = run(full);
    assert!(code == 1 && stderr.contains("standard output cannot be written"), "{stderr}");
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() {
    let mut command = fleetgate(&["serve"]);
    command.env("FLEETGATE_HTTP_LISTEN", "127.0.0.1:0").env("FLEETGATE_DATABASE_URL", NO_DATABASE);
    command.env("FLEETGATE_EMQX_WEBHOOK_TOKEN", TOKEN).env("NO_COLOR", "1");
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(" serving ") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it did not start");
    }
    drop(log);
    let address = line.trim_end().rsplit("address=").next().unwrap().parse().unwrap();
    for token in ["wrong", TOKEN] {
        let mut connection = Connection::open(address).await;
        let answer = connection.exchange(&post("/emqx/authn", token, "{}")).await;
        assert!([401, 400].contains(&answer.status));
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
