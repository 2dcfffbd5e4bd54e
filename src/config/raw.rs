//! What somebody wrote for a setting, before it is understood.

use super::problem::Origin;

/// A value as written.
pub(super) enum Raw {
    Text(String),
    Number(i128),
    Boolean(bool),
    List(Vec<Raw>),
    /// Something no setting takes; holds what it is called.
    Other(&'static str),
}

impl Raw {
    /// What sort of thing it is, without the value.
    pub(super) fn sort(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Number(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Other(sort) => sort,
        }
    }

    /// The value for a message, cut when it is long. Only for settings that are not secret.
    pub(super) fn shown(&self) -> String {
        const LONGEST: usize = 80;
        match self {
            Self::Text(text) if text.chars().count() > LONGEST => {
                format!("{:?}…", text.chars().take(LONGEST).collect::<String>())
            }
            Self::Text(text) => format!("{text:?}"),
            Self::Number(number) => number.to_string(),
            Self::Boolean(value) => value.to_string(),
            Self::List(items) => {
                format!("[{}]", items.iter().map(Self::shown).collect::<Vec<_>>().join(", "))
            }
            Self::Other(sort) => (*sort).to_owned(),
        }
    }
}

/// A way to write a setting.
#[derive(Clone)]
pub(super) struct Form {
    /// The key as it stands in the file.
    pub(super) written: String,
    /// The setting's key.
    pub(super) setting: &'static str,
    /// Whether the value is the path of a file that holds the setting's.
    pub(super) in_file: bool,
}

/// The key under which a file is named that holds the value.
pub(super) fn file_key(key: &str) -> String {
    format!("{key}_file")
}

/// A setting that somebody gave a value.
pub(super) struct Given {
    pub(super) form: Form,
    pub(super) raw: Raw,
    pub(super) at: Origin,
}
