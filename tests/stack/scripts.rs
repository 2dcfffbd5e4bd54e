//! The shell scripts, and the one in the compose file.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::compose::{service, texts};
use crate::text_of;

/// What a stand-in for `docker` does: it answers as a stack would on which everything works.
const WORKING_DOCKER: &str = r##"#!/bin/sh
case "$*" in
    *'ps --status running'*) printf 'postgres\nfleetgate\nemqx\n' ;;
    *'device add'*) echo a-secret ;;
    *'command send'*) echo "$* " | sed 's/.*--device \([^ ]*\) .*/\1: delivered/' ;;
    *'--json device show'*) echo '{"online": true, "was": {"online": false}, "state": [21.25, 22.75]}' ;;
    *'-P wrong'*) exit 5 ;;
    *smoke/another/state*) echo 'Warning: Publish 1 failed: Not authorized.' ;;
    *mosquitto_sub*-W*) echo 'All subscription requests were denied.'; exit 1 ;;
    # Into a pipe a client writes late, so that it needs a terminal, which ends lines so.
    'run -d -t '*) touch "${0%/*}/terminal" ;;
    logs*) [ -e "${0%/*}/terminal" ] || exit 0
        device=${2#smoke-service-}
        case "$2" in
            smoke-service*)
                printf 'Subscribed\r\nsmoke/smoke-%s/state 21.25\r\nsmoke/smoke-%s/state 22.75\r\n' \
                    "$device" "$device" ;;
            *) printf 'Subscribed\r\nsmoke/%s/set on\r\nsmoke/%s/switch/set "on"\r\n' "$2" "$2" ;;
        esac ;;
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
    assert_eq!(said.matches("pass  ").count(), 21, "{said}");
}

#[test]
fn it_fails_where_one_thing_does_not() {
    for (works, does_not, step) in [
        ("22.75]", "0]", "the registry shows it"),
        ("exit 5", "exit 0", "a wrong password is refused"),
        ("Not authorized", "well", "publishing elsewhere is refused"),
        ("were denied", "were granted", "subscribing elsewhere is refused"),
        ("smoke/%s/set on", "smoke/%s/set off", "it arrives at the device"),
        (": delivered", ": expired", "Fleetgate sends a command, and the device acknowledges it"),
        ("switch/set \"on\"", "switch/set 1", "it arrived at the device"),
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

/// Every script of the checkout.
fn scripts() -> Vec<PathBuf> {
    let files = fs::read_dir("docker").unwrap().map(|entry| entry.unwrap().path());
    let scripts = files.filter(|path| path.extension().is_some_and(|ending| ending == "sh"));
    let mut scripts = scripts.collect::<Vec<_>>();
    scripts.push(".ci/run".into());
    assert!(scripts.len() > 3, "{scripts:?}");
    scripts
}

/// Those that stand in other files, by where.
fn embedded_scripts() -> [(&'static str, String); 2] {
    let entrypoint = texts(&service("emqx")["entrypoint"])[2].clone();
    [("docker/compose.yaml", entrypoint), ("emqx-config/README.md", crate::page::script())]
}

#[test]
fn shellcheck_has_nothing_to_say() {
    for script in scripts() {
        let mode = script.metadata().unwrap().permissions().mode();
        assert_ne!(mode & 0o111, 0, "{} cannot be run", script.display());
    }
    let directory = tempfile::tempdir().unwrap();
    let mut check = Command::new("shellcheck");
    check.args(scripts());
    for (place, text) in embedded_scripts() {
        let file = directory.path().join(place.replace('/', "-"));
        fs::write(&file, format!("#!/bin/sh\n{text}")).unwrap();
        check.arg(file);
    }
    match check.output() {
        Ok(Output { status, stdout, .. }) => {
            assert!(status.success(), "{}", String::from_utf8_lossy(&stdout));
        }
        Err(error) => {
            let skipped =
                format!("SKIPPED: shellcheck ({error}); docker/install-checkers.sh installs it");
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{skipped}");
            // Written past the test harness, which would keep it to itself.
            writeln!(std::io::stderr(), "{skipped}").unwrap();
        }
    }
}

/// `apt-get` on a machine where only these can be installed.
const APT_GET: &str = r#"#!/bin/sh
echo "$*" >>"${0%/*}/calls"
case "$*" in
    *install*shellcheck*) /bin/ln -s /bin/true "${0%/*}/shellcheck" ;;
    *install*npm*) /bin/ln -s /bin/true "${0%/*}/npm" ;;
esac
"#;

/// `cargo` that knows `cargo deny` once it was installed.
const CARGO: &str = r#"#!/bin/sh
[ "$1" = install ] || exec test -e "${0%/*}/cargo-deny"
echo "$*" >>"${0%/*}/calls"
: >"${0%/*}/cargo-deny"
"#;

/// A directory that is all of `PATH`: nothing else of this machine is found.
struct Machine(TempDir);

impl Machine {
    /// With these programs of this machine, and `sudo` that asks for no password.
    fn with(programs: &[&str]) -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        for program in programs {
            let place = ["/usr/bin", "/bin"].map(|place| Path::new(place).join(program));
            let found = { place }.into_iter().find(|place| place.exists());
            symlink(found.unwrap_or_else(|| panic!("no {program}")), machine.here(program))
                .unwrap();
        }
        machine.has("sudo", "#!/bin/sh\nshift; exec \"$@\"\n");
        machine
    }

    fn here(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn has(&self, name: &str, program: &str) {
        // What is there may be a link to a program of this machine, which must not be written to.
        let _ = fs::remove_file(self.here(name));
        fs::write(self.here(name), program).unwrap();
        fs::set_permissions(self.here(name), Permissions::from_mode(0o755)).unwrap();
    }

    /// Every name of a program that does nothing.
    fn has_idle(&self, names: &[&str]) {
        names.iter().for_each(|name| symlink("/bin/true", self.here(name)).unwrap());
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.here("calls")).unwrap_or_default()
    }

    /// Runs a script there: whether it succeeds, and what it says.
    fn run(&self, script: &str, variables: &[(&str, &str)]) -> (bool, String) {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-euc", script, "sh"]).env_remove("SUDO_USER").env("PATH", self.0.path());
        let output = shell.envs(variables.iter().copied()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }
}

const CHECKERS: &str = "exec /bin/sh docker/install-checkers.sh";

#[test]
fn a_fresh_machine_gets_its_checkers_once() {
    let machine = Machine::with(&["id", "env", "true", "test"]);
    machine.has("apt-get", APT_GET);
    machine.has("cargo", CARGO);
    machine.has_idle(&["dpkg-deb", "promtool"]);
    let (done, said) = machine.run(CHECKERS, &[]);
    assert!(done, "{said}");
    let calls = "update -q\ninstall -y -q --no-install-recommends shellcheck\n\
                 install -y -q --no-install-recommends npm\n\
                 install --locked cargo-deny@0.20.2\n";
    assert_eq!(machine.calls(), calls);
    assert!(machine.run(CHECKERS, &[]).0);
    assert_eq!(machine.calls(), calls, "the second time it is there");
}

/// As it tells those to type who may not install without a password: sudo finds no toolchain of a user's.
#[test]
fn under_sudo_the_packages_come_and_the_rest_is_the_users_own() {
    let machine = Machine::with(&["id", "env", "true", "test"]);
    machine.has("apt-get", APT_GET);
    machine.has_idle(&["dpkg-deb", "promtool"]);
    let (done, said) = machine.run(CHECKERS, &[("SUDO_USER", "somebody")]);
    assert!(done && said.contains("run this again without sudo"), "{said}");
    assert_eq!(machine.calls().lines().count(), 3, "two packages, and the lists before them");
    let (done, said) = machine.run(CHECKERS, &[]);
    assert!(!done && said.contains("https://rustup.rs"), "{said}");
}

/// The script, on a machine without PostgreSQL where this is the newest that can be installed.
fn prerequisites(machine: &Machine, newest: u32) -> String {
    let packages = format!(
        "#!/bin/sh\necho postgresql-common postgresql-9 postgresql-{newest} | tr ' ' '\\n'\n"
    );
    machine.has("apt-cache", &packages);
    machine.has_idle(&["apt-get", "cc", "ld", "make"]);
    text_of("docker/install-prerequisites.sh")
        .replace("/usr/lib/postgresql/", &format!("{}/", machine.0.path().display()))
}

#[test]
fn who_may_not_install_is_told_what_leads_on() {
    for (newest, told) in
        [(14, "sudo /usr/share/postgresql-common/pgdg"), (15, "sudo apt-get update")]
    {
        let machine = Machine::with(&["sed", "sort", "tail", "tr"]);
        let script = prerequisites(&machine, newest);
        machine.has("id", "#!/bin/sh\necho 1000\n");
        machine.has("sudo", "#!/bin/sh\nexit 1\n");
        let (done, said) = machine.run(&script, &[]);
        assert!(!done && said.contains(told), "{newest}: {said}");
        let other = if newest == 14 { "sudo apt-get update" } else { "pgdg" };
        assert!(!said.contains(other), "{newest}: {said}");
    }
}

/// libFuzzer is C++.
#[test]
fn fuzzing_needs_a_compiler_that_nothing_else_needs() {
    let machine = Machine::with(&["sed", "sort", "tail", "tr"]);
    let script = prerequisites(&machine, 17);
    machine.has("id", "#!/bin/sh\necho 1000\n");
    machine.has("sudo", "#!/bin/sh\nexit 1\n");
    let option = |option: &str| script.replace("set -eu\n", &format!("set -eu\nset -- {option}\n"));
    assert!(!machine.run(&option("--for-tests"), &[]).1.contains("g++"));
    assert!(machine.run(&option("--for-fuzz"), &[]).1.contains("g++"));
    machine.has_idle(&["c++"]);
    assert!(!machine.run(&option("--for-fuzz"), &[]).1.contains("g++"));
    assert!(text_of("Makefile").contains("install-prerequisites.sh --for-fuzz\n\t@cargo fuzz"));
}
