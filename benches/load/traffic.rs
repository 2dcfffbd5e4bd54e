//! The requests of a run, and the answers that are due.

use std::io::Write;

use crate::plan::Traffic;
use crate::sessions::{Happening, Sessions};
use crate::support::connection::Answer;
use crate::support::registry::SECRET;
use crate::support::requests::{ACTIONS, authorization, device_name, login, post, state_topic};

/// Which answer is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    Allow,
    Deny,
    /// A refusal; or 503, when so many others wait that this one is not even looked at.
    DenyOrBusy,
    Accepted,
}

impl Due {
    pub(crate) fn is_met_by(self, answer: &Answer<'_>) -> bool {
        let says =
            |result: &str| answer.status == 200 && answer.body.starts_with(result.as_bytes());
        match self {
            Self::Allow => says(r#"{"result":"allow""#),
            Self::Deny => says(r#"{"result":"deny""#),
            Self::DenyOrBusy => says(r#"{"result":"deny""#) || answer.status == 503,
            Self::Accepted => answer.status == 204,
        }
    }
}

/// The requests of one connection, in turn.
pub(crate) enum Requests {
    /// Written beforehand, again and again.
    Written { requests: Vec<(Vec<u8>, Due)>, next: usize },
    /// Each different, written when it is sent.
    Events { sessions: Sessions, request: Vec<u8> },
}

impl Requests {
    /// The share of one connection; a device keeps to one, as with EMQX's pool of type `hash`.
    pub(crate) fn share(traffic: &Traffic, connection: usize, connections: usize) -> Self {
        let mine =
            |devices: &std::ops::Range<u32>| devices.clone().skip(connection).step_by(connections);
        let written = |requests: Vec<_>| Self::Written { requests, next: 0 };
        let with_password = |devices, password, due| {
            written(
                mine(devices).map(|number| (login(&device_name(number), password), due)).collect(),
            )
        };
        match traffic {
            Traffic::Actions(devices) => written(
                mine(devices)
                    .zip(ACTIONS.iter().cycle())
                    .map(|(number, action)| {
                        let due = if action.allowed { Due::Allow } else { Due::Deny };
                        (authorization(&device_name(number), *action), due)
                    })
                    .collect(),
            ),
            Traffic::Logins(devices) => with_password(devices, SECRET, Due::Allow),
            Traffic::WrongLogins(devices) => {
                with_password(devices, "not-the-password", Due::DenyOrBusy)
            }
            Traffic::Events { devices, since_ms } => Self::Events {
                sessions: Sessions::new(mine(devices).collect(), *since_ms),
                request: Vec::new(),
            },
        }
    }

    /// How many there are before they come again.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Written { requests, .. } => requests.len(),
            Self::Events { .. } => usize::MAX,
        }
    }

    pub(crate) fn next(&mut self) -> (&[u8], Due) {
        match self {
            Self::Written { requests, next } => {
                let current = *next;
                *next = if current + 1 == requests.len() { 0 } else { current + 1 };
                let (request, due) = &requests[current];
                (request, *due)
            }
            Self::Events { sessions, request } => {
                let (number, happening) = sessions.next();
                *request = event(&device_name(number), &happening);
                (request, Due::Accepted)
            }
        }
    }
}

/// As the two rules of `emqx-config/fleetgate.conf` send it.
fn event(device: &str, happening: &Happening) -> Vec<u8> {
    let mut body = Vec::with_capacity(512);
    let written = match *happening {
        Happening::Connected { at_ms } => write!(
            body,
            r#"{{"username":"{device}","timestamp":{at_ms},"sockname":"10.0.0.1:1883","receive_maximum":32,"proto_ver":5,"proto_name":"MQTT","peername":"10.0.0.7:55293","node":"emqx@emqx.labnet","mountpoint":"undefined","metadata":{{"rule_id":"fleetgate_presence"}},"keepalive":60,"is_bridge":false,"expiry_interval":0,"event":"client.connected","connected_at":{at_ms},"conn_props":{{"User-Property":{{}}}},"clientid":"{device}","client_attrs":{{"kind":"sensor","device":"{device}"}},"clean_start":true}}"#
        ),
        Happening::Disconnected { began_ms, at_ms } => write!(
            body,
            r#"{{"username":"{device}","timestamp":{at_ms},"sockname":"10.0.0.1:1883","reason":"normal","proto_ver":5,"proto_name":"MQTT","peername":"10.0.0.7:55293","node":"emqx@emqx.labnet","metadata":{{"rule_id":"fleetgate_presence"}},"event":"client.disconnected","disconnected_at":{at_ms},"disconn_props":{{"User-Property":{{}}}},"connected_at":{began_ms},"clientid":"{device}","client_attrs":{{"kind":"sensor","device":"{device}"}}}}"#
        ),
        Happening::ReportedBinding { at_ms, ref id } => write!(
            body,
            r#"{{"username":"{device}","topic":"{topic}","timestamp":{at_ms},"retain":false,"qos":1,"publish_received_at":{at_ms},"payload_base64":"eyJjIjoyMS41fQ==","node":"emqx@emqx.labnet","id":"{id}","event":"message.publish","clientid":"{device}"}}"#,
            topic = state_topic(device)
        ),
    };
    written.expect("memory takes everything");
    post("/emqx/events", str::from_utf8(&body).expect("it was written as text"))
}
