//! A TLS server and client that shake hands over the loopback interface.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion, version,
};

/// A certificate with its key, and the authority that its holder trusts.
pub(crate) struct Peer {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) authority: String,
}

impl Peer {
    /// The broker of a directory of secrets.
    pub(crate) fn server(secrets: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(secrets.join("emqx/tls").join(name)).unwrap();
        Self { certificate: read("server.pem"), key: read("server.key"), authority: read("ca.pem") }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap()).unwrap();
        Arc::new(roots)
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// Connects under a name in TLS 1.2 and in TLS 1.3, and sends a word both ways. The client trusts what
/// `server` names as authority; a `device` shows its certificate, and then the server demands one.
///
/// # Errors
/// What the client said, or the server if the client had nothing to say.
pub(crate) fn between(server: &Peer, name: &str, device: Option<&Peer>) -> Result<(), String> {
    between_in(&version::TLS12, server, name, device)?;
    between_in(&version::TLS13, server, name, device)
}

fn between_in(
    version: &'static SupportedProtocolVersion,
    server: &Peer,
    name: &str,
    device: Option<&Peer>,
) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = server_config(version, server, device.is_some());
    let serving = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let connection = ServerConnection::new(Arc::new(accepting)).unwrap();
        talk(StreamOwned::new(connection, stream))
    });
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let config = client_config(version, server, device);
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let said = talk(StreamOwned::new(connection, TcpStream::connect(address).unwrap()));
    let served = serving.join().unwrap();
    match (said, served) {
        (Ok(()), Ok(())) => Ok(()),
        (said, served) => Err(format!("client: {said:?}; server: {served:?}")),
    }
}

/// Sends a word and waits for the other's.
fn talk(mut stream: impl Read + Write) -> Result<(), String> {
    let mut word = [0; 5];
    stream.write_all(b"hello").map_err(|error| error.to_string())?;
    stream.flush().map_err(|error| error.to_string())?;
    stream.read_exact(&mut word).map_err(|error| error.to_string())?;
    assert_eq!(&word, b"hello");
    Ok(())
}

fn server_config(
    version: &'static SupportedProtocolVersion,
    server: &Peer,
    verify: bool,
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    let builder = if verify {
        let verifier = WebPkiClientVerifier::builder_with_provider(server.roots(), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    builder.with_single_cert(server.chain(), server.key()).unwrap()
}

fn client_config(
    version: &'static SupportedProtocolVersion,
    server: &Peer,
    device: Option<&Peer>,
) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    match device {
        Some(device) => {
            let builder = builder.with_root_certificates(device.roots());
            builder.with_client_auth_cert(device.chain(), device.key()).unwrap()
        }
        None => builder.with_root_certificates(server.roots()).with_no_client_auth(),
    }
}
