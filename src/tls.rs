//! Whom Fleetgate trusts when it opens an encrypted connection itself.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// A client that trusts the authorities in a PEM file, or else those of the operating system.
///
/// # Errors
/// What is wrong with the file, with its path.
pub fn trusting(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => add_all(&mut roots, path)
            .map_err(|error| format!("{} holds no usable certificate: {error}", path.display()))?,
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn add_all(
    roots: &mut RootCertStore,
    path: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    for certificate in CertificateDer::pem_file_iter(path)? {
        roots.add(certificate?)?;
    }
    if roots.is_empty() { Err("it holds none".into()) } else { Ok(()) }
}
