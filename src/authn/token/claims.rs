//! The parts of a token as they are written.

use base64ct::{Base64UrlUnpadded, Encoding};
use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, IgnoredAny};

use crate::domain::json_object::Object;

/// Latest date that a claim may name, in Unix seconds: the end of the year 9999.
pub(super) const LAST_SECOND: i64 = 253_402_300_799;

/// The parts of the header that decide something.
#[derive(serde::Deserialize)]
pub(super) struct TokenHeader {
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    /// There is one, whatever it says: RFC 7515 §4.1.11.
    #[serde(default, deserialize_with = "is_there")]
    pub(super) crit: bool,
}

/// Of a member that is there, also one that is `null`.
fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

/// A text in the shape of a token, taken apart.
pub(super) struct TokenParts<'a> {
    pub(super) header: TokenHeader,
    /// Base64url.
    pub(super) claims: &'a str,
    /// Base64url.
    pub(super) signature: &'a str,
    /// What is signed: the header and the claims as they are written.
    pub(super) signed: &'a str,
}

impl<'a> TokenParts<'a> {
    pub(super) fn of(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        if !is_base64url(claims) || !is_base64url(signature) {
            return None;
        }
        let header = Base64UrlUnpadded::decode_vec(header).ok()?;
        let Object(header) = serde_json::from_slice(&header).ok()?;
        Some(Self { header, claims, signature, signed })
    }
}

fn is_base64url(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The claims that decide something; others are ignored.
#[derive(serde::Deserialize)]
pub(super) struct Claims {
    pub(super) sub: String,
    pub(super) aud: Audience,
    pub(super) iat: NumericDate,
    pub(super) exp: NumericDate,
    pub(super) nbf: Option<NumericDate>,
}

/// RFC 7519 §4.1.3: one audience or several.
#[derive(serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    pub(super) fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}

/// RFC 7519 §2: seconds, possibly with a fraction, which is cut off; from 1970 to 9999.
#[derive(serde::Deserialize)]
#[serde(try_from = "serde_json::Number")]
pub(super) struct NumericDate(pub(super) Timestamp);

impl TryFrom<serde_json::Number> for NumericDate {
    type Error = &'static str;

    #[allow(clippy::cast_possible_truncation, reason = "the range is checked after the cast")]
    fn try_from(number: serde_json::Number) -> Result<Self, &'static str> {
        // `as` saturates, so what is out of range stays out of range.
        let fraction =
            || number.as_f64().filter(|date| date.is_finite()).map(|date| date.floor() as i64);
        let seconds = number.as_i64().or_else(fraction);
        let seconds = seconds.filter(|seconds| (0..=LAST_SECOND).contains(seconds));
        let seconds = seconds.ok_or("a date is out of range")?;
        // A `Timestamp` ends a day before the year 9999 does.
        Ok(Self(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)))
    }
}
