//! What a client sends as its password: a generated secret, a chosen password or a device token.
//!
//! A password in the shape of a [device token](token) is checked as a token and costs every name one
//! signature check. Any other is compared with the stored hashes: first with the digests of
//! [recent successes](super::recent_successes), which cost everybody the same, then with the cheap hashes on
//! the spot, then, as far as the [limits](super::limits) allow it, with the costly ones on the
//! [hash threads](super::hash_threads). A hash's cost decides, not the credential's label.

use std::sync::Arc;

use jiff::Timestamp;

use super::certificate::{certificate_use, has_expired};
use super::decoy::Decoys;
use super::hash_threads::HashLanes;
use super::imported::Successes;
use super::limits::{Admission, Guess, Limits};
use super::recent_successes::RecentSuccesses;
use super::token::{self, TokenClaims, TokenKeys};
use super::{Login, LoginError, Refusal};
use crate::clock::Clock;
use crate::domain::credential::{CertificateUse, Credential, Proof, ValidUntil};
use crate::domain::device::DeviceRecord;
use crate::domain::name::DeviceName;
use crate::domain::password_hash::PasswordHash;

/// What became of a password or token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verification {
    /// It belongs to a credential of the device.
    Valid(ValidUntil),
    /// It does not, for this reason.
    Refused(Refusal),
}

impl Verification {
    /// The same, valid no longer than something else is.
    pub(super) fn at_most(self, until: ValidUntil) -> Self {
        match self {
            Self::Valid(own) => Self::Valid(own.min(until)),
            Self::Refused(_) => self,
        }
    }
}

/// Which credential a password belongs to.
enum Match<'c> {
    /// This one.
    Found(&'c Credential),
    /// None of them.
    None,
    /// Too many wrong ones came before: it was not compared.
    NotCompared,
}

/// Checks passwords and tokens.
pub(super) struct Verifier {
    pub(super) clock: Clock,
    pub(super) tokens: TokenKeys,
    pub(super) hash_threads: HashLanes,
    pub(super) recent_successes: Arc<RecentSuccesses>,
    pub(super) imported_successes: Successes,
    pub(super) decoys: Arc<Decoys>,
    pub(super) limits: Arc<Limits>,
}

impl Verifier {
    /// Does all of the work that a password or token takes, whether there is such a device or not.
    ///
    /// `already_refused`: the login is refused whatever its password. It then costs what a wrong
    /// password costs, and nothing here depends on whether it is right.
    ///
    /// # Errors
    /// If the password cannot be checked now.
    pub(super) async fn verify(
        &self,
        device: Option<&DeviceRecord>,
        login: &Login<'_>,
        already_refused: bool,
        now: Timestamp,
    ) -> Result<Verification, LoginError> {
        if token::has_token_shape(login.password) {
            let claims = self.tokens.verify(login.password, now).map_err(Refusal::Token);
            let outcome = claims.and_then(|claims| check_claims(&claims, device, now));
            return Ok(outcome.map_or_else(Verification::Refused, Verification::Valid));
        }
        let is_usable = |one: &Credential| one.hash().is_some() && one.is_usable(now);
        let with_password = device.filter(|device| device.credentials.iter().any(is_usable));
        let decoys = with_password.is_none().then(|| self.decoys.of(login.user_name));
        let credentials =
            with_password.map(|device| &*device.credentials).or(decoys.as_deref()).unwrap_or(&[]);
        let matched = self.find_match(credentials, login, already_refused, now).await?;
        Ok(match (matched, with_password) {
            (Match::Found(credential), Some(_)) => Verification::Valid(credential.validity.until),
            (Match::None, Some(_)) => Verification::Refused(Refusal::WrongCredential),
            (Match::Found(_) | Match::None, None) => {
                Verification::Refused(without_usable_password(device, login, now))
            }
            (Match::NotCompared, Some(_) | None) => Verification::Refused(Refusal::TooManyGuesses),
        })
    }

    /// The first of the credentials that the password belongs to: remembered ones, then cheap ones.
    async fn find_match<'c>(
        &self,
        credentials: &'c [Credential],
        login: &Login<'_>,
        already_refused: bool,
        now: Timestamp,
    ) -> Result<Match<'c>, LoginError> {
        let password =
            if already_refused { self.decoys.dummy_password() } else { login.password.as_bytes() };
        let usable = || {
            let usable = credentials.iter().filter(|credential| credential.is_usable(now));
            usable.filter_map(|credential| Some((credential, credential.hash()?)))
        };
        let mut known = usable();
        let known = known.find(|(one, hash)| self.recent_successes.contains(one, hash, password));
        if let Some((credential, hash)) = known {
            // Where there was no room for the first success.
            self.imported_successes.note(credential, hash, password);
            return Ok(Match::Found(credential));
        }
        let cheap = usable().filter(|(_, hash)| hash.is_minimum_cost());
        for (credential, hash) in cheap {
            self.hash_threads.metrics().generated.inc();
            if hash.verify(password) {
                self.recent_successes.remember(credential, hash, password);
                return Ok(Match::Found(credential));
            }
        }
        let costly: Vec<_> = usable().filter(|(_, hash)| !hash.is_minimum_cost()).collect();
        if costly.is_empty() {
            return Ok(Match::None);
        }
        // A name that no device can have needs no decoy, and so no hash.
        let Ok(name) = login.user_name.parse::<DeviceName>() else { return Ok(Match::None) };
        let entered = login.password.as_bytes();
        let digest = self.recent_successes.guess(costly.iter().copied(), already_refused, entered);
        let guess = Guess { name: &name, address: login.address, digest };
        // Boxed to keep the future of every other login small.
        Box::pin(self.find_costly(&costly, guess, password)).await
    }

    /// Asks the hash threads as far as the limits allow it, and remembers a success or failure.
    async fn find_costly<'c>(
        &self,
        costly: &[(&'c Credential, &PasswordHash)],
        guess: Guess<'_>,
        password: &[u8],
    ) -> Result<Match<'c>, LoginError> {
        let owner = match self.limits.admit(&guess, self.clock.now()) {
            Admission::Hash(owner) => owner,
            Admission::KnownWrong => return Ok(Match::None),
            Admission::Refused => return Ok(Match::NotCompared),
        };
        let hashes = costly.iter().map(|(_, hash)| (*hash).clone()).collect();
        let index = self.hash_threads.find(owner, password, hashes).await?;
        let now = self.clock.now();
        let Some((credential, hash)) = index.and_then(|index| costly.get(index)) else {
            self.limits.failed(&guess, now);
            return Ok(Match::None);
        };
        self.limits.succeeded(&guess, now);
        self.recent_successes.remember(credential, hash, password);
        self.imported_successes.note(credential, hash, password);
        Ok(Match::Found(credential))
    }
}

/// Until when a good token lets this device in. A credential's `not_before` bounds when tokens were
/// issued, so that revoking it and adding a new one ends all older tokens; by the issuer's clock, which may be ahead of ours
/// as far as [`TokenKeys::verify`](super::token::TokenKeys::verify) lets it be.
fn check_claims(
    claims: &TokenClaims,
    device: Option<&DeviceRecord>,
    now: Timestamp,
) -> Result<ValidUntil, Refusal> {
    let device = device.ok_or(Refusal::UnknownDevice)?;
    if claims.device != device.name.as_str() {
        return Err(Refusal::TokenOfOtherDevice);
    }
    let accepting = device.credentials.iter().filter(|one| {
        matches!(one.proof, Proof::Token)
            && one.validity.has_begun(claims.issued_at)
            && one.validity.until.outlasts_second_of(now)
    });
    let until = accepting.map(|one| one.validity.until).max().ok_or(Refusal::TokenRevoked)?;
    Ok(until.min(ValidUntil::Timestamp(claims.expires_at)))
}

/// Why a device without usable password refuses one.
fn without_usable_password(
    device: Option<&DeviceRecord>,
    login: &Login<'_>,
    now: Timestamp,
) -> Refusal {
    let Some(device) = device else { return Refusal::UnknownDevice };
    let mut credentials = device.credentials.iter();
    let is_enough = |one: &Credential| certificate_use(one) == Some(CertificateUse::Alone);
    if device.credentials.is_empty() {
        Refusal::NoCredential
    } else if credentials.any(|one| one.hash().is_some())
        || has_expired(device, login.common_name(), now)
    {
        Refusal::ExpiredCredential
    } else if device.credentials.iter().all(is_enough) {
        Refusal::CertificateRequired
    } else {
        Refusal::WrongCredential
    }
}
