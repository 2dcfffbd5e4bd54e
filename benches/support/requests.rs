//! Requests as EMQX writes them with `emqx-config/fleetgate.conf`.

/// The webhook token of the benchmarks.
pub(crate) const TOKEN: &str = "a-token-of-the-benchmarks-0123456789";

/// What a device may do and what it may not, with the answer that is due.
#[derive(Clone, Copy)]
pub(crate) struct Action {
    pub(crate) action: &'static str,
    pub(crate) topic: fn(&str) -> String,
    pub(crate) allowed: bool,
}

/// An allow for every deny, publish and subscribe alike.
pub(crate) const ACTIONS: [Action; 4] = [
    Action { action: "publish", topic: state_topic, allowed: true },
    Action { action: "subscribe", topic: command_topic, allowed: true },
    Action { action: "publish", topic: command_topic, allowed: false },
    Action { action: "subscribe", topic: |_| "lab/#".to_owned(), allowed: false },
];

/// The name of the device with this number.
pub(crate) fn device_name(number: u32) -> String {
    format!("device-{number:07}")
}

/// Where a device reports. `sql/` of [`super::registry`] says the same.
pub(crate) fn state_topic(device: &str) -> String {
    format!("lab/{device}/state")
}

/// Where a device listens.
pub(crate) fn command_topic(device: &str) -> String {
    format!("lab/{device}/set")
}

pub(crate) fn authorization(device: &str, action: Action) -> Vec<u8> {
    let Action { action, topic, .. } = action;
    let topic = topic(device);
    let body = format!(
        r#"{{"username":"{device}","topic":"{topic}","retain":"false","qos":"1","peerhost":"10.0.0.7","clientid":"{device}","action":"{action}"}}"#
    );
    post("/emqx/authz", &body)
}

pub(crate) fn login(device: &str, password: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"username":"{device}","peerhost":"10.0.0.7","password":"{password}","clientid":"{device}","cert_subject":"","cert_common_name":""}}"#
    );
    post("/emqx/authn", &body)
}

/// A login from an address, with the common name of a certificate.
pub(crate) fn login_of(device: &str, password: &str, address: &str, card: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"username":"{device}","peerhost":"{address}","password":"{password}","clientid":"{device}","cert_subject":"","cert_common_name":"{card}"}}"#
    );
    post("/emqx/authn", &body)
}

pub(crate) fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: fleetgate:8080\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}
