//! Whom Fleetgate trusts when it opens an encrypted connection itself, and as whom it presents itself.

mod verifier;

use std::fmt;
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

/// What there is to tell of a certificate that is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News<'a> {
    /// One is presented that was not before. It ends then, in Unix seconds: it or one that is sent with it, whichever is first.
    Presents(i64),
    /// Its files were replaced by something that cannot be used, for this reason: the certificate of before stays.
    Keeps(&'a str),
}

/// A server that presents a certificate, for HTTP/1.1.
///
/// # Errors
/// Never in practice: only without any version of TLS.
pub fn server(presented: Arc<Presented>) -> Result<ServerConfig, String> {
    let mut config = ServerConfig::builder_with_provider(presented.provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(presented);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Who is told [`News`].
type Tell = Box<dyn Fn(News<'_>) + Send + Sync>;

/// A certificate and its key, as its files hold them at the time: for each connection it is looked when they were written.
pub struct Presented {
    identity: Identity,
    provider: Arc<CryptoProvider>,
    tell: Tell,
    present: Mutex<Present>,
}

struct Present {
    key: Arc<CertifiedKey>,
    written: Written,
}

/// When certificate and key were written, and how long they are.
type Written = [Option<(SystemTime, u64)>; 2];

impl Presented {
    /// Reads the files. `tell` hears of what is in them, now and whenever they are read again.
    ///
    /// # Errors
    /// What is wrong with a file, with its path.
    pub fn open(
        identity: &Identity,
        tell: impl Fn(News<'_>) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, String> {
        let (identity, tell): (_, Tell) = (identity.clone(), Box::new(tell));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let written = written(&identity);
        let key = Arc::new(certified_key(&identity, &provider)?);
        tell_of(&tell, &key);
        let present = Mutex::new(Present { key, written });
        Ok(Arc::new(Self { identity, provider, tell, present }))
    }

    /// Reads the files again if they were written since. A connection does so too; where none comes, nobody else would.
    pub fn look(&self) {
        drop(self.key());
    }

    fn key(&self) -> Arc<CertifiedKey> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let written = written(&self.identity);
        if written != present.written {
            match certified_key(&self.identity, &self.provider) {
                // `written` is from before it was read: what is written meanwhile is read at the next connection.
                Ok(key) => {
                    *present = Present { key: Arc::new(key), written };
                    tell_of(&self.tell, &present.key);
                }
                Err(why) => (self.tell)(News::Keeps(&why)),
            }
        }
        present.key.clone()
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented").field("identity", &self.identity).finish_non_exhaustive()
    }
}

fn tell_of(tell: &Tell, key: &CertifiedKey) {
    if let Some(end) = first_end(&key.cert) {
        tell(News::Presents(end));
    }
}

/// When the first of the certificates in a PEM file ends, in Unix seconds.
///
/// # Errors
/// What is wrong with the file, with its path.
pub fn end_of(certificate: &Path) -> Result<i64, String> {
    first_end(&chain(certificate)?)
        .ok_or_else(|| format!("{} does not say when it ends", certificate.display()))
}

/// `None`: they cannot be read.
fn first_end(chain: &[CertificateDer<'_>]) -> Option<i64> {
    let ends = chain.iter().map(|certificate| {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        Some(parsed.validity().not_after.timestamp())
    });
    ends.flatten().min()
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// Certificate and key of a server, valid until a year begins.
    fn write(identity: &Identity, year: i32) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut wanted = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        wanted.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = wanted.self_signed(&key).unwrap();
        fs::write(&identity.key, key.serialize_pem()).unwrap();
        fs::write(&identity.certificate, certificate.pem()).unwrap();
    }

    /// The end that was told, or why there is none.
    fn told(news: &Receiver<Result<i64, String>>) -> Vec<Result<i64, String>> {
        news.try_iter().collect()
    }

    #[test]
    fn the_end_is_told_of_what_is_presented_and_again_when_that_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let identity = Identity { certificate: file("a.pem"), key: file("a.key") };
        write(&identity, 2100);
        let (tell, news) = channel();
        let presented = Presented::open(&identity, move |news| {
            let news = match news {
                News::Presents(end) => Ok(end),
                News::Keeps(why) => Err(why.to_owned()),
            };
            tell.send(news).unwrap();
        });
        let presented = presented.unwrap();
        assert_eq!(told(&news), [Ok(4_102_444_800)]);
        assert_eq!(end_of(&identity.certificate), Ok(4_102_444_800));
        presented.look();
        assert_eq!(told(&news), [], "nothing was written");
        fs::write(&identity.certificate, "nonsense").unwrap();
        presented.look();
        let unusable = told(&news);
        assert!(matches!(unusable.as_slice(), [Err(why)] if why.contains("a.pem")), "{unusable:?}");
        write(&identity, 2099);
        presented.look();
        assert_eq!(told(&news), [Ok(4_070_908_800)]);
        assert!(end_of(&file("b.pem")).unwrap_err().contains("b.pem"));
    }

    #[test]
    fn of_a_chain_the_first_end_counts() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let mut chain = String::new();
        for year in [2100, 2098, 2099] {
            let identity = Identity { certificate: file("one.pem"), key: file("one.key") };
            write(&identity, year);
            chain += &fs::read_to_string(&identity.certificate).unwrap();
        }
        fs::write(file("chain.pem"), chain).unwrap();
        assert_eq!(end_of(&file("chain.pem")), Ok(4_039_372_800));
    }
}
