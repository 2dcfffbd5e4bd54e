//! Databases by their parts: empty ones, plain connections, what NOTIFY says.

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::postgres::{as_owner, connect, empty_database, fresh_database};

/// A database of its own for one test.
pub(crate) struct Database {
    url: String,
}

impl Database {
    /// Makes an empty one.
    pub(crate) async fn empty() -> Self {
        Self { url: empty_database().await.url }
    }

    /// Makes one with Fleetgate's schema, and connects to it.
    pub(crate) async fn migrated() -> (Self, Client) {
        let database = Self { url: fresh_database().await.url };
        let client = database.connect().await;
        (database, client)
    }

    /// Where it is, for the service and the commands.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Opens a connection of the owner.
    pub(crate) async fn connect(&self) -> Client {
        connect(&as_owner(&self.url)).await
    }

    /// Opens a connection that listens for changes of devices.
    pub(crate) async fn listen(&self) -> Listener {
        let (client, mut connection) =
            tokio_postgres::connect(&as_owner(&self.url), NoTls).await.unwrap();
        let (sender, notices) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(notice) = message {
                    let _ = sender.send(notice.payload().to_owned());
                }
            }
        });
        client.batch_execute("LISTEN fleetgate_device").await.unwrap();
        Listener { client, notices }
    }
}

/// Hears which devices changed.
pub(crate) struct Listener {
    client: Client,
    notices: mpsc::UnboundedReceiver<String>,
}

impl Listener {
    /// All notices until now, in order. A notice of its own marks the end, so nothing is waited for
    /// that may never come.
    pub(crate) async fn heard(&mut self) -> Vec<String> {
        self.client.batch_execute("NOTIFY fleetgate_device, '/end'").await.unwrap();
        let mut heard = Vec::new();
        loop {
            match self.notices.recv().await.unwrap().as_str() {
                "/end" => return heard,
                payload => heard.push(payload.to_owned()),
            }
        }
    }
}
