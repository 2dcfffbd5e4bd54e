//! What a certificate says.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// A certificate that has been read.
#[derive(Debug, Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    /// Last second at which it is valid.
    pub ends: Timestamp,
    /// Its alternative names: host names and addresses.
    pub names: BTreeSet<String>,
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// The bits of its public key.
    pub public_key: Vec<u8>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
}

impl Certificate {
    /// Reads the first certificate in a PEM text; `None` when there is none that can be read.
    #[must_use]
    pub fn from_pem(pem: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (_, parsed) = X509Certificate::from_der(&der).ok()?;
        let ends = Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()?;
        let names = parsed.subject_alternative_name().ok()?;
        let names = names.map_or_else(BTreeSet::new, |found| {
            found.value.general_names.iter().filter_map(name).collect()
        });
        let common_name = parsed.subject().iter_common_name().next();
        Some(Self {
            ends,
            names,
            common_name: common_name.and_then(|name| name.as_str().ok()).map(str::to_owned),
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            der,
        })
    }

    /// The certificate in DER.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Whether that authority signed it.
    #[must_use]
    pub fn is_signed_by(&self, authority: &Self) -> bool {
        let (Ok((_, own)), Ok((_, other))) =
            (X509Certificate::from_der(&self.der), X509Certificate::from_der(&authority.der))
        else {
            return false;
        };
        self.issuer == authority.subject && own.verify_signature(Some(other.public_key())).is_ok()
    }
}

/// A host name or address as [`super::names::TlsNames`] writes it.
fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(host) => Some(host.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}
