//! The broker's certificate.
//!
//! It is renewed under the key that it has, so that one file changes, at once, and whoever reads the
//! two while that happens finds a pair that belongs together. A certificate that another authority
//! signed was put there by somebody, who will also renew it.

use jiff::{SignedDuration, Timestamp};

use super::authority::{Authority, new_key, parse_key, unusable_key};
use super::certificate::Certificate;
use super::error::ProvisionError;
use super::files::{Directory, Part, Place, Store};
use super::init::{Outcome, Report};
use super::names::TlsNames;

const CERTIFICATE: Place = Place(Part::Emqx, "tls/server.pem");
const KEY: Place = Place(Part::Emqx, "tls/server.key");

/// 397 days: some clients refuse a server's certificate that is valid for longer than 398.
const LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 397);
/// How long before its end it is renewed.
const RENEWED_BEFORE: SignedDuration = SignedDuration::from_hours(24 * 30);

/// Makes, keeps or renews the broker's certificate.
pub(super) fn settle(
    store: &Store,
    report: &mut Report,
    authority: &Authority,
    names: &TlsNames,
    now: Timestamp,
) -> Result<(), ProvisionError> {
    let there = read(&store.directory)?;
    if let Some(foreign) = there.as_ref().filter(|one| !one.is_signed_by(&authority.certificate)) {
        return keep_foreign(store, report, foreign);
    }
    let held = store.directory.read(KEY)?;
    let key_was_there = held.is_some();
    let key = held.map_or_else(|| new_key(store, report, KEY), Ok)?;
    let key = parse_key(&key).ok_or_else(|| unusable_key(&store.directory, KEY))?;
    report.keep_unless_made(store, KEY)?;
    let outcome = match &there {
        None => Outcome::Made,
        Some(there) if there.public_key == key.public_key_raw() => {
            why_renew(there, authority, names, now).map_or(Outcome::Kept, Outcome::Renewed)
        }
        Some(_) if key_was_there => return Err(no_pair(&store.directory)),
        Some(_) => Outcome::Renewed("its key was gone"),
    };
    if outcome == Outcome::Kept {
        store.keep(CERTIFICATE)?;
    } else {
        let pem = authority.sign_server(&key, names.as_set(), now, now + LIFETIME)?;
        store.replace(CERTIFICATE, &pem)?;
    }
    report.note(CERTIFICATE, outcome);
    Ok(())
}

fn read(directory: &Directory) -> Result<Option<Certificate>, ProvisionError> {
    let Some(text) = directory.read(CERTIFICATE)? else { return Ok(None) };
    let certificate = Certificate::from_pem(text.expose());
    let unusable = || ProvisionError::Unusable {
        file: directory.path(CERTIFICATE),
        wanted: "certificate in PEM",
    };
    certificate.ok_or_else(unusable).map(Some)
}

fn why_renew(
    there: &Certificate,
    authority: &Authority,
    names: &TlsNames,
    now: Timestamp,
) -> Option<&'static str> {
    if there.names != *names.as_set() {
        return Some("other names are asked for");
    }
    // Near the authority's own end a new certificate would end no later.
    let is_near = there.ends <= now + RENEWED_BEFORE && there.ends < authority.certificate.ends;
    is_near.then_some("its end is near")
}

fn keep_foreign(
    store: &Store,
    report: &mut Report,
    foreign: &Certificate,
) -> Result<(), ProvisionError> {
    let (public, private) = (store.directory.path(CERTIFICATE), store.directory.path(KEY));
    if store.directory.read(KEY)?.is_none() {
        let consequence = "the new certificate is signed by this directory's authority";
        return Err(ProvisionError::KeyGone { public, private, consequence });
    }
    report.remark(format!(
        "{} was not signed by this directory's authority: it is kept, ends at {} and must be renewed \
         by whoever put it there",
        public.display(),
        foreign.ends
    ));
    for place in [KEY, CERTIFICATE] {
        store.keep(place)?;
        report.note(place, Outcome::Kept);
    }
    Ok(())
}

fn no_pair(directory: &Directory) -> ProvisionError {
    let (first, second) = (directory.path(KEY), directory.path(CERTIFICATE));
    ProvisionError::Contradiction { what: "key pair", first, second }
}
