//! What a client certificate contributes to a login. EMQX has verified it before the call.

use jiff::Timestamp;

use super::Refusal;
use crate::domain::credential::{CertificateUse, Credential, Proof, ValidUntil};
use crate::domain::device::DeviceRecord;

/// What the certificate of a login decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certificate {
    /// It is valid and enough by itself.
    Sufficient(ValidUntil),
    /// It is valid, and the device needs a password or token beside it.
    Additional(ValidUntil),
    /// The device needs a certificate, and no valid one was presented.
    Missing(Refusal),
    /// The device needs no certificate.
    NotRequired,
}

impl Certificate {
    /// Compares a common name with a device's credentials.
    ///
    /// A `Required` credential makes certificates necessary even when it has expired: its end must
    /// not turn two factors into one.
    pub(super) fn check(device: &DeviceRecord, common_name: Option<&str>, now: Timestamp) -> Self {
        let latest = |wanted| {
            let credentials = device.credentials.iter();
            let usable = credentials.filter(|c| names(c, wanted, common_name) && c.is_usable(now));
            usable.map(|credential| credential.validity.until).max()
        };
        if let Some(until) = latest(CertificateUse::Alone) {
            return Self::Sufficient(until);
        }
        let mut uses = device.credentials.iter().filter_map(certificate_use);
        if !uses.any(|one| one == CertificateUse::Required) {
            return Self::NotRequired;
        }
        match latest(CertificateUse::Required) {
            Some(until) => Self::Additional(until),
            None if has_expired(device, common_name, now) => {
                Self::Missing(Refusal::ExpiredCredential)
            }
            None => Self::Missing(Refusal::CertificateRequired),
        }
    }
}

/// Whether a credential is the certificate of this use and common name.
fn names(credential: &Credential, wanted: CertificateUse, name: Option<&str>) -> bool {
    match &credential.proof {
        Proof::Certificate { common_name, required } => {
            *required == wanted && name == Some(common_name)
        }
        Proof::Secret(_) | Proof::Password(_) | Proof::Imported(_) | Proof::Token => false,
    }
}

/// Whether the presented certificate is one of the device's that has expired or is not valid yet.
pub(super) fn has_expired(device: &DeviceRecord, name: Option<&str>, now: Timestamp) -> bool {
    let mut credentials = device.credentials.iter().filter(|credential| !credential.is_usable(now));
    credentials.any(|credential| {
        certificate_use(credential).is_some_and(|wanted| names(credential, wanted, name))
    })
}

/// How a credential's certificate is used, if it is one.
pub(super) fn certificate_use(credential: &Credential) -> Option<CertificateUse> {
    match credential.proof {
        Proof::Certificate { required, .. } => Some(required),
        Proof::Secret(_) | Proof::Password(_) | Proof::Imported(_) | Proof::Token => None,
    }
}
