//! What those who watch the fleet are told of a change.

use std::collections::BTreeSet;

use tokio_postgres::GenericClient;

use crate::fleet::FleetError;
use crate::registry::error::RegistryError;
use crate::registry::live::Changes;
use crate::registry::selector::ONLINE;

/// Most devices that are told of one by one: those that changed, and those behind a gateway that connected.
const MOST: i64 = 2000;

/// Something that is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A device came or was changed, or there is none of this name any more.
    Device {
        /// Its name.
        name: String,
        /// Whether there is one.
        exists: bool,
    },
    /// A device may have come online or gone offline.
    Presence {
        /// Its name.
        name: String,
        /// Whether it is online.
        online: bool,
    },
    /// A device reported.
    State {
        /// Its name.
        name: String,
    },
}

impl Notice {
    /// Which device it is about.
    #[must_use]
    pub fn device(&self) -> &str {
        match self {
            Self::Device { name, .. } | Self::Presence { name, .. } | Self::State { name } => name,
        }
    }
}

/// Looks at what changed; `None`: it is too much to be told one by one.
///
/// # Errors
/// A database that is away.
pub async fn look(
    client: &impl GenericClient,
    changes: &Changes,
) -> Result<Option<Vec<Notice>>, FleetError> {
    if changes.all {
        return Ok(None);
    }
    let ids = |ids: &BTreeSet<i64>| ids.iter().copied().collect::<Vec<i64>>();
    let names: Vec<&str> = changes.names.iter().map(String::as_str).collect();
    let (devices, presence, state) =
        (ids(&changes.devices), ids(&changes.presence), ids(&changes.state));
    let statement = format!(
        "SELECT name, {ONLINE} AS online, name = ANY ($1) OR id = ANY ($2) AS changed,
             id = ANY ($3) OR coalesce(gateway = ANY ($3), false) AS moved, id = ANY ($4) AS reported
         FROM devices AS device
         WHERE name = ANY ($1) OR id = ANY ($2 || $3 || $4) OR gateway = ANY ($3)
         ORDER BY name LIMIT $5"
    );
    let rows = client.query(&statement, &[&names, &devices, &presence, &state, &(MOST + 1)]).await;
    let rows = rows.map_err(RegistryError::on("what changed"))?;
    if i64::try_from(rows.len()).is_ok_and(|count| count > MOST) {
        return Ok(None);
    }
    let mut gone: BTreeSet<&str> = names.into_iter().collect();
    let mut told = Vec::new();
    for row in &rows {
        let name: String = row.get("name");
        gone.remove(name.as_str());
        if row.get("changed") {
            told.push(Notice::Device { name: name.clone(), exists: true });
        }
        if row.get("moved") {
            told.push(Notice::Presence { name: name.clone(), online: row.get("online") });
        }
        if row.get("reported") {
            told.push(Notice::State { name });
        }
    }
    told.extend(
        gone.into_iter().map(|name| Notice::Device { name: name.to_owned(), exists: false }),
    );
    Ok(Some(told))
}
