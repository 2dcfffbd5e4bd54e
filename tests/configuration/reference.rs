//! `docs/CONFIGURATION.md`.

use std::fs;
use std::path::Path;

use fleetgate::config::reference;

use crate::operator::{Operator, TOKEN};

#[test]
fn the_reference_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIGURATION.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, reference()).expect("writing the reference");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == reference(),
        "docs/CONFIGURATION.md is out of date; run: UPDATE_DOCS=1 cargo test --test configuration reference"
    );
}

#[test]
fn the_example_in_the_reference_loads() {
    let text = reference();
    let example = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let operator = Operator::writes(example.expect("an example"));
    operator.saves("secrets/database-password", "password\n", 0o600);
    operator.saves("secrets/webhook-token", format!("{TOKEN}\n"), 0o600);
    operator.saves("keys/2026.pem", "", 0o600);
    operator.saves("keys/2027.pem", "", 0o600);
    let settings = operator.loads();
    assert!(settings.config().is_ok());
    assert!(settings.warnings.is_empty());
}
