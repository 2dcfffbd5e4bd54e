//! What is heard of a command: a fact about its delivery, committed before the answer.

use futures_util::FutureExt;

use crate::domain::device::{DeviceId, DeviceRecord};
use crate::domain::event::{CommandMessage, Event, Message, MessageOutcome};
use crate::domain::reply::Reply;
use crate::ingest::{Ingest, IngestError, IngestOutcome};
use crate::registry::commands::{self, Fact};

impl Ingest {
    /// Notes the fact, if the client is the device itself under its own client id, or its gateway: every subscriber of
    /// the topic acknowledges for itself, a listener to `#` too. Noting it again changes nothing.
    pub(super) async fn note_command(
        &self,
        event: &Event<'_>,
        message: &CommandMessage<'_>,
    ) -> Result<IngestOutcome, IngestError> {
        let Some(user_name) = &event.user_name else { return Ok(IngestOutcome::NoDevice) };
        let Some(device) = self.devices.find(user_name).await? else {
            return Ok(IngestOutcome::NoDevice);
        };
        if !device.owns_client_id(&event.client_id) {
            return Ok(IngestOutcome::ForeignClientId);
        }
        let fact = match message.outcome {
            MessageOutcome::Written { qos } => Fact::Written { qos, stamp: message.at },
            MessageOutcome::Acknowledged => Fact::Acknowledged { stamp: message.at },
            // Its ack timeout, or its expiry, comes anyway.
            MessageOutcome::Dropped => return Ok(IngestOutcome::Seen),
        };
        match self.note(&message.delivery, device.id, fact).await? {
            true => Ok(IngestOutcome::Written),
            false => Ok(IngestOutcome::NoDelivery),
        }
    }

    /// Notes what a message on a reply topic says of a command; the message may be a report besides.
    pub(super) async fn note_reply(
        &self,
        device: &DeviceRecord,
        message: &Message<'_>,
    ) -> Result<(), IngestError> {
        let Some(Reply { delivery, ok, text }) = Reply::read(message) else { return Ok(()) };
        let fact = Fact::Answered { ok, answer: text, topic: message.topic.to_string() };
        self.note(&delivery, device.id, fact).await.map(drop)
    }

    /// Whether the device, or a child of it, has such a delivery.
    async fn note(
        &self,
        delivery: &str,
        device: DeviceId,
        fact: Fact,
    ) -> Result<bool, IngestError> {
        let subject: (String, DeviceId, Fact) = (delivery.to_owned(), device, fact);
        let noted = self.postgres.change(&subject, |(delivery, device, fact), client| {
            let client: &tokio_postgres::Client = client;
            commands::note(client, delivery, *device, fact).boxed()
        });
        noted.await.map_err(|error| IngestError::of(&error))
    }
}
