//! Reading the configuration file.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::given::{Given, Raw};
use super::problem::{Origin, Problem};
use super::suggestion::nearest;
use super::table::{SETTINGS, Setting};
use crate::read_file::read_at_most;

/// A larger file is none of ours.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the file and finds the settings in it; all problems are added to the list.
pub(super) fn read(path: &Path, problems: &mut Vec<Problem>) -> Vec<Given> {
    let whole = Origin::File { file: path.to_owned(), line: None };
    match read_at_most(path, MAX_BYTES) {
        Ok(bytes) => match str::from_utf8(&bytes) {
            Ok(text) => settings_in(path, text, problems),
            Err(error) => {
                let line = line_at(&bytes, error.valid_up_to());
                let at = Origin::File { file: path.to_owned(), line: Some(line) };
                problems.push(Problem::at(&at, "not UTF-8; save the file as UTF-8"));
                Vec::new()
            }
        },
        Err(error) => {
            problems.push(Problem::at(
                &whole,
                format!(
                    "cannot be read: {error}; name a TOML file with --config or FLEETGATE_CONFIG"
                ),
            ));
            Vec::new()
        }
    }
}

fn settings_in(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Vec<Given> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reading = Reading { path, text, given: Vec::new(), problems };
    if errors.is_empty() {
        reading.table("", table.get_ref());
    } else {
        // Values that a parser guessed after a syntax error would give misleading problems.
        reading.syntax_errors(&errors);
    }
    reading.given
}

struct Reading<'a> {
    path: &'a Path,
    text: &'a str,
    given: Vec<Given>,
    problems: &'a mut Vec<Problem>,
}

impl Reading<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let line = line_at(self.text.as_bytes(), offset);
        Origin::File { file: self.path.to_owned(), line: Some(line) }
    }

    /// One problem a line: the parser's later ones follow from the first.
    fn syntax_errors(&mut self, errors: &[toml::de::Error]) {
        let mut seen = Vec::new();
        for error in errors {
            let at = self.origin(error.span().map_or(0, |span| span.start));
            if !seen.contains(&at) {
                self.problems.push(Problem::at(&at, format!("not TOML: {}", error.message())));
                seen.push(at);
            }
        }
    }

    fn table(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table.iter() {
            let at = self.origin(name.span().start);
            let key = if section.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{section}.{}", name.get_ref())
            };
            self.entry(&key, at, value);
        }
    }

    fn entry(&mut self, key: &str, at: Origin, value: &Spanned<DeValue<'_>>) {
        let is_section = SETTINGS.iter().any(|setting| setting.section() == key);
        match (Setting::by_file_key(key), value.get_ref()) {
            (Some((setting, in_file)), value) => {
                let base = self.path.parent().map(Path::to_owned).unwrap_or_default();
                let raw = raw(value);
                self.given.push(Given { setting, in_file, raw, origin: at, base });
            }
            (None, DeValue::Table(table)) if is_section => self.table(key, table),
            (None, _) if is_section => self.problems.push(Problem::at(
                &at,
                format!("{key}: is a section; write [{key}] and its settings below"),
            )),
            (None, _) => self.problems.push(unknown(&at, key)),
        }
    }
}

fn unknown(at: &Origin, key: &str) -> Problem {
    let known: Vec<String> = Setting::all_keys()
        .chain(SETTINGS.iter().map(|setting| setting.section().to_owned()))
        .collect();
    let advice = match nearest(key, known.iter().map(String::as_str)) {
        Some(name) => format!("did you mean {name}?"),
        None => "docs/CONFIGURATION.md lists all settings".to_owned(),
    };
    Problem::at(at, format!("unknown setting {key:?}; {advice}"))
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("a huge number"), Raw::Number),
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Float(_) => Raw::Other("a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

/// The line (from 1) of a byte.
fn line_at(bytes: &[u8], offset: usize) -> usize {
    bytes.iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}
