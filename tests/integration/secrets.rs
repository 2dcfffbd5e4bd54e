//! `fleetgate secrets`: the directory that the whole bus lives on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use fleetgate::authn::token::{read_signing_key, read_verification_key};
use fleetgate::clock::Clock;
use fleetgate::provision::certificate::Certificate;
use fleetgate::provision::chosen::Chosen;
use fleetgate::provision::files::Owners;
use fleetgate::provision::init::{Outcome, init};
use fleetgate::provision::names::TlsNames;
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use crate::support::commands::{fleetgate, run};
use crate::support::handshake::{self, Peer};

/// The layout that compose files mount.
const FILES: [&str; 19] = [
    "fleetgate/webhook-token",
    "fleetgate/emqx-api-secret",
    "fleetgate/database-password",
    "fleetgate/token-signing.pem",
    "fleetgate/token-signing.pub.pem",
    "fleetgate/tls/ca.pem",
    "fleetgate/tls/server.pem",
    "fleetgate/tls/server.key",
    "emqx/webhook-token.hocon",
    "emqx/api-keys",
    "emqx/dashboard-password",
    "emqx/node-cookie",
    "emqx/tls/ca.pem",
    "emqx/tls/server.pem",
    "emqx/tls/server.key",
    "postgres/owner-password",
    "postgres/database-password",
    "authority/ca.pem",
    "authority/ca.key",
];

/// Every path below a directory: content, time of the last change, mode.
type State = BTreeMap<String, (Vec<u8>, (i64, i64), u32)>;

/// A directory of secrets.
pub(crate) struct Secrets(TempDir);

impl Secrets {
    pub(crate) fn made() -> Self {
        let secrets = Self(tempfile::tempdir().unwrap());
        secrets.init(&[]).unwrap();
        secrets
    }

    /// Made by a machine whose clock was behind.
    pub(crate) fn made_days_ago(count: i64) -> Self {
        let secrets = Self(tempfile::tempdir().unwrap());
        let now = Clock::System.now();
        let names: TlsNames = "".parse().unwrap();
        init(secrets.path(), Owners::new(), &names, &Chosen::default(), now - days(count)).unwrap();
        secrets
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    /// What it printed on standard output, or said on standard error.
    fn init(&self, more: &[&str]) -> Result<String, String> {
        let directory = self.path().to_str().unwrap();
        let arguments = [&["secrets", "init", "--directory", directory], more].concat();
        match run(fleetgate(&arguments)) {
            (0, stdout, _) => Ok(stdout),
            (1, stdout, stderr) if stdout.is_empty() => Err(stderr),
            other => panic!("{other:?}"),
        }
    }

    /// Every path below, with what could change of it.
    fn state(&self) -> State {
        let mut state = State::new();
        collect(self.path(), self.path(), &mut state);
        state
    }
}

fn collect(root: &Path, directory: &Path, state: &mut State) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        let content = if found.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let changed = (found.mtime(), found.mtime_nsec());
        state.insert(name, (content, changed, found.permissions().mode() & 0o7777));
        if found.is_dir() {
            collect(root, &path, state);
        }
    }
}

fn certificate(pem: &str) -> Certificate {
    Certificate::from_pem(pem).unwrap()
}

fn days(count: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * count)
}

#[test]
fn everything_stands_in_its_place_and_only_its_owner_may_look() {
    let secrets = Secrets::made();
    let state = secrets.state();
    let (directories, files): (Vec<_>, Vec<_>) =
        state.iter().partition(|(name, _)| secrets.file(name).is_dir());
    let names: BTreeSet<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(FILES));
    assert!(files.iter().all(|(_, (_, _, mode))| *mode == 0o600), "{files:?}");
    assert!(directories.iter().all(|(_, (_, _, mode))| *mode == 0o700));
    let directories: Vec<_> = directories.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        directories,
        ["authority", "emqx", "emqx/tls", "fleetgate", "fleetgate/tls", "postgres"]
    );
}

#[test]
fn each_part_reads_the_same_secret_in_its_own_form() {
    let secrets = Secrets::made();
    let token = secrets.read("fleetgate/webhook-token");
    let hocon = secrets.read("emqx/webhook-token.hocon");
    assert_eq!(hocon, format!("authorization = \"Bearer {token}\"\n"));
    let api = secrets.read("fleetgate/emqx-api-secret");
    assert_eq!(secrets.read("emqx/api-keys"), format!("fleetgate:{api}:administrator\n"));
    let password = secrets.read("fleetgate/database-password");
    assert_eq!(secrets.read("postgres/database-password"), password);
    for copy in ["emqx/tls/ca.pem", "fleetgate/tls/ca.pem"] {
        assert_eq!(secrets.read(copy), secrets.read("authority/ca.pem"));
    }
    let single = ["emqx/dashboard-password", "emqx/node-cookie", "postgres/owner-password"];
    let single = single.map(|name| secrets.read(name));
    let all: BTreeSet<&String> = [&token, &api, &password].into_iter().chain(&single).collect();
    assert_eq!(all.len(), 6, "no two are alike");
    for secret in all {
        assert!(secret.len() == 48 && secret.chars().all(|c| c.is_ascii_hexdigit()), "{secret}");
    }
    let signing = read_signing_key(&secrets.file("fleetgate/token-signing.pem")).unwrap();
    let public = read_verification_key(&secrets.file("fleetgate/token-signing.pub.pem")).unwrap();
    assert_eq!(signing.verifying_key(), public);
}

#[test]
fn again_changes_nothing_and_says_so_without_a_secret() {
    let secrets = Secrets::made();
    let before = secrets.state();
    let said = secrets.init(&[]).unwrap();
    assert_eq!(secrets.state(), before);
    assert_eq!(said.lines().count(), 19, "{said}");
    assert!(said.lines().all(|line| line.starts_with("kept ")), "{said}");
    for name in ["fleetgate/webhook-token", "emqx/dashboard-password", "emqx/node-cookie"] {
        assert!(!said.contains(&secrets.read(name)), "{name}");
    }
}

/// What the operator chose, by its variable and the file that gets it as it is.
const CHOSEN: [(&str, &str, &str); 4] = [
    ("FLEETGATE_SECRET_WEBHOOK", "fleetgate/webhook-token", "a-webhook-token-1"),
    ("FLEETGATE_SECRET_EMQX_API", "fleetgate/emqx-api-secret", "an-api-secret-002"),
    ("FLEETGATE_SECRET_DATABASE", "postgres/database-password", "database-pass-003"),
    ("FLEETGATE_SECRET_DASHBOARD", "emqx/dashboard-password", "dashboard-pass-04"),
];

#[test]
fn secrets_may_be_chosen_before_the_first_start_and_not_after() {
    let secrets = Secrets(tempfile::tempdir().unwrap());
    let directory = secrets.path().to_str().unwrap().to_owned();
    let init = |last: &str| {
        let mut command = fleetgate(&["secrets", "init", "--directory", &directory]);
        for (variable, _, secret) in CHOSEN {
            command.env(variable, format!("{secret}{last}"));
        }
        let (code, stdout, stderr) = run(command);
        for (_, _, secret) in CHOSEN {
            assert!(!stdout.contains(secret) && !stderr.contains(secret), "{stdout}{stderr}");
        }
        (code, stderr)
    };
    assert_eq!(init(""), (0, String::new()));
    for (_, file, secret) in CHOSEN {
        assert_eq!(secrets.read(file), secret);
    }
    assert!(secrets.read("emqx/webhook-token.hocon").contains("Bearer a-webhook-token-1"));
    assert!(secrets.read("emqx/api-keys").contains(":an-api-secret-002:"));
    assert_eq!(secrets.read("fleetgate/database-password"), "database-pass-003");
    let before = secrets.state();
    assert_eq!(init(""), (0, String::new()));
    let (code, stderr) = init("-another");
    assert_eq!((code, secrets.state()), (0, before));
    for (variable, ..) in CHOSEN {
        assert!(stderr.contains(variable), "no {variable} in {stderr}");
    }
    let (code, stderr) = init("-with a space");
    assert!(code == 2 && stderr.contains("FLEETGATE_SECRET_WEBHOOK"), "{stderr}");
}

#[test]
fn what_is_missing_is_made_from_what_is_there() {
    let secrets = Secrets::made();
    let before = secrets.state();
    let derived = [
        "fleetgate/webhook-token",
        "emqx/webhook-token.hocon",
        "fleetgate/emqx-api-secret",
        "emqx/api-keys",
        "fleetgate/database-password",
        "postgres/database-password",
        "fleetgate/token-signing.pub.pem",
        "emqx/tls/ca.pem",
        "fleetgate/tls/ca.pem",
        "authority/ca.pem",
    ];
    for name in derived {
        fs::remove_file(secrets.file(name)).unwrap();
        let said = secrets.init(&[]).unwrap();
        assert_eq!(said.lines().filter(|line| line.starts_with("made ")).count(), 1, "{said}");
        assert_eq!(secrets.state()[name].0, before[name].0, "{name}");
    }
    for name in ["emqx/dashboard-password", "emqx/node-cookie"] {
        fs::remove_file(secrets.file(name)).unwrap();
        secrets.init(&[]).unwrap();
        assert_ne!(secrets.state()[name].0, before[name].0, "{name} can only be drawn anew");
    }
}

/// The tables of docs/OPERATIONS.md tell which files to remove for which new secret.
#[test]
fn what_the_manual_has_removed_is_made_anew() {
    let manual = fs::read_to_string("docs/OPERATIONS.md").unwrap();
    let table = manual.split_once("| secret | files below `/secrets` |\n|---|---|\n").unwrap().1;
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let rows = rows.map(|row| row.split('`').filter(|word| word.contains('/')).collect());
    let mut rows: Vec<Vec<&str>> = rows.collect();
    let owner = "/secrets/postgres/owner-password \\\n    /secrets/postgres/database-password \
                 /secrets/fleetgate/database-password\n";
    assert!(manual.contains(owner));
    let paths = owner.split_whitespace().filter_map(|word| word.strip_prefix("/secrets/"));
    rows.push(paths.collect());
    assert_eq!(rows.len(), 8, "{rows:?}");
    for names in rows {
        let secrets = Secrets::made();
        let before = secrets.state();
        names.iter().for_each(|name| fs::remove_file(secrets.file(name)).unwrap());
        secrets.init(&[]).unwrap();
        let after = secrets.state();
        assert!(names.iter().all(|name| after[*name].0 != before[*name].0), "{names:?}");
        let owner = secrets.read("postgres/owner-password");
        assert_ne!(owner, secrets.read("postgres/database-password"));
        let authority = certificate(&secrets.read("authority/ca.pem"));
        for server in ["emqx/tls/server.pem", "fleetgate/tls/server.pem"] {
            assert!(certificate(&secrets.read(server)).is_signed_by(&authority), "{names:?}");
        }
    }
}

/// A directory of a release with one database role goes on working, and says how to have two passwords.
#[test]
fn the_owner_keeps_the_password_of_before_there_were_two_roles() {
    let secrets = Secrets::made();
    fs::remove_file(secrets.file("postgres/owner-password")).unwrap();
    let directory = secrets.path().to_str().unwrap().to_owned();
    let init = || run(fleetgate(&["secrets", "init", "--directory", &directory]));
    let (code, _, stderr) = init();
    assert_eq!(code, 0, "{stderr}");
    let before = secrets.read("postgres/database-password");
    assert_eq!(secrets.read("postgres/owner-password"), before);
    assert!(stderr.contains("remove fleetgate/database-password"), "{stderr}");
    assert!(!stderr.contains(&before), "{stderr}");
    for copy in ["fleetgate/database-password", "postgres/database-password"] {
        fs::remove_file(secrets.file(copy)).unwrap();
    }
    let (code, _, stderr) = init();
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(secrets.read("postgres/owner-password"), before);
    assert_ne!(secrets.read("postgres/database-password"), before);
}

/// Also where an operator chose the password of before and the variable is still set.
#[test]
fn a_chosen_password_of_the_owner_is_not_taken_for_the_role_that_serves() {
    let secrets = Secrets(tempfile::tempdir().unwrap());
    let directory = secrets.path().to_str().unwrap().to_owned();
    let chosen = "database-pass-003";
    let init = || {
        let mut command = fleetgate(&["secrets", "init", "--directory", &directory]);
        command.env("FLEETGATE_SECRET_DATABASE", chosen);
        let (code, stdout, stderr) = run(command);
        assert!(code == 0 && !(stdout + &stderr).contains(chosen), "{stderr}");
        stderr
    };
    init();
    fs::remove_file(secrets.file("postgres/owner-password")).unwrap();
    assert!(init().contains("remove fleetgate/database-password"));
    // Somebody may have put it back with an editor.
    fs::write(secrets.file("postgres/owner-password"), format!("{chosen}\n")).unwrap();
    assert!(init().contains("remove fleetgate/database-password"));
    for copy in ["fleetgate/database-password", "postgres/database-password"] {
        fs::remove_file(secrets.file(copy)).unwrap();
    }
    let said = init();
    assert!(said.contains("FLEETGATE_SECRET_DATABASE") && said.contains("unset it"), "{said}");
    let serving = secrets.read("postgres/database-password");
    assert_ne!(serving, chosen);
    assert_eq!(secrets.read("fleetgate/database-password"), serving);
    init();
    assert_eq!(secrets.read("postgres/database-password"), serving, "and it stays");
}

#[test]
fn a_first_start_that_was_killed_is_completed() {
    let whole = Secrets::made();
    // In the order in which they are made: any beginning of it may be all there is.
    let order: Vec<String> = whole
        .init(&["--json"])
        .map(|said| {
            let said: serde_json::Value = serde_json::from_str(&said).unwrap();
            let files = said["files"].as_array().unwrap().iter();
            let root = whole.path();
            files
                .map(|file| {
                    let path = Path::new(file["file"].as_str().unwrap());
                    path.strip_prefix(root).unwrap().to_str().unwrap().to_owned()
                })
                .collect()
        })
        .unwrap();
    for reached in 0..order.len() {
        let half = Secrets(tempfile::tempdir().unwrap());
        for name in &order[..reached] {
            fs::create_dir_all(half.file(name).parent().unwrap()).unwrap();
            fs::copy(whole.file(name), half.file(name)).unwrap();
        }
        let next = half.file(&order[reached]);
        fs::create_dir_all(next.parent().unwrap()).unwrap();
        let name = next.file_name().unwrap().to_str().unwrap();
        fs::write(next.with_file_name(format!(".{name}.unfinished")), "half a sec").unwrap();
        half.init(&[]).unwrap();
        let (made, wanted) = (half.state(), whole.state());
        assert_eq!(made.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
        for name in &order[..reached] {
            assert_eq!(made[name].0, wanted[name].0, "{name} was there");
        }
    }
}

#[test]
fn copies_that_differ_are_left_alone_and_both_are_named() {
    for (name, other, content) in [
        ("emqx/webhook-token.hocon", "fleetgate/webhook-token", "authorization = \"Bearer abc\"\n"),
        ("emqx/api-keys", "fleetgate/emqx-api-secret", "fleetgate:abc:administrator\n"),
        ("postgres/database-password", "fleetgate/database-password", "abc"),
        ("emqx/tls/ca.pem", "authority/ca.pem", ""),
        ("authority/ca.key", "authority/ca.pem", ""),
        ("fleetgate/token-signing.pub.pem", "fleetgate/token-signing.pem", ""),
        ("emqx/tls/server.key", "emqx/tls/server.pem", ""),
        ("fleetgate/tls/ca.pem", "authority/ca.pem", ""),
        ("fleetgate/tls/server.key", "fleetgate/tls/server.pem", ""),
    ] {
        let secrets = Secrets::made();
        let another = Secrets::made();
        let content = if content.is_empty() { another.read(name) } else { content.to_owned() };
        fs::write(secrets.file(name), content).unwrap();
        let before = secrets.state();
        let error = secrets.init(&[]).unwrap_err();
        for part in [name, other, "move the other away"] {
            assert!(error.contains(part), "{name}: {error}");
        }
        assert!(!error.contains("abc"), "{error}");
        assert_eq!(secrets.state(), before, "{name}");
    }
}

#[test]
fn a_private_key_that_is_gone_is_not_replaced_behind_anybodys_back() {
    for (key, public) in [
        ("authority/ca.key", "authority/ca.pem"),
        ("fleetgate/token-signing.pem", "fleetgate/token-signing.pub.pem"),
    ] {
        let secrets = Secrets::made();
        fs::remove_file(secrets.file(key)).unwrap();
        let error = secrets.init(&[]).unwrap_err();
        assert!(error.contains(key) && error.contains(public), "{error}");
        assert!(!secrets.file(key).exists());
    }
}

/// The authority stands in three places, and those who trust a copy trust no other.
#[test]
fn each_copy_of_the_authority_counts() {
    let copies = ["authority/ca.pem", "emqx/tls/ca.pem", "fleetgate/tls/ca.pem"];
    for left in copies {
        let secrets = Secrets::made();
        let pem = secrets.read(left);
        for copy in copies.into_iter().filter(|copy| *copy != left) {
            fs::remove_file(secrets.file(copy)).unwrap();
        }
        let key = fs::read(secrets.file("authority/ca.key")).unwrap();
        fs::remove_file(secrets.file("authority/ca.key")).unwrap();
        let error = secrets.init(&[]).unwrap_err();
        assert!(error.contains(&format!("{left} is there")), "{error}");
        fs::write(secrets.file("authority/ca.key"), key).unwrap();
        secrets.init(&[]).unwrap();
        assert!(copies.iter().all(|copy| secrets.read(copy) == pem), "made from {left}");
        // What is wrong with it is told of the place where it is.
        for copy in copies.into_iter().filter(|copy| *copy != left) {
            fs::remove_file(secrets.file(copy)).unwrap();
        }
        let another = Secrets::made().read("authority/ca.pem");
        for (wrong, part) in [("no certificate", "holds no"), (&another, "do not hold the same")] {
            fs::write(secrets.file(left), wrong).unwrap();
            let error = secrets.init(&[]).unwrap_err();
            assert!(error.contains(left) && error.contains(part), "{error}");
            assert!(left == copies[0] || !error.contains(copies[0]), "{error}");
        }
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    for (name, content) in [
        ("emqx/webhook-token.hocon", "authorization = \"Basic abc\"\n"),
        ("emqx/api-keys", "another:abc:administrator\n"),
        ("fleetgate/webhook-token", "no\"token"),
        ("fleetgate/database-password", "\n"),
        ("authority/ca.pem", "no certificate"),
        ("emqx/tls/server.key", "no key"),
    ] {
        let secrets = Secrets::made();
        fs::write(secrets.file(name), content).unwrap();
        let error = secrets.init(&[]).unwrap_err();
        assert!(error.contains(name) && error.contains("holds no"), "{name}: {error}");
        assert_eq!(secrets.read(name), content);
    }
}

#[test]
fn links_are_not_followed() {
    let secrets = Secrets::made();
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    fs::write(elsewhere.path(), "somebody else's").unwrap();
    fs::remove_file(secrets.file("emqx/node-cookie")).unwrap();
    symlink(elsewhere.path(), secrets.file("emqx/node-cookie")).unwrap();
    let error = secrets.init(&[]).unwrap_err();
    assert!(error.contains("emqx/node-cookie is not a plain file"), "{error}");
    assert_eq!(fs::read_to_string(elsewhere.path()).unwrap(), "somebody else's");
}

#[test]
fn modes_are_put_right() {
    let secrets = Secrets::made();
    let before = secrets.state();
    for (name, mode) in [("emqx/node-cookie", 0o644), ("emqx/tls", 0o755)] {
        fs::set_permissions(secrets.file(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    secrets.init(&[]).unwrap();
    assert_eq!(secrets.state(), before);
}

/// Each part may belong to another user, who has to get there.
#[test]
fn others_may_walk_through_whatever_the_umask_says() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("new/secrets");
    let init = fleetgate(&["secrets", "init", "--directory", root.to_str().unwrap()]);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "umask 077 && exec \"$@\"", "sh"]).arg(init.get_program());
    let output = shell.args(init.get_args()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode(root.parent().unwrap()), mode(&root)], [0o711; 2]);
    assert_eq!([mode(&root.join("emqx")), mode(&root.join("emqx/tls"))], [0o700; 2]);
    // One that is there is its owner's to open or close.
    fs::set_permissions(&root, fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(run(init).0, 0);
    assert_eq!(mode(&root), 0o750);
}

#[test]
fn each_part_belongs_to_its_owner() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let secrets = Secrets::made();
    let owners = ["--owner", "emqx=1000:1001", "--owner", "fleetgate=10001:10002"];
    secrets.init(&owners).unwrap();
    let another = Secrets(tempfile::tempdir().unwrap());
    another.init(&owners).unwrap();
    for secrets in [&secrets, &another] {
        for name in secrets.state().keys() {
            let found = fs::metadata(secrets.file(name)).unwrap();
            let wanted = match name.split('/').next().unwrap() {
                "emqx" => (1000, 1001),
                "fleetgate" => (10001, 10002),
                _ => (0, 0),
            };
            assert_eq!((found.uid(), found.gid()), wanted, "{name}");
        }
    }
}

#[test]
fn many_at_a_time_agree() {
    let secrets = Secrets(tempfile::tempdir().unwrap());
    std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| secrets.init(&[]))).collect();
        for start in starts {
            start.join().unwrap().unwrap();
        }
    });
    let before = secrets.state();
    secrets.init(&[]).unwrap();
    assert_eq!(secrets.state(), before);
}

#[test]
fn other_names_renew_the_certificate_under_the_same_authority_and_key() {
    let secrets = Secrets::made();
    let before = secrets.state();
    let first = certificate(&secrets.read("emqx/tls/server.pem"));
    let said = secrets.init(&["--tls-names", "Bus.example.org,192.0.2.7,2001:db8::1"]).unwrap();
    assert!(said.contains("renewed") && said.contains("other names"), "{said}");
    let after = secrets.state();
    let changed: Vec<_> = after.iter().filter(|(name, one)| one.0 != before[*name].0).collect();
    assert_eq!(changed.len(), 2, "only the certificates");
    let second = certificate(&secrets.read("emqx/tls/server.pem"));
    assert_eq!(first.public_key, second.public_key);
    assert!(second.is_signed_by(&certificate(&secrets.read("authority/ca.pem"))));
    let names: Vec<&str> = second.names.iter().map(String::as_str).collect();
    assert_eq!(names, ["192.0.2.7", "2001:db8::1", "bus.example.org"]);
    let api = certificate(&secrets.read("fleetgate/tls/server.pem"));
    let names: Vec<&str> = api.names.iter().map(String::as_str).collect();
    assert_eq!(names, ["192.0.2.7", "2001:db8::1", "bus.example.org", "fleetgate"]);
    let called = [second.common_name, api.common_name].map(Option::unwrap);
    assert_eq!(called, ["Fleetgate MQTT broker", "Fleetgate HTTP API"]);
}

#[test]
fn a_certificate_is_renewed_a_month_before_its_end_and_not_earlier() {
    let secrets = Secrets::made();
    let names: TlsNames = "".parse().unwrap();
    let now = certificate(&secrets.read("emqx/tls/server.pem")).ends - days(397);
    let renewed = |now: Timestamp| {
        let report = init(secrets.path(), Owners::new(), &names, &Chosen::default(), now).unwrap();
        report.files().filter(|(_, outcome)| *outcome != Outcome::Kept).collect::<Vec<_>>()
    };
    assert_eq!(renewed(now + days(366)), []);
    let changed = renewed(now + days(368));
    let servers = ["emqx/tls/server.pem", "fleetgate/tls/server.pem"];
    let expected = servers.map(|name| (secrets.file(name), Outcome::Renewed("its end is near")));
    assert_eq!(changed, expected);
    let ends = certificate(&secrets.read("emqx/tls/server.pem")).ends;
    assert_eq!(ends, now + days(368 + 397));
}

#[test]
fn a_certificate_does_not_outlive_its_authority() {
    let secrets = Secrets::made();
    let authority = certificate(&secrets.read("authority/ca.pem"));
    let names: TlsNames = "".parse().unwrap();
    let late = authority.ends - days(100);
    let report = init(secrets.path(), Owners::new(), &names, &Chosen::default(), late).unwrap();
    assert!(report.remarks()[0].contains("the authority itself ends"), "{:?}", report.remarks());
    assert_eq!(certificate(&secrets.read("emqx/tls/server.pem")).ends, authority.ends);
    // Renewing could not make it last any longer.
    let report =
        init(secrets.path(), Owners::new(), &names, &Chosen::default(), authority.ends - days(1))
            .unwrap();
    assert!(report.files().all(|(_, outcome)| outcome == Outcome::Kept));
}

#[test]
fn a_certificate_of_another_authority_is_somebody_elses_to_renew() {
    let (secrets, other) = (Secrets::made(), Secrets::made());
    for name in [
        "emqx/tls/server.pem",
        "emqx/tls/server.key",
        "fleetgate/tls/server.pem",
        "fleetgate/tls/server.key",
    ] {
        fs::copy(other.file(name), secrets.file(name)).unwrap();
    }
    let before = secrets.state();
    secrets.init(&["--tls-names", "other.example.org"]).unwrap();
    assert_eq!(secrets.state(), before);
}

#[test]
fn a_lost_server_key_is_replaced_with_its_certificate() {
    let secrets = Secrets::made();
    fs::remove_file(secrets.file("emqx/tls/server.key")).unwrap();
    let said = secrets.init(&[]).unwrap();
    assert!(said.contains("its key was gone"), "{said}");
    handshake::between(&Peer::server(secrets.path()), "localhost", None).unwrap();
}

#[test]
fn clients_that_trust_the_authority_accept_the_broker_by_its_names_only() {
    let secrets = Secrets::made();
    let server = Peer::server(secrets.path());
    for name in ["localhost", "emqx", "127.0.0.1"] {
        handshake::between(&server, name, None).unwrap();
    }
    for name in ["elsewhere", "127.0.0.2"] {
        let error = handshake::between(&server, name, None).unwrap_err();
        assert!(error.contains("not valid for name"), "{error}");
    }
    let another = Secrets::made();
    let server = Peer { authority: another.read("authority/ca.pem"), ..server };
    let error = handshake::between(&server, "localhost", None).unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[test]
fn one_secret_is_shown_alone() {
    let secrets = Secrets::made();
    let directory = secrets.path().to_str().unwrap();
    for (name, file) in [
        ("dashboard", "emqx/dashboard-password"),
        ("webhook", "fleetgate/webhook-token"),
        ("api-key", "fleetgate/emqx-api-secret"),
    ] {
        let (code, stdout, stderr) =
            run(fleetgate(&["secrets", "show", name, "--directory", directory]));
        let secret = secrets.read(file);
        assert_eq!((code, stdout), (0, format!("{secret}\n")));
        assert!(!stderr.is_empty() && !stderr.contains(&secret));
    }
    fs::remove_file(secrets.file("emqx/dashboard-password")).unwrap();
    let (code, _, stderr) =
        run(fleetgate(&["secrets", "show", "dashboard", "--directory", directory]));
    assert_eq!(code, 1);
    assert!(stderr.contains("dashboard-password") && stderr.contains("secrets init"), "{stderr}");
}

#[test]
fn what_makes_no_sense_is_wrong_usage() {
    for wrong in [["--owner", "emqx=root"], ["--owner", "nobody=1:1"], ["--tls-names", "https://x"]]
    {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secrets");
        let arguments =
            ["secrets", "init", "--directory", path.to_str().unwrap(), wrong[0], wrong[1]];
        let (code, _, stderr) = run(fleetgate(&arguments));
        assert_eq!(code, 2, "{stderr}");
        assert!(!path.exists());
    }
}
