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
    /// What was shown matches no valid credential.
    WrongCredential,
    /// Too many wrong passwords: this one was not looked at.
    TooManyGuesses,
    /// What could have matched has expired or does not count yet.
    ExpiredCredential,
    /// The device needs a client certificate, and no valid one was shown.
    CertificateRequired,
    /// The token itself is no good.
    Token(TokenError),
    /// The token is another device's.
    TokenOfOtherDevice,
    /// The device accepts no tokens, or none issued that early: it was revoked.
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
