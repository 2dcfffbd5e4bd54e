//! Decisions from memory against the ceiling.

use super::{CHOSEN, GENERATED};
use crate::ceiling::Ceiling;
use crate::plan::{Length, Traffic};
use crate::support::connection::Connection;
use crate::support::fleetgate::Fleetgate;
use crate::support::registry::SECRET;
use crate::support::requests::{ACTIONS, authorization, device_name, login};
use crate::table::{Bar, Row};
use crate::turns::{POOL, TURN, TURNS, in_turn, load};

const OF_THE_CEILING: &str = "of the ceiling";

pub(super) async fn actions(url: &str) -> Row {
    let service = Fleetgate::start(url, &[]).await;
    let sample = authorization(&device_name(0), ACTIONS[0]);
    against_ceiling(
        "authz, cached, half allowed",
        &service,
        &sample,
        Traffic::Actions(GENERATED),
        0.85,
    )
    .await
}

pub(super) async fn logins(url: &str) -> [Row; 2] {
    let service = Fleetgate::start(url, &[]).await;
    let sample = |number| login(&device_name(number), SECRET);
    let generated = Traffic::Logins(GENERATED);
    let name = "authn, generated secret, cached";
    let generated = against_ceiling(name, &service, &sample(0), generated, 0.75).await;
    let (name, first) = ("authn, chosen password, seen before", sample(CHOSEN.start));
    let chosen = against_ceiling(name, &service, &first, Traffic::Logins(CHOSEN), 0.75).await;
    [generated, chosen]
}

/// The ceiling's constant is what Fleetgate answers to the sample.
async fn against_ceiling(
    name: &str,
    service: &Fleetgate,
    sample: &[u8],
    traffic: Traffic,
    bar: f64,
) -> Row {
    let mut connection = Connection::open(service.address()).await.expect("fleetgate listens");
    let constant = connection.exchange(sample).await.expect("an answer").body.to_vec();
    let ceiling = Ceiling::start(&constant);
    // Fills the caches.
    load(service, POOL, &traffic, Length::Once).await;
    let length = Length::Time(TURN);
    let compared = in_turn(
        TURNS,
        async |_| load(service, POOL, &traffic, length).await,
        async |_| load(&ceiling, POOL, &traffic, length).await,
    )
    .await;
    Row::figure(name, compared.ratio, OF_THE_CEILING, Bar::AtLeast(bar))
        .run(&compared.ours)
        .against("ceiling", &compared.other)
}
