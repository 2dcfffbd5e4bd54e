//! Events as EMQX writes them, and the rows that come of them.

use fleetgate::clock::Clock;
use serde_json::{Value, json};

use super::fleet::Fleet;

/// The time now, in ms since 1970.
pub(crate) fn now() -> i64 {
    Clock::System.now().as_millisecond()
}

pub(crate) fn connected(client_id: &str, name: &str, connected_at: i64) -> Value {
    json!({
        "event": "client.connected", "clientid": client_id, "username": name,
        "connected_at": connected_at, "timestamp": connected_at, "node": "emqx@127.0.0.1",
    })
}

pub(crate) fn disconnected(
    client_id: &str,
    name: &str,
    connected_at: i64,
    disconnected_at: i64,
    reason: &str,
) -> Value {
    json!({
        "event": "client.disconnected", "clientid": client_id, "username": name, "reason": reason,
        "connected_at": connected_at, "disconnected_at": disconnected_at,
        "timestamp": disconnected_at, "node": "emqx@127.0.0.1",
    })
}

pub(crate) fn message(name: &str, topic: &str, at: i64, id: &str, payload: &str) -> Value {
    json!({
        "event": "message.publish", "clientid": name, "username": name, "topic": topic, "qos": 1,
        "retain": false, "payload": payload, "publish_received_at": at, "timestamp": at, "id": id,
        "node": "emqx@127.0.0.1",
    })
}

/// What becomes of a command's message at a client: `message.delivered` or `message.acked`.
pub(crate) fn command(event: &str, client_id: &str, name: &str, delivery: &str, qos: u8) -> Value {
    json!({
        "event": event, "clientid": client_id, "username": name, "topic": "t", "qos": qos,
        "id": "0006612200", "timestamp": now(), "node": "emqx@127.0.0.1", "correlation": delivery,
        "reason": "undefined",
    })
}

/// Everything that events write, as one JSON document. `noted_at` is PostgreSQL's own clock.
pub(crate) async fn rows(fleet: &Fleet) -> Value {
    fleet
        .value(
            "SELECT jsonb_build_object(
                'online', (SELECT coalesce(jsonb_object_agg(name, online), '{}') FROM devices),
                'sessions', (SELECT coalesce(jsonb_object_agg(client_id, to_jsonb(s) - 'noted_at' - 'client_id'), '{}')
                             FROM client_sessions s),
                'state', (SELECT coalesce(jsonb_object_agg(name, to_jsonb(s) - 'device_id'), '{}')
                          FROM device_state s JOIN devices ON id = device_id))",
        )
        .await
}

/// The state of a device by binding.
pub(crate) async fn state(fleet: &Fleet, name: &str) -> Value {
    fleet
        .value(&format!(
            "SELECT coalesce((SELECT state FROM device_state JOIN devices ON id = device_id
                              WHERE name = '{name}'), '{{}}')"
        ))
        .await
}

/// When a device was last seen, in ms since 1970; -1: never.
pub(crate) async fn last_seen(fleet: &Fleet, name: &str) -> i64 {
    fleet
        .value(&format!(
            "SELECT coalesce((SELECT (extract(epoch FROM last_seen) * 1000)::bigint
                              FROM device_state JOIN devices ON id = device_id
                              WHERE name = '{name}'), -1)"
        ))
        .await
}

pub(crate) async fn is_online(fleet: &Fleet, name: &str) -> bool {
    fleet.value(&format!("SELECT online FROM devices WHERE name = '{name}'")).await
}
