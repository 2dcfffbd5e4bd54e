//! Decides logins.
//!
//! # Properties kept
//! - Allowed only if the device exists, is enabled, owns the client id, and shows a valid credential
//!   of its own (DESIGN decision 2). Everything else is refused, with a reason for the operator.
//! - The work comes first and is the same whoever is asked: an unknown name, a disabled device, a
//!   foreign client id, a wrong password and an empty one cost the hashes of that device's
//!   credentials, or those of a [decoy] where there are none. Only then is it answered.
//! - A login that is refused whatever its password is hashed with noise in the password's place, so
//!   that neither an early match nor a remembered one tells that a guess was right.
//! - Costly checks have few places, so that logins which cost nothing find EMQX's connections free. No
//!   place is a failure ([`LoginError::Overloaded`]), never a decision.
//! - Wrong guesses are [limited](limits) by name and address, whether a device has the name or not. Only
//!   costly checks are: what nobody can guess, and what was found right lately, is judged first.
//! - An allow is given only if no change of the device was heard of since its record was looked up: a
//!   credential revoked while its password was being hashed does not log in.
//!
//! # Design
//! Where a hash is computed depends on its cost, not on its label: argon2id's minimum (a generated
//! secret, microseconds) on the spot, everything else on the [hash threads](password). First the
//! digests of [recent successes](verified), which cost everybody the same, then the cheap hashes,
//! then the queue.
//!
//! A password in the shape of a [device token](token) is judged as a token and costs every name one
//! signature check.
//!
//! # Known limits
//! - A valid certificate that is enough by itself spares the password check, also when the device is
//!   then refused as disabled. Only the holder of that certificate's key can measure it.
//! - A device whose passwords have other costs than Fleetgate's own, or more than two at once, takes
//!   a time that no decoy has.
//! - A revocation counts when its NOTIFY has been processed; a login that passes the last look at the
//!   registry before that is allowed.

mod certificate;
mod decoy;
pub mod limits;
pub mod locks;
pub mod password;
mod refusal;
mod shown;
pub mod token;
pub mod verified;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::clock::Clock;
use crate::domain::address::Address;
use crate::domain::device::DeviceRecord;
use crate::registry::cache::{CacheError, DeviceCache};
use crate::secret::Secret;
use certificate::Certificate;
use decoy::Decoys;
use limits::Limits;
use password::{HashError, HashThreads};
pub use refusal::Refusal;
use shown::Outcome;
use token::TokenKeys;
use verified::VerifiedLogins;

/// How often a login is decided again because its device changed meanwhile.
const ROUNDS: usize = 3;

/// Ends further away than this are not handed on (100 years, in seconds): EMQX makes a timer of them,
/// and Erlang's timers end somewhere.
const FAR_AWAY: i64 = 100 * 366 * 86_400;

/// What a client shows, as EMQX hands it on.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    /// The MQTT client id.
    pub client_id: &'a str,
    /// The MQTT user name: the device's name.
    pub user_name: &'a str,
    /// The MQTT password: a secret, a password, a device token or nothing.
    pub password: &'a str,
    /// The common name of the client certificate, which EMQX has verified.
    pub certificate_common_name: Option<&'a str>,
    /// Where the client connects from; `None` when EMQX did not tell.
    pub address: Option<Address>,
}

impl Login<'_> {
    /// EMQX writes a missing value as an empty text, in some places as `undefined` (docs/EMQX.md).
    fn common_name(&self) -> Option<&str> {
        self.certificate_common_name.filter(|name| !matches!(*name, "" | "undefined"))
    }
}

/// The answer to a login.
pub enum Decision {
    /// Let it in.
    Allow(Allowed),
    /// Refuse it; the reason is for the operator alone.
    Deny(Refusal),
}

/// An allowed login.
pub struct Allowed {
    /// The device, with its rights.
    pub device: Arc<DeviceRecord>,
    /// When the session has to end, in Unix seconds, later than now: with the earliest of the credentials
    /// used, or because no session lasts longer.
    pub expires_at: Option<i64>,
}

/// Why no decision could be made. Each is a 503.
#[derive(Debug, Error)]
pub enum LoginError {
    /// No place is free for a costly check.
    #[error("cannot decide the login: {}", HashError::Overloaded)]
    Overloaded,
    /// The password could not be checked.
    #[error("cannot decide the login: {}", HashError::GivenUp)]
    GivenUp,
    /// The device cannot be looked up.
    #[error("cannot decide the login: {0}")]
    Registry(#[from] CacheError),
    /// The device was changed again and again while its login was being decided.
    #[error("cannot decide the login: the device keeps changing; try again")]
    Unsettled,
}

impl From<HashError> for LoginError {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Overloaded => Self::Overloaded,
            HashError::GivenUp => Self::GivenUp,
        }
    }
}

/// Decides logins.
pub struct Authenticator {
    clock: Clock,
    tokens: TokenKeys,
    hash_threads: HashThreads,
    verified: VerifiedLogins,
    decoys: Decoys,
    limits: Arc<Limits>,
    /// Longest time that a session may last, in seconds.
    max_session: i64,
}

impl Authenticator {
    /// Puts the parts together. The shared secret must be the same in all replicas and after a
    /// restart (the webhook token is); it decides what unknown names look like.
    #[must_use]
    pub fn new(
        clock: Clock,
        tokens: TokenKeys,
        hash_threads: HashThreads,
        verified: VerifiedLogins,
        limits: Arc<Limits>,
        shared_secret: &Secret,
    ) -> Self {
        let decoys = Decoys::new(shared_secret.expose().as_bytes());
        let max_session = i64::MAX;
        Self { clock, tokens, hash_threads, verified, decoys, limits, max_session }
    }

    /// Lets no session last longer than this, rounded down to seconds: EMQX ends it then (`expire_at`), and
    /// the client logs in anew. An earlier end of a credential prevails. `None`: sessions last.
    #[must_use]
    pub fn with_max_session(mut self, longest: Option<Duration>) -> Self {
        let seconds = longest.map(|longest| i64::try_from(longest.as_secs()).unwrap_or(i64::MAX));
        self.max_session = seconds.unwrap_or(i64::MAX);
        self
    }

    /// Stops the hash threads; logins with chosen passwords fail from then on. Blocks for one hash.
    pub fn stop(&self) {
        self.hash_threads.stop();
    }

    /// Decides a login.
    ///
    /// # Errors
    /// If the device cannot be looked up or the password cannot be checked now.
    pub async fn login(
        &self,
        devices: &DeviceCache,
        login: &Login<'_>,
    ) -> Result<Decision, LoginError> {
        let name = login.user_name;
        let look = async || {
            let stamp = devices.stamp(name);
            Ok::<_, LoginError>((stamp, devices.find(name).await?))
        };
        let decision = self.login_by(look, |stamp| devices.unchanged_since(stamp), login).await?;
        if matches!(decision, Decision::Allow(_)) {
            self.limits.logged_in(login.address, name, self.clock.now_micros());
        }
        Ok(decision)
    }

    /// Decides by what `look` finds, anew if that has changed meanwhile.
    async fn login_by<S>(
        &self,
        look: impl AsyncFn() -> Result<(S, Option<Arc<DeviceRecord>>), LoginError>,
        unchanged_since: impl Fn(S) -> bool,
        login: &Login<'_>,
    ) -> Result<Decision, LoginError> {
        for _ in 0..ROUNDS {
            let (stamp, record) = look().await?;
            let decision = self.decide(record, login).await?;
            if matches!(decision, Decision::Deny(_)) || unchanged_since(stamp) {
                return Ok(decision);
            }
        }
        Err(LoginError::Unsettled)
    }

    /// Decides a login by the record of the device that the user name names.
    ///
    /// # Errors
    /// If the password cannot be checked now.
    async fn decide(
        &self,
        record: Option<Arc<DeviceRecord>>,
        login: &Login<'_>,
    ) -> Result<Decision, LoginError> {
        let now = self.clock.now_micros();
        let shown =
            record.as_deref().map(|device| Certificate::judge(device, login.common_name(), now));
        let bar = bar(record.as_deref().zip(shown), login, now);
        let outcome = match shown {
            Some(Certificate::Enough { until }) => Ok(until),
            _ => self.judge_password(record.as_deref(), login, bar.is_some(), now).await?,
        };
        Ok(match (bar, record.zip(shown)) {
            (Some(refusal), _) => Decision::Deny(refusal),
            (None, None) => Decision::Deny(Refusal::UnknownDevice),
            (None, Some((device, shown))) => self.conclude(device, shown, outcome),
        })
    }

    fn conclude(
        &self,
        device: Arc<DeviceRecord>,
        shown: Certificate,
        outcome: Outcome,
    ) -> Decision {
        match (outcome, shown) {
            (Err(refusal), _) => Decision::Deny(refusal),
            (Ok(end), Certificate::Shown { until }) => self.allow_until(device, end.min(until)),
            (Ok(end), _) => self.allow_until(device, end),
        }
    }

    /// The clock is read anew: hashing may have outlasted the credential.
    fn allow_until(&self, device: Arc<DeviceRecord>, until: i64) -> Decision {
        let now = self.clock.now_micros().div_euclid(1_000_000);
        if until <= now {
            return Decision::Deny(Refusal::ExpiredCredential);
        }
        let until = until.min(now.saturating_add(self.max_session));
        let is_near = until.saturating_sub(now) < FAR_AWAY;
        Decision::Allow(Allowed { device, expires_at: is_near.then_some(until) })
    }
}

/// What refuses a login whatever the password. It is answered only after the password's work.
fn bar(
    known: Option<(&DeviceRecord, Certificate)>,
    login: &Login<'_>,
    now: i64,
) -> Option<Refusal> {
    let Some((device, shown)) = known else { return Some(Refusal::UnknownDevice) };
    if !device.enabled {
        Some(Refusal::Disabled)
    } else if !device.owns_client_id(login.client_id) {
        Some(Refusal::ForeignClientId)
    } else if shown != Certificate::Missing {
        None
    } else if certificate::is_out_of_time(device, login.common_name(), now) {
        Some(Refusal::ExpiredCredential)
    } else {
        Some(Refusal::CertificateRequired)
    }
}

#[cfg(test)]
mod tests;
