//! Writing `docs/CONFIGURATION.md`.

use super::environment::OTHER_VARIABLES;
use super::table::{Kind, Preset, SETTINGS, Setting, variable_of};
use super::value::brief;

/// The prose around the tables.
const FRAME: &str = include_str!("reference.md");

/// The text of `docs/CONFIGURATION.md`, the same on every machine.
#[must_use]
pub fn reference() -> String {
    FRAME.replace("{{settings}}\n", &sections()).replace("{{other variables}}\n", &others())
}

fn sections() -> String {
    let mut text = String::new();
    let mut section = "";
    for setting in SETTINGS {
        if setting.section() != section {
            section = setting.section();
            text += &format!(
                "### `[{section}]`\n\n| setting | environment variable | default | takes | meaning |\n\
                 |---|---|---|---|---|\n"
            );
        }
        text += &row(setting);
        let next = SETTINGS.iter().skip_while(|other| other.key != setting.key).nth(1);
        if next.is_some_and(|next| next.section() != section) {
            text += "\n";
        }
    }
    text
}

fn row(setting: &Setting) -> String {
    let (default, takes, meaning) = (default(setting), takes(&setting.kind), setting.meaning);
    let name = setting.key.split_once('.').map_or(setting.key, |(_, name)| name);
    let or_file = |name: &str, suffix| match setting.is_secret() {
        true => format!("`{name}` or `{name}{suffix}`"),
        false => format!("`{name}`"),
    };
    let names = or_file(name, "_file");
    let variables = or_file(&variable_of(setting.key), "_FILE");
    format!("| {names} | {variables} | {default} | {takes} | {meaning} |\n")
}

fn default(setting: &Setting) -> String {
    match (&setting.preset, &setting.kind) {
        (Preset::Value(""), Kind::Paths | Kind::Networks) => "`[]`".to_owned(),
        (Preset::Value(value), Kind::Count(_) | Kind::Flag) => format!("`{value}`"),
        (Preset::Value(value), _) => format!("`\"{value}\"`"),
        (Preset::Machine { words, .. } | Preset::Absent(words), _) => (*words).to_owned(),
        (Preset::Required, _) => "none; needed".to_owned(),
    }
}

fn takes(kind: &Kind) -> String {
    match kind {
        Kind::Address => "IP address and port".to_owned(),
        Kind::Count(range) => format!("number, {} to {}", range.start(), range.end()),
        Kind::Duration(range) => {
            format!("duration, `{}` to `{}`", brief(*range.start()), brief(*range.end()))
        }
        Kind::Text(rule) => rule.words.to_owned(),
        Kind::Secret(rule) => format!("secret: {}", rule.words),
        Kind::Path { .. } => "path".to_owned(),
        Kind::Paths => "list of paths".to_owned(),
        Kind::Networks => "list of IP addresses and networks".to_owned(),
        Kind::Choice(words) => {
            words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or ")
        }
        Kind::Flag => "`true` or `false`".to_owned(),
    }
}

fn others() -> String {
    let row = |(name, meaning): &(&str, &str)| format!("| `{name}` | {meaning} |\n");
    let rows: String = OTHER_VARIABLES.iter().map(row).collect();
    format!("| variable | meaning |\n|---|---|\n{rows}")
}
