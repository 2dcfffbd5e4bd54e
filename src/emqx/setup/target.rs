//! What EMQX shall be configured to: the same as `emqx-config/` does from files.

use serde_json::{Value, json};

use crate::emqx::setup::Lookup;
use crate::secret::Secret;

/// Connections of EMQX to Fleetgate for logins, and as many for authorization. Each answers one
/// request at a time.
const POOL: u32 = 32;

/// How often EMQX looks whether Fleetgate is back. Events flow again when both the connector and the action
/// on it have looked; EMQX's own 15 s of the connector would keep them waiting (docs/EMQX.md).
const HEALTH_CHECK: &str = "2s";

/// Where Fleetgate answers who may log in.
const LOGINS: &str = "/emqx/authn";
/// Where it answers who may do what.
const ACTIONS: &str = "/emqx/authz";

/// The first so many characters of a token tell nothing.
const MOST_SHOWN: usize = 4;

/// Something that EMQX is to have, and where its REST API has it.
pub struct Resource {
    /// Its name for people.
    pub name: &'static str,
    /// Where it is created.
    pub collection: &'static str,
    /// Where it is replaced.
    pub item: &'static str,
    /// How it is looked up.
    pub lookup: Lookup,
    /// Fields that only its creation has.
    pub only_created: &'static [&'static str],
    /// The path at Fleetgate that its URL ends in; empty: it has none.
    pub(super) asks_at: &'static str,
    /// What it shall be. Holds the webhook token.
    pub(super) fields: Value,
}

/// Where Fleetgate is for EMQX, and what EMQX presents there.
pub struct Target {
    fleetgate: String,
    token: Secret,
}

impl Target {
    /// A target; `fleetgate` is Fleetgate's URL as EMQX reaches it, without a slash at the end.
    #[must_use]
    pub fn new(fleetgate: &str, token: Secret) -> Self {
        Self { fleetgate: fleetgate.trim_end_matches('/').to_owned(), token }
    }

    /// The text without the token, which EMQX's explanations may repeat.
    pub(super) fn without_token(&self, text: &str) -> String {
        let token = self.token.expose();
        let mut text = text.replace(token, super::HIDDEN);
        // What EMQX says is shortened, which may cut a token in two.
        let cut = (MOST_SHOWN..token.len()).rev().filter_map(|length| token.get(..length));
        if let Some(begun) = cut.into_iter().find(|begun| text.ends_with(begun)) {
            text.truncate(text.len() - begun.len());
            text.push_str(super::HIDDEN);
        }
        text
    }

    /// How EMQX decides where no source does, and what it remembers of decisions.
    ///
    /// `deny_action` leaves a client connected that tries what it may not.
    pub(super) fn settings() -> Value {
        json!({"no_match": "deny", "deny_action": "ignore", "cache": {"enable": false}})
    }

    /// The node's memory of logins, from EMQX 5.9 on; from 6.2 on it is on by default.
    ///
    /// A device whose secret is revoked reconnects as soon as its session is ended. From this memory it
    /// would be let in again, with its old rights, and nothing would end that session.
    pub(super) fn login_cache() -> Value {
        json!({"node_cache": {"enable": false}})
    }

    /// The same for actions: it would go on allowing what was taken away.
    pub(super) fn action_cache() -> Value {
        json!({"enable": false})
    }

    /// Who may log in.
    #[must_use]
    pub fn authenticator(&self) -> Resource {
        let more = json!({
            "mechanism": "password_based", "backend": "http",
            "body": placeholders(&[
                "clientid", "username", "password", "peerhost", "cert_common_name", "cert_subject",
            ]),
        });
        Resource {
            name: "authenticator",
            collection: "authentication",
            item: "authentication/password_based:http",
            lookup: Lookup::InList { list: None, key: "id", value: "password_based:http" },
            only_created: &[],
            asks_at: LOGINS,
            fields: self.asking(LOGINS, more),
        }
    }

    /// Who may publish and subscribe what.
    #[must_use]
    pub fn source(&self) -> Resource {
        let more = json!({
            "type": "http",
            "body": placeholders(&[
                "clientid", "username", "peerhost", "action", "topic", "qos", "retain",
            ]),
        });
        Resource {
            name: "authorization source http",
            collection: "authorization/sources",
            item: "authorization/sources/http",
            lookup: Lookup::InList { list: Some("sources"), key: "type", value: "http" },
            only_created: &[],
            asks_at: ACTIONS,
            fields: self.asking(ACTIONS, more),
        }
    }

    /// A service that EMQX waits for. `enable_pipelining` 1: a request behind a slow one would wait.
    fn asking(&self, path: &str, more: Value) -> Value {
        let mut fields = json!({
            "enable": true, "method": "post", "url": format!("{}{path}", self.fleetgate),
            "pool_size": POOL, "enable_pipelining": 1, "request_timeout": "5s",
            "headers": self.headers(),
        });
        super::difference::merge(&mut fields, more);
        fields
    }

    fn headers(&self) -> Value {
        let authorization = format!("Bearer {}", self.token.expose());
        json!({"content-type": "application/json", "authorization": authorization})
    }

    /// The connections on which events travel. `hash` keeps a client's events on one of them.
    #[must_use]
    pub fn connector(&self) -> Resource {
        Resource {
            name: "connector",
            collection: "connectors",
            item: "connectors/http:fleetgate",
            lookup: Lookup::Alone,
            only_created: &["type", "name"],
            asks_at: "",
            fields: json!({
                "type": "http", "name": "fleetgate", "enable": true, "url": self.fleetgate,
                "pool_type": "hash", "pool_size": POOL, "enable_pipelining": 100, "headers": {},
                "resource_opts": {"health_check_interval": HEALTH_CHECK},
            }),
        }
    }

    /// What carries events, and keeps them for as long as Fleetgate is away.
    #[must_use]
    pub fn action(&self) -> Resource {
        Resource {
            name: "action",
            collection: "actions",
            item: "actions/http:fleetgate_events",
            lookup: Lookup::Alone,
            only_created: &["type", "name"],
            asks_at: "",
            fields: json!({
                "type": "http", "name": "fleetgate_events", "enable": true, "connector": "fleetgate",
                "parameters": {
                    "path": "/emqx/events", "method": "post", "headers": self.headers(),
                },
                "resource_opts": {
                    "request_ttl": "infinity", "health_check_interval": HEALTH_CHECK,
                    "inflight_window": 1000, "max_buffer_bytes": "256MB",
                },
            }),
        }
    }

    /// Who connects and disconnects: the fields that `http::emqx::events` reads, and no others.
    #[must_use]
    pub fn presence_rule(&self) -> Resource {
        let sql = "SELECT event, clientid, username, connected_at, disconnected_at, reason, node \
                   FROM \"$events/client_connected\", \"$events/client_disconnected\"";
        rule("rule for presence", "rules/fleetgate_presence", "fleetgate_presence", sql)
    }

    /// What is published. `base64_encode` keeps bytes that are no text; `client_attrs` tells a will,
    /// Correlation Data which command a device replies to.
    #[must_use]
    pub fn message_rule(&self) -> Resource {
        let sql = "SELECT event, id, clientid, username, client_attrs, topic, \
                   base64_encode(payload) as payload_base64, publish_received_at, \
                   pub_props.'Correlation-Data' as correlation, node FROM \"#\" \
                   WHERE clientid <> 'http_api'";
        rule("rule for messages", "rules/fleetgate_messages", "fleetgate_messages", sql)
    }

    /// What becomes of commands, which are published over the REST API.
    #[must_use]
    pub fn command_rule(&self) -> Resource {
        let sql = "SELECT event, id, clientid, username, topic, qos, reason, timestamp, node, \
                   pub_props.'Correlation-Data' as correlation FROM \"$events/message_delivered\", \
                   \"$events/message_acked\", \"$events/delivery_dropped\" \
                   WHERE from_clientid = 'http_api'";
        rule("rule for commands", "rules/fleetgate_commands", "fleetgate_commands", sql)
    }
}

fn rule(name: &'static str, item: &'static str, id: &str, sql: &str) -> Resource {
    Resource {
        name,
        collection: "rules",
        item,
        lookup: Lookup::Alone,
        only_created: &[],
        asks_at: "",
        fields: json!({
            "id": id, "sql": sql, "actions": ["http:fleetgate_events"], "enable": true,
        }),
    }
}

/// Fields that EMQX fills in with what they are called.
fn placeholders(names: &[&str]) -> Value {
    let fields = names.iter().map(|name| ((*name).to_owned(), format!("${{{name}}}").into()));
    Value::Object(fields.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_that_repeats_the_token_does_not_show_it() {
        let target = Target::new("http://fleetgate:8080/", Secret::new("topsecret".to_owned()));
        let text = target.without_token("bad header: Bearer topsecret");
        assert_eq!(text, "bad header: Bearer ******");
        assert_eq!(target.without_token("… Bearer topsec"), "… Bearer ******", "it was shortened");
        assert_eq!(target.without_token("… to"), "… to");
        assert_eq!(target.connector().fields["url"], "http://fleetgate:8080");
    }
}
