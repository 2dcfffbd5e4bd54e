//! A service asks for a command: the request is committed before the answer, and dealt with later (`src/requests.rs`).

use futures_util::FutureExt;

use crate::domain::device::DeviceRecord;
use crate::domain::event::Message;
use crate::domain::request::{COMMANDS, MAX_REQUEST_BYTES, is_request_id, request_id};
use crate::ingest::{Ingest, IngestError, IngestOutcome};
use crate::registry::requests::{self, NewRequest, Stored};

impl Ingest {
    /// Stores the request that a service's message is; `None` when it is none. It is not believed that EMQX has decided
    /// whether the service may: its grants are looked at here.
    pub(super) async fn take_request(
        &self,
        service: &DeviceRecord,
        message: &Message<'_>,
    ) -> Result<Option<IngestOutcome>, IngestError> {
        let Some(capability) = message.topic.strip_prefix(COMMANDS) else { return Ok(None) };
        if !service.rights.may_command(&message.topic) || !is_request_id(&message.id) {
            return Ok(Some(IngestOutcome::NotEntitled));
        }
        let body = message.payload.as_deref().filter(|body| body.len() <= MAX_REQUEST_BYTES);
        let body = body.and_then(|body| std::str::from_utf8(body).ok());
        let body = body.filter(|body| !body.contains('\0'));
        let request = body.and_then(request_id);
        let new = NewRequest {
            service: service.id,
            service_name: service.name.to_string(),
            request: request.unwrap_or_else(|| message.id.clone().into_owned()),
            capability: capability.to_owned(),
            body: body.map(str::to_owned),
            received_at: message.received_at,
            message_id: message.id.clone().into_owned(),
        };
        let stored = self.postgres.change(&new, |new, client| {
            let client: &tokio_postgres::Client = client;
            requests::store(client, new).boxed()
        });
        match stored.await {
            Ok(Stored::New | Stored::Repeated) => Ok(Some(IngestOutcome::Request)),
            Ok(Stored::TooMany) => Ok(Some(IngestOutcome::TooManyRequests)),
            Err(error) => Err(IngestError::of(&error)),
        }
    }
}
