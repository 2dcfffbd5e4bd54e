//! Making everything that is missing.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use super::authority::Authority;
use super::chosen::Chosen;
use super::error::ProvisionError;
use super::files::{Directory, Owners, Place, Store};
use super::names::TlsNames;
use super::{server, shared, signing};

/// How long before the authority's end it is mentioned.
const AUTHORITY_MENTIONED: SignedDuration = SignedDuration::from_hours(24 * 397);

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was missing.
    Made,
    /// Its content stays.
    Kept,
    /// It has a new content, and why.
    Renewed(&'static str),
}

/// What was done. Holds no secret.
#[derive(Debug)]
pub struct Report {
    directory: Directory,
    entries: Vec<(Place, Outcome)>,
    remarks: Vec<String>,
}

impl Report {
    /// Every file in the order in which it was looked at, and what became of it.
    pub fn files(&self) -> impl Iterator<Item = (PathBuf, Outcome)> {
        self.entries.iter().map(|(place, outcome)| (self.directory.path(*place), *outcome))
    }

    /// What an operator should know besides.
    #[must_use]
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    pub(super) fn note(&mut self, place: Place, outcome: Outcome) {
        self.entries.push((place, outcome));
    }

    pub(super) fn remark(&mut self, text: String) {
        self.remarks.push(text);
    }

    pub(super) fn keep_unless_made(
        &mut self,
        store: &Store,
        place: Place,
    ) -> Result<(), ProvisionError> {
        if self.entries.iter().any(|(noted, _)| *noted == place) {
            return Ok(());
        }
        self.note(place, Outcome::Kept);
        store.keep(place)
    }
}

/// Makes everything that is missing of a directory of secrets, and renews the servers' certificates
/// where they must be. What is there gets its mode and owner and keeps its content; what is missing is made
/// from what an operator chose, or drawn.
///
/// # Errors
/// When two files contradict each other or one cannot be used; what was made before stays, and the
/// next call goes on from there.
pub fn init(
    root: &Path,
    owners: Owners,
    names: &TlsNames,
    chosen: &Chosen,
    now: Timestamp,
) -> Result<Report, ProvisionError> {
    let store = Store::open(root, owners)?;
    let (entries, remarks) = (Vec::new(), Vec::new());
    let mut report = Report { directory: store.directory.clone(), entries, remarks };
    for shared in shared::SHARED {
        shared.settle(&store, &mut report, chosen)?;
    }
    shared::compare_roles(&store, &mut report)?;
    signing::settle(&store, &mut report)?;
    let authority = Authority::settle(&store, &mut report, now)?;
    for server in &server::SERVERS {
        server.settle(&store, &mut report, &authority, names, now)?;
    }
    let ends = authority.certificate.ends;
    if ends <= now + AUTHORITY_MENTIONED {
        report.remark(format!(
            "the authority itself ends at {ends}, and every certificate with it: plan to replace it \
             and the authority file that clients trust"
        ));
    }
    Ok(report)
}
