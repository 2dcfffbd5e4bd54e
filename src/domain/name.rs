//! Names of devices, client ids and capabilities.
//!
//! A device's name is its MQTT user name, usually its client id and often a level of its topics, so
//! it may contain nothing that has a meaning in a topic (`+ # / $`) or in a log or terminal (control
//! characters). EMQX itself accepts any client id, `+` and `/` included
//! (docs/EMQX.md), which is why this is checked here and again by constraints in `sql/`.

use thiserror::Error;

/// Longest name in bytes of UTF-8. The same number is in `sql/V1__registry.sql`.
pub const MAX_NAME_BYTES: usize = 128;

/// Words that EMQX writes in place of a user name or client id (docs/EMQX.md): `undefined` where there is none,
/// `http_api` as the client id of what is published over its REST API. A client with such a name could not be
/// distinguished from them. The same words are in `sql/V1__registry.sql`.
pub const RESERVED: [&str; 2] = ["undefined", "http_api"];

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// More than [`MAX_NAME_BYTES`].
    #[error("has {0} bytes; at most {MAX_NAME_BYTES} are allowed")]
    TooLong(usize),
    /// A character with a meaning in topics, logs or terminals.
    #[error("contains {0:?}; the characters + # / $ and control characters are not allowed")]
    Forbidden(char),
    /// One of [`RESERVED`].
    #[error(
        "is reserved: EMQX writes {0:?} where there is no name, or for its REST API; choose another"
    )]
    Reserved(&'static str),
    /// Leading or trailing white space, which is invisible.
    #[error("begins or ends with white space")]
    Padded,
}

/// Checks a text against the rules that all names share.
///
/// # Errors
/// The first rule it breaks.
pub fn check_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong(text.len()));
    }
    if let Some(forbidden) = text.chars().find(|c| is_forbidden(*c)) {
        return Err(NameError::Forbidden(forbidden));
    }
    if text.trim().len() != text.len() {
        return Err(NameError::Padded);
    }
    Ok(())
}

/// Checks a text that is to be a user name or client id.
///
/// # Errors
/// The first rule it breaks.
pub fn check_login_name(text: &str) -> Result<(), NameError> {
    check_name(text)?;
    RESERVED
        .iter()
        .find(|word| **word == text)
        .map_or(Ok(()), |word| Err(NameError::Reserved(word)))
}

fn is_forbidden(c: char) -> bool {
    matches!(c, '+' | '#' | '/' | '$') || c.is_control()
}

checked_text! {
    /// A device's name: unique in the registry, and its MQTT user name.
    DeviceName, check_login_name, NameError
}
checked_text! {
    /// A client id that a device carries in the registry because it differs from its name.
    ClientId, check_login_name, NameError
}
checked_text! {
    /// What a device is (`sensor`, `relay`, …). Only [`DeviceKind::SERVICE`] has a meaning here.
    DeviceKind, check_name, NameError
}
checked_text! {
    /// A capability's name; also the name of the binding that carries it.
    CapabilityName, check_name, NameError
}
checked_text! {
    /// An area or a floor: a level of the conventional topics of the devices there.
    PlaceName, check_name, NameError
}
checked_text! {
    /// A routing rule's name.
    RuleName, check_name, NameError
}
checked_text! {
    /// What a token of the HTTP API is called.
    ApiTokenName, check_name, NameError
}
checked_text! {
    /// A binding's name: that of the capability it carries, or [`BindingName::MAIN`].
    BindingName, check_name, NameError
}

impl BindingName {
    /// The binding that carries no capability. No capability may have this name (`sql/V1__registry.sql`).
    pub const MAIN: &'static str = "main";

    /// The capability that the binding carries; `None` for [`BindingName::MAIN`].
    #[must_use]
    pub fn capability(&self) -> Option<CapabilityName> {
        (self.as_str() != Self::MAIN).then(|| CapabilityName(self.0.clone()))
    }
}

impl DeviceKind {
    /// The kind of a program that uses the bus: it may open several clients, has no topics of its own and may do
    /// what its grants allow.
    pub const SERVICE: &'static str = "service";

    /// Whether this is the kind of a program that uses the bus.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.as_str() == Self::SERVICE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_people_use_are_accepted() {
        for name in ["thermo-1", "gerät-ß", "u\"v\\w", "aa:bb:cc:dd:ee:ff", "42", "two words"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn names_that_mean_something_elsewhere_are_refused() {
        assert_eq!(check_name(""), Err(NameError::Empty));
        assert_eq!(check_name("a/b"), Err(NameError::Forbidden('/')));
        assert_eq!(check_name("${clientid}"), Err(NameError::Forbidden('$')));
        assert_eq!(check_name("a\0"), Err(NameError::Forbidden('\0')));
        assert_eq!(check_name("a\u{85}b"), Err(NameError::Forbidden('\u{85}')));
        assert_eq!(check_name(" a"), Err(NameError::Padded));
        for word in RESERVED {
            assert_eq!(word.parse::<DeviceName>(), Err(NameError::Reserved(word)));
            assert_eq!(word.parse::<ClientId>(), Err(NameError::Reserved(word)));
            assert!(word.parse::<CapabilityName>().is_ok(), "nobody logs in with it");
        }
        assert!("Undefined".parse::<DeviceName>().is_ok());
        assert_eq!(check_name(&"a".repeat(129)), Err(NameError::TooLong(129)));
    }
}
