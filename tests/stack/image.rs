//! `docker/Dockerfile` and what the compose file expects of the image.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::compose::{mounts, service, texts};
use crate::text_of;

const FILE: &str = "docker/Dockerfile";

/// The arguments of every line with this instruction; lines that go on are one.
fn instructions(name: &str) -> Vec<String> {
    let joined = text_of(FILE).replace("\\\n", " ");
    let prefix = format!("{name} ");
    joined.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
}

#[test]
fn what_is_copied_is_there_and_not_ignored() {
    let ignore = text_of(".dockerignore");
    let mut allowed = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect::<Vec<_>>();
    let copies = instructions("COPY");
    let from_here = copies.iter().filter(|copy| !copy.contains("--from="));
    let mut copied = from_here
        .flat_map(|copy| {
            let words = copy.split_whitespace().collect::<Vec<_>>();
            words[..words.len() - 1].iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()
        })
        .collect::<Vec<_>>();
    assert!(copied.iter().all(|path| Path::new(path).exists()), "{copied:?}");
    copied.sort();
    allowed.sort_unstable();
    assert_eq!(copied, allowed);
    assert!(ignore.lines().any(|line| line == "*"), "all else stays outside");
}

#[test]
fn the_image_is_built_by_the_toolchain_of_the_checkout() {
    let toolchain = text_of("rust-toolchain.toml");
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap();
    let image = format!("RUST_IMAGE=rust:{}-slim-bookworm", channel.trim_matches('"'));
    assert!(instructions("ARG").contains(&image), "{image}");
}

/// The layer of dependencies is made before the sources are there: cargo must not miss them.
#[test]
fn the_manifests_do_without_the_sources() {
    let directory = tempfile::tempdir().unwrap();
    let copied = instructions("COPY").remove(0);
    for manifest in copied.split_whitespace().filter(|word| *word != "./") {
        fs::copy(manifest, directory.path().join(manifest)).unwrap();
    }
    let layer = instructions("RUN").remove(0);
    let (mount, layer) = layer.split_once(' ').unwrap();
    assert!(mount.starts_with("--mount=type=cache"), "{mount}");
    // Looks for every target, as a build does, and compiles nothing.
    let reads = "cargo fetch --locked --offline --target $(rustc -vV | sed -n 's/^host: //p')";
    let script = layer.replace("cargo build --release --locked", reads);
    assert_ne!(script, layer);
    let mut shell = Command::new("/bin/sh");
    let output = shell.args(["-ec", &script]).current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!directory.path().join("src").exists(), "the next layer brings the real ones");
}

#[test]
fn it_runs_as_the_user_that_owns_the_secrets() {
    assert_eq!(instructions("USER"), [service("fleetgate")["user"].as_str().unwrap()]);
}

/// A new volume belongs to whom the directory that it is mounted on does.
#[test]
fn the_volume_for_the_first_token_belongs_to_the_user() {
    let user = service("fleetgate")["user"].as_str().unwrap().to_owned();
    let (owner, group) = user.split_once(':').unwrap();
    let place = mounts(&service("fleetgate")).into_iter();
    let (_, place, _) = { place }.find(|(what, ..)| what == "fleetgate-data").unwrap();
    let made = format!("install --directory --mode=0700 --owner={owner} --group={group} {place}");
    assert!(instructions("RUN").contains(&made), "{made}");
}

#[test]
fn it_is_built_on_pinned_images_of_one_debian_release() {
    let images = instructions("ARG").into_iter().filter(|argument| argument.contains("_IMAGE="));
    let images = images.collect::<Vec<_>>();
    assert_eq!(images.len(), 2);
    for image in &images {
        assert!(image.contains("bookworm") && !image.contains("latest"), "{image}");
    }
    let version = env!("CARGO_PKG_VERSION");
    assert!(instructions("ARG").contains(&format!("VERSION={version}")), "not {version}");
}

#[test]
fn it_listens_where_the_health_check_asks() {
    let environment = service("fleetgate")["environment"].clone();
    let listen = environment["FLEETGATE_HTTP_LISTEN"].as_str().unwrap().to_owned();
    assert_eq!(instructions("ENV"), [format!("FLEETGATE_HTTP_LISTEN={listen}")]);
    let port = listen.rsplit_once(':').unwrap().1;
    assert_eq!(instructions("EXPOSE"), [port]);
    assert_eq!(texts(&service("fleetgate")["healthcheck"]["test"]), ["CMD", "fleetgate", "health"]);
    assert!(instructions("HEALTHCHECK")[0].ends_with(r#"CMD ["fleetgate", "health"]"#));
}
