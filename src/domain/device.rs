//! A device as a decision needs it: one record with its credentials and rights.

use crate::domain::credential::Credential;
use crate::domain::name::{ClientId, DeviceKind, DeviceName, check_name};
use crate::domain::rights::Rights;

/// Row id of a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub i64);

/// Everything that a login or an authorization of one device needs. Immutable once loaded.
pub struct DeviceRecord {
    /// Its row.
    pub id: DeviceId,
    /// Its name and MQTT user name.
    pub name: DeviceName,
    /// Its client id, where that is not its name.
    pub client_id: Option<ClientId>,
    /// What it is.
    pub kind: DeviceKind,
    /// Whether it may use the bus at all.
    pub enabled: bool,
    /// Its unrevoked credentials, expired ones included.
    pub credentials: Box<[Credential]>,
    /// What it may do.
    pub rights: Rights,
}

impl DeviceRecord {
    /// Whether a client id is this device's own: the rule for logins, events and sweeps alike, and
    /// `fleetgate_owns_client_id` in `sql/` says the same.
    ///
    /// A device has one; a service may also open `name:anything`, where `anything` is a name and so is
    /// the whole (128 bytes at most). Without this rule one device's secret would kick out any other
    /// device, because EMQX ends the older session of a client id.
    #[must_use]
    pub fn owns_client_id(&self, client_id: &str) -> bool {
        let own = self.client_id.as_ref().map_or(self.name.as_str(), ClientId::as_str);
        owns_client_id(self.name.as_str(), own, self.kind.is_service(), client_id)
    }
}

/// Whether a client id belongs to the device of this name, whose own client id is `own`.
#[must_use]
pub fn owns_client_id(name: &str, own: &str, is_service: bool, client_id: &str) -> bool {
    client_id == own || (is_service && is_instance_of(client_id, name))
}

/// Whether a client id is `<service>:<instance>`, the instance and the whole being names.
fn is_instance_of(client_id: &str, service: &str) -> bool {
    client_id
        .strip_prefix(service)
        .and_then(|rest| rest.strip_prefix(':'))
        .is_some_and(|instance| check_name(instance).is_ok() && check_name(client_id).is_ok())
}
