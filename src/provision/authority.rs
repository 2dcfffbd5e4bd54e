//! The authority of a bus, which signs the certificates of its servers (the broker, the HTTP API) and its devices.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};

use super::certificate::Certificate;
use super::error::ProvisionError;
use super::files::{Directory, Part, Place, Store};
use super::init::{Outcome, Report};
use crate::secret::{Secret, random_bytes};

/// The authority's certificate.
pub const CERTIFICATE: Place = Place(Part::Authority, "ca.pem");
/// Its private key.
pub const KEY: Place = Place(Part::Authority, "ca.key");
/// The copy by which EMQX judges its clients' certificates.
const EMQX_COPY: Place = Place(Part::Emqx, "tls/ca.pem");
/// The copy for whoever asks Fleetgate's HTTP API.
const API_COPY: Place = Place(Part::Fleetgate, "tls/ca.pem");
/// All places of the certificate, its own first.
const COPIES: [Place; 3] = [CERTIFICATE, EMQX_COPY, API_COPY];

const YEARS_10: SignedDuration = SignedDuration::from_hours(24 * 3650);
/// A certificate is valid from an hour ago, for clocks that are behind.
const LEEWAY: SignedDuration = SignedDuration::from_hours(1);
/// X.520's `ub-common-name`, in characters.
const MAX_COMMON_NAME: usize = 64;

/// The authority of a bus.
pub struct Authority {
    /// Its certificate in PEM.
    pub pem: String,
    /// Its certificate.
    pub certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and the private key made for it.
pub struct Issued {
    /// The certificate in PEM.
    pub pem: String,
    /// The key: PKCS#8 in PEM.
    pub key: Secret,
    /// Last second at which the certificate is valid.
    pub ends: Timestamp,
}

impl Authority {
    /// Reads the authority of a directory that `secrets init` made.
    ///
    /// # Errors
    /// When a file is missing, is no certificate or key, or the two do not belong together.
    pub fn open(directory: &Directory) -> Result<Self, ProvisionError> {
        let pem = directory.require(CERTIFICATE)?;
        Self::from_texts(directory, (CERTIFICATE, &pem), &directory.require(KEY)?)
    }

    /// The certificate comes with the place that it was read from, which is told where it is of no use.
    fn from_texts(
        directory: &Directory,
        (place, pem): (Place, &Secret),
        key: &Secret,
    ) -> Result<Self, ProvisionError> {
        let (file, key_file) = (directory.path(place), directory.path(KEY));
        let key = parse_key(key).ok_or_else(|| unusable_key(directory, KEY))?;
        let wanted = "certificate in PEM";
        let certificate = Certificate::from_pem(pem.expose());
        let certificate =
            certificate.ok_or(ProvisionError::Unusable { file: file.clone(), wanted })?;
        if certificate.public_key != key.public_key_raw() {
            let what = "authority's key";
            return Err(ProvisionError::Contradiction { what, first: key_file, second: file });
        }
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key)?;
        Ok(Self { pem: pem.expose().to_owned(), certificate, issuer })
    }

    /// Makes what is missing of the authority. The key comes first, for the certificate can be made
    /// from it and not the other way round.
    pub(super) fn settle(
        store: &Store,
        report: &mut Report,
        now: Timestamp,
    ) -> Result<Self, ProvisionError> {
        let directory = &store.directory;
        let held = Self::held(directory)?;
        let key = match (directory.read(KEY)?, &held) {
            (Some(key), _) => key,
            (None, Some((place, _))) => return Err(key_gone(directory, *place)),
            (None, None) => new_key(store, report, KEY)?,
        };
        let (place, pem) = match held {
            Some(held) => held,
            None => {
                let key = parse_key(&key).ok_or_else(|| unusable_key(directory, KEY))?;
                (CERTIFICATE, self_signed(&key, now)?)
            }
        };
        let authority = Self::from_texts(directory, (place, &pem), &key)?;
        report.keep_unless_made(store, KEY)?;
        for place in COPIES {
            authority.settle_copy(store, report, place)?;
        }
        Ok(authority)
    }

    /// The certificate, and the first place that has it. Whoever trusts a copy trusts no other authority, so none is
    /// passed over.
    fn held(directory: &Directory) -> Result<Option<(Place, Secret)>, ProvisionError> {
        for place in COPIES {
            if let Some(pem) = directory.read(place)? {
                return Ok(Some((place, pem)));
            }
        }
        Ok(None)
    }

    fn settle_copy(
        &self,
        store: &Store,
        report: &mut Report,
        place: Place,
    ) -> Result<(), ProvisionError> {
        let Some(text) = store.directory.read(place)? else {
            store.make(place, &self.pem)?;
            report.note(place, Outcome::Made);
            return Ok(());
        };
        let held = Certificate::from_pem(text.expose());
        if held.is_none_or(|held| held.der() != self.certificate.der()) {
            return Err(ProvisionError::Contradiction {
                what: "authority's certificate",
                first: store.directory.path(CERTIFICATE),
                second: store.directory.path(place),
            });
        }
        store.keep(place)?;
        report.note(place, Outcome::Kept);
        Ok(())
    }

    /// Signs a server's certificate for names, until `ends` or the authority's own end. `server` tells people which it is.
    pub(super) fn sign_server(
        &self,
        server: &str,
        key: &KeyPair,
        names: &BTreeSet<String>,
        now: Timestamp,
        ends: Timestamp,
    ) -> Result<String, ProvisionError> {
        let ends = ends.min(self.certificate.ends);
        if ends <= now {
            return Err(ProvisionError::AuthorityEnded(self.certificate.ends));
        }
        let mut params = params(now, ends, ExtendedKeyUsagePurpose::ServerAuth)?;
        let names: Vec<String> = names.iter().cloned().collect();
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.distinguished_name = common_name(server);
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }

    /// Signs a client's certificate for a device, with a key of its own.
    ///
    /// # Errors
    /// When the name is too long for a certificate or the authority ends earlier.
    pub fn issue_client(
        &self,
        directory: &Directory,
        device: &str,
        now: Timestamp,
        ends: Timestamp,
    ) -> Result<Issued, ProvisionError> {
        if device.chars().count() > MAX_COMMON_NAME {
            return Err(ProvisionError::LongName(device.to_owned()));
        }
        if ends > self.certificate.ends {
            let (file, ends) = (directory.path(CERTIFICATE), self.certificate.ends);
            return Err(ProvisionError::AuthorityEnds { file, ends });
        }
        let mut params = params(now, ends, ExtendedKeyUsagePurpose::ClientAuth)?;
        params.distinguished_name = common_name(device);
        let key = KeyPair::generate()?;
        let pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { pem, key: Secret::new(key.serialize_pem()), ends })
    }
}

/// What every certificate of a server or client has. Ends are whole seconds.
fn params(
    now: Timestamp,
    ends: Timestamp,
    usage: ExtendedKeyUsagePurpose,
) -> Result<CertificateParams, ProvisionError> {
    let mut params = CertificateParams::new(Vec::new())?;
    set_times(&mut params, now, ends);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn self_signed(key: &KeyPair, now: Timestamp) -> Result<Secret, ProvisionError> {
    let mut params = CertificateParams::new(Vec::new())?;
    set_times(&mut params, now, now + YEARS_10);
    let [a, b, c, d] = random_bytes();
    params.distinguished_name = common_name(&format!("Fleetgate CA {a:02x}{b:02x}{c:02x}{d:02x}"));
    // It signs servers and clients, and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(Secret::new(params.self_signed(key)?.pem()))
}

fn set_times(params: &mut CertificateParams, now: Timestamp, ends: Timestamp) {
    let at = |timestamp: Timestamp| {
        let seconds = u64::try_from(timestamp.as_second()).unwrap_or(0);
        date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds)
    };
    (params.not_before, params.not_after) = (at(now - LEEWAY), at(ends));
    // Random: the library's own choice follows from the key, so that a renewed certificate would
    // have the number of the one before, which an authority must not give twice (RFC 5280, 4.1.2.2).
    let mut serial = random_bytes::<16>();
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Makes a private key (ECDSA P-256, which every MQTT client takes) in a new file.
pub(super) fn new_key(
    store: &Store,
    report: &mut Report,
    place: Place,
) -> Result<Secret, ProvisionError> {
    let key = Secret::new(KeyPair::generate()?.serialize_pem());
    store.make(place, key.expose())?;
    report.note(place, Outcome::Made);
    Ok(key)
}

pub(super) fn parse_key(pem: &Secret) -> Option<KeyPair> {
    KeyPair::from_pem(pem.expose()).ok()
}

pub(super) fn unusable_key(directory: &Directory, place: Place) -> ProvisionError {
    let wanted = "private key in PEM (PKCS#8)";
    ProvisionError::Unusable { file: directory.path(place), wanted }
}

fn key_gone(directory: &Directory, held: Place) -> ProvisionError {
    let public = directory.path(held);
    let consequence = "every certificate issued so far is refused";
    ProvisionError::KeyGone { public, private: directory.path(KEY), consequence }
}
