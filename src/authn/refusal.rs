//! Why a login is refused. The client never learns it; the operator does, by metric and debug log.

use super::token::TokenError;

/// The reason of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No device has this user name.
    UnknownDevice,
    /// The device is disabled.
    Disabled,
    /// The client id is not the device's own.
    ForeignClientId,
    /// The device has no unrevoked credential at all.
    NoCredential,
    /// The password or token belongs to no valid credential.
    WrongCredential,
    /// Too many wrong passwords came before: this one was not compared.
    TooManyGuesses,
    /// What could have matched has expired or is not valid yet.
    ExpiredCredential,
    /// The device needs a client certificate, and no valid one was presented.
    CertificateRequired,
    /// The token itself is not valid.
    Token(TokenError),
    /// The token belongs to another device.
    TokenOfOtherDevice,
    /// The device accepts no tokens, or only ones that were issued later: it was revoked.
    TokenRevoked,
}

impl Refusal {
    /// The reason as a metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownDevice => "unknown_device",
            Self::Disabled => "disabled",
            Self::ForeignClientId => "foreign_client_id",
            Self::NoCredential => "no_credential",
            Self::WrongCredential => "wrong_credential",
            Self::TooManyGuesses => "too_many_guesses",
            Self::ExpiredCredential => "expired_credential",
            Self::CertificateRequired => "certificate_required",
            Self::Token(error) => error.label(),
            Self::TokenOfOtherDevice => "token_other_device",
            Self::TokenRevoked => "token_revoked",
        }
    }
}
