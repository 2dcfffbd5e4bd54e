//! What is wrong with a configuration, where, and what would be right.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::raw::file_key;

/// Where a value comes from. Ordered as a reader goes through them: down the file, then the environment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", untagged)]
pub enum Origin {
    /// A line of the configuration file.
    File {
        /// The file, as it was named.
        file: PathBuf,
        /// The line, from 1; `None` when the file as a whole is meant.
        line: Option<usize>,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
}

impl Origin {
    /// Where relative paths of a value begin; empty: at the working directory.
    pub(super) fn directory(&self) -> PathBuf {
        match self {
            Self::File { file, .. } => file.parent().map(Path::to_owned).unwrap_or_default(),
            Self::Environment { .. } => PathBuf::new(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line: Some(line) } => write!(f, "{}:{line}", file.display()),
            Self::File { file, line: None } => write!(f, "{}", file.display()),
            Self::Environment { variable } => f.write_str(variable),
        }
    }
}

/// How what is said of a missing setting begins.
pub(super) const REQUIRED: &str = "is required";

/// One thing that is wrong. Never carries a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where it is; `None` when something is missing.
    pub at: Option<Origin>,
    /// The setting's key as in the file (`http.listen`), if it is about a setting.
    pub setting: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Problem {
    pub(super) fn at(origin: &Origin, message: impl Into<String>) -> Self {
        Self { at: Some(origin.clone()), setting: None, message: message.into() }
    }

    pub(super) fn of(origin: &Origin, setting: &str, message: impl Into<String>) -> Self {
        Self { setting: Some(setting.to_owned()), ..Self::at(origin, message) }
    }

    pub(super) fn missing(setting: &str, message: impl Into<String>) -> Self {
        Self { at: None, setting: Some(setting.to_owned()), message: message.into() }
    }

    /// Whether another one is about the same setting, in whichever way that is written.
    pub(super) fn is_about_the_setting_of(&self, other: &Self) -> bool {
        let (Some(one), Some(other)) = (&self.setting, &other.setting) else { return false };
        one == other || *one == file_key(other) || file_key(one) == *other
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.at {
            write!(f, "{origin}: ")?;
        }
        // A variable's name says which setting it is.
        let named = matches!(self.at, Some(Origin::Environment { .. }));
        if let Some(setting) = self.setting.as_ref().filter(|_| !named) {
            write!(f, "{setting}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a configuration: displays as one line a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Succeeds when nothing is wrong.
    pub(super) fn unless_none(mut problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        // What is missing stands nowhere, and comes last.
        problems.sort_by_key(|problem| (problem.at.is_none(), problem.at.clone()));
        Err(Self(problems))
    }

    /// The same of settings that are missing, with the setting that needs them.
    pub(super) fn needed_by(self, given: &str) -> Self {
        let of_all = self.0.into_iter().map(|problem| {
            let message =
                problem.message.replacen(REQUIRED, &format!("{REQUIRED} with {given}"), 1);
            Problem { message, ..problem }
        });
        Self(of_all.collect())
    }

    /// The problems, in reading order: down the file, then the environment, then what is missing.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// Something that works and should still be changed. Never carries a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Where it is.
    pub at: Origin,
    /// The setting's key as in the file.
    pub setting: String,
    /// What is unwise, and what to do.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.at, self.setting, self.message)
    }
}
