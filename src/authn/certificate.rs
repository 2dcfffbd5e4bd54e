//! What a client certificate contributes to a login. EMQX has verified it before the call.

use crate::domain::credential::{CertificateUse, Credential, Proof};
use crate::domain::device::DeviceRecord;

/// What a certificate is worth. Ends are Unix seconds, `i64::MAX` for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certificate {
    /// A valid one that is enough by itself was shown.
    Enough {
        /// When it ends.
        until: i64,
    },
    /// A valid one that is needed beside another credential was shown.
    Shown {
        /// When it ends.
        until: i64,
    },
    /// One is needed and none was shown that counts.
    Missing,
    /// The device asks for none.
    NotNeeded,
}

impl Certificate {
    /// Judges a common name against a device's credentials.
    ///
    /// A `Required` credential makes certificates necessary even when it has expired: its end must
    /// not turn two factors into one.
    pub(super) fn judge(device: &DeviceRecord, common_name: Option<&str>, now: i64) -> Self {
        let latest = |wanted| {
            let credentials = device.credentials.iter();
            let shown = credentials.filter(|c| names(c, wanted, common_name) && c.is_usable(now));
            shown.map(until).max()
        };
        if let Some(until) = latest(CertificateUse::Alone) {
            return Self::Enough { until };
        }
        let mut uses = device.credentials.iter().filter_map(certificate_use);
        if !uses.any(|one| one == CertificateUse::Required) {
            return Self::NotNeeded;
        }
        latest(CertificateUse::Required).map_or(Self::Missing, |until| Self::Shown { until })
    }
}

/// A credential's end in Unix seconds, `i64::MAX` for never.
pub(super) fn until(credential: &Credential) -> i64 {
    credential.validity.expires_at_seconds().unwrap_or(i64::MAX)
}

/// Whether a credential is this device's certificate of that use and name.
fn names(credential: &Credential, wanted: CertificateUse, shown: Option<&str>) -> bool {
    match &credential.proof {
        Proof::Certificate { common_name, required } => {
            *required == wanted && shown == Some(common_name)
        }
        _ => false,
    }
}

/// Whether the certificate shown is one of the device's that does not count now.
pub(super) fn is_out_of_time(device: &DeviceRecord, shown: Option<&str>, now: i64) -> bool {
    let mut credentials = device.credentials.iter().filter(|credential| !credential.is_usable(now));
    credentials.any(|credential| {
        certificate_use(credential).is_some_and(|wanted| names(credential, wanted, shown))
    })
}

/// Whether a credential is a certificate that is enough by itself.
pub(super) fn is_enough(credential: &Credential) -> bool {
    certificate_use(credential) == Some(CertificateUse::Alone)
}

/// How a credential's certificate is used, if it is one.
fn certificate_use(credential: &Credential) -> Option<CertificateUse> {
    match credential.proof {
        Proof::Certificate { required, .. } => Some(required),
        _ => None,
    }
}
