//! Every variable has a default, and `docker/.env.example` names them all.

use std::collections::BTreeMap;

use crate::compose::{service, services, variables, yaml};
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

/// What runs for longer than a moment shows its environment to whoever asks Docker.
#[test]
fn secrets_are_chosen_for_the_service_that_writes_them_down_alone() {
    let is_secret =
        |name: &str| ["PASSWORD", "SECRET", "COOKIE"].iter().any(|word| name.contains(word));
    let chosen = variables().into_iter().filter(|variable| is_secret(&variable.name));
    let chosen = chosen.collect::<Vec<_>>();
    assert_eq!(chosen.len(), 4);
    let secrets = service("secrets")["environment"].clone();
    for variable in chosen {
        assert_eq!(variable.default.as_deref(), Some(""), "{}", variable.name);
        assert_eq!(secrets[&variable.name], "", "{} is not passed on", variable.name);
    }
    for (name, service) in services() {
        for (variable, value) in service["environment"].as_object().into_iter().flatten() {
            let names_a_file = variable.ends_with("_FILE");
            assert!(
                !is_secret(variable) || names_a_file || name == "secrets",
                "{name}: {variable}"
            );
            assert!(!is_secret(&value.to_string()) || names_a_file, "{name}: {variable}");
        }
    }
}

#[test]
fn compose_finds_it_from_the_checkout() {
    let root = yaml("compose.yaml");
    assert_eq!(root["include"], serde_json::json!(["docker/compose.yaml"]));
    assert_eq!(root["name"], yaml("docker/compose.yaml")["name"]);
}
