//! What was shown as the password: a secret, a chosen password or a device token.

use super::certificate;
use super::limits::{Admission, Guess};
use super::token::{self, TokenClaims};
use super::{Authenticator, Login, LoginError, Refusal};
use crate::domain::credential::{Credential, Proof};
use crate::domain::device::DeviceRecord;
use crate::domain::name::DeviceName;
use crate::domain::password_hash::PasswordHash;

/// What came of it: until when it counts (Unix seconds, `i64::MAX` for ever), or why it does not.
pub(super) type Outcome = Result<i64, Refusal>;

/// Which credential a password belongs to.
enum Match<'c> {
    /// This one.
    Found(&'c Credential),
    /// None of them.
    None,
    /// Too many wrong ones came before: it was not looked at.
    NotLookedAt,
}

impl Authenticator {
    /// Judges the password or token: all of its work, whether there is such a device or not.
    ///
    /// A barred login will be refused in any case: it costs what a wrong password costs, and nothing
    /// here depends on whether it is right.
    pub(super) async fn judge_password(
        &self,
        device: Option<&DeviceRecord>,
        login: &Login<'_>,
        barred: bool,
        now: i64,
    ) -> Result<Outcome, LoginError> {
        if token::has_token_shape(login.password) {
            let claims = self.tokens.verify(login.password, now);
            return Ok(claims.map_err(Refusal::Token).and_then(|c| judge_claims(&c, device, now)));
        }
        let usable = |one: &Credential| one.hash().is_some() && one.is_usable(now);
        let own = device.filter(|device| device.credentials.iter().any(usable));
        let credentials =
            own.map_or_else(|| self.decoys.of(login.user_name), |own| &own.credentials);
        let matched = self.find_match(credentials, login, barred, now).await?;
        Ok(match (own, matched) {
            (_, Match::NotLookedAt) => Err(Refusal::TooManyGuesses),
            (Some(_), Match::Found(credential)) => Ok(certificate::until(credential)),
            (Some(_), Match::None) => Err(Refusal::WrongCredential),
            (None, _) => Err(no_usable_password(device, login, now)),
        })
    }

    /// The first of the credentials that the password belongs to: remembered ones, then cheap ones.
    async fn find_match<'c>(
        &self,
        credentials: &'c [Credential],
        login: &Login<'_>,
        barred: bool,
        now: i64,
    ) -> Result<Match<'c>, LoginError> {
        let password = if barred { self.decoys.noise() } else { login.password.as_bytes() };
        let usable = || {
            let usable = credentials.iter().filter(|credential| credential.is_usable(now));
            usable.filter_map(|credential| Some((credential, credential.hash()?)))
        };
        let mut known = usable();
        let known = known.find(|(one, hash)| self.verified.contains(one, hash, password));
        if let Some((credential, _)) = known {
            return Ok(Match::Found(credential));
        }
        let cheap = usable().filter(|(_, hash)| hash.is_minimum_cost());
        for (credential, hash) in cheap {
            self.hash_threads.metrics().generated.inc();
            if hash.verify(password) {
                self.verified.remember(credential, hash, password);
                return Ok(Match::Found(credential));
            }
        }
        let costly: Vec<_> = usable().filter(|(_, hash)| !hash.is_minimum_cost()).collect();
        // Boxed, or every login would carry the room for it about.
        // A name that no device can have hides nobody, and is worth no hash.
        let name = login.user_name.parse::<DeviceName>();
        let (false, Ok(name)) = (costly.is_empty(), name) else { return Ok(Match::None) };
        let digest = self.verified.guess(costly.iter().copied(), barred, login.password.as_bytes());
        let guess = Guess { name: &name, address: login.address, digest };
        Box::pin(self.find_costly(&costly, guess, password)).await
    }

    /// Asks the hash threads as far as the limits let it, and remembers a success or failure.
    async fn find_costly<'c>(
        &self,
        costly: &[(&'c Credential, &PasswordHash)],
        guess: Guess<'_>,
        password: &[u8],
    ) -> Result<Match<'c>, LoginError> {
        let owner = match self.limits.admit(&guess, self.clock.now_micros()) {
            Admission::Hash(owner) => owner,
            Admission::KnownWrong => return Ok(Match::None),
            Admission::Refused => return Ok(Match::NotLookedAt),
        };
        let hashes = costly.iter().map(|(_, hash)| (*hash).clone()).collect();
        let index = self.hash_threads.find(owner, password, hashes).await?;
        let now = self.clock.now_micros();
        let Some((credential, hash)) = index.and_then(|index| costly.get(index)) else {
            self.limits.failed(&guess, now);
            return Ok(Match::None);
        };
        self.limits.succeeded(&guess, now);
        self.verified.remember(credential, hash, password);
        Ok(Match::Found(credential))
    }
}

/// Whether a good token lets this device in. A credential's `not_before` bounds when tokens were
/// issued, so that revoking it and adding a new one ends all older tokens.
fn judge_claims(claims: &TokenClaims, device: Option<&DeviceRecord>, now: i64) -> Outcome {
    let device = device.ok_or(Refusal::UnknownDevice)?;
    if claims.device != device.name.as_str() {
        return Err(Refusal::TokenOfOtherDevice);
    }
    let issued_at = claims.issued_at.saturating_mul(1_000_000);
    let accepting = device.credentials.iter().filter(|one| {
        matches!(one.proof, Proof::Token)
            && one.validity.not_before <= issued_at
            && certificate::until(one) > now.div_euclid(1_000_000)
    });
    let until = accepting.map(certificate::until).max().ok_or(Refusal::TokenRevoked)?;
    Ok(until.min(claims.expires_at))
}

/// Why a device without usable password refuses one.
fn no_usable_password(device: Option<&DeviceRecord>, login: &Login<'_>, now: i64) -> Refusal {
    let Some(device) = device else { return Refusal::UnknownDevice };
    let mut credentials = device.credentials.iter();
    if device.credentials.is_empty() {
        Refusal::NoCredential
    } else if credentials.any(|one| one.hash().is_some())
        || certificate::is_out_of_time(device, login.common_name(), now)
    {
        Refusal::ExpiredCredential
    } else if device.credentials.iter().all(certificate::is_enough) {
        Refusal::CertificateRequired
    } else {
        Refusal::WrongCredential
    }
}
