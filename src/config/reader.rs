//! Reads one setting: the environment over the file over the default, and the files that it names.

use std::mem::{discriminant, take};

use serde::Serialize;

use super::kinds::path;
use super::problem::{Origin, Problem, REQUIRED, Warning};
use super::raw::{Form, Given, Raw, file_key};
use super::secret_file::{check_exists, exposure, read_secret};
use super::setting::{Definition, Rule, variable_of};

/// What was given and is not read yet, and what was found on the way. No step stops at the first
/// problem.
#[derive(Default)]
pub(super) struct Reader {
    /// In the order of the sources, the strongest last.
    pub(super) unread: Vec<Given>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Warning>,
    /// The values that hold, in the order of reading.
    pub(super) given: Vec<GivenSetting>,
}

/// A setting that somebody gave a value, for `check-config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GivenSetting {
    /// The setting's key as in the file.
    pub setting: &'static str,
    /// The value as written; `set` for a secret.
    pub value: String,
    /// Where it is given.
    pub at: Origin,
    /// The key as written, with `_file` if so.
    #[serde(skip)]
    pub(super) written: String,
}

impl GivenSetting {
    /// What is wrong with what it says, beyond what its form tells.
    #[must_use]
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::of(&self.at, &self.written, message)
    }
}

impl Reader {
    /// The setting's value: the strongest given one, else the default. All given ones are checked.
    ///
    /// # Errors
    /// It is required and not given. (What is wrong with given values is added to `problems`.)
    pub(super) fn read<T, F>(
        &mut self,
        key: &'static str,
        definition: Definition<T, F>,
    ) -> Result<F, Problem> {
        let rule = &definition.rule;
        let mut all: Vec<Given> =
            self.unread.extract_if(.., |given| given.form.setting == key).collect();
        for Given { form, raw, at } in &mut all {
            if let (false, Origin::Environment { .. }, Raw::Text(text)) =
                (form.in_file, at, &mut *raw)
            {
                *raw = (rule.from_variable)(take(text));
            }
        }
        self.problems.extend(given_twice(&all));
        let mut value = None;
        let strongest = all.len();
        for (position, given) in (1..).zip(all) {
            let (at, written) = (given.at.clone(), given.form.written.clone());
            match self.understand(rule, given, position == strongest) {
                Ok(understood) => value = understood,
                Err(message) => self.problems.push(Problem::of(&at, &written, message)),
            }
        }
        let value = value.map(definition.given).or(definition.absent);
        value.ok_or_else(|| missing(key, rule.is_secret))
    }

    /// The value, if it prevails. Only then its files are opened: to replace another value may be the
    /// remedy for their absence.
    fn understand<T>(
        &mut self,
        rule: &Rule<T>,
        given: Given,
        prevails: bool,
    ) -> Result<Option<T>, String> {
        let Given { form: Form { written, setting, in_file }, raw, at } = given;
        let base = at.directory();
        let shown = if rule.is_secret { "set".to_owned() } else { raw.shown() };
        let value = if in_file {
            let path = path(raw, &base, true)?;
            if !prevails {
                return Ok(None);
            }
            self.warn(&at, &written, exposure(&path));
            read_secret(&path, rule)?
        } else {
            let value = (rule.parse)(raw, &base)?;
            if !prevails {
                return Ok(None);
            }
            let mut are_there = true;
            for file in (rule.files)(&value) {
                if let Err(message) = check_exists(file, rule.files_are_private) {
                    self.problems.push(Problem::of(&at, &written, message));
                    are_there = false;
                }
                self.warn(&at, &written, exposure(file).filter(|_| rule.files_are_private));
            }
            if !are_there {
                return Ok(None);
            }
            if let (true, Origin::File { file, .. }) = (rule.is_secret, &at) {
                self.warn(&at, &written, exposure(file));
            }
            value
        };
        self.given.push(GivenSetting { setting, value: shown, at, written });
        Ok(Some(value))
    }

    pub(super) fn warn(&mut self, at: &Origin, setting: &str, message: Option<String>) {
        let (at, setting) = (at.clone(), setting.to_owned());
        self.warnings.extend(message.map(|message| Warning { at, setting, message }));
    }

    /// Warns of each of these settings that is given: because of `why` nothing comes of it.
    pub(super) fn warn_of_unused(&mut self, settings: &[&str], why: &str) {
        for setting in settings {
            if let Some(GivenSetting { at, written, .. }) = self.find(setting).cloned() {
                self.warn(&at, &written, Some(format!("is not used: {why}")));
            }
        }
    }

    /// The value that holds for a setting that was read, unless it is a default.
    pub(super) fn find(&self, setting: &str) -> Option<&GivenSetting> {
        self.given.iter().find(|given| given.setting == setting)
    }
}

/// Secrets that one source gives both as themselves and as a file. (Of two sources the stronger one
/// prevails, as for every setting.)
fn given_twice(all: &[Given]) -> Vec<Problem> {
    let same_source = |a: &Given, b: &Given| discriminant(&a.at) == discriminant(&b.at);
    let is_twice = |given: &&Given| {
        given.form.in_file
            && all.iter().any(|other| !other.form.in_file && same_source(given, other))
    };
    let message =
        |given: &Given| format!("{} is given as well; keep one of the two", given.form.setting);
    let problem = |given: &Given| Problem::of(&given.at, &given.form.written, message(given));
    all.iter().filter(is_twice).map(problem).collect()
}

fn missing(key: &'static str, is_secret: bool) -> Problem {
    let variable = variable_of(key);
    let mut message = format!("{REQUIRED}; write it in the configuration file or set {variable}");
    if is_secret {
        let file_key = file_key(key);
        message += &format!(", or name a file that holds it with {file_key} or {variable}_FILE");
    }
    Problem::missing(key, message)
}
