//! Whom Fleetgate trusts when it opens an encrypted connection itself, and as whom it presents itself.

mod verifier;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use verifier::{AnyCertificate, AnyName};

/// What a server's certificate has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Signed by a trusted authority, for the host's name.
    Name,
    /// Signed by a trusted authority.
    Authority,
    /// Anything: what is sent can be read by whoever stands between, as without TLS.
    Nothing,
}

/// Our own certificate and its private key: PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key, not encrypted.
    pub key: PathBuf,
}

/// A client that trusts the authorities in a PEM file, or else those of the operating system.
///
/// # Errors
/// What is wrong with the file, with its path.
pub fn trusting(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    client(ca_file, Demand::Name, None)
}

/// The same with another demand on the server, and with a certificate of its own.
///
/// # Errors
/// What is wrong with a file, with its path.
pub fn client(
    ca_file: Option<&Path>,
    demand: Demand,
    identity: Option<&Identity>,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(ca_file, demand, &provider)?;
    let trusting = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some(Identity { certificate, key }) = identity else {
        return Ok(trusting.with_no_client_auth());
    };
    let (chain, private_key) = (chain(certificate)?, private_key(key)?);
    trusting.with_client_auth_cert(chain, private_key).map_err(|error| {
        format!("{} and {} do not fit together: {error}", certificate.display(), key.display())
    })
}

fn verifier(
    ca_file: Option<&Path>,
    demand: Demand,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let algorithms = provider.signature_verification_algorithms;
    if demand == Demand::Nothing {
        return Ok(Arc::new(AnyCertificate { algorithms }));
    }
    let roots = Arc::new(roots(ca_file)?);
    if demand == Demand::Authority {
        return Ok(Arc::new(AnyName { roots, algorithms }));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
    verifier.map(|verifier| verifier as Arc<dyn ServerCertVerifier>).map_err(
        |error| match ca_file {
            Some(path) => format!("{} holds no usable certificate: {error}", path.display()),
            None => {
                "the operating system has no authorities to trust; install its ca-certificates, or \
                 name a file of them"
                    .to_owned()
            }
        },
    )
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => add_all(&mut roots, path)
            .map_err(|error| format!("{} holds no usable certificate: {error}", path.display()))?,
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
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

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unusable = |why: String| format!("{} holds no usable certificate: {why}", path.display());
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error: rustls::pki_types::pem::Error| unusable(error.to_string()))?;
    if chain.is_empty() { Err(unusable("it holds none".to_owned())) } else { Ok(chain) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        format!(
            "{} holds no usable private key: {error}; it must be PEM and not encrypted",
            path.display()
        )
    })
}

/// Whether a file holds a private key that can be presented with a certificate.
///
/// # Errors
/// What is wrong with the file, with its path.
pub fn check_key(file: &Path) -> Result<(), String> {
    private_key(file).map(drop)
}

/// A server that presents the certificate that its files hold at the time, for HTTP/1.1. Where they were replaced by something that
/// cannot be used, `complain` is told why, and the certificate of before stays.
///
/// # Errors
/// What is wrong with a file, with its path.
pub fn server(identity: &Identity, complain: fn(&str)) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let files = CertificateFiles::open(identity.clone(), provider.clone(), complain)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(files));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A certificate and its key, read again when a file has changed: for each connection it is looked when they were written.
#[derive(Debug)]
struct CertificateFiles {
    identity: Identity,
    provider: Arc<CryptoProvider>,
    complain: fn(&str),
    present: Mutex<Present>,
}

#[derive(Debug)]
struct Present {
    key: Arc<CertifiedKey>,
    written: Written,
}

/// When certificate and key were written, and how long they are.
type Written = [Option<(SystemTime, u64)>; 2];

impl CertificateFiles {
    fn open(
        identity: Identity,
        provider: Arc<CryptoProvider>,
        complain: fn(&str),
    ) -> Result<Self, String> {
        let written = written(&identity);
        let key = Arc::new(certified_key(&identity, &provider)?);
        Ok(Self { identity, provider, complain, present: Mutex::new(Present { key, written }) })
    }
}

impl ResolvesServerCert for CertificateFiles {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let written = written(&self.identity);
        if written != present.written {
            match certified_key(&self.identity, &self.provider) {
                // `written` is from before it was read: what is written meanwhile is read at the next connection.
                Ok(key) => *present = Present { key: Arc::new(key), written },
                Err(why) => (self.complain)(&why),
            }
        }
        Some(present.key.clone())
    }
}

fn written(identity: &Identity) -> Written {
    [&identity.certificate, &identity.key].map(|path| {
        let file = fs::metadata(path).ok()?;
        Some((file.modified().ok()?, file.len()))
    })
}

fn certified_key(identity: &Identity, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let Identity { certificate, key } = identity;
    CertifiedKey::from_der(chain(certificate)?, private_key(key)?, provider).map_err(|error| {
        format!("{} and {} do not fit together: {error}", certificate.display(), key.display())
    })
}
