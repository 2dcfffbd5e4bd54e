//! Kick-outs: has EMQX end sessions whose rights are gone. A kind of [`crate::work`].
//!
//! # What it keeps
//! Beyond what holds for all [work](crate::work):
//! 1. Whatever took a right away (the API, the command line, `psql`), the sessions that had it end: triggers
//!    queue a kick-out for each client id (`sql/V7`).
//! 2. A kick-out is never given up while its client may be connected. Its row goes when EMQX has said that the
//!    session has ended or was not there, or when the session is known to have ended by itself: it ended, or
//!    another began, after nobody could be let in by the old right any more. Where EMQX is not asked, also when
//!    no session is known to be open then. A client id that EMQX refuses is tried again with waits up to
//!    [`RETRY_LONGEST`]; where that may have been something in front of EMQX, up to [`POLL`].
//! 3. A session that came back through a replica that had not heard of the change ends as well: the
//!    kick-out is carried out once more when that replica can decide by old records no longer. Where all
//!    replicas heard of the change, which they tell ([`crate::registry::replicas`]), it is not.
//! 4. A session that was let in before the change, by an answer that was on its way to EMQX when the kick-out was carried out, ends as well:
//!    so long after the change as an answer may be on its way the kick-out is carried out once more, if a replica let the client
//!    in shortly before the change and not since. So do clients of a service that were let in and that nobody had told of yet.
//!
//! # Design
//! First this replica's cache forgets the device, then EMQX is called. Few client ids go one by one, many in
//! bulk. EMQX that is away is not asked for the rest of a batch, and after [`CALLING`] the rest waits for the next.
//!
//! # Races
//! - *The client logs in again before this replica has heard of the change.* It can't here: the row was
//!   read, so the change is visible, and the cache forgets the device before EMQX is called.
//! - *… on another replica, which has not heard of it either.* Its notice left PostgreSQL together with
//!   ours. The call waits for [`SETTLE`] after the row was seen, and the client needs a network round trip or
//!   two to come back; the window is what the other replica lags beyond that. A replica that is deaf, slow
//!   or dead then is known by its row, and the session ends the second time (3), whether or not a login is
//!   known of: its connect event may be what is still missing. What heartbeats cannot see is a notice
//!   that is late by less than the second between two of them.
//! - *The client logs in with the new rights between the change and the call.* It is kicked out once:
//!   EMQX can end only whatever session the client id has now. It then logs in again.
//! - *A replica that let a client in just before the change stops or dies within [`ON_ITS_WAY`], or does not look before [`KEPT`] is over.* If
//!   the answer was on its way as well, that session stays.
//! - *A new change while EMQX is called.* The session is ended again, as all work is done again: the login in
//!   between may have had the rights of before.
//! - *The replica dies between EMQX's answer and the deletion of the row.* The session is ended a second
//!   time, after the lease.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::backoff::exponential;
use crate::domain::name::DeviceName;
use crate::emqx::{EmqxApi, EmqxError, KickOut};
use crate::logging::log_throttled;
use crate::metrics::KickOutMetrics;
use crate::registry::cache::DeviceCache;
use crate::registry::error::RegistryError;
use crate::registry::hearing::Hearing;
use crate::registry::kickouts::{self as registry, CarriedOut, Ends, KIND};
use crate::registry::recent_logins::{REMEMBERED, RecentLogin};
use crate::registry::work::Work;
use crate::work::{Carried, Kind, Outcome, POLL};

/// Head start of the other replicas' caches.
pub const SETTLE: Duration = Duration::from_millis(20);
/// How long an answer to a login may be on its way until its session is open: EMQX waits 5 s for it (`emqx-config/fleetgate.conf`).
pub const ON_ITS_WAY: Duration = Duration::from_secs(6);
/// How long a kick-out that was carried out is kept at least, so that each replica has looked whom it let in.
pub const KEPT: Duration = Duration::from_secs(10);
/// Longest wait before a client id that EMQX refuses is tried again.
pub const RETRY_LONGEST: Duration = Duration::from_secs(300);

const RETRY_FIRST: Duration = Duration::from_millis(500);
/// From this many on, they go in bulk.
const BULK_FROM: usize = 32;
/// Client ids of one bulk call.
const BULK: usize = 250;
/// Calls at a time where they go one by one.
const CALLS: usize = 8;
/// Longest time that a batch spends on new calls: with the last of them it ends well within its lease.
const CALLING: Duration = Duration::from_secs(20);
/// For how many client ids that somebody is changing a look waits, 0.2 s each.
const MOST_LOCKED: usize = 4;
/// Time between two looks at kick-outs that were carried out and are not confirmed.
const CONFIRM: Duration = Duration::from_secs(1);
/// Time between two looks for what is no longer needed.
const TIDY: Duration = Duration::from_secs(60);

/// What EMQX did, in one word.
type Answer = Result<&'static str, NotDone>;

/// Why a kick-out is not carried out.
#[derive(Clone)]
enum NotDone {
    /// EMQX's answer, or that there is none.
    Emqx(EmqxError),
    /// The rest of the batch took too long for it to be asked.
    NoTime,
}

/// See the module documentation.
pub struct KickOuts {
    /// `None`: nothing is ended, and rows wait until their sessions end by themselves.
    api: Option<Arc<EmqxApi>>,
    cache: Arc<DeviceCache>,
    /// Which replica this is.
    hearing: Arc<Hearing>,
    ends: Ends,
    metrics: KickOutMetrics,
    confirm_at: Instant,
    /// When it was last looked whom this replica let in.
    looked_at: std::time::Instant,
    tidy_at: Instant,
}

impl KickOuts {
    /// Ends nothing yet. `bound`: how long a record may decide after a change, whatever fails. `max_session`:
    /// the longest time that a session may last, after which EMQX ends it.
    #[must_use]
    pub fn new(
        api: Option<Arc<EmqxApi>>,
        cache: Arc<DeviceCache>,
        hearing: Arc<Hearing>,
        bound: Duration,
        max_session: Option<Duration>,
        metrics: KickOutMetrics,
    ) -> Self {
        let ends = Ends { bound, asks_emqx: api.is_some(), max_session };
        let now = Instant::now();
        let looked_at = std::time::Instant::now();
        Self { api, cache, hearing, ends, metrics, confirm_at: now, looked_at, tidy_at: now }
    }

    /// Kicks out again whom this replica let in shortly before a change, and not since. Tells how many.
    async fn repeat_for_answers_on_their_way(
        &mut self,
        client: &Client,
    ) -> Result<u64, RegistryError> {
        let carried_out = registry::carried_out(client, ON_ITS_WAY).await?;
        // Behind the look: an age that was told meanwhile rather makes a login doubtful than not.
        let now = std::time::Instant::now();
        let since_last_look = now.duration_since(self.looked_at);
        let logins = self.cache.recent_logins();
        let devices: BTreeSet<&DeviceName> =
            carried_out.iter().filter_map(|it| it.device.as_ref()).collect();
        let recent = logins.of(devices.into_iter(), now);
        let doubtful: Vec<(Option<&RecentLogin>, (&str, &str))> = match &recent {
            Some(recent) => {
                let doubtful = doubtful(&carried_out, recent, now).into_iter();
                doubtful.map(|(login, like)| (Some(login), (&*login.client_id, like))).collect()
            }
            // It may be any of them. Each is found once, or twice.
            None => {
                let is_due = |it: &&CarriedOut| it.age < ON_ITS_WAY + since_last_look + CONFIRM;
                let due = carried_out.iter().filter(is_due).map(|it| it.client_id.as_str());
                due.map(|client_id| (None, (client_id, client_id))).collect()
            }
        };
        let all: Vec<_> = doubtful.iter().map(|(_, one)| *one).collect();
        let forget = |login: &Option<&RecentLogin>| login.iter().for_each(|it| logins.forget(it));
        let mut repeated = 0;
        if all.is_empty() {
            self.looked_at = now;
        } else if let Some(count) = registry::repeat(client, &all).await? {
            doubtful.iter().for_each(|(login, _)| forget(login));
            (self.looked_at, repeated) = (now, count);
        } else {
            // Those that somebody is changing are left for the next look, and what is behind the first few of them.
            let mut locked = 0;
            for (login, one) in &doubtful {
                match registry::repeat(client, &[*one]).await? {
                    Some(count) => {
                        forget(login);
                        repeated += count;
                    }
                    None if locked == MOST_LOCKED => break,
                    None => locked += 1,
                }
            }
        }
        Ok(repeated)
    }

    fn outcome(&self, work: &Work, answer: Answer) -> Outcome {
        let error = match answer {
            Ok(outcome) => {
                self.metrics.count(outcome, 1);
                return Outcome::Done;
            }
            Err(NotDone::NoTime) => {
                let why = "waits for its turn".to_owned();
                return Outcome::Again { after: Duration::ZERO, why };
            }
            Err(NotDone::Emqx(error)) => error,
        };
        self.metrics.count("failed", 1);
        if error.is_emqx_unfit() {
            return Outcome::Away(error.to_string());
        }
        log_throttled!(warn, "EMQX refused a kick-out", client_id = work.key, %error);
        let longest = if error.may_be_anothers() { POLL } else { RETRY_LONGEST };
        let after = exponential(RETRY_FIRST, longest, work.attempts.saturating_sub(1));
        Outcome::Again { after, why: error.to_string() }
    }
}

impl Kind for KickOuts {
    const NAME: &'static str = KIND;
    const LOG_NAME: &'static str = "kick-outs";
    const HEAD_START: Duration = SETTLE;

    fn is_carried_out(&self) -> bool {
        self.api.is_some()
    }

    async fn carry_out(&mut self, batch: &[Work]) -> Carried {
        let Some(api) = &self.api else {
            return Carried { outcomes: Vec::new(), answered: false };
        };
        for device in batch.iter().filter_map(registry::device) {
            self.cache.changed(device);
        }
        let answers = kick_out(api, batch).await;
        let unfit = || answers.iter().filter_map(why_unfit);
        if let Some(error) = unfit().next()
            && !(error.is_away() && api.is_awaited())
        {
            let waiting = unfit().count();
            log_throttled!(warn, "kick-outs wait for EMQX", %error, waiting);
        }
        let answered = answers.iter().any(is_answer);
        let outcomes = batch.iter().zip(answers);
        let outcomes = outcomes.map(|(work, answer)| self.outcome(work, answer)).collect();
        Carried { outcomes, answered }
    }

    async fn finish(&mut self, client: &Client, done: &[&Work]) -> Result<(), RegistryError> {
        for delay in registry::finish(client, done, self.hearing.id()).await? {
            self.metrics.delay.observe(delay);
        }
        Ok(())
    }

    /// Drops what is no longer needed, and looks at what was carried out.
    async fn look_after(&mut self, client: &Client) -> Result<Duration, RegistryError> {
        if self.tidy_at <= Instant::now() {
            self.tidy_at = Instant::now() + TIDY;
            let dropped = registry::drop_unneeded(client, self.ends).await?;
            if dropped > 0 {
                tracing::info!(
                    dropped,
                    "sessions that were to be kicked out have ended by themselves"
                );
            }
            self.metrics.count("ended_by_itself", dropped);
        }
        if self.confirm_at > Instant::now() {
            return Ok(POLL);
        }
        self.confirm_at = Instant::now() + POLL;
        let again = self.repeat_for_answers_on_their_way(client).await?;
        self.metrics.count("repeated", again);
        let confirmations = registry::confirm(client, ON_ITS_WAY, KEPT).await?;
        self.metrics.count("repeated", confirmations.repeated);
        if confirmations.repeated > 0 {
            let sessions = confirmations.repeated;
            log_throttled!(
                warn,
                "a replica heard late of changes; sessions that it may have let in are kicked out again",
                sessions
            );
        }
        self.confirm_at = Instant::now();
        Ok(if confirmations.waiting > 0 { CONFIRM } else { POLL })
    }
}

/// Whose answer may have been on its way when its client was kicked out, or its device was; with the client id of that kick-out.
fn doubtful<'a>(
    carried_out: &'a [CarriedOut],
    recent: &'a [RecentLogin],
    now: std::time::Instant,
) -> Vec<(&'a RecentLogin, &'a str)> {
    let (mut of_clients, mut of_devices) = (BTreeMap::new(), BTreeMap::new());
    for CarriedOut { client_id, device, age } in carried_out {
        // Nobody comes back before the kick-out was carried out.
        let Some(moment) = now.checked_sub(*age).map(|seen| seen + SETTLE) else { continue };
        of_clients.insert(client_id.as_str(), moment);
        let newest = of_devices.entry(device.as_ref()).or_insert((moment, client_id.as_str()));
        *newest = (*newest).max((moment, client_id));
    }
    let is_doubtful = |login: &'a RecentLogin| {
        let (of_device, client_id) = *of_devices.get(&Some(&login.device))?;
        // Without moment of its own nothing was known of the client id: its connect event is late, perhaps by more.
        let (moment, at_most) = match of_clients.get(&*login.client_id) {
            Some(moment) => (*moment, ON_ITS_WAY),
            None => (of_device, REMEMBERED - ON_ITS_WAY),
        };
        let before = moment.checked_duration_since(login.at)?;
        (before > Duration::ZERO && before <= at_most).then_some((login, client_id))
    };
    recent.iter().filter_map(is_doubtful).collect()
}

/// What became of each of a batch, in its order.
async fn kick_out(api: &EmqxApi, batch: &[Work]) -> Vec<Answer> {
    let until = Instant::now() + CALLING;
    let mut answers = Vec::with_capacity(batch.len());
    if batch.len() < BULK_FROM {
        kick_out_one_by_one(api, batch, until, &mut answers).await;
        return answers;
    }
    for chunk in batch.chunks(BULK) {
        if let Some(why) = why_not_asked(&answers, until) {
            answers.extend(vec![Err(why); chunk.len()]);
            continue;
        }
        let client_ids: Vec<&str> = chunk.iter().map(|work| work.key.as_str()).collect();
        match api.kick_out_all(&client_ids).await {
            Ok(()) => answers.extend(vec![Ok("in_bulk"); chunk.len()]),
            Err(error) if error.is_emqx_unfit() => {
                answers.extend(vec![Err(NotDone::Emqx(error)); chunk.len()]);
            }
            // One client id that EMQX does not like must not hold up the others.
            Err(error) => {
                let (first, rest) = chunk.split_at(CALLS.min(chunk.len()));
                let before = answers.len();
                kick_out_one_by_one(api, first, until, &mut answers).await;
                let is_emqx = answers.iter().skip(before).any(is_answer);
                match error.may_be_anothers() && !is_emqx {
                    true => answers.extend(vec![Err(NotDone::Emqx(error)); rest.len()]),
                    false => kick_out_one_by_one(api, rest, until, &mut answers).await,
                }
            }
        }
    }
    answers
}

/// A few at a time.
async fn kick_out_one_by_one(
    api: &EmqxApi,
    batch: &[Work],
    until: Instant,
    answers: &mut Vec<Answer>,
) {
    for few in batch.chunks(CALLS) {
        let more = match why_not_asked(answers, until) {
            Some(why) => vec![Err(why); few.len()],
            None => join_all(few.iter().map(|work| kick_out_one(api, &work.key))).await,
        };
        answers.extend(more);
    }
}

/// Why EMQX is not asked any more, if so: it answers nobody, or there is no time left.
fn why_not_asked(answers: &[Answer], until: Instant) -> Option<NotDone> {
    match answers.iter().find_map(why_unfit) {
        Some(error) => Some(NotDone::Emqx(error.clone())),
        None if Instant::now() >= until => Some(NotDone::NoTime),
        None => None,
    }
}

async fn kick_out_one(api: &EmqxApi, client_id: &str) -> Answer {
    match api.kick_out(client_id).await {
        Ok(KickOut::Disconnected) => Ok("disconnected"),
        Ok(KickOut::WasNotThere) => Ok("was_not_there"),
        Err(error) => Err(NotDone::Emqx(error)),
    }
}

/// Why EMQX can answer nobody, where that is so.
fn why_unfit(answer: &Answer) -> Option<&EmqxError> {
    match answer {
        Err(NotDone::Emqx(error)) if error.is_emqx_unfit() => Some(error),
        _ => None,
    }
}

/// Whether EMQX answered, whatever it said.
fn is_answer(answer: &Answer) -> bool {
    match answer {
        Ok(_) => true,
        Err(NotDone::Emqx(error)) => error.is_about_the_call(),
        Err(NotDone::NoTime) => false,
    }
}
