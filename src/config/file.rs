//! Reading the configuration file.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problem};
use super::raw::{Given, Raw, cut, quoted};
use super::reader::Reader;
use super::setting::Setting;
use super::suggestion::nearest;
use crate::read_file::read_at_most;

/// A larger file is none of ours.
const MAX_BYTES: u64 = 1 << 20;

/// Finds the settings in the file; what is wrong with it is added to the problems. `false`: it could not be
/// read as a whole, and may hold more.
pub(super) fn read(path: &Path, known: &[Setting], reader: &mut Reader) -> bool {
    let at = |line| Origin::File { file: path.to_owned(), line };
    let bytes = match read_at_most(path, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) => {
            let advice = "name a TOML file with --config or FLEETGATE_CONFIG";
            let message = format!("cannot be read: {error}; {advice}");
            reader.problems.push(Problem::at(&at(None), message));
            return false;
        }
    };
    let text = match str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = at(Some(line_at(&bytes, error.valid_up_to())));
            reader.problems.push(Problem::at(&at, "not UTF-8; save the file as UTF-8"));
            return false;
        }
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut document = Document { path, text, known, reader };
    if errors.is_empty() {
        document.table("", table.get_ref());
    } else {
        // Values that a parser guessed after a syntax error would give misleading problems.
        document.syntax_errors(&errors);
    }
    errors.is_empty()
}

struct Document<'a> {
    path: &'a Path,
    text: &'a str,
    known: &'a [Setting],
    reader: &'a mut Reader,
}

impl Document<'_> {
    fn at(&self, offset: usize) -> Origin {
        let line = line_at(self.text.as_bytes(), offset);
        Origin::File { file: self.path.to_owned(), line: Some(line) }
    }

    /// One problem a line: the parser's later ones follow from the first.
    fn syntax_errors(&mut self, errors: &[toml::de::Error]) {
        let mut seen = Vec::new();
        for error in errors {
            let at = self.at(error.span().map_or(0, |span| span.start));
            if !seen.contains(&at) {
                let message = format!("not TOML: {}", cut(error.message()));
                self.reader.problems.push(Problem::at(&at, message));
                seen.push(at);
            }
        }
    }

    fn table(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table.iter() {
            let at = self.at(name.span().start);
            let name = name.get_ref();
            if section.is_empty() && name.contains('.') {
                // A name in quotes. Read as a setting it could be given a second time unnoticed.
                let advice = "a name in quotes is one name, dots and all; write section.setting without quotes";
                let message = format!("unknown setting {}; {advice}", quoted(name));
                self.reader.problems.push(Problem::at(&at, message));
                continue;
            }
            let key =
                if section.is_empty() { name.to_string() } else { format!("{section}.{name}") };
            self.entry(&key, at, value.get_ref());
        }
    }

    fn entry(&mut self, key: &str, at: Origin, value: &DeValue<'_>) {
        let form = self.known.iter().flat_map(Setting::forms).find(|form| form.written == key);
        let is_section = self.known.iter().any(|setting| setting.section() == key);
        match (form, value) {
            (Some(form), value) => {
                self.reader.unread.push(Given { form, raw: raw(value), at });
            }
            (None, DeValue::Table(table)) if is_section => self.table(key, table),
            (None, _) if is_section => {
                let message = format!("{key}: is a section; write [{key}] and its settings below");
                self.reader.problems.push(Problem::at(&at, message));
            }
            (None, _) => self.reader.problems.push(unknown(self.known, &at, key)),
        }
    }
}

fn unknown(known: &[Setting], at: &Origin, key: &str) -> Problem {
    let keys = known.iter().flat_map(Setting::forms).map(|form| form.written);
    let names: Vec<String> =
        keys.chain(known.iter().map(|setting| setting.section().to_owned())).collect();
    let advice = match nearest(key, names.iter().map(String::as_str)) {
        Some(name) => format!("did you mean {name}?"),
        None => "docs/CONFIGURATION.md lists all settings".to_owned(),
    };
    Problem::at(at, format!("unknown setting {}; {advice}", quoted(key)))
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("a huge number"), Raw::Number),
        DeValue::Boolean(value) => Raw::Boolean(*value),
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
