//! Who acts: noted with every change in the audit log (`sql/V15`).

use std::fmt;

use tokio_postgres::GenericClient;

use crate::registry::error::RegistryError;

/// Who acts. What is stored is its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// Somebody at the command line: the operating system's name of the user. `command-line:alice`
    CommandLine(String),
    /// A program with an API token. `token:7:grafana`
    Token {
        /// The row of the token.
        id: i64,
        /// What it is called.
        name: String,
    },
    /// A service that asks for a command over MQTT. `service:dashboard`
    Service(String),
    /// Fleetgate by itself. `system`
    System,
}

impl Actor {
    /// Notes for the rest of the client's transaction who acts. It does not outlive the transaction, so that a pooler may
    /// hand the session to somebody else.
    ///
    /// # Errors
    /// A database that is away.
    pub async fn note(&self, transaction: &impl GenericClient) -> Result<(), RegistryError> {
        let noted = transaction
            .execute("SELECT set_config('fleetgate.actor', $1, true)", &[&self.to_string()])
            .await;
        noted.map(drop).map_err(RegistryError::on("who acts"))
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine(user) => write!(f, "command-line:{user}"),
            Self::Token { id, name } => write!(f, "token:{id}:{name}"),
            Self::Service(name) => write!(f, "service:{name}"),
            Self::System => f.write_str("system"),
        }
    }
}
