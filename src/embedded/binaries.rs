//! Finding PostgreSQL's server programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use super::EmbeddedError;

/// The oldest major version that works: `CREATE DATABASE … STRATEGY` came with it.
pub const OLDEST_MAJOR: u16 = 15;

/// Where Debian and Ubuntu put each major version, below a directory of its number.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A directory with PostgreSQL's server programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    directory: PathBuf,
    major: u16,
}

impl Binaries {
    /// Finds them: `FLEETGATE_PG_BIN` alone if set, else `PATH`, else Debian's newest.
    ///
    /// # Errors
    /// There are none of version 15 or newer; the error says what to install.
    pub fn find() -> Result<Self, EmbeddedError> {
        first_usable(&Search::from_environment().candidates())
    }

    /// Finds those of the major version that wrote a data directory.
    pub(super) fn find_for(data: &Path, wanted: u16) -> Result<Self, EmbeddedError> {
        let candidates = Search::from_environment().candidates();
        first_usable(&candidates)?;
        candidates
            .iter()
            .find(|found| found.major == Some(wanted))
            .and_then(Candidate::usable)
            .ok_or_else(|| EmbeddedError::OtherVersion {
                data: data.to_owned(),
                wanted,
                found: listed(&candidates),
            })
    }

    /// The directory they are in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The major version.
    #[must_use]
    pub fn major(&self) -> u16 {
        self.major
    }

    /// The path of one program.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Where to look.
struct Search {
    only: Option<PathBuf>,
    path: Vec<PathBuf>,
    versions: PathBuf,
}

impl Search {
    fn from_environment() -> Self {
        let path = env::var_os("PATH").unwrap_or_default();
        Self {
            only: env::var_os("FLEETGATE_PG_BIN")
                .filter(|value| !value.is_empty())
                .map(PathBuf::from),
            path: env::split_paths(&path).collect(),
            versions: PathBuf::from(DEBIAN),
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        if let Some(only) = &self.only {
            return vec![Candidate::in_directory(only)];
        }
        let on_path = self.path.iter().filter(|directory| directory.join("postgres").exists());
        let directories = on_path.cloned().chain(newest_first(&self.versions));
        directories.map(|directory| Candidate::in_directory(&directory)).collect()
    }
}

/// The `bin` directories below `/usr/lib/postgresql`, the highest version first.
fn newest_first(versions: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(versions).into_iter().flatten().flatten();
    let mut found: Vec<(u16, PathBuf)> = entries
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("postgres").exists())
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, bin)| bin).collect()
}

/// A directory looked into; `major` is absent if it holds no working server.
struct Candidate {
    directory: PathBuf,
    major: Option<u16>,
}

impl Candidate {
    /// Follows a link such as `/usr/local/bin/postgres`: `initdb` is beside the real file.
    fn in_directory(directory: &Path) -> Self {
        let server = directory.join("postgres").canonicalize().ok();
        let directory = server.as_deref().and_then(Path::parent).unwrap_or(directory).to_owned();
        let complete = directory.join("initdb").exists();
        let major = server.filter(|_| complete).and_then(|server| major_of(&server));
        Self { directory, major }
    }

    fn usable(&self) -> Option<Binaries> {
        let major = self.major.filter(|major| *major >= OLDEST_MAJOR)?;
        Some(Binaries { directory: self.directory.clone(), major })
    }
}

fn first_usable(candidates: &[Candidate]) -> Result<Binaries, EmbeddedError> {
    candidates
        .iter()
        .find_map(Candidate::usable)
        .ok_or_else(|| EmbeddedError::NoBinaries { looked: listed(candidates) })
}

fn listed(candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return format!("PATH and {DEBIAN}");
    }
    let describe = |candidate: &Candidate| {
        let version =
            candidate.major.map_or("no server".into(), |major| format!("PostgreSQL {major}"));
        format!("{} ({version})", candidate.directory.display())
    };
    candidates.iter().map(describe).collect::<Vec<_>>().join(", ")
}

fn major_of(server: &Path) -> Option<u16> {
    let output = Command::new(server).arg(OsStr::new("--version")).output().ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

/// Reads `postgres (PostgreSQL) 17.2 (Debian 17.2-1)` or `… 18beta1`.
fn parse_major(version: &str) -> Option<u16> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn install(directory: &Path, version: &str) {
        fs::create_dir_all(directory).unwrap();
        let server = directory.join("postgres");
        fs::write(&server, format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")).unwrap();
        fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(directory.join("initdb"), "").unwrap();
    }

    #[test]
    fn reads_released_and_beta_versions() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_major("mysqld 8"), None);
    }

    #[test]
    fn prefers_the_path_then_the_newest_and_skips_what_is_too_old() {
        let root = tempfile::tempdir().unwrap();
        let versions = root.path().join("versions");
        for (major, version) in [("9", "9.6.1"), ("15", "15.1"), ("16", "16.2")] {
            install(&versions.join(major).join("bin"), version);
        }
        let old = root.path().join("old");
        install(&old, "14.3");
        let mut search = Search { only: None, path: vec![old.clone()], versions };
        assert_eq!(first_usable(&search.candidates()).unwrap().major(), 16);
        install(&root.path().join("newer"), "17.0");
        search.path.push(root.path().join("newer"));
        assert_eq!(first_usable(&search.candidates()).unwrap().major(), 17);
        search.only = Some(old);
        let error = first_usable(&search.candidates()).unwrap_err().to_string();
        assert!(error.contains("PostgreSQL 14") && error.contains("apt-get install"), "{error}");
    }
}
