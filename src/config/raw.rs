//! What somebody wrote for a setting, before it is understood.

use std::borrow::Cow;

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
        match self {
            Self::Text(text) => quoted(text),
            Self::Number(number) => number.to_string(),
            Self::Boolean(value) => value.to_string(),
            Self::List(items) => {
                let more = if items.len() > LONGEST_LIST { ", …" } else { "" };
                let shown: Vec<String> =
                    items.iter().take(LONGEST_LIST).map(Self::shown_in_list).collect();
                format!("[{}{more}]", shown.join(", "))
            }
            Self::Other(sort) => (*sort).to_owned(),
        }
    }

    fn shown_in_list(&self) -> String {
        if let Self::List(_) = self { "[…]".to_owned() } else { self.shown() }
    }
}

/// The most characters of a text that a message repeats.
pub(super) const LONGEST: usize = 80;
/// The most items of a list that it repeats.
const LONGEST_LIST: usize = 16;

/// A text as a message repeats it: the beginning of it, where it is long.
pub(super) fn cut(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

/// The same in quotes, with what is no printable character escaped.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
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
