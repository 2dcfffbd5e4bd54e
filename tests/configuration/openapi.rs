//! `docs/openapi.json`.

use std::fs;
use std::path::Path;

use fleetgate::http::api::openapi;

#[test]
fn the_description_of_the_api_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let text = openapi::text(&openapi::document());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &text).expect("writing the description");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/openapi.json is out of date; run: UPDATE_DOCS=1 cargo test --test configuration openapi"
    );
}
