//! How connections to PostgreSQL are encrypted.
//!
//! `sslmode=require`, `verify-ca` or `verify-full`, or the file of an authority or of a certificate of our own,
//! mean TLS to a server whose certificate is verified, and its name too except with `verify-ca`. (libpq's
//! `require` verifies nothing, and so keeps nobody out who stands between.) `prefer` takes TLS where the
//! server offers it and verifies nothing, as libpq does; without any of them the connection is plain.

use std::path::{Path, PathBuf};

use tokio_postgres::config::SslMode as Negotiated;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{DatabaseUrl, SslMode};
use crate::registry::error::RegistryError;
use crate::tls::{Demand, Identity};

/// The present file of authorities, from the one place or the other.
fn authorities(url: &DatabaseUrl, ca_file: Option<&Path>) -> Option<PathBuf> {
    let file = match &url.tls.root_cert {
        Some(root_cert) => root_cert.file(),
        None => ca_file,
    };
    file.map(Path::to_owned)
}

pub(super) fn tls_of(url: &DatabaseUrl, ca_file: Option<&Path>) -> (Negotiated, Demand) {
    let given = authorities(url, ca_file).is_some() || url.tls.cert.is_some();
    match url.tls.mode {
        Some(SslMode::Disable) => (Negotiated::Disable, Demand::Nothing),
        None if !given => (Negotiated::Disable, Demand::Nothing),
        Some(SslMode::Prefer) if !given => (Negotiated::Prefer, Demand::Nothing),
        Some(SslMode::VerifyCa) => (Negotiated::Require, Demand::Authority),
        _ => (Negotiated::Require, Demand::Name),
    }
}

pub(super) fn tls(
    url: &DatabaseUrl,
    ca_file: Option<&Path>,
    demand: Demand,
) -> Result<MakeRustlsConnect, RegistryError> {
    let identity = match (&url.tls.cert, &url.tls.key) {
        (Some(certificate), Some(key)) => {
            Some(Identity { certificate: certificate.clone(), key: key.clone() })
        }
        _ => None,
    };
    crate::tls::client(authorities(url, ca_file).as_deref(), demand, identity.as_ref())
        .map(MakeRustlsConnect::new)
        .map_err(|problem| RegistryError::Settings(format!("TLS of the database: {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_as_asked_for() {
        let of = |url: &str, ca: Option<&Path>| {
            tls_of(&url.parse().unwrap_or_else(|e| panic!("{e}")), ca)
        };
        let ca = Some(Path::new("/ca.pem"));
        assert_eq!(of("host=h", None), (Negotiated::Disable, Demand::Nothing));
        assert_eq!(of("host=h", ca), (Negotiated::Require, Demand::Name));
        assert_eq!(of("host=h sslmode=disable", ca), (Negotiated::Disable, Demand::Nothing));
        assert_eq!(of("host=h sslmode=prefer", None), (Negotiated::Prefer, Demand::Nothing));
        assert_eq!(of("host=h sslmode=prefer", ca), (Negotiated::Require, Demand::Name));
        assert_eq!(of("host=h sslmode=verify-ca", ca), (Negotiated::Require, Demand::Authority));
        for mode in ["require", "verify-full"] {
            assert_eq!(
                of(&format!("host=h sslmode={mode}"), ca),
                (Negotiated::Require, Demand::Name)
            );
        }
        assert_eq!(of("host=h sslcert=c sslkey=k", None), (Negotiated::Require, Demand::Name));
    }
}
