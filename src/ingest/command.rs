//! What EMQX tells of a command's message: a fact about its delivery, committed before the answer.

use futures_util::FutureExt;

use crate::domain::device::DeviceId;
use crate::domain::event::{CommandMessage, Event, MessageFate};
use crate::ingest::{Ingest, IngestError, IngestOutcome};
use crate::registry::commands::{self, Fact};

impl Ingest {
    /// Notes the fact, if the client is the device itself under its own client id: every subscriber of the topic
    /// acknowledges for itself, a listener to `#` too. Noting it again changes nothing.
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
        let fact = match message.fate {
            MessageFate::Written { qos } => Fact::Written(qos),
            MessageFate::Acknowledged => Fact::Acknowledged,
            // Its ack timeout, or its expiry, comes anyway.
            MessageFate::Dropped => return Ok(IngestOutcome::Seen),
        };
        let subject: (String, DeviceId, Fact) =
            (message.delivery.clone().into_owned(), device.id, fact);
        let noted = self.postgres.change(&subject, |(delivery, device, fact), client| {
            let client: &tokio_postgres::Client = client;
            commands::note(client, delivery, *device, *fact).boxed()
        });
        match noted.await {
            Ok(true) => Ok(IngestOutcome::Written),
            Ok(false) => Ok(IngestOutcome::NoDelivery),
            Err(error) if error.is_about_data() => {
                Err(IngestError::Refused(error.to_string().into()))
            }
            Err(error) => Err(IngestError::NotCommitted(error.to_string().into())),
        }
    }
}
