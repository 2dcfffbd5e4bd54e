//! Writing `docs/CONFIGURATION.md`.

use super::environment::OTHER_VARIABLES;
use super::raw::Form;
use super::sections::settings;
use super::setting::{Setting, variable_of};

/// The prose around the tables.
const FRAME: &str = include_str!("reference.md");

/// The text of `docs/CONFIGURATION.md`, the same on every machine.
#[must_use]
pub fn reference() -> String {
    FRAME.replace("{{settings}}\n", &sections()).replace("{{other variables}}\n", &others())
}

fn sections() -> String {
    let heading =
        "| setting | environment variable | default | takes | meaning |\n|---|---|---|---|---|";
    let settings = settings();
    let sections = settings.chunk_by(|a, b| a.section() == b.section());
    let section = |section: &[Setting]| {
        let rows: String = section.iter().map(row).collect();
        let name = section.first().map_or("", Setting::section);
        format!("### `[{name}]`\n\n{heading}\n{rows}")
    };
    sections.map(section).collect::<Vec<_>>().join("\n")
}

fn row(setting: &Setting) -> String {
    let Setting { default, takes, meaning, .. } = setting;
    let section = format!("{}.", setting.section());
    let joined = |name: fn(&Form) -> String| {
        let names = setting.forms().into_iter().map(|form| format!("`{}`", name(&form)));
        names.collect::<Vec<_>>().join(" or ")
    };
    let names = joined(|form| form.written.clone()).replace(&section, "");
    let variables = joined(|form| variable_of(&form.written));
    format!("| {names} | {variables} | {default} | {takes} | {meaning} |\n")
}

fn others() -> String {
    let row = |(name, meaning): &(&str, &str)| format!("| `{name}` | {meaning} |\n");
    let rows: String = OTHER_VARIABLES.iter().map(row).collect();
    format!("| variable | meaning |\n|---|---|\n{rows}")
}
