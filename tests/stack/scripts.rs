//! The shell scripts, and the one in the compose file.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::compose::{service, texts};

/// What a stand-in for `docker` does: it answers as a stack would on which everything works.
const WORKING_DOCKER: &str = r##"#!/bin/sh
case "$*" in
    *'ps --status running'*) printf 'postgres\nfleetgate\nemqx\n' ;;
    *'device add'*) echo a-secret ;;
    *'--json device show'*) echo '{"online": true, "was": {"online": false}, "state": [21.25, 22.75]}' ;;
    *'-P wrong'*) exit 5 ;;
    *smoke/another/state*) echo 'Warning: Publish 1 failed: Not authorized.' ;;
    *mosquitto_sub*-W*) echo 'All subscription requests were denied.'; exit 1 ;;
    logs*smoke-service*) device=${2#smoke-service-}
        printf 'Subscribed\nsmoke/smoke-%s/state 21.25\nsmoke/smoke-%s/state 22.75\n' "$device" "$device" ;;
    logs*) printf 'Subscribed\nsmoke/%s/set on\n' "$2" ;;
esac
"##;

/// Runs the smoke test with a stand-in for `docker` and nobody's patience.
fn smoke(docker: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("docker");
    fs::write(&program, docker).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let script =
        Command::new("docker/smoke.sh").env("PATH", path).env("SMOKE_PATIENCE", "1").output();
    let Output { status, stdout, .. } = script.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap())
}

#[test]
fn the_smoke_test_passes_where_everything_works() {
    let (code, said) = smoke(WORKING_DOCKER);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.matches("pass  ").count(), 18, "{said}");
}

#[test]
fn it_fails_where_one_thing_does_not() {
    for (works, does_not, step) in [
        ("22.75]", "0]", "the registry shows it"),
        ("exit 5", "exit 0", "a wrong password is refused"),
        ("Not authorized", "well", "publishing elsewhere is refused"),
        ("were denied", "were granted", "subscribing elsewhere is refused"),
        ("/set on", "/set off", "it arrives at the device"),
        (
            "\"online\": false",
            "\"x\": false",
            "the device leaves, and the registry shows it offline",
        ),
    ] {
        let docker = WORKING_DOCKER.replace(works, does_not);
        assert_ne!(docker, WORKING_DOCKER);
        let (code, said) = smoke(&docker);
        let failed = said.lines().filter(|line| line.starts_with("FAIL")).collect::<Vec<_>>();
        assert_eq!((code, failed), (Some(1), vec![format!("FAIL  {step}").as_str()]), "{said}");
    }
}

#[test]
fn it_goes_no_further_where_no_stack_is_up() {
    let (code, said) = smoke("#!/bin/sh\nexit 1\n");
    assert_eq!(code, Some(1));
    assert!(said.starts_with("FAIL  the stack is up\n      postgres does not run"), "{said}");
    assert!(!said.contains("pass"), "{said}");
}

#[test]
fn emqx_starts_with_its_secrets_and_not_without() {
    let entrypoint = texts(&service("emqx")["entrypoint"]);
    assert_eq!(entrypoint[..2], ["/bin/sh", "-euc"]);
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().to_str().unwrap();
    let script = entrypoint[2]
        .replace("/opt/emqx/etc/fleetgate", here)
        .replace("/usr/bin/docker-entrypoint.sh", "env");
    let start =
        || Command::new("/bin/sh").args(["-euc", &script, &entrypoint[3]]).output().unwrap();
    assert!(!start().status.success(), "a missing secret must not become an empty one");
    fs::write(directory.path().join("node-cookie"), "biscuit\n").unwrap();
    assert!(!start().status.success());
    fs::write(directory.path().join("dashboard-password"), "12-e5\n").unwrap();
    let environment = String::from_utf8(start().stdout).unwrap();
    let has = |line: &str| environment.lines().any(|other| other == line);
    assert!(has("EMQX_NODE__COOKIE=biscuit"), "{environment}");
    assert!(has("EMQX_DASHBOARD__DEFAULT_PASSWORD=\"12-e5\""), "{environment}");
}

#[test]
fn shellcheck_has_nothing_to_say() {
    let scripts = ["docker/smoke.sh", "docker/install-prerequisites.sh", ".ci/run"];
    for script in scripts {
        let mode = Path::new(script).metadata().unwrap().permissions().mode();
        assert_ne!(mode & 0o111, 0, "{script} cannot be run");
    }
    match Command::new("shellcheck").args(scripts).output() {
        Ok(Output { status, stdout, .. }) => {
            assert!(status.success(), "{}", String::from_utf8_lossy(&stdout));
        }
        // Written past the test harness, which would keep it to itself.
        Err(error) => {
            writeln!(std::io::stderr(), "SKIPPED: shellcheck ({error}); install it").unwrap();
        }
    }
}
