//! Where a page of a list begins: a key that the API's clients are to hand back as it is.

use base64ct::{Base64UrlUnpadded, Encoding};

/// What stands for the key of the last entry of a page.
#[must_use]
pub fn cursor(key: &str) -> String {
    Base64UrlUnpadded::encode_string(key.as_bytes())
}

/// The key that a cursor stands for; `None`: it is none.
#[must_use]
pub fn key(cursor: &str) -> Option<String> {
    let key =
        Base64UrlUnpadded::decode_vec(cursor).ok().and_then(|key| String::from_utf8(key).ok());
    key.filter(|key| !key.contains('\0'))
}
