//! JSON pointers (RFC 6901).

use std::fmt;

use serde_json::Value;

/// A JSON pointer: the names on the way from a document to one of its values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Reads one; `None` where the text is not a pointer.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let tokens = text.strip_prefix('/')?.split('/').map(|token| {
            let escapes = token.split('~').skip(1);
            let all_known = escapes.into_iter().all(|rest| rest.starts_with(['0', '1']));
            all_known.then(|| token.replace("~1", "/").replace("~0", "~"))
        });
        tokens.collect::<Option<_>>().map(Self)
    }

    /// The names on the way, unescaped.
    #[must_use]
    pub fn tokens(&self) -> &[String] {
        &self.0
    }

    /// The value that it leads to in a document. In an array a token is a position if it has no sign and no
    /// zero before it: neither `-1` nor `01` nor `-` is.
    #[must_use]
    pub fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, token| match value {
            Value::Object(members) => members.get(token),
            Value::Array(elements) => elements.get(position(token)?),
            _ => None,
        })
    }
}

/// The position in an array that a token stands for.
#[must_use]
pub fn position(token: &str) -> Option<usize> {
    let is_position = token.bytes().all(|byte| byte.is_ascii_digit())
        && (token == "0" || !token.starts_with('0'));
    is_position.then(|| token.parse().ok()).flatten()
}

/// A name as a token of a pointer.
pub(super) fn escaped(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|token| write!(f, "/{}", escaped(token)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        let document = json!({
            "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6,
            " ": 7, "m~n": 8
        });
        let found = |pointer: &str| Pointer::parse(pointer).unwrap().find(&document).cloned();
        assert_eq!(found(""), Some(document.clone()));
        assert_eq!(found("/foo"), Some(json!(["bar", "baz"])));
        assert_eq!(found("/foo/0"), Some(json!("bar")));
        for (number, pointer) in
            ["/", "/a~1b", "/c%d", "/e^f", "/g|h", "/i\\j", "/k\"l", "/ ", "/m~0n"]
                .iter()
                .enumerate()
        {
            assert_eq!(found(pointer), Some(json!(number)), "{pointer}");
            assert_eq!(Pointer::parse(pointer).unwrap().to_string(), *pointer);
        }
        for absent in ["/foo/-1", "/foo/01", "/foo/-", "/foo/2", "/foo/+1", "/foo/", "/foo/0/0"] {
            assert_eq!(found(absent), None, "{absent}");
        }
        for invalid in ["foo", "/~", "/~2", "/a~/b", " /a"] {
            assert_eq!(Pointer::parse(invalid), None, "{invalid}");
        }
        assert_eq!(Pointer::parse("/~01").unwrap().tokens(), ["~1"]);
    }
}
