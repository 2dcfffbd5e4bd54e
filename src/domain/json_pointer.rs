//! JSON Pointers (RFC 6901).

use std::fmt;

use serde_path_to_error::{Path, Segment};

/// A JSON Pointer (RFC 6901) by its tokens; none: the whole document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Reads a pointer: empty, or tokens each with a slash in front.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err("is not a JSON Pointer; write /member, with a slash in front".to_owned());
        };
        rest.split('/').map(token).collect::<Option<_>>().map(Self).ok_or_else(|| {
            "is not a JSON Pointer: ~ is written ~0, and / within a name ~1".to_owned()
        })
    }

    /// Its tokens, unescaped.
    #[must_use]
    pub fn tokens(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|token| write!(f, "/{}", escaped(token)))
    }
}

/// A token as it is written in a pointer.
pub(super) fn escaped(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

fn token(text: &str) -> Option<String> {
    let mut token = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        token.push(match c {
            '~' => match characters.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            c => c,
        });
    }
    Some(token)
}

/// The pointer to where serde found something wrong.
#[must_use]
pub fn of_path(path: &Path) -> String {
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(format!("/{index}")),
        Segment::Map { key } => Some(format!("/{}", escaped(key))),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().filter_map(step).collect()
}
