//! Settings of EMQX by which a stranger, who cannot log in, keeps devices out.
//!
//! Fleetgate bounds what strangers cost it, and never locks a device with a good secret out. Before EMQX asks
//! it, EMQX may have refused already. Nothing of this is changed by `emqx apply`: the settings
//! are the operator's, concern more than Fleetgate, and are off by default. They are told.
//!
//! What cannot be read is passed over: the paths differ between versions and editions (5.8's open edition
//! serves some, 6.x all), and a role of the API key may not reach them.

use serde_json::Value;

use super::{Setup, SetupError};
use crate::emqx::EmqxError;

const ZONE: &str = "configs/global_zone";
/// The newest bans are enough to tell that there are some.
const BANS: &str = "banned?page=1&limit=100";
const LISTENERS: &str = "listeners";
/// From this share of its connections on a listener counts as full, in percent.
const NEARLY_FULL: u64 = 90;

/// One of these settings, or what it has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hazard {
    /// What was found, and what it leads to.
    pub found: String,
    /// What to do.
    pub remedy: &'static str,
}

impl Setup<'_> {
    /// What a stranger could use to keep devices out.
    ///
    /// # Errors
    /// When EMQX stops answering.
    pub async fn hazards(&self) -> Result<Vec<Hazard>, SetupError> {
        let mut hazards = Vec::new();
        hazards.extend(self.look(ZONE).await?.as_ref().and_then(flapping));
        hazards.extend(self.look(BANS).await?.as_ref().and_then(bans));
        let listeners = self.look(LISTENERS).await?;
        for listener in listeners.iter().filter_map(Value::as_array).flatten() {
            if listener.get("enable") == Some(&Value::Bool(false)) {
                continue;
            }
            hazards.extend(crowded(listener));
            if let Some(id) = listener.get("id").and_then(Value::as_str).filter(|id| is_plain(id)) {
                let settings = self.look(&format!("{LISTENERS}/{id}")).await?;
                hazards.extend(settings.as_ref().and_then(|settings| rate(id, settings)));
            }
        }
        Ok(hazards)
    }

    async fn look(&self, path: &str) -> Result<Option<Value>, SetupError> {
        match self.api.configuration(path).await {
            Ok(found) => Ok(found),
            Err(
                EmqxError::NotFound { .. }
                | EmqxError::Rejected { .. }
                // A key that EMQX does not take at all has failed before at what matters more.
                | EmqxError::Unauthorized { .. }
                | EmqxError::UnreadableConfiguration(_),
            ) => Ok(None),
            Err(error) => Err(SetupError::Call { call: format!("GET /api/v5/{path}"), error }),
        }
    }
}

/// Flapping detection counts CONNECT packets before anybody is authenticated. Up to 6.2 it is one switch,
/// from 6.3 on one policy each for client ids, user names and addresses.
fn flapping(zone: &Value) -> Option<Hazard> {
    let settings = zone.get("flapping_detect")?;
    let is_on = |value: &Value| *value == Value::Bool(true) || *value == "true";
    let by = ["by_clientid", "by_username", "by_peerhost"].into_iter().filter(|by| {
        let policy = settings.get(*by).filter(|policy| policy.is_object());
        policy.is_some_and(|policy| policy.get("enable").is_none_or(is_on))
    });
    let mut by: Vec<_> = by.collect();
    if settings.get("enable").is_some_and(is_on) && by.is_empty() {
        by.push("by_clientid");
    }
    if by.is_empty() {
        return None;
    }
    Some(Hazard {
        found: format!(
            "flapping_detect is on ({}): EMQX counts connects before it asks who they are, so a stranger \
             locks any device out by connecting under its name a few times",
            by.join(", ")
        ),
        remedy: "switch it off: EMQX's dashboard, Access Control, Flapping Detect; Fleetgate itself slows \
                 down those who guess",
    })
}

fn bans(list: &Value) -> Option<Hazard> {
    let of = |ban: &Value, key: &str| {
        ban.get(key).and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase()
    };
    let entries = list.get("data").and_then(Value::as_array)?;
    let by_flapping =
        |ban: &&Value| of(ban, "by").contains("flapping") || of(ban, "reason").contains("flapping");
    let mut bans = entries.iter().filter(by_flapping);
    let first = bans.next()?;
    let more = bans.count();
    let name = first.get("who").and_then(Value::as_str).unwrap_or_default();
    let others = if more == 0 { String::new() } else { format!(" and {more} more") };
    Some(Hazard {
        found: format!("flapping detection locks out {name:?}{others} now"),
        remedy: "lift it in EMQX's dashboard: Access Control, Banned Clients",
    })
}

/// Connections that have not logged in count too.
fn crowded(listener: &Value) -> Option<Hazard> {
    let status = listener.get("status")?;
    let open = status.get("current_connections")?.as_u64()?;
    let limit = status.get("max_connections")?.as_u64().filter(|limit| *limit > 0)?;
    let id = listener.get("id").and_then(Value::as_str).unwrap_or_default();
    (open.saturating_mul(100) >= limit.saturating_mul(NEARLY_FULL)).then(|| Hazard {
        found: format!(
            "listener {id:?} has {open} of {limit} connections open, those of strangers among them: \
             beyond that no device gets in"
        ),
        remedy: "raise its max_connections, and let a firewall limit connections an address",
    })
}

/// One limit for everybody: whoever connects faster uses it up.
fn rate(id: &str, settings: &Value) -> Option<Hazard> {
    let rate = settings.get("max_conn_rate")?.as_str()?;
    (rate != "infinity").then(|| Hazard {
        found: format!(
            "listener {id:?} takes {rate} new connections (max_conn_rate) from all together: a stranger \
             who connects that fast keeps devices waiting"
        ),
        remedy: "set it to infinity, and let a firewall limit connections an address",
    })
}

/// Whether it can stand in a path as it is.
fn is_plain(id: &str) -> bool {
    !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || "_-:.".contains(c))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flapping_detection_is_seen_in_every_version() {
        let zone = |settings: Value| json!({"flapping_detect": settings, "mqtt": {}});
        for off in [
            json!({"enable": false, "max_count": 15, "window_time": "1m", "ban_time": "5m"}),
            json!({"by_clientid": "none", "by_username": "none", "by_peerhost": "none"}),
            json!({"by_clientid": {"enable": false}}),
            json!("none"),
            json!(null),
        ] {
            assert_eq!(flapping(&zone(off.clone())), None, "{off}");
        }
        for (on, part) in [
            (json!({"enable": true}), "by_clientid"),
            (json!({"enable": "true"}), "by_clientid"),
            (json!({"by_clientid": "none", "by_peerhost": {"max_count": 15}}), "by_peerhost"),
        ] {
            assert!(flapping(&zone(on.clone())).unwrap().found.contains(part), "{on}");
        }
        assert_eq!(flapping(&json!({"mqtt": {}})), None);
    }

    #[test]
    fn only_bans_of_the_detector_are_told() {
        let ban =
            |who: &str, by: &str| json!({"as": "clientid", "who": who, "by": by, "reason": ""});
        let list = json!({"data": [ban("a", "admin"), ban("b", "flapping detector")]});
        assert!(bans(&list).unwrap().found.contains("\"b\" now"));
        assert_eq!(bans(&json!({"data": [ban("a", "admin")]})), None);
        assert_eq!(bans(&json!([])), None);
    }
}
