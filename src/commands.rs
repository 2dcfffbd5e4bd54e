//! Sends commands to devices, and follows what becomes of them.
//!
//! # What it keeps
//! 1. A delivery that was committed ends: delivered, or with the reason why not, at its expiry at the latest.
//! 2. Commands of one device and binding are sent in the order in which they were asked for, one at a time.
//! 3. A command is sent at least once while its device listens, and [`MOST_ATTEMPTS`](crate::domain::delivery::MOST_ATTEMPTS) times at most; nothing is sent
//!    again whose acknowledgement is committed. Its id goes with it, so that a device can drop repeats.
//! 4. Where a command goes is read from the binding when it is sent, and so is whether the device may get it: never
//!    from a request, nor from the past.
//! 5. Nothing is handed to EMQX for a device that is not connected: EMQX would keep it in memory, lose it at a
//!    restart, and deliver what is outdated.
//! 6. No more than [`IN_FLIGHT`] are on their way to one client.
//! 7. Several devices of a command that share a topic get one message, and each acknowledges for itself. It waits while one
//!    of those that are online has an earlier command on its way, until the receipt of that is overdue. What is sent again for one
//!    reaches the others once more, with the same id.
//! 8. Within [`GRACE`] of a start, or of PostgreSQL having been away, nothing is sent again: receipts of what was sent before may
//!    be among the events that EMQX still holds.
//! 9. What was sent and has no receipt gives way to a newer one that takes its place (`only_latest`).
//! 10. What expires ends within [`POLL`], wherever it stands in its line, also while EMQX is away.
//!
//! # Design
//! A line is a key of the work queue ([`crate::work`]): one replica at a time has it, and takes its first delivery that has
//! not ended. The state is a pure function of what is noted ([`crate::domain::delivery`]). Before a message is
//! sent, the attempt is committed, and EMQX is asked whether the device has subscribed: a listener to `#` would take the message
//! for it. That nobody has subscribed is no attempt. What EMQX tells later (written, acknowledged) is noted
//! by whoever hears it, and wakes the line. So does a device that connects.
//!
//! # Races
//! - *The acknowledgement comes before EMQX's answer to the publish.* Both are facts; neither waits for the other.
//! - *The process dies between the attempt and EMQX's answer.* The attempt stands; after its ack timeout it is made again.
//! - *A command is cancelled while it is sent.* It has ended as cancelled; that the device acknowledged it later is shown.
//! - *The lease ends while EMQX is slow.* Sending stops after [`SENDING`], well before that. What was begun is
//!   guarded by its number of attempts.
//! - *The device subscribes just after EMQX was asked.* The line is looked at again after a short wait.
//! - *The device disconnects between the two calls.* With a clean session EMQX has no subscriber any more; a persistent
//!   session keeps the message up to its expiry, which is the command's.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::domain::delivery::{Confirmation, End, Facts, State};
use crate::domain::topic::{filter_matches, strip_subscription_prefix};
use crate::emqx::{CommandPublish, EmqxApi, EmqxError, Published, Subscription};
use crate::logging::log_throttled;
use crate::metrics::CommandMetrics;
use crate::registry::commands::{self as registry, Attempt, CannotSend, Head, KIND, Recipient};
use crate::registry::connection::{Target, within};
use crate::registry::error::RegistryError;
use crate::registry::session::Guarded;
use crate::registry::work::Work;
use crate::work::{Carried, Kind, Outcome, POLL};

/// How long after a start, or after PostgreSQL was away, nothing is sent again that was sent before.
pub const GRACE: Duration = Duration::from_secs(30);
/// Waits before EMQX is asked again for a device that has not subscribed; the last one repeats.
pub const UNHEARD_WAITS: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
    Duration::from_secs(60),
];
/// Longest time that a batch spends on sending.
const SENDING: Duration = Duration::from_secs(20);
/// Longest wait for a line that something else will wake.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Waits until it is looked again whether a device is online that was not: one that connected at that moment may have looked for
/// commands before this one was committed. Then something else wakes its line.
const OFFLINE_WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// Deliveries of one line that are dealt with at once; then others have their turn.
const MOST_OF_A_LINE: usize = 8;
/// Most deliveries on their way to one client: a gateway's queue in EMQX holds 1,000, and drops the oldest. Replicas count each
/// for itself what they are about to send, so a few times that many may be.
pub const IN_FLIGHT: usize = 32;
/// Wait until it is looked again whether there is room, or others on the topic are ready.
const ROOM_WAIT: Duration = Duration::from_millis(200);
/// Calls at a time.
const CALLS: usize = 16;
/// Least wait for a receipt, so that a line is not looked at without pause.
const LEAST_WAIT: Duration = Duration::from_millis(10);
/// EMQX counts expiries in whole seconds.
const LEAST_EXPIRY: Duration = Duration::from_secs(1);
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait after a failure of PostgreSQL.
const RECONNECT: Duration = Duration::from_secs(1);
/// Time between two looks for commands that are old enough to be deleted, and how many go at once.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNED_AT_ONCE: i64 = 1000;
const PRUNED_DELIVERIES: i64 = 5000;
/// Least time between two looks for what has expired: each receipt wakes the worker, and this reads all that wait for an answer.
const OVERDUE_EVERY: Duration = Duration::from_secs(1);
/// Most deliveries whose time is over that are looked at at once; those that were received may wait for their answer.
const OVERDUE_AT_ONCE: i64 = 10_000;

/// See the module documentation.
pub struct Commands {
    /// `None`: nothing is sent.
    api: Option<Arc<EmqxApi>>,
    target: Target,
    /// A connection of its own: what is noted between two calls must not wait for logins, nor they for it.
    client: Option<Guarded>,
    keep: Duration,
    /// Since when receipts are noted without a gap, as far as is known.
    noting_since: Instant,
    overdue_at: Instant,
    prune_at: Instant,
    metrics: CommandMetrics,
}

/// What to do about the first delivery of a line.
enum Step<'a> {
    /// Nothing before so much time is over.
    Wait(Duration),
    /// Note that it has ended.
    End(End, Timestamp),
    /// Note that it can be sent no more.
    Cancel(CannotSend),
    /// Send it.
    Send(&'a Recipient),
}

/// Lines by what is to be done about them.
#[derive(Default)]
struct Round<'a> {
    waiting: Vec<(String, Outcome)>,
    ended: Vec<(&'a str, End, Timestamp)>,
    cancelled: Vec<(&'a str, CannotSend)>,
    sendable: Vec<(&'a Head, &'a Recipient)>,
    /// Lines whose next delivery is to be looked at.
    next: Vec<String>,
}

/// What became of a line after its first delivery was sent, or was not.
enum Progress {
    /// The delivery has ended, or is to be looked at again for another reason.
    Ended,
    /// It has not.
    Waits(Outcome),
}

impl Commands {
    /// Sends nothing yet. `keep`: how long commands are kept after their end.
    #[must_use]
    pub fn new(
        api: Option<Arc<EmqxApi>>,
        target: Target,
        keep: Duration,
        metrics: CommandMetrics,
    ) -> Self {
        let target = target.for_background();
        let now = Instant::now();
        Self {
            api,
            target,
            client: None,
            keep,
            noting_since: now,
            overdue_at: now,
            prune_at: now,
            metrics,
        }
    }

    /// How long receipts may still come that EMQX could not tell of while nobody noted them.
    fn grace(&self) -> Duration {
        GRACE.saturating_sub(self.noting_since.elapsed())
    }

    async fn deal_with(&mut self, batch: &[Work]) -> Result<Carried, RegistryError> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            // At the start, or PostgreSQL was away: then events waited, too.
            None => {
                let client = self.target.open_guarded().await?;
                self.noting_since = Instant::now();
                client
            }
        };
        let (lines, answered) = self.send(&client, batch).await?;
        self.client = Some(client);
        let outcome = |work: &Work| lines.get(&work.key).cloned().unwrap_or(Outcome::Done);
        Ok(Carried { outcomes: batch.iter().map(outcome).collect(), answered })
    }

    /// Deals with lines, a round for each of their deliveries: what became of each line that still has one, and whether
    /// EMQX answered.
    async fn send(
        &self,
        client: &Client,
        batch: &[Work],
    ) -> Result<(BTreeMap<String, Outcome>, bool), RegistryError> {
        let mut answered = false;
        let Some(api) = &self.api else { return Ok((BTreeMap::new(), answered)) };
        let until = Instant::now() + SENDING;
        let looks: BTreeMap<&str, u32> =
            batch.iter().map(|work| (work.key.as_str(), work.attempts)).collect();
        let mut outcomes = BTreeMap::new();
        let mut lines: Vec<String> = batch.iter().map(|work| work.key.clone()).collect();
        for _ in 0..MOST_OF_A_LINE {
            let names: Vec<&str> = lines.iter().map(String::as_str).collect();
            let (heads, unreadable) =
                within(QUERY_TIMEOUT, registry::heads(client, &names)).await?;
            for (line, error) in unreadable {
                log_throttled!(error, "a command cannot be read", line, %error);
                outcomes.insert(line, again(LONGEST_WAIT, &error.to_string()));
            }
            let read = Instant::now();
            let mut round = self.round(&heads, &looks);
            let Round { sendable, waiting, .. } = &mut round;
            wait_for_others(client, sendable, waiting).await?;
            bound_in_flight(client, sendable, waiting).await?;
            self.note_ends(client, &round).await?;
            let mut next = round.next;
            outcomes.extend(round.waiting);
            for few in round.sendable.chunks(CALLS) {
                let is_away = outcomes.values().any(|outcome| matches!(outcome, Outcome::Away(_)));
                if is_away || Instant::now() >= until {
                    let later = again(Duration::ZERO, "waits for its turn");
                    outcomes.extend(few.iter().map(|(head, _)| (head.line.clone(), later.clone())));
                    continue;
                }
                for (line, progress) in send_few(client, api, few, &looks, read).await? {
                    match progress {
                        Progress::Ended => {
                            answered = true;
                            next.push(line);
                        }
                        Progress::Waits(outcome) => {
                            answered |= !matches!(outcome, Outcome::Away(_));
                            outcomes.insert(line, outcome);
                        }
                    }
                }
            }
            if next.is_empty() {
                return Ok((outcomes, answered));
            }
            lines = next;
        }
        outcomes.extend(lines.into_iter().map(|line| (line, again(Duration::ZERO, "goes on"))));
        Ok((outcomes, answered))
    }

    /// Sorts heads by what is to be done about them.
    fn round<'a>(&self, heads: &'a [Head], looks: &BTreeMap<&str, u32>) -> Round<'a> {
        let mut round = Round::default();
        for head in heads {
            match self.step(head, looks.get(head.line.as_str()).copied().unwrap_or(0)) {
                Step::Wait(after) => round.waiting.push((head.line.clone(), again(after, "waits"))),
                Step::Send(recipient) => round.sendable.push((head, recipient)),
                Step::End(end, at) => {
                    round.ended.push((head.delivery.as_str(), end, at));
                    round.next.push(head.line.clone());
                }
                Step::Cancel(why) => {
                    round.cancelled.push((head.delivery.as_str(), why));
                    round.next.push(head.line.clone());
                }
            }
        }
        round
    }

    /// Notes the ends of what has expired, also behind others in a line, and while EMQX is away.
    async fn end_overdue(&self, client: &Client) -> Result<(), RegistryError> {
        let overdue = registry::overdue(client, OVERDUE_AT_ONCE).await?;
        let ended = overdue.iter().filter_map(|(delivery, facts, limits, now)| {
            match facts.state(limits, *now) {
                State::Ended { end, at } => Some((delivery.as_str(), end, at)),
                State::Queued | State::Sent { .. } | State::Delivered { .. } => None,
            }
        });
        self.note_ended(client, &ended.collect::<Vec<_>>()).await
    }

    async fn note_ends(&self, client: &Client, round: &Round<'_>) -> Result<(), RegistryError> {
        if !round.cancelled.is_empty() {
            within(QUERY_TIMEOUT, registry::cancel(client, &round.cancelled)).await?;
        }
        self.note_ended(client, &round.ended).await
    }

    async fn note_ended(
        &self,
        client: &Client,
        ended: &[(&str, End, Timestamp)],
    ) -> Result<(), RegistryError> {
        if ended.is_empty() {
            return Ok(());
        }
        for (end, seconds) in within(QUERY_TIMEOUT, registry::end(client, ended)).await? {
            self.metrics.ended(&end);
            if let Some(seconds) = seconds {
                self.metrics.delivery.observe(seconds);
            }
        }
        Ok(())
    }

    /// `looks`: how often the line was looked at since something woke it.
    fn step<'a>(&self, head: &'a Head, looks: u32) -> Step<'a> {
        let (facts, grace) = (&head.facts, self.grace());
        // Within the grace no receipt is missing yet.
        let in_grace = match facts.attempted_at {
            Some(_) if grace > Duration::ZERO => Facts { attempted_at: Some(head.now), ..*facts },
            _ => *facts,
        };
        let left = time_until(head.limits.expires_at, head.now);
        match (in_grace.state(&head.limits, head.now), &head.recipient) {
            (State::Ended { end, at }, _) => Step::End(end, at),
            (State::Sent { until }, _) => {
                let receipt = time_until(until, head.now);
                let receipt = if grace > Duration::ZERO { receipt.min(grace) } else { receipt };
                Step::Wait(receipt.min(left).max(LEAST_WAIT))
            }
            (State::Delivered { until }, _) => {
                Step::Wait(time_until(until, head.now).max(LEAST_WAIT))
            }
            // Its receipt is overdue: what would be sent again is outdated.
            (State::Queued, _) if head.is_outdated => Step::End(End::Superseded, head.now),
            (State::Queued, Err(why)) => Step::Cancel(*why),
            (State::Queued, Ok(recipient))
                if recipient.online && !head.paused && left >= LEAST_EXPIRY =>
            {
                Step::Send(recipient)
            }
            // It comes online, commands are resumed, or it expires.
            (State::Queued, Ok(_)) => {
                let place = usize::try_from(looks.saturating_sub(1)).unwrap_or(usize::MAX);
                Step::Wait(left.min(OFFLINE_WAITS.get(place).copied().unwrap_or(LONGEST_WAIT)))
            }
        }
    }
}

/// Lets those wait whose message would reach others on the topic before their turn: it is sent once, to all of them.
async fn wait_for_others(
    client: &Client,
    sendable: &mut Vec<(&Head, &Recipient)>,
    waiting: &mut Vec<(String, Outcome)>,
) -> Result<(), RegistryError> {
    // What is sent again waits for nobody: two could wait for each other.
    let is_first = |head: &Head| head.shares_message && head.facts.attempts == 0;
    let shared = sendable.iter().filter(|(head, _)| is_first(head));
    let shared: BTreeSet<&str> = shared.map(|(head, _)| head.message.as_str()).collect();
    if shared.is_empty() {
        return Ok(());
    }
    let messages: Vec<&str> = shared.into_iter().collect();
    let early = within(QUERY_TIMEOUT, registry::out_of_turn(client, &messages)).await?;
    sendable.retain(|(head, _)| {
        let is_early = is_first(head) && early.contains(&head.message);
        if is_early {
            let why = "others on its topic have an earlier command under way";
            waiting.push((head.line.clone(), again(ROOM_WAIT, why)));
        }
        !is_early
    });
    Ok(())
}

/// Lets those wait that would be more than [`IN_FLIGHT`] on their way to one client.
async fn bound_in_flight(
    client: &Client,
    sendable: &mut Vec<(&Head, &Recipient)>,
    waiting: &mut Vec<(String, Outcome)>,
) -> Result<(), RegistryError> {
    let clients: BTreeSet<&str> = sendable.iter().map(|(_, to)| to.client_id.as_str()).collect();
    if clients.is_empty() {
        return Ok(());
    }
    let clients: Vec<&str> = clients.into_iter().collect();
    let mut on_their_way = within(QUERY_TIMEOUT, registry::in_flight(client, &clients)).await?;
    sendable.retain(|(head, to)| {
        let count = on_their_way.entry(to.client_id.clone()).or_default();
        *count += 1;
        if *count > IN_FLIGHT {
            let why = "enough is on its way to its client";
            waiting.push((head.line.clone(), again(ROOM_WAIT, why)));
        }
        *count <= IN_FLIGHT
    });
    Ok(())
}

fn again(after: Duration, why: &str) -> Outcome {
    Outcome::Again { after, why: why.to_owned() }
}

fn time_until(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// Sends a few at a time, which were read at a given time: asks whether each device has subscribed, commits the
/// attempts, publishes, notes the answers.
async fn send_few(
    client: &Client,
    api: &EmqxApi,
    few: &[(&Head, &Recipient)],
    looks: &BTreeMap<&str, u32>,
    read: Instant,
) -> Result<Vec<(String, Progress)>, RegistryError> {
    let mut progress = Vec::new();
    let mut note = |head: &Head, outcome: Outcome| {
        progress.push((head.line.clone(), Progress::Waits(outcome)));
    };
    // Of PostgreSQL's clock by which it expires, when it was read and what has passed since is known.
    let left =
        |head: &Head| time_until(head.limits.expires_at, head.now).saturating_sub(read.elapsed());
    let unheard = |head: &Head| {
        let looks = looks.get(head.line.as_str()).copied().unwrap_or(0);
        again(
            unheard_wait(looks).min(left(head)),
            "the device has not subscribed to its command topic",
        )
    };
    let subscriptions = subscriptions(api, few).await;
    let subscribed = few.iter().map(|(_, to)| has_subscribed(&subscriptions, to));
    let (mut ready, mut deaf) = (Vec::new(), Vec::new());
    for ((head, to), subscribed) in few.iter().zip(subscribed) {
        match subscribed {
            // Too late by now: it expires.
            Ok(true) if left(head) < LEAST_EXPIRY => note(head, again(left(head), "expires")),
            Ok(true) => ready.push((*head, *to)),
            Ok(false) => {
                deaf.push(head.delivery.as_str());
                note(head, unheard(head));
            }
            Err(error) => note(head, failed(head, error)),
        }
    }
    let attempts = ready.iter().map(|(head, to)| Attempt {
        delivery: &head.delivery,
        topic: &to.topic,
        before: head.facts.attempts,
    });
    let attempts: Vec<_> = attempts.collect();
    let begun = within(QUERY_TIMEOUT, registry::begin(client, &attempts, &deaf)).await?;
    let (to_send, overtaken): (Vec<_>, Vec<_>) = ready
        .into_iter()
        .partition(|(head, _)| begun.iter().any(|begun| begun.delivery == head.delivery));
    overtaken.iter().for_each(|(head, _)| note(head, again(Duration::ZERO, "was changed")));

    // One publish reaches all that share a topic.
    let mut messages: BTreeMap<(&str, &str), (&Head, &Recipient)> = BTreeMap::new();
    for (head, to) in to_send.iter().chain(&overtaken) {
        messages.entry((&head.message, &to.topic)).or_insert((head, to));
    }
    messages.retain(|(message, topic), _| {
        begun.iter().any(|begun| begun.message == *message && begun.topic == *topic)
    });
    // PostgreSQL may have taken its time.
    let in_time = messages.iter().filter(|(_, (head, _))| left(head) >= LEAST_EXPIRY);
    let publishing =
        in_time.map(async |(key, (head, to))| (*key, publish(api, head, to, left(head)).await));
    let sent: BTreeMap<_, _> = join_all(publishing).await.into_iter().collect();
    let (mut published, mut reached_nobody) = (Vec::new(), Vec::new());
    for begun in &begun {
        let delivery = begun.delivery.as_str();
        match sent.get(&(begun.message.as_str(), begun.topic.as_str())) {
            Some(Ok(Published::ToSubscribers)) => published.push(delivery),
            Some(Ok(Published::NoSubscribers)) => {
                let why = "nobody has subscribed to the topic".to_owned();
                reached_nobody.push((delivery, why));
            }
            Some(Err(error @ EmqxError::Rejected { .. })) => {
                reached_nobody.push((delivery, error.to_string()));
            }
            // It may have arrived.
            Some(Err(_)) => {}
            None => {
                reached_nobody.push((delivery, "its time was over before it was sent".to_owned()));
            }
        }
    }
    let mut ended = Vec::new();
    for (head, to) in to_send {
        let waiting = match sent.get(&(head.message.as_str(), to.topic.as_str())) {
            Some(Ok(Published::ToSubscribers)) if head.limits.confirm == Confirmation::Sent => {
                ended.push((head.line.clone(), Progress::Ended));
                continue;
            }
            Some(Ok(Published::ToSubscribers)) => {
                again(head.limits.ack_timeout.min(left(head)), "waits for its receipt")
            }
            Some(Ok(Published::NoSubscribers)) => unheard(head),
            None => again(left(head), "expires"),
            Some(Err(error)) => failed(head, error),
        };
        note(head, waiting);
    }
    progress.extend(ended);
    if !published.is_empty() {
        within(QUERY_TIMEOUT, registry::published(client, &published)).await?;
    }
    if !reached_nobody.is_empty() {
        within(QUERY_TIMEOUT, registry::unheard(client, &reached_nobody)).await?;
    }
    Ok(progress)
}

/// What clients have subscribed to, by client id. A gateway is asked about once, however many of its children are meant.
type Subscriptions<'a> = BTreeMap<&'a str, Result<Vec<Subscription>, EmqxError>>;

async fn subscriptions<'a>(api: &EmqxApi, few: &[(&Head, &'a Recipient)]) -> Subscriptions<'a> {
    let clients: BTreeSet<&str> = few.iter().map(|(_, to)| to.client_id.as_str()).collect();
    let asked = clients.into_iter().map(async |client_id| {
        (client_id, api.subscriptions(client_id).await.map(Option::unwrap_or_default))
    });
    join_all(asked).await.into_iter().collect()
}

/// Whether the client itself is there and listens to the topic.
fn has_subscribed<'a>(
    subscriptions: &'a Subscriptions<'_>,
    to: &Recipient,
) -> Result<bool, &'a EmqxError> {
    let hears = |filter: &str| filter_matches(strip_subscription_prefix(filter), &to.topic);
    let found = subscriptions.get(to.client_id.as_str()).map(Result::as_ref).transpose()?;
    Ok(found.is_some_and(|found| found.iter().any(|one| hears(&one.filter))))
}

async fn publish(
    api: &EmqxApi,
    head: &Head,
    to: &Recipient,
    expiry: Duration,
) -> Result<Published, EmqxError> {
    let id = &head.message;
    let payload = match head.envelope {
        true => Cow::Owned(format!("{{\"id\":\"{id}\",\"value\":{}}}", head.payload)),
        false => Cow::Borrowed(head.payload.as_str()),
    };
    let message = CommandPublish { topic: &to.topic, payload: &payload, expiry, id };
    api.publish(&message).await
}

fn unheard_wait(looks: u32) -> Duration {
    let place = usize::try_from(looks.saturating_sub(1)).unwrap_or(usize::MAX);
    UNHEARD_WAITS.get(place).or(UNHEARD_WAITS.last()).copied().unwrap_or(POLL)
}

fn failed(head: &Head, error: &EmqxError) -> Outcome {
    if error.is_emqx_unfit() {
        return Outcome::Away(error.to_string());
    }
    let delivery = &head.delivery;
    log_throttled!(warn, "EMQX refused a command", delivery, %error);
    Outcome::Again { after: head.limits.ack_timeout, why: error.to_string() }
}

impl Kind for Commands {
    const NAME: &'static str = KIND;
    const LOG_NAME: &'static str = "commands";

    fn is_carried_out(&self) -> bool {
        self.api.is_some()
    }

    fn reconnected(&mut self) {
        // Events waited, too, also where this one's own connection was idle meanwhile.
        self.noting_since = Instant::now();
    }

    async fn carry_out(&mut self, batch: &[Work]) -> Carried {
        self.deal_with(batch).await.unwrap_or_else(|error| {
            log_throttled!(warn, "commands wait for the database", %error);
            let later = again(RECONNECT, &error.to_string());
            Carried { outcomes: vec![later; batch.len()], answered: false }
        })
    }

    async fn look_after(&mut self, client: &Client) -> Result<Duration, RegistryError> {
        if self.overdue_at <= Instant::now() {
            self.overdue_at = Instant::now() + OVERDUE_EVERY;
            self.end_overdue(client).await?;
        }
        if self.prune_at <= Instant::now() {
            self.prune_at = Instant::now() + PRUNE_EVERY;
            registry::await_no_more(client).await?;
            if registry::prune(client, self.keep, PRUNED_AT_ONCE, PRUNED_DELIVERIES).await? {
                self.prune_at = Instant::now() + RECONNECT;
            }
        }
        Ok(POLL)
    }
}
