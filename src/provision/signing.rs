//! The key that signs device tokens.

use ed25519_dalek::pkcs8::EncodePublicKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;

use super::error::ProvisionError;
use super::files::{Part, Place, Store};
use super::init::{Outcome, Report};
use crate::authn::token::{new_signing_key, read_signing_key, read_verification_key};

const PRIVATE: Place = Place(Part::Fleetgate, "token-signing.pem");
const PUBLIC: Place = Place(Part::Fleetgate, "token-signing.pub.pem");

/// Makes what is missing of the pair. The private half comes first, for the other follows from it.
pub(super) fn settle(store: &Store, report: &mut Report) -> Result<(), ProvisionError> {
    let public_is_there = store.directory.read(PUBLIC)?.is_some();
    let (private, public) = (store.directory.path(PRIVATE), store.directory.path(PUBLIC));
    if store.directory.read(PRIVATE)?.is_some() {
        store.keep(PRIVATE)?;
        report.note(PRIVATE, Outcome::Kept);
    } else if public_is_there {
        let consequence = "every device token issued so far is refused";
        return Err(ProvisionError::KeyGone { public, private, consequence });
    } else {
        let pem = new_signing_key().map_err(|error| ProvisionError::Encoding(error.to_string()))?;
        store.make(PRIVATE, &pem)?;
        report.note(PRIVATE, Outcome::Made);
    }
    let key = read_signing_key(&private)?.verifying_key();
    if !public_is_there {
        let pem = key.to_public_key_pem(LineEnding::LF);
        let pem = pem.map_err(|error| ProvisionError::Encoding(error.to_string()))?;
        store.make(PUBLIC, &pem)?;
        report.note(PUBLIC, Outcome::Made);
        return Ok(());
    }
    if read_verification_key(&public)? != key {
        let what = "token-signing key";
        return Err(ProvisionError::Contradiction { what, first: private, second: public });
    }
    store.keep(PUBLIC)?;
    report.note(PUBLIC, Outcome::Kept);
    Ok(())
}
