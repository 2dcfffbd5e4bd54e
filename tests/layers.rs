//! The arrows between the modules of `src/` point downward, as `docs/ARCHITECTURE.md` draws them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Which modules a module may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "app",
            "authn",
            "clock",
            "config",
            "domain",
            "embedded",
            "emqx",
            "lifecycle",
            "metrics",
            "provision",
            "registry",
            "secret",
            "sweep",
        ],
    ),
    (
        "app",
        &[
            "authn",
            "authz",
            "clock",
            "config",
            "emqx",
            "evictions",
            "http",
            "ingest",
            "lifecycle",
            "metrics",
            "registry",
            "secret",
            "sweep",
        ],
    ),
    ("http", &["authn", "authz", "domain", "ingest", "lifecycle", "metrics", "registry", "secret"]),
    // The order of sessions is a part of taking events in, with a name of its own.
    ("ingest", &["config", "domain", "lifecycle", "metrics", "presence", "registry"]),
    ("presence", &["domain", "registry"]),
    ("provision", &["authn", "secret"]),
    ("authn", &["clock", "domain", "lifecycle", "metrics", "registry", "secret"]),
    ("authz", &["domain", "registry"]),
    ("evictions", &["backoff", "emqx", "lifecycle", "metrics", "registry"]),
    ("sweep", &["backoff", "clock", "domain", "emqx", "lifecycle", "metrics", "registry"]),
    ("registry", &["config", "domain", "lifecycle", "metrics", "secret", "tls"]),
    ("emqx", &["backoff", "config", "lifecycle", "metrics", "secret", "tls"]),
    ("lifecycle", &["config"]),
    ("config", &["domain", "secret"]),
    ("domain", &[]),
    ("metrics", &[]),
    ("backoff", &["secret"]),
    ("secret", &[]),
    ("clock", &[]),
    ("embedded", &[]),
    ("tls", &[]),
];

/// The modules that a source text names after `root`: `crate::`, or `fleetgate::` in `main.rs`.
fn named_modules(source: &str, root: &str) -> BTreeSet<String> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let named = code.flat_map(|line| line.split(root).skip(1)).map(|rest| {
        rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>()
    });
    named.filter(|name| !name.is_empty()).collect()
}

fn collect(path: &Path, module: &str, uses: &mut BTreeMap<String, BTreeSet<String>>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), module, uses);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        let root = if module == "main" { "fleetgate::" } else { "crate::" };
        let named = named_modules(&fs::read_to_string(path).unwrap(), root);
        uses.entry(module.to_owned()).or_default().extend(named);
    }
}

#[test]
fn arrows_point_downward() {
    let mut uses = BTreeMap::new();
    for entry in fs::read_dir("src").unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if module != "lib" {
            collect(&path, &module, &mut uses);
        }
    }
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for (module, used) in &uses {
        let allowed = arrows.get(module.as_str());
        let allowed = allowed.unwrap_or_else(|| panic!("{module} has no place in ARROWS"));
        for other in used.iter().filter(|other| *other != module) {
            assert!(allowed.contains(&other.as_str()), "{module} must not use {other}");
        }
    }
    let gone = arrows.keys().find(|module| !uses.contains_key(**module));
    assert_eq!(gone, None, "ARROWS names a module that does not exist");
}

#[test]
fn arrows_have_no_circle() {
    for (position, (module, used)) in ARROWS.iter().enumerate() {
        for other in *used {
            let other_position = ARROWS.iter().position(|(name, _)| name == other).unwrap();
            assert!(other_position > position, "{module} → {other} points upward");
        }
    }
}
