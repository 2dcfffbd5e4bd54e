//! What somebody wrote for a setting, before it is understood.

use std::path::PathBuf;

use super::problem::Origin;
use super::table::{Kind, Setting};

/// A value as written.
pub(super) enum Raw {
    Text(String),
    Number(i128),
    Flag(bool),
    List(Vec<Raw>),
    /// Something no setting takes; holds what it is called.
    Other(&'static str),
}

impl Raw {
    /// An environment variable's text, seen as what the setting wants if it can be that.
    pub(super) fn from_text(kind: &Kind, text: String) -> Self {
        match kind {
            Kind::Count { .. } => text.parse().map_or(Self::Text(text), Self::Number),
            Kind::Flag => text.parse().map_or(Self::Text(text), Self::Flag),
            Kind::Paths => Self::list(&text, ':'),
            // Colons belong to IPv6.
            Kind::Networks => Self::list(&text, ','),
            _ => Self::Text(text),
        }
    }

    fn list(text: &str, separator: char) -> Self {
        let items = text.split(separator).filter(|_| !text.is_empty());
        Self::List(items.map(|item| Self::Text(item.to_owned())).collect())
    }

    /// What sort of thing it is, without the value.
    pub(super) fn sort(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Number(_) => "a number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Other(sort) => sort,
        }
    }

    /// The value for a message, cut when it is long. Only for settings that are no secret.
    pub(super) fn shown(&self) -> String {
        const LONGEST: usize = 80;
        match self {
            Self::Text(text) if text.chars().count() > LONGEST => {
                format!("{:?}…", text.chars().take(LONGEST).collect::<String>())
            }
            Self::Text(text) => format!("{text:?}"),
            Self::Number(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::List(items) => {
                format!("[{}]", items.iter().map(Self::shown).collect::<Vec<_>>().join(", "))
            }
            Self::Other(sort) => (*sort).to_owned(),
        }
    }
}

/// A setting that somebody gave a value.
pub(super) struct Given {
    pub(super) setting: &'static Setting,
    /// Whether it is the `_file` form, and the value the path of the file that holds the secret.
    pub(super) in_file: bool,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
    /// Where relative paths begin.
    pub(super) base: PathBuf,
}

impl Given {
    /// The key as it would stand in the file.
    pub(super) fn key(&self) -> String {
        if self.in_file { self.setting.file_key() } else { self.setting.key.to_owned() }
    }
}
