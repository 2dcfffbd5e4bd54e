//! The arrows between the modules of `src/` point downward, as `docs/ARCHITECTURE.md` draws them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::Visit;

/// Which modules a module may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "app",
            "authn",
            "causes",
            "clock",
            "config",
            "domain",
            "embedded",
            "emqx",
            "fleet",
            "http_client",
            "lifecycle",
            "logging",
            "metrics",
            "provision",
            "read_file",
            "registry",
            "remote",
            "secret",
            "sweep",
            "tls",
            "wording",
            "write_file",
        ],
    ),
    // The fleet over the API of another Fleetgate.
    ("remote", &["causes", "domain", "fleet", "http_client", "secret", "tls"]),
    (
        "app",
        &[
            "authn",
            "authz",
            "clock",
            "commands",
            "config",
            "domain",
            "emqx",
            "fleet",
            "http",
            "ingest",
            "kickouts",
            "lifecycle",
            "logging",
            "metrics",
            "read_file",
            "registry",
            "requests",
            "secret",
            "sweep",
            "tls",
            "work",
            "write_file",
        ],
    ),
    (
        "http",
        &[
            "authn", "authz", "domain", "fleet", "ingest", "logging", "metrics", "registry",
            "secret", "wording",
        ],
    ),
    // The order of sessions is a part of taking events in, with a name of its own.
    ("ingest", &["config", "domain", "logging", "metrics", "presence", "registry"]),
    ("presence", &["domain", "registry"]),
    ("requests", &["domain", "emqx", "fleet", "logging", "metrics", "registry", "work"]),
    // What the errors of the fleet say, for those who word them: the command line and the API.
    ("wording", &["fleet"]),
    // What is done to the fleet. Of authn it takes only what a token looks like: no password may.
    ("fleet", &["authn", "domain", "registry", "secret"]),
    ("provision", &["authn", "secret", "write_file"]),
    ("authn", &["clock", "domain", "logging", "metrics", "registry", "secret"]),
    ("authz", &["domain", "registry"]),
    ("commands", &["domain", "emqx", "logging", "metrics", "registry", "work"]),
    ("kickouts", &["backoff", "domain", "emqx", "logging", "metrics", "registry", "work"]),
    ("sweep", &["backoff", "clock", "domain", "emqx", "logging", "metrics", "registry"]),
    ("work", &["backoff", "logging", "metrics", "registry"]),
    ("registry", &["causes", "config", "domain", "logging", "metrics", "secret", "tls"]),
    ("emqx", &["backoff", "causes", "config", "http_client", "metrics", "secret", "tls"]),
    ("lifecycle", &[]),
    ("logging", &["config"]),
    ("config", &["domain", "read_file", "secret"]),
    ("domain", &[]),
    ("metrics", &[]),
    ("backoff", &["secret"]),
    ("secret", &[]),
    ("clock", &[]),
    ("embedded", &[]),
    ("causes", &[]),
    ("http_client", &[]),
    ("read_file", &[]),
    ("write_file", &[]),
    ("tls", &[]),
];

/// Which top-level modules of the crate a source file uses: what its paths name below `crate::`, or
/// `fleetgate::` in `main.rs`, in `use` trees, in expressions and types, and in what macros are given.
struct Uses {
    /// Where the file stands: `["registry", "cache"]`.
    place: Vec<String>,
    found: BTreeSet<String>,
}

impl Uses {
    fn of(source: &str, place: &[&str]) -> BTreeSet<String> {
        let file = syn::parse_file(source).unwrap();
        let place = place.iter().map(|&name| name.to_owned()).collect();
        let mut uses = Self { place, found: BTreeSet::new() };
        uses.visit_file(&file);
        uses.found
    }

    /// Takes a path as written; `self` and `super` are where they point to.
    fn take(&mut self, path: &[String]) {
        let (above, rest) = path.split_at(path.iter().take_while(|name| *name == "super").count());
        let name = match rest.first().map(String::as_str) {
            Some("crate" | "fleetgate") => rest.get(1),
            Some(_) if !above.is_empty() => {
                let parent = self.place.len().saturating_sub(above.len());
                if parent == 0 { rest.first() } else { self.place.first() }
            }
            _ => None,
        };
        self.found.extend(name.cloned());
    }

    fn take_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.take_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.take_tree(before, item));
            }
            syn::UseTree::Name(name) => self.take(&with(&name.ident)),
            syn::UseTree::Rename(rename) => self.take(&with(&rename.ident)),
            syn::UseTree::Glob(_) => self.take(before),
        }
    }

    /// A macro's input is no syntax tree: its paths are read off the tokens.
    fn take_tokens(&mut self, tokens: proc_macro2::TokenStream) {
        let mut path: Vec<String> = Vec::new();
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Ident(name) => path.push(name.to_string()),
                proc_macro2::TokenTree::Punct(mark) if mark.as_char() == ':' => {}
                other => {
                    self.take(&std::mem::take(&mut path));
                    if let proc_macro2::TokenTree::Group(group) = other {
                        self.take_tokens(group.stream());
                    }
                }
            }
        }
        self.take(&path);
    }
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.take_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.take(&names);
        syn::visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.place.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.place.pop();
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.take_tokens(called.tokens.clone());
    }
}

/// Reads a file or folder of `src/` whose modules stand below `place`.
fn collect(path: &Path, place: &[&str], uses: &mut BTreeMap<String, BTreeSet<String>>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let inner = [place, &[name.as_str()]].concat();
            collect(&path, if name == "mod" { place } else { &inner }, uses);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        let found = Uses::of(&fs::read_to_string(path).unwrap(), place);
        uses.entry(place[0].to_owned()).or_default().extend(found);
    }
}

#[test]
fn every_way_to_name_a_module_is_seen() {
    let seen =
        |source: &str| Uses::of(source, &["registry", "cache"]).into_iter().collect::<Vec<_>>();
    assert_eq!(seen("use crate::cli::x;"), ["cli"]);
    assert_eq!(seen("use crate::{cli, domain::{a, b}};"), ["cli", "domain"]);
    assert_eq!(seen("use crate::cli as other;"), ["cli"]);
    assert_eq!(seen("use super::super::cli::x;"), ["cli"]);
    assert_eq!(seen("use super::super::{cli, http::y};"), ["cli", "http"]);
    assert_eq!(seen("use super::freshness::Stamp;"), ["registry"]);
    assert_eq!(seen("mod inner { use super::super::super::cli::x; }"), ["cli"]);
    assert_eq!(seen("fn f() -> crate::cli::T { crate::http::g() }"), ["cli", "http"]);
    assert_eq!(
        seen("fn f() { info!(x = %crate::cli::x(), y = [crate::http::Y]); }"),
        ["cli", "http"]
    );
    assert_eq!(seen("/// [`crate::cli`]\nfn f() { std::cli::x(); }"), Vec::<String>::new());
}

#[test]
fn arrows_point_downward() {
    let mut uses = BTreeMap::new();
    for entry in fs::read_dir("src").unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if module != "lib" {
            collect(&path, &[&module], &mut uses);
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

/// The command line has arguments, questions, tables and words. What is done to the fleet is done in `fleet`, what is
/// asked of the server in `registry`: no statement and no transaction is anywhere in `cli`.
#[test]
fn the_command_line_has_no_statements() {
    struct Calls(Vec<String>);
    impl<'ast> Visit<'ast> for Calls {
        fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
            self.0.push(call.method.to_string());
            syn::visit::visit_expr_method_call(self, call);
        }
    }
    let forbidden = [
        "query",
        "query_one",
        "query_opt",
        "query_raw",
        "execute",
        "batch_execute",
        "prepare",
        "transaction",
    ];
    let calls = |source: &str| {
        let mut calls = Calls(Vec::new());
        calls.visit_file(&syn::parse_file(source).unwrap());
        calls.0.into_iter().filter(|name| forbidden.contains(&name.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(calls("fn f() { a(client.query_opt(x, &[]).await?); }"), ["query_opt"]);
    let mut folders = vec![Path::new("src/cli").to_owned()];
    let mut files = vec![Path::new("src/cli.rs").to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    for file in files {
        let found = calls(&fs::read_to_string(&file).unwrap());
        assert_eq!(found, Vec::<String>::new(), "{}", file.display());
    }
}
