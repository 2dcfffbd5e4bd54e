//! Who asks: tokens of the API, and how often somebody may try wrong ones.
//!
//! What it keeps:
//! * Whether a token is valid is asked of PostgreSQL at each request: a revoked one is refused from its commit on.
//! * Missing, unknown, wrong, expired and revoked tokens get the same answer.
//! * After [`FREE_FAILURES`] wrong tokens within a minute, further answers to wrong tokens of the same peer take
//!   [`DELAY`]. An address has 256 random bits to guess, so this is not what keeps tokens safe: it keeps strangers from
//!   filling the log and PostgreSQL's time.
//! * A token that was valid a while ago is never slowed: it does not wait behind those that nobody knows, which are looked
//!   up one at a time.
//!
//! Known races: a token that is used for the first time waits while others that are unknown are looked up.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::dev::Payload;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use futures_util::future::{Ready, ready};
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_postgres::GenericClient;

use super::problem::Refusal;
use super::{InPart, Needs, Problem, REQUEST_TIMEOUT};
use crate::domain::address::Address;
use crate::domain::api_token::{PresentedToken, Scope};
use crate::fleet::api_tokens::{self, ApiToken};
use crate::fleet::{FleetError, Part};
use crate::registry::pool::Postgres;

/// Wrong tokens of a peer that are answered at once, within [`FORGOTTEN`].
const FREE_FAILURES: u32 = 5;
/// How long it takes to answer further ones.
const DELAY: Duration = Duration::from_secs(1);
/// How long a failure is remembered.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Most peers whose failures are remembered. With more at a time, every wrong token is slowed.
const MAX_PEERS: usize = 10_000;
/// Most tokens that are remembered to have been valid.
const MAX_KNOWN: usize = 1000;

/// A request's token, found valid.
#[derive(Clone)]
pub(super) struct Known(Rc<ApiToken>);

impl Known {
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }
}

/// What is known of tokens and of those who try them.
pub(super) struct Tokens {
    /// By SHA-256 of the secret; not whether they are valid, only that they were.
    known: Cache<[u8; 32], ()>,
    /// For those that are not known.
    unknown: Semaphore,
    failures: Mutex<HashMap<Address, Failures>>,
}

struct Failures {
    count: u32,
    last: Instant,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            known: Cache::new(MAX_KNOWN),
            unknown: Semaphore::new(1),
            failures: Mutex::default(),
        }
    }
}

/// What takes long asks for its token again: it may have been revoked, or may see less of the fleet by now.
///
/// # Errors
/// 401; the database is away.
pub(super) async fn require_still_valid(
    client: &impl GenericClient,
    token: &ApiToken,
) -> Result<(), Refusal> {
    let now = api_tokens::still_valid(client, &[token.id]).await.map_err(FleetError::Registry)?;
    let same = |now: &ApiToken| now.scopes == token.scopes && now.part == token.part;
    match now.iter().any(same) {
        true => Ok(()),
        false => Err(Problem::unauthorized().into()),
    }
}

impl Tokens {
    /// Finds the token of a request.
    ///
    /// # Errors
    /// 401; 503 while PostgreSQL cannot be asked.
    pub(super) async fn check(
        &self,
        postgres: &Postgres,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<Known, Problem> {
        let Some(text) = bearer(headers) else { return Err(Problem::unauthorized()) };
        let found = match PresentedToken::parse(text) {
            Some(presented) => self.find(postgres, &presented).await?,
            None => None,
        };
        match found {
            Some(token) => Ok(Known(Rc::new(token))),
            None => {
                if self.failed_too_often(peer, Instant::now()) {
                    tokio::time::sleep(DELAY).await; // why: the answer is late on purpose
                }
                Err(Problem::unauthorized())
            }
        }
    }

    async fn find(
        &self,
        postgres: &Postgres,
        presented: &PresentedToken,
    ) -> Result<Option<ApiToken>, Problem> {
        let digest = presented.digest();
        let _turn = match self.known.get(&digest) {
            Some(()) => None,
            // Never closed.
            None => match timeout(REQUEST_TIMEOUT, self.unknown.acquire()).await {
                Ok(turn) => turn.ok(),
                Err(_) => {
                    return Err(Problem::busy("too many unknown tokens are being looked up", "5"));
                }
            },
        };
        let look = postgres.once(async |client| api_tokens::find(client, presented).await);
        let found = look.await.map_err(|error| Problem::from(FleetError::Registry(error)))?;
        match found.is_some() {
            true => self.known.insert(digest, ()),
            false => drop(self.known.remove(&digest)),
        }
        Ok(found)
    }

    /// Notes a failure.
    fn failed_too_often(&self, peer: Option<IpAddr>, now: Instant) -> bool {
        let Some(peer) = peer.map(Address::from) else { return true };
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |failures: &Failures| now.duration_since(failures.last) > FORGOTTEN;
        if failures.len() >= MAX_PEERS && !failures.contains_key(&peer) {
            failures.retain(|_, failures| !is_old(failures));
            if failures.len() >= MAX_PEERS {
                return true;
            }
        }
        let of_peer = failures.entry(peer).or_insert(Failures { count: 0, last: now });
        if is_old(of_peer) {
            of_peer.count = 0;
        }
        of_peer.count = of_peer.count.saturating_add(1);
        of_peer.last = now;
        of_peer.count > FREE_FAILURES
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// Whoever asks, with a token that allows what `S` needs. A handler takes it first, so that it is refused before its body is
/// read.
pub(crate) struct Caller<S> {
    pub(super) token: Rc<ApiToken>,
    scope: PhantomData<S>,
}

impl<S: Needs> FromRequest for Caller<S> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let known = request.extensions().get::<Known>().cloned();
        ready(match (known, S::SCOPE) {
            (None, _) => Err(Problem::unauthorized()),
            (Some(known), Some(needed)) if !known.0.scopes.allow(needed) => {
                Err(Problem::scope(Scope::word(needed)))
            }
            (Some(known), _) if !(S::TAKES_PARTS || known.0.part.is_whole()) => {
                Err(Problem::whole_fleet())
            }
            (Some(known), _) => Ok(Self { token: known.0, scope: PhantomData }),
        })
    }
}

impl<S> Caller<InPart<S>> {
    /// The part of the fleet that the caller sees and changes.
    pub(super) fn part(&self) -> &Part {
        &self.token.part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_tokens_of_one_peer_are_slowed_and_forgotten() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let (peer, other) = (Some([10, 0, 0, 1].into()), Some([10, 0, 0, 2].into()));
        for _ in 0..FREE_FAILURES {
            assert!(!tokens.failed_too_often(peer, now));
        }
        assert!(tokens.failed_too_often(peer, now));
        assert!(!tokens.failed_too_often(other, now), "another peer is not held to it");
        assert!(!tokens.failed_too_often(peer, now + FORGOTTEN * 2));
    }

    #[test]
    fn what_is_remembered_of_peers_is_bounded() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        for number in 0..u32::try_from(MAX_PEERS).unwrap() {
            assert!(!tokens.failed_too_often(Some(IpAddr::V4(number.into())), now));
        }
        let next = Some(IpAddr::V4(u32::MAX.into()));
        assert!(tokens.failed_too_often(next, now), "there is no room to remember it");
        assert!(!tokens.failed_too_often(next, now + FORGOTTEN * 2));
        assert_eq!(tokens.failures.lock().unwrap().len(), 1);
    }
}
