//! The certificates of the two servers that people and devices reach over TLS: the broker's, and that of Fleetgate's HTTP API.
//!
//! Each is renewed under the key that it has, so that one file changes, at once, and whoever reads the
//! two while that happens finds a pair that belongs together. A certificate that another authority
//! signed was put there by somebody, who will also renew it.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::authority::{Authority, new_key, parse_key, unusable_key};
use super::certificate::Certificate;
use super::error::ProvisionError;
use super::files::{Directory, Part, Place, Store};
use super::init::{Outcome, Report};
use super::names::TlsNames;

/// A server's certificate, its key, and a name that it has in the stack's network besides those asked for.
pub(super) struct Server {
    /// The common name of its certificate.
    name: &'static str,
    certificate: Place,
    key: Place,
    own_name: Option<&'static str>,
}

/// Those that have one.
pub(super) const SERVERS: [Server; 2] = [
    Server {
        name: "Fleetgate MQTT broker",
        certificate: Place(Part::Emqx, "tls/server.pem"),
        key: Place(Part::Emqx, "tls/server.key"),
        own_name: None,
    },
    Server {
        name: "Fleetgate HTTP API",
        certificate: Place(Part::Fleetgate, "tls/server.pem"),
        key: Place(Part::Fleetgate, "tls/server.key"),
        // As the service is called in the stack.
        own_name: Some("fleetgate"),
    },
];

/// 397 days: some clients refuse a server's certificate that is valid for longer than 398.
const LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 397);
/// How long before its end it is renewed.
const RENEWED_BEFORE: SignedDuration = SignedDuration::from_hours(24 * 30);

impl Server {
    /// Makes, keeps or renews the certificate.
    pub(super) fn settle(
        &self,
        store: &Store,
        report: &mut Report,
        authority: &Authority,
        names: &TlsNames,
        now: Timestamp,
    ) -> Result<(), ProvisionError> {
        let names: BTreeSet<String> =
            names.as_set().iter().cloned().chain(self.own_name.map(str::to_owned)).collect();
        let there = self.read(&store.directory)?;
        if let Some(foreign) =
            there.as_ref().filter(|one| !one.is_signed_by(&authority.certificate))
        {
            return self.keep_foreign(store, report, foreign);
        }
        let held = store.directory.read(self.key)?;
        let key_was_there = held.is_some();
        let key = held.map_or_else(|| new_key(store, report, self.key), Ok)?;
        let key = parse_key(&key).ok_or_else(|| unusable_key(&store.directory, self.key))?;
        report.keep_unless_made(store, self.key)?;
        let outcome = match &there {
            None => Outcome::Made,
            Some(there) if there.public_key == key.public_key_raw() => {
                why_renew(there, authority, &names, now).map_or(Outcome::Kept, Outcome::Renewed)
            }
            Some(_) if key_was_there => return Err(self.no_pair(&store.directory)),
            Some(_) => Outcome::Renewed("its key was gone"),
        };
        if outcome == Outcome::Kept {
            store.keep(self.certificate)?;
        } else {
            let pem = authority.sign_server(self.name, &key, &names, now, now + LIFETIME)?;
            store.replace(self.certificate, &pem)?;
        }
        report.note(self.certificate, outcome);
        Ok(())
    }

    fn read(&self, directory: &Directory) -> Result<Option<Certificate>, ProvisionError> {
        let Some(text) = directory.read(self.certificate)? else { return Ok(None) };
        let certificate = Certificate::from_pem(text.expose());
        let unusable = || ProvisionError::Unusable {
            file: directory.path(self.certificate),
            wanted: "certificate in PEM",
        };
        certificate.ok_or_else(unusable).map(Some)
    }

    fn keep_foreign(
        &self,
        store: &Store,
        report: &mut Report,
        foreign: &Certificate,
    ) -> Result<(), ProvisionError> {
        let (public, private) =
            (store.directory.path(self.certificate), store.directory.path(self.key));
        if store.directory.read(self.key)?.is_none() {
            let consequence = "the new certificate is signed by this directory's authority";
            return Err(ProvisionError::KeyGone { public, private, consequence });
        }
        report.remark(format!(
        "{} was not signed by this directory's authority: it is kept, ends at {} and must be renewed \
         by whoever put it there",
        public.display(),
        foreign.ends
    ));
        for place in [self.key, self.certificate] {
            store.keep(place)?;
            report.note(place, Outcome::Kept);
        }
        Ok(())
    }

    fn no_pair(&self, directory: &Directory) -> ProvisionError {
        let (first, second) = (directory.path(self.key), directory.path(self.certificate));
        ProvisionError::Contradiction { what: "key pair", first, second }
    }
}

fn why_renew(
    there: &Certificate,
    authority: &Authority,
    names: &BTreeSet<String>,
    now: Timestamp,
) -> Option<&'static str> {
    if there.names != *names {
        return Some("other names are asked for");
    }
    // Near the authority's own end a new certificate would end no later.
    let is_near = there.ends <= now + RENEWED_BEFORE && there.ends < authority.certificate.ends;
    is_near.then_some("its end is near")
}
