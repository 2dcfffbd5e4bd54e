//! Every variable has a default, and `docker/.env.example` names them all.

use std::collections::BTreeMap;

use crate::compose::{variables, yaml};
use crate::text_of;

/// What `.env.example` says of each variable: all are commented out, with their defaults.
fn examples() -> BTreeMap<String, String> {
    let text = text_of("docker/.env.example");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("# "));
    let examples = lines.map(|line| {
        let example = line.strip_prefix('#').unwrap_or_else(|| panic!("{line:?} sets something"));
        let (name, default) = example.split_once('=').unwrap_or_else(|| panic!("{line:?}"));
        (name.to_owned(), default.to_owned())
    });
    examples.collect()
}

#[test]
fn the_example_names_every_variable_with_its_default() {
    let mut asked = BTreeMap::new();
    for variable in variables() {
        let default = variable.default.unwrap_or_else(|| panic!("{} has none", variable.name));
        let before = asked.insert(variable.name.clone(), default.clone());
        assert!(before.is_none_or(|before| before == default), "{} has two", variable.name);
    }
    assert!(asked.len() > 10, "{asked:?}");
    assert_eq!(asked, examples());
}

#[test]
fn no_variable_is_for_a_secret() {
    for variable in variables() {
        let name = variable.name;
        let secret = ["PASSWORD", "SECRET", "COOKIE"].iter().find(|word| name.contains(**word));
        assert_eq!(secret, None, "{name}");
    }
}

#[test]
fn compose_finds_it_from_the_checkout() {
    let root = yaml("compose.yaml");
    assert_eq!(root["include"], serde_json::json!(["docker/compose.yaml"]));
    assert_eq!(root["name"], yaml("docker/compose.yaml")["name"]);
}
