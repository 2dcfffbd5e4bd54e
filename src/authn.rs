//! Decides logins.
//!
//! # Properties kept
//! - Allowed only if the device exists, is enabled, owns the client id, and presents a valid credential
//!   of its own. Everything else is refused, with a reason for the operator.
//! - The work comes first and is the same whoever is asked: an unknown name, a disabled device, a
//!   foreign client id, a wrong password and an empty one cost the hashes of that device's
//!   credentials, or those of a [decoy] where there are none. Only then is it answered.
//! - A login that is refused whatever its password is hashed with a dummy in the password's place, so
//!   that neither an early match nor a remembered one reveals that a guess was right.
//! - Costly checks have few places, so that logins which cost nothing find EMQX's connections free. No
//!   place is a failure ([`LoginError::Overloaded`]), never a decision.
//! - Wrong guesses are [limited](limits) by name and address, whether a device has the name or not. Only
//!   costly checks are: what nobody can guess, and what was found right lately, is checked first.
//! - An allow is given only if no change of the device was heard of since its record was looked up: a
//!   credential revoked while its password was being hashed does not log in.
//!
//! # Design
//! [`Authenticator::login`] looks the device up and decides by its [`certificate`] and by its
//! [password or token](password_or_token), in this order. The decision itself is one `match` over both,
//! with every case written out.
//!
//! # Known limits
//! - A valid certificate that is enough by itself spares the password check, also when the device is
//!   then refused as disabled. Only the holder of that certificate's key can measure it.
//! - A device whose passwords have other costs than Fleetgate's own (imported ones aside), or more than two at once,
//!   takes a time that no decoy has.
//! - A revocation takes effect when its NOTIFY has been processed; a login that passes the last look at
//!   the registry before that is allowed. It is noted, and [ended](crate::kickouts).

mod certificate;
mod decoy;
pub mod hash_threads;
pub mod imported;
pub mod limits;
pub mod locks;
mod password_or_token;
pub mod recent_successes;
mod refusal;
pub mod token;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

use crate::clock::Clock;
use crate::domain::address::Address;
use crate::domain::credential::ValidUntil;
use crate::domain::device::DeviceRecord;
use crate::registry::cache::{CacheError, DeviceCache};
use crate::registry::freshness::Freshness;
use crate::registry::pool::Postgres;
use crate::secret::Secret;
use certificate::Certificate;
use decoy::Decoys;
use hash_threads::{HashError, HashLanes};
use imported::{ImportedKeeper, Successes};
use limits::Limits;
use password_or_token::{Verification, Verifier};
use recent_successes::RecentSuccesses;
pub use refusal::Refusal;
use token::TokenKeys;

/// How often a login is decided again because its device changed meanwhile.
const MAX_ATTEMPTS: usize = 3;

/// An end further away than this (100 years) is not passed to EMQX, which makes a timer of it: Erlang's
/// timers have a limit.
const MAX_EXPIRY_AHEAD: SignedDuration = SignedDuration::from_hours(100 * 366 * 24);

/// What a client logs in with, as EMQX hands it on.
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
    /// Where the client connects from; `None` when EMQX did not say.
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
    /// When the session has to end, after the present second: with the earliest of the credentials used,
    /// or because no session lasts longer.
    pub expires_at: Option<Timestamp>,
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
    verifier: Verifier,
    limits: Arc<Limits>,
    /// Longest time that a session may last, in whole seconds.
    max_session: Option<SignedDuration>,
}

impl Authenticator {
    /// Puts the parts together. The shared secret must be the same in all replicas and after a
    /// restart (the webhook token is); it decides what unknown names look like.
    #[must_use]
    pub fn new(
        clock: Clock,
        tokens: TokenKeys,
        hash_threads: HashLanes,
        recent_successes: RecentSuccesses,
        limits: Arc<Limits>,
        shared_secret: &Secret,
    ) -> Self {
        let decoys = Arc::new(Decoys::new(shared_secret.expose().as_bytes()));
        let verifier = Verifier {
            clock: clock.clone(),
            tokens,
            hash_threads,
            recent_successes: Arc::new(recent_successes),
            imported_successes: Successes::default(),
            decoys,
            limits: limits.clone(),
        };
        Self { clock, verifier, limits, max_session: None }
    }

    /// Lets no session last longer than this, rounded down to seconds: EMQX ends it then (`expire_at`), and
    /// the client logs in anew. An earlier end of a credential prevails. `None`: sessions last.
    #[must_use]
    pub fn with_max_session(mut self, longest: Option<Duration>) -> Self {
        let whole = |longest: Duration| Duration::from_secs(longest.as_secs()).try_into();
        self.max_session = longest.and_then(|longest| whole(longest).ok());
        self
    }

    /// What keeps decoys like the imported hashes that there are, and, if `upgrade`, replaces those after their first
    /// success. It does nothing until it is run.
    pub fn imported_keeper(
        &mut self,
        postgres: Postgres,
        freshness: Arc<Freshness>,
        upgrade: bool,
    ) -> ImportedKeeper {
        let (noted, successes) = Successes::new();
        self.verifier.imported_successes = if upgrade { noted } else { Successes::default() };
        ImportedKeeper {
            postgres,
            freshness,
            decoys: self.verifier.decoys.clone(),
            recent_successes: self.verifier.recent_successes.clone(),
            successes,
            metrics: self.verifier.hash_threads.metrics().clone(),
        }
    }

    /// Stops the hash threads; logins with chosen passwords fail from then on. Blocks for one hash.
    pub fn stop(&self) {
        self.verifier.hash_threads.stop();
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
        let look_up = async || {
            let stamp = devices.stamp(name);
            Ok::<_, LoginError>((stamp, devices.find(name).await?))
        };
        // Noted first: of what is taken away from then on is heard here, or it finds the login noted.
        let may_be_given = |device: &DeviceRecord, stamp| {
            devices.recent_logins().note(login.client_id, &device.name, Instant::now());
            devices.unchanged_since(stamp)
        };
        let decision = self.decide_until_unchanged(look_up, may_be_given, login).await?;
        if matches!(decision, Decision::Allow(_)) {
            self.limits.logged_in(login.address, name, self.clock.now());
        }
        Ok(decision)
    }

    /// Decides by the record that is looked up, anew if the device has changed meanwhile.
    async fn decide_until_unchanged<S>(
        &self,
        look_up: impl AsyncFn() -> Result<(S, Option<Arc<DeviceRecord>>), LoginError>,
        may_be_given: impl Fn(&DeviceRecord, S) -> bool,
        login: &Login<'_>,
    ) -> Result<Decision, LoginError> {
        for _ in 0..MAX_ATTEMPTS {
            let (stamp, record) = look_up().await?;
            let decision = self.decide(record, login).await?;
            match &decision {
                Decision::Allow(allowed) if !may_be_given(&allowed.device, stamp) => {}
                Decision::Allow(_) | Decision::Deny(_) => return Ok(decision),
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
        let now = self.clock.now();
        let Some(device) = record else {
            self.verifier.verify(None, login, true, now).await?;
            return Ok(Decision::Deny(Refusal::UnknownDevice));
        };
        let precheck = precheck(&device, login);
        let verify =
            |already_refused| self.verifier.verify(Some(&device), login, already_refused, now);
        let verification = match Certificate::check(&device, login.common_name(), now) {
            Certificate::Sufficient(until) => Verification::Valid(until),
            Certificate::Additional(until) => verify(precheck.is_err()).await?.at_most(until),
            Certificate::NotRequired => verify(precheck.is_err()).await?,
            Certificate::Missing(refusal) => {
                verify(true).await?;
                Verification::Refused(refusal)
            }
        };
        Ok(match (precheck, verification) {
            (Err(refusal), _) | (Ok(()), Verification::Refused(refusal)) => Decision::Deny(refusal),
            (Ok(()), Verification::Valid(until)) => self.allow(device, until),
        })
    }

    /// Lets a device in for as long as its credentials are valid. The clock is read anew: hashing may have
    /// outlasted them.
    fn allow(&self, device: Arc<DeviceRecord>, valid_until: ValidUntil) -> Decision {
        let now = self.clock.now();
        if !valid_until.outlasts_second_of(now) {
            return Decision::Deny(Refusal::ExpiredCredential);
        }
        let longest = self.max_session.and_then(|longest| now.checked_add(longest).ok());
        let session_end = longest.map_or(ValidUntil::Forever, ValidUntil::Timestamp);
        let expires_at = match valid_until.min(session_end) {
            ValidUntil::Timestamp(end) if end.duration_since(now) < MAX_EXPIRY_AHEAD => Some(end),
            ValidUntil::Timestamp(_) | ValidUntil::Forever => None,
        };
        Decision::Allow(Allowed { device, expires_at })
    }
}

/// What refuses a login whatever its credentials. It is answered only after the work of checking them.
fn precheck(device: &DeviceRecord, login: &Login<'_>) -> Result<(), Refusal> {
    if !device.enabled {
        Err(Refusal::Disabled)
    } else if !device.owns_client_id(login.client_id) {
        Err(Refusal::ForeignClientId)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
