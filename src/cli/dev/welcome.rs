//! What `fleetgate dev` prints when it serves.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio_postgres::GenericClient;

use super::home::DevHome;
use super::record::{Record, RecordedDevice};
use super::{DATABASE, demo};
use crate::cli::error::CliError;
use crate::cli::health::reachable;
use crate::cli::output::shell_word;
use crate::domain::credential::CredentialId;
use crate::embedded::PrivatePostgres;
use crate::fleet::credentials;

/// Everything that the text is about.
pub(super) struct Welcome<'a> {
    pub(super) home: &'a DevHome,
    pub(super) postgres: &'a PrivatePostgres,
    pub(super) address: SocketAddr,
    pub(super) record: &'a Record,
}

/// A request as EMQX sends it, and what comes back.
struct Example {
    what: &'static str,
    path: &'static str,
    body: Value,
    answer: &'static str,
}

const DENIED: &str = r#"{"result":"deny"}"#;
/// The device of the examples.
const EXAMPLE: &str = "thermo-1";

impl Welcome<'_> {
    /// The whole text. Asks the database which of the recorded secrets still count.
    pub(super) async fn text(&self, client: &impl GenericClient) -> Result<String, CliError> {
        let usable = usable(client, &self.record.devices).await?;
        let mut text = String::new();
        self.write_devices(&usable, &mut text);
        self.write_examples(&usable, &mut text);
        self.write_tools(&mut text);
        Ok(text)
    }

    fn write_devices(&self, usable: &[&RecordedDevice], text: &mut String) {
        let file = shell_word(&self.home.demo().display().to_string());
        if usable.is_empty() {
            let _ = write!(
                text,
                "There are devices, but their secrets are in no {file}: they were removed, revoked or \
                 lost. Give a device a new one:\n  {} credential add {EXAMPLE} --generate\n",
                self.command(),
            );
            return;
        }
        text.push_str("Demo devices and what they log in with:\n");
        let widest = usable.iter().map(|device| device.name.len()).max().unwrap_or(0);
        for RecordedDevice { name, secret, .. } in usable {
            let note = note(name);
            let _ = writeln!(text, "  {name:<widest$}  {secret}{note}");
        }
        let _ = write!(
            text,
            "The database holds only hashes of these. So that the next start can print them again, this\n\
             demo keeps them, and the webhook token, in {file} (mode 0600).\n",
        );
    }

    fn write_examples(&self, usable: &[&RecordedDevice], text: &mut String) {
        let device = usable.iter().find(|device| device.name == EXAMPLE);
        let secret = device.map_or("<the secret of thermo-1>", |device| device.secret.as_str());
        text.push_str("\nWhat EMQX would ask:\n");
        for Example { what, path, body, answer } in examples(secret) {
            let url = shell_word(&format!("http://{}{path}", self.reachable()));
            let token = format!("authorization: Bearer {}", self.record.webhook_token().expose());
            let (token, body) = (shell_word(&token), shell_word(&body.to_string()));
            let _ = write!(
                text,
                "\n# {what}. Expected: {answer}\n\
                 curl -sS {url} -H {token} -H 'content-type: application/json' -d {body}; echo\n",
            );
        }
    }

    fn write_tools(&self, text: &mut String) {
        let socket = self.postgres.socket_path();
        let directory = socket.parent().unwrap_or(&socket).display().to_string();
        let command = self.command();
        let _ = write!(
            text,
            "\nOther commands on this registry:\n  {command} device list\n  {command} doctor\n  \
             {command} token issue {EXAMPLE}\n\
             Into the database:\n  psql -h {} -U fleetgate {DATABASE}\n\
             \nServing on http://{}. Ctrl-C stops everything; the data stay.",
            shell_word(&directory),
            self.address,
        );
    }

    /// Where this machine reaches the service.
    pub(super) fn reachable(&self) -> SocketAddr {
        reachable(self.address)
    }

    /// `fleetgate` as this process was called, with the configuration of this registry.
    fn command(&self) -> String {
        let program = std::env::args().next().unwrap_or_else(|| "fleetgate".to_owned());
        let file = self.home.configuration().display().to_string();
        format!("{} --config {}", shell_word(&program), shell_word(&file))
    }
}

fn examples(secret: &str) -> [Example; 4] {
    let login = |what, password: &str, answer| Example {
        what,
        path: "/emqx/authn",
        body: json!({
            "clientid": EXAMPLE, "username": EXAMPLE, "password": password,
            "peerhost": "127.0.0.1", "cert_common_name": "", "cert_subject": "",
        }),
        answer,
    };
    let publish = |what, topic: &str, answer| Example {
        what,
        path: "/emqx/authz",
        body: json!({
            "clientid": EXAMPLE, "username": EXAMPLE, "action": "publish", "topic": topic,
            "qos": "1", "retain": "false", "peerhost": "127.0.0.1",
        }),
        answer,
    };
    let allowed = r#"{"result":"allow","client_attrs":{"device":"thermo-1","kind":"sensor"}}"#;
    [
        login("A login allowed", secret, allowed),
        login("A login refused: the wrong secret", "wrong", DENIED),
        publish(
            "A publish allowed: its own state topic",
            "lab/1/thermo-1/temperature/state",
            r#"{"result":"allow"}"#,
        ),
        publish("A publish refused: another device's", "lab/1/door-1/lock/set", DENIED),
    ]
}

fn note(device: &str) -> String {
    match device {
        demo::WITH_PASSWORD => "  (a chosen password)".to_owned(),
        demo::DASHBOARD => format!(
            "  (a service: subscribes to {}, publishes to {})",
            demo::DASHBOARD_LISTENS,
            demo::DASHBOARD_COMMANDS
        ),
        _ => String::new(),
    }
}

/// Which of the recorded secrets still log their device in.
async fn usable<'a>(
    client: &impl GenericClient,
    recorded: &'a [RecordedDevice],
) -> Result<Vec<&'a RecordedDevice>, CliError> {
    let ids: Vec<_> = recorded.iter().map(|device| CredentialId(device.credential)).collect();
    let valid = credentials::still_valid(client, &ids).await?;
    let is_valid = |device: &&RecordedDevice| {
        valid.contains(&(CredentialId(device.credential), device.name.clone()))
    };
    Ok(recorded.iter().filter(is_valid).collect())
}
