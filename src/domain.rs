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
