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
    /// Those that are no [`TokenError`].
    const PLAIN: [Self; 10] = [
        Self::UnknownDevice,
        Self::Disabled,
        Self::ForeignClientId,
        Self::NoCredential,
        Self::WrongCredential,
        Self::TooManyGuesses,
        Self::ExpiredCredential,
        Self::CertificateRequired,
        Self::TokenOfOtherDevice,
        Self::TokenRevoked,
    ];

    /// The label of every reason there is.
    #[must_use]
    pub fn labels() -> Vec<&'static str> {
        Self::PLAIN.into_iter().chain(TokenError::ALL.map(Self::Token)).map(Self::label).collect()
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    /// A reason more has no place here, so that this does not compile before it is among the labels.
    fn place(refusal: Refusal) -> usize {
        match refusal {
            Refusal::UnknownDevice => 0,
            Refusal::Disabled => 1,
            Refusal::ForeignClientId => 2,
            Refusal::NoCredential => 3,
            Refusal::WrongCredential => 4,
            Refusal::TooManyGuesses => 5,
            Refusal::ExpiredCredential => 6,
            Refusal::CertificateRequired => 7,
            Refusal::TokenOfOtherDevice => 8,
            Refusal::TokenRevoked => 9,
            Refusal::Token(error) => Refusal::PLAIN.len() + error as usize,
        }
    }

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let all = Refusal::PLAIN.into_iter().chain(TokenError::ALL.map(Refusal::Token));
        assert!(all.enumerate().all(|(position, refusal)| place(refusal) == position));
        let mut labels = Refusal::labels();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), 20);
    }
}
