//! Names, topics, rights, credentials, events: types and rules without I/O.
//!
//! Every type here parses once and afterwards holds only valid values. Nothing in this layer knows
//! PostgreSQL, HTTP or the wall clock.

/// Writes a type as its text, and reads it back by parsing that.
macro_rules! as_text {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// Gives the variants of an enum their words, as tables, requests and results write them.
macro_rules! words {
    ($name:ident { $($variant:ident: $word:literal),+ $(,)? }) => {
        impl $name {
            /// All of them.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// As tables, requests and results write it.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }

            /// What a word stands for.
            #[must_use]
            pub fn of_word(word: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|one| one.word() == word)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.word())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::of_word(&String::deserialize(from)?).ok_or_else(|| {
                    let words = Self::ALL.map(Self::word);
                    serde::de::Error::custom(format!("must be {}", $crate::domain::any_of(&words)))
                })
            }
        }
    };
}

/// A text that was checked.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:ident, $error:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// Its text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                $check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        as_text!($name);

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

pub mod acl;
pub mod address;
pub mod api_token;
pub mod availability;
pub mod command;
pub mod credential;
pub mod cursor;
pub mod delivery;
pub mod device;
pub mod event;
pub mod foreign_hash;
pub mod json_object;
pub mod json_pointer;
pub mod meta;
pub mod name;
pub mod password_hash;
pub mod reply;
pub mod request;
pub mod rights;
pub mod routing;
pub mod schema;
pub mod selector;
pub mod topic;
pub mod value;

/// `a, b or c`.
fn any_of(words: &[&str]) -> String {
    match words {
        [before @ .., last] if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        _ => words.concat(),
    }
}
