//! Deals with commands that services ask for over MQTT, and tells them what became of each. A kind of [`crate::work`].
//!
//! # What it keeps
//! 1. A request that was committed is answered: accepted, expired or refused with the reason; and when a command came of
//!    it, how that ended. Answers go to the asking service's own results topic, without payloads.
//! 2. A request makes one command, however often it comes and however often this is interrupted: the command and the answer
//!    are one transaction, and a request is known by the service and its id.
//! 3. Requests of one service are dealt with in the order in which EMQX received them, as far as they are there.
//! 4. Whether the service may ask is read when its request is dealt with, and again whenever something is sent.
//! 5. Presence does not wait for any of this: what a selector costs is paid here.
//!
//! # Design
//! A key of the work queue is a service. What is due are its requests without answer, and its results that are not told.
//! Results are published over EMQX's REST API, at least once, and expire after [`RESULT_EXPIRY`].
//!
//! # Races
//! - *The process dies after a result was published.* It is published again.
//! - *A request arrives after a newer one of its service was dealt with.* Its deliveries take their place by the time at which
//!   EMQX received it, and where only the newest is sent, it is superseded (`fleet/commands.rs`).
//! - *The service is disabled while its request is dealt with.* The delivery finds out.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::domain::name::CapabilityName;
use crate::domain::request::{CommandRequest, RESULTS, Recipients, RequestError};
use crate::domain::schema::visible;
use crate::emqx::EmqxApi;
use crate::fleet::commands::{self, NewCommand, Requested};
use crate::fleet::error::{ErrorKind, FleetError, Rule};
use crate::fleet::routing::{Bounds, To};
use crate::fleet::{Actor, Part};
use crate::logging::log_throttled;
use crate::metrics::RequestMetrics;
use crate::registry::connection::{Target, within};
use crate::registry::error::RegistryError;
use crate::registry::requests::{self as registry, KIND, PendingResult, Request};
use crate::registry::session::Guarded;
use crate::registry::work::Work;
use crate::work::{Carried, Kind, Outcome, POLL};

/// How long EMQX keeps a result for a service that is away.
pub const RESULT_EXPIRY: Duration = Duration::from_secs(60 * 60);
/// Longest time that a batch takes before it lets others have their turn.
const TURN: Duration = Duration::from_secs(20);
/// Why a service is looked at again.
const ITS_TURN: &str = "waits for its turn";
/// Most characters of what is wrong with a request that its service is told.
const MOST_TOLD: usize = 512;
/// Results told at once.
const RESULTS_AT_ONCE: i64 = 50;
/// Longest time that a request may take PostgreSQL. It is longer than what takes long in it may take together (who gets it, a row for each,
/// what it takes the place of), each of which has 6 s of the server: then the request is refused and holds up no other.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(25);
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait after a failure.
const RECONNECT: Duration = Duration::from_secs(1);
/// Time between two looks for requests that are old enough to be deleted, and how many go at once.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNED_AT_ONCE: i64 = 1000;

/// See the module documentation.
pub struct Requests {
    /// `None`: nothing can be sent nor told.
    api: Option<Arc<EmqxApi>>,
    target: Target,
    client: Option<Guarded>,
    keep: Duration,
    bounds: Bounds,
    prune_at: Instant,
    metrics: RequestMetrics,
}

impl Requests {
    /// Deals with nothing yet. `keep`: how long requests are kept after their end. `bounds`: what bounds
    /// the commands.
    #[must_use]
    pub fn new(
        api: Option<Arc<EmqxApi>>,
        target: Target,
        keep: Duration,
        bounds: Bounds,
        metrics: RequestMetrics,
    ) -> Self {
        let target = target.for_background();
        Self { api, target, client: None, keep, bounds, prune_at: Instant::now(), metrics }
    }

    /// Deals with a service until nothing of it waits, or time is over; what there is to do later, and whether EMQX answered.
    async fn deal_with(
        &mut self,
        api: &EmqxApi,
        service: &str,
        until: Instant,
    ) -> Result<(Outcome, bool), RegistryError> {
        let mut client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.target.open_guarded().await?,
        };
        let (mut outcome, mut answered) = (Outcome::Done, false);
        loop {
            let dealt_with = deal_with_next(&mut client, service, self.bounds);
            let answer = match within(REQUEST_TIMEOUT, dealt_with).await {
                Err(error) if error.is_about_data() => {
                    log_throttled!(error, "a request of a service cannot be kept", %error);
                    within(QUERY_TIMEOUT, refuse_next(&mut client, service)).await?
                }
                answer => answer?,
            };
            let Some(answer) = answer else { break };
            self.metrics.answered(answer);
            if Instant::now() >= until {
                outcome = again(Duration::ZERO, ITS_TURN);
                break;
            }
        }
        while outcome == Outcome::Done {
            let untold = registry::untold(&*client, service, RESULTS_AT_ONCE);
            let untold = within(QUERY_TIMEOUT, untold).await?;
            if untold.is_empty() {
                break;
            }
            let (told, stopped) = tell(api, &untold).await;
            answered |= !told.is_empty();
            within(QUERY_TIMEOUT, registry::told(&*client, &told)).await?;
            if let Some(stopped) = stopped {
                outcome = stopped;
            } else if Instant::now() >= until {
                outcome = again(Duration::ZERO, ITS_TURN);
            }
        }
        self.client = Some(client);
        Ok((outcome, answered))
    }
}

fn again(after: Duration, why: &str) -> Outcome {
    Outcome::Again { after, why: why.to_owned() }
}

/// Deals with the next request of a service, in one transaction; returns the word of its answer, `None` when none waits.
async fn deal_with_next(
    client: &mut Client,
    service: &str,
    bounds: Bounds,
) -> Result<Option<&'static str>, RegistryError> {
    let on_request = || RegistryError::on("a request of a service");
    let mut transaction = client.transaction().await.map_err(on_request())?;
    let Some(request) = registry::next(&transaction, service).await? else { return Ok(None) };
    Actor::Service(request.service_name.clone()).note(&transaction).await?;
    let (word, command, answer) = match new_command(&request, bounds) {
        Err(error) => ("refused", None, error),
        Ok(new) => match commands::send(&mut transaction, &new).await {
            Ok(sent) => {
                let devices = sent.deliveries.len();
                let id = sent.command.id;
                let answer = json!({"state": "accepted", "command": id, "devices": devices});
                ("accepted", Some(id), answer)
            }
            Err(FleetError::Rule { rule: Rule::AlreadyExpired, .. }) => {
                ("expired", None, json!({"state": "expired"}))
            }
            // One that takes PostgreSQL too long, or that it fails on for good, must not hold up the next.
            Err(FleetError::Registry(error))
                if error.may_pass() && !matches!(error, RegistryError::TookTooLong(_)) =>
            {
                return Err(error);
            }
            Err(error) => ("refused", None, refused(&error)),
        },
    };
    registry::answer(&transaction, request.id, command.as_deref(), &answer).await?;
    transaction.commit().await.map_err(on_request())?;
    Ok(Some(word))
}

/// Refuses the next request of a service without a reason: one that PostgreSQL does not take must not hold up the next.
async fn refuse_next(
    client: &mut Client,
    service: &str,
) -> Result<Option<&'static str>, RegistryError> {
    let on_request = || RegistryError::on("a request of a service");
    let transaction = client.transaction().await.map_err(on_request())?;
    let Some(request) = registry::next(&transaction, service).await? else { return Ok(None) };
    let answer = json!({"state": "refused", "error": {"kind": ErrorKind::Invalid.word()}});
    registry::answer(&transaction, request.id, None, &answer).await?;
    transaction.commit().await.map_err(on_request())?;
    Ok(Some("refused"))
}

/// The command that a request asks for; or what the service is told instead.
fn new_command(request: &Request, bounds: Bounds) -> Result<NewCommand, Value> {
    // They may repeat what the request says, and that may be anything.
    let refused = |kind: ErrorKind, pointer: &str, message: String| {
        let (pointer, message) = (visible(pointer, MOST_TOLD), visible(&message, MOST_TOLD));
        json!({"state": "refused", "error": {"kind": kind.word(), "pointer": pointer, "message": message}})
    };
    if !request.is_allowed {
        let message = "the service may not ask for commands of this capability".to_owned();
        return Err(refused(ErrorKind::Refused, "", message));
    }
    let capability = request.capability.parse::<CapabilityName>().map_err(|why| {
        refused(ErrorKind::Invalid, "", format!("the capability's name in the topic {why}"))
    })?;
    let body = request.body.as_deref().ok_or_else(|| {
        refused(ErrorKind::Invalid, "", "is not text, or is too large".to_owned())
    })?;
    let CommandRequest { payload, to, expires_in } =
        CommandRequest::read(body).map_err(|RequestError { pointer, message }| {
            refused(ErrorKind::Invalid, &pointer, message)
        })?;
    let to = match to {
        Recipients::Devices(devices) => To::Devices(devices),
        Recipients::Selector(selector) => To::Selector(selector),
        Recipients::Rules => To::Rules,
    };
    Ok(NewCommand {
        capability,
        payload,
        to,
        expires_in,
        confirm: None,
        asked_by: format!("service {}", request.service_name).as_str().into(),
        requested: Some(Requested { service: request.service, at: request.received_at }),
        bounds,
        part: Part::whole(),
    })
}

fn refused(error: &FleetError) -> Value {
    let kind = error.kind().word();
    let told = match error {
        FleetError::NotFound(thing) => json!({"kind": kind, "about": thing.to_string()}),
        FleetError::Rule { thing, rule: rule @ Rule::Payload(violation) } => json!({
            "kind": kind, "about": thing.to_string(), "rule": rule.word(),
            "pointer": format!("/value{}", violation.pointer), "message": violation.message,
        }),
        FleetError::Rule { thing, rule } => {
            json!({"kind": kind, "about": thing.to_string(), "rule": rule.word()})
        }
        FleetError::Registry(RegistryError::TookTooLong(_)) => {
            let message =
                "it takes too long to find out who gets it; narrow the selector, or ask again";
            json!({"kind": kind, "message": message})
        }
        // What PostgreSQL says is for the log.
        FleetError::Registry(error) => {
            log_throttled!(error, "a request of a service cannot be dealt with", %error);
            json!({"kind": kind})
        }
    };
    json!({"state": "refused", "error": told})
}

/// Tells results in their order; which were told, and why no more were.
async fn tell<'a>(
    api: &EmqxApi,
    untold: &'a [PendingResult],
) -> (Vec<&'a PendingResult>, Option<Outcome>) {
    let mut told = Vec::new();
    for one in untold {
        let Some(service) = &one.service_name else {
            told.push(one);
            continue;
        };
        let topic = format!("{RESULTS}{service}/{}", one.request);
        match api.publish_result(&topic, &one.result.to_string(), RESULT_EXPIRY).await {
            Ok(()) => told.push(one),
            Err(error) if !error.is_about_the_call() => {
                return (told, Some(Outcome::Away(error.to_string())));
            }
            // It would be refused again: the service is not told, and the next result is.
            Err(error) => {
                log_throttled!(warn, "EMQX refused a result", topic, %error);
                told.push(one);
            }
        }
    }
    (told, None)
}

impl Kind for Requests {
    const NAME: &'static str = KIND;
    const LOG_NAME: &'static str = "requests of services";

    fn is_carried_out(&self) -> bool {
        self.api.is_some()
    }

    async fn carry_out(&mut self, batch: &[Work]) -> Carried {
        let Some(api) = self.api.clone() else {
            return Carried { outcomes: Vec::new(), answered: false };
        };
        let until = Instant::now() + TURN;
        let mut carried = Carried { outcomes: Vec::new(), answered: false };
        for work in batch {
            if Instant::now() >= until {
                carried.outcomes.push(again(Duration::ZERO, ITS_TURN));
                continue;
            }
            // One on which PostgreSQL fails, or takes too long, holds up no other.
            let dealt_with = self.deal_with(&api, &work.key, until).await;
            let (outcome, answered) = dealt_with.unwrap_or_else(|error| {
                log_throttled!(warn, "requests of services wait for the database", %error);
                (again(POLL, &error.to_string()), false)
            });
            carried.outcomes.push(outcome);
            carried.answered |= answered;
        }
        carried
    }

    async fn look_after(&mut self, client: &Client) -> Result<Duration, RegistryError> {
        if self.prune_at <= Instant::now() {
            self.prune_at = Instant::now() + PRUNE_EVERY;
            let pruned = registry::prune(client, self.keep, PRUNED_AT_ONCE).await?;
            if pruned >= PRUNED_AT_ONCE.unsigned_abs() {
                self.prune_at = Instant::now() + RECONNECT;
            }
        }
        Ok(POLL)
    }
}
