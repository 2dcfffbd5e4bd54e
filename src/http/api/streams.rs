//! The event streams that are open, and what they are told.
//!
//! What it keeps:
//! * One task looks at what changed, once for all streams, by one of the API's connections, a few times a second at most. No
//!   stream holds a connection to PostgreSQL, and nothing is looked at while none is open.
//! * A stream tells every change that was committed since it began, or `reload`. It begins with `reload`, because its client
//!   has to look at everything after it began.
//! * A stream of a token with a selector tells of devices inside alone: what is inside is asked of PostgreSQL each time,
//!   once for all tokens of that selector. Of a device that is gone or has left it tells nothing.
//! * A stream ends within [`CHECK`] and what that takes when its token is not valid any more, may not read or has another
//!   selector, and when that cannot be asked.
//! * Streams are bounded: in all, and a token.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::web::Bytes;
use futures_util::FutureExt;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver};
use tokio::time::{Interval, MissedTickBehavior, interval, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use super::Problem;
use crate::domain::api_token::Scope;
use crate::fleet::api_tokens::{self, ApiToken};
use crate::fleet::watch::{self, Notice};
use crate::fleet::{FleetError, Part};
use crate::logging::log_throttled;
use crate::registry::error::RegistryError;
use crate::registry::live::{Changes, LiveChanges};
use crate::registry::pool::Postgres;

/// Most open streams.
pub const MAX_STREAMS: usize = 100;
/// Most open streams of a token.
pub const MAX_STREAMS_OF_A_TOKEN: usize = 10;
/// How often tokens of open streams are asked for.
const CHECK: Duration = Duration::from_secs(5);
/// Longest silence of a stream: it shows that the connection is there, and keeps proxies from closing it.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Time between two looks at what changed.
const PAUSE: Duration = Duration::from_millis(100);
/// The same after everything may have: clients look at everything.
const PAUSE_AFTER_RELOAD: Duration = Duration::from_secs(2);
/// Messages that a stream may be behind; with more it is told to reload.
const BEHIND: usize = 32;

const RELOAD: &str = "event: reload\ndata: {}\n\n";

/// The open streams.
pub struct Streams {
    messages: broadcast::Sender<Arc<Message>>,
    open: Mutex<BTreeMap<i64, OfToken>>,
}

/// The streams of a token.
struct OfToken {
    count: usize,
    part: Part,
}

/// What all streams hear at once.
#[derive(Debug)]
enum Message {
    Reload,
    Changed {
        /// For tokens that see everything.
        whole: Bytes,
        /// For each of the others.
        parts: BTreeMap<i64, Bytes>,
    },
    /// These tokens are not valid any more.
    Ended(BTreeSet<i64>),
}

impl Default for Streams {
    fn default() -> Self {
        Self { messages: broadcast::Sender::new(BEHIND), open: Mutex::default() }
    }
}

impl Streams {
    /// Opens a stream.
    ///
    /// # Errors
    /// Too many are open.
    pub(super) fn open(self: &Arc<Self>, token: &ApiToken) -> Result<EventStream, Problem> {
        let mut open = self.tokens();
        if open.values().map(|of| of.count).sum::<usize>() >= MAX_STREAMS {
            let detail = format!("{MAX_STREAMS} event streams are open, which is the most");
            return Err(Problem::busy(&detail, "60"));
        }
        let of =
            open.entry(token.id).or_insert_with(|| OfToken { count: 0, part: token.part.clone() });
        if of.part != token.part {
            let detail = "the token's selector has changed; its streams end within seconds";
            return Err(Problem::busy(detail, "5"));
        }
        if of.count >= MAX_STREAMS_OF_A_TOKEN {
            let detail = format!(
                "the token has {MAX_STREAMS_OF_A_TOKEN} event streams open, which is the most; close one"
            );
            return Err(Problem::busy(&detail, "60"));
        }
        of.count += 1;
        drop(open);
        let mut heartbeat = interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(EventStream {
            messages: self.messages.subscribe(),
            place: Place { streams: self.clone(), token: token.id },
            is_whole: token.part.is_whole(),
            has_begun: false,
            heartbeat,
        })
    }

    /// Tells the streams what changes until `end` is cancelled.
    pub async fn run(
        self: Arc<Self>,
        postgres: Postgres,
        changes: LiveChanges,
        end: CancellationToken,
    ) {
        let mut checks = interval(CHECK);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                _ = checks.tick() => self.check(&postgres).await,
                Some(changed) = changes.take() => {
                    let pause = self.tell(&postgres, changed).await;
                    sleep(pause).await; // why: it is the time between two looks
                }
            }
        }
    }

    /// Tells what changed, and how long to wait before the next look.
    async fn tell(&self, postgres: &Postgres, changed: Changes) -> Duration {
        let parts = self.parts();
        let Some(parts) = parts else { return Duration::ZERO };
        let changed = Arc::new(changed);
        let looked = postgres.run(|client| {
            let (changed, parts) = (changed.clone(), parts.clone());
            async move { look(client, &changed, &parts).await }.boxed()
        });
        let (message, pause) = match looked.await {
            Ok(Some(message)) => (message, PAUSE),
            Ok(None) => (Message::Reload, PAUSE_AFTER_RELOAD),
            Err(error) => {
                log_throttled!(warn, "event streams cannot look at what changed", %error);
                (Message::Reload, PAUSE_AFTER_RELOAD)
            }
        };
        self.send(message);
        pause
    }

    async fn check(&self, postgres: &Postgres) {
        let open: BTreeMap<i64, Part> =
            self.tokens().iter().map(|(token, of)| (*token, of.part.clone())).collect();
        if open.is_empty() {
            return;
        }
        let asked: Vec<i64> = open.keys().copied().collect();
        let valid = postgres.run(|client| {
            let asked = asked.clone();
            let client: &tokio_postgres::Client = client;
            async move { api_tokens::still_valid(client, &asked).await }.boxed()
        });
        let valid = valid.await.unwrap_or_else(|error| {
            log_throttled!(warn, "event streams end: their tokens cannot be asked for", %error);
            Vec::new()
        });
        // One that sees another part of the fleet now has to begin anew.
        let goes_on = |(id, part): &(i64, Part)| {
            let same = |token: &ApiToken| token.id == *id && token.part == *part;
            valid.iter().any(|token| same(token) && token.scopes.allow(Scope::Read))
        };
        let ended = open.into_iter().filter(|one| !goes_on(one)).map(|(token, _)| token);
        let ended: BTreeSet<i64> = ended.collect();
        if !ended.is_empty() {
            self.send(Message::Ended(ended));
        }
    }

    /// The parts of the fleet that tokens of open streams see; `None`: no stream is open.
    fn parts(&self) -> Option<Vec<(i64, Part)>> {
        let open = self.tokens();
        let some = open.iter().filter(|(_, of)| !of.part.is_whole());
        let parts = some.map(|(token, of)| (*token, of.part.clone())).collect();
        (!open.is_empty()).then_some(parts)
    }

    fn send(&self, message: Message) {
        let _nobody = self.messages.send(Arc::new(message));
    }

    fn tokens(&self) -> MutexGuard<'_, BTreeMap<i64, OfToken>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look(
    client: &tokio_postgres::Client,
    changed: &Changes,
    parts: &[(i64, Part)],
) -> Result<Option<Message>, RegistryError> {
    let in_registry = |error| match error {
        FleetError::Registry(error) => error,
        other => RegistryError::BadData(other.to_string()),
    };
    let Some(told) = watch::look(client, changed).await.map_err(in_registry)? else {
        return Ok(None);
    };
    let names: Vec<&str> = told.iter().map(Notice::device).collect();
    let mut of_parts = BTreeMap::new();
    let mut looked: Vec<(&Part, Bytes)> = Vec::new();
    for (token, part) in parts {
        let same = looked.iter().find(|(other, _)| *other == part);
        let events = match same {
            Some((_, events)) => events.clone(),
            None => {
                let inside = part.inside(client, &names).await.map_err(in_registry)?;
                let some = told.iter().filter(|one| inside.contains(one.device()));
                let events = Bytes::from(some.map(text).collect::<String>());
                looked.push((part, events.clone()));
                events
            }
        };
        of_parts.insert(*token, events);
    }
    let whole = told.iter().map(text).collect::<String>().into();
    Ok(Some(Message::Changed { whole, parts: of_parts }))
}

/// An event as it is sent.
fn text(told: &Notice) -> String {
    let (event, data) = match told {
        Notice::Device { name, exists } => ("device", json!({"device": name, "exists": exists})),
        Notice::Presence { name, online } => {
            ("presence", json!({"device": name, "online": online}))
        }
        Notice::State { name } => ("state", json!({"device": name})),
    };
    format!("event: {event}\ndata: {data}\n\n")
}

/// An open stream.
pub(super) struct EventStream {
    messages: Receiver<Arc<Message>>,
    place: Place,
    is_whole: bool,
    has_begun: bool,
    heartbeat: Interval,
}

/// A stream's place among those that are open, until dropped.
struct Place {
    streams: Arc<Streams>,
    token: i64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.tokens();
        if let Some(of) = open.get_mut(&self.token) {
            of.count = of.count.saturating_sub(1);
            if of.count == 0 {
                open.remove(&self.token);
            }
        }
    }
}

impl EventStream {
    /// What is sent next; `None`: the stream ends.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.has_begun, true) {
            return Some(format!("retry: 2000\n\n{RELOAD}").into());
        }
        loop {
            let piece = tokio::select! {
                biased;
                message = self.messages.recv() => match message {
                    Ok(message) => self.of(&message)?,
                    // If its end was among them, that is told again.
                    Err(RecvError::Lagged(_)) => Bytes::from_static(RELOAD.as_bytes()),
                    Err(RecvError::Closed) => return None,
                },
                _ = self.heartbeat.tick() => Bytes::from_static(b": heartbeat\n\n"),
            };
            if !piece.is_empty() {
                self.heartbeat.reset();
                return Some(piece);
            }
        }
    }

    fn of(&self, message: &Message) -> Option<Bytes> {
        match message {
            Message::Reload => Some(Bytes::from_static(RELOAD.as_bytes())),
            Message::Changed { whole, .. } if self.is_whole => Some(whole.clone()),
            // One that is not named began after the look, and so does what it looks at.
            Message::Changed { parts, .. } => {
                Some(parts.get(&self.place.token).cloned().unwrap_or_default())
            }
            Message::Ended(tokens) if tokens.contains(&self.place.token) => None,
            Message::Ended(_) => Some(Bytes::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::api_token::Scopes;

    fn token(id: i64, part: Part) -> ApiToken {
        let name = id.to_string();
        ApiToken { id, name, scopes: Scopes::new([]), selector: None, part, expires_at: None }
    }

    fn changed(device: &str) -> Message {
        let whole = text(&Notice::State { name: device.to_owned() }).into();
        Message::Changed { whole, parts: BTreeMap::from([(2, Bytes::from_static(b"of 2"))]) }
    }

    async fn next(stream: &mut EventStream) -> Option<String> {
        let piece = stream.next().await?;
        Some(String::from_utf8(piece.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_has_heartbeats() {
        let streams = Arc::new(Streams::default());
        let mut stream = streams.open(&token(1, Part::whole())).unwrap();
        assert_eq!(next(&mut stream).await.unwrap(), format!("retry: 2000\n\n{RELOAD}"));
        let began = tokio::time::Instant::now();
        for beats in 1..=3 {
            assert_eq!(next(&mut stream).await.unwrap(), ": heartbeat\n\n");
            assert_eq!(began.elapsed(), HEARTBEAT * beats);
        }
        // The silence is counted from what was said last.
        tokio::time::advance(HEARTBEAT / 2).await;
        streams.send(changed("a"));
        assert_eq!(next(&mut stream).await.unwrap(), "event: state\ndata: {\"device\":\"a\"}\n\n");
        assert_eq!(next(&mut stream).await.unwrap(), ": heartbeat\n\n");
        assert_eq!(began.elapsed(), HEARTBEAT * 9 / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_falls_behind_is_told_to_reload() {
        let streams = Arc::new(Streams::default());
        let mut stream = streams.open(&token(1, Part::whole())).unwrap();
        next(&mut stream).await.unwrap();
        for number in 0..=BEHIND {
            streams.send(changed(&number.to_string()));
        }
        assert_eq!(next(&mut stream).await.unwrap(), RELOAD);
        assert!(
            next(&mut stream).await.unwrap().contains("\"1\""),
            "and goes on with what is kept"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_tells_of_its_part_and_ends_with_its_token() {
        let streams = Arc::new(Streams::default());
        let open = |id, part| streams.open(&token(id, part)).unwrap();
        let mut whole = open(1, Part::whole());
        let mut inside = open(2, Part::of("area=lab".parse().unwrap()));
        let mut later = open(3, Part::of("area=lab".parse().unwrap()));
        for stream in [&mut whole, &mut inside, &mut later] {
            next(stream).await.unwrap();
        }
        streams.send(changed("a"));
        streams.send(Message::Ended(BTreeSet::from([2])));
        assert!(next(&mut whole).await.unwrap().contains("\"a\""));
        assert_eq!(next(&mut inside).await.unwrap(), "of 2");
        assert_eq!(next(&mut inside).await, None);
        for stream in [&mut whole, &mut later] {
            assert_eq!(next(stream).await.unwrap(), ": heartbeat\n\n", "nothing more is for it");
        }
    }

    #[tokio::test]
    async fn streams_are_bounded_a_token_and_in_all() {
        let streams = Arc::new(Streams::default());
        let mut held = Vec::new();
        for id in 0..10 {
            let token = token(id, Part::whole());
            held.extend((0..MAX_STREAMS_OF_A_TOKEN).map(|_| streams.open(&token).unwrap()));
            assert!(streams.open(&token).is_err());
        }
        assert_eq!(held.len(), MAX_STREAMS);
        let other = token(99, Part::whole());
        assert!(streams.open(&other).is_err());
        held.pop();
        let _there_is_room = streams.open(&other).unwrap();
        held.clear();
        assert_eq!(streams.tokens().len(), 1);
    }
}
