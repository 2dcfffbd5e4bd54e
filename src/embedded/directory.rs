//! The directories of a private PostgreSQL.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::{env, process};

use super::EmbeddedError;
use super::account::Account;

/// The longest directory that leaves room for the socket's name in the 107 bytes of a unix address.
const LONGEST_SOCKET_DIRECTORY: usize = 107 - "/.s.PGSQL.5432.lock".len();

/// Makes a directory that stays, readable by its owner only.
pub(super) fn existing(path: &Path) -> Result<PathBuf, EmbeddedError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| path.canonicalize())
        .map_err(EmbeddedError::system("make the directory", path))
}

/// Makes a fresh directory below the system's temporary one.
pub(super) fn fresh() -> Result<PathBuf, EmbeddedError> {
    fresh_in(&env::temp_dir())
}

/// Makes a fresh directory for the socket: short, and closed to all but the given user and root.
pub(super) fn for_socket(account: &Account) -> Result<PathBuf, EmbeddedError> {
    let bases = [env::temp_dir(), PathBuf::from("/tmp")];
    for base in bases.iter().filter_map(|base| base.canonicalize().ok()) {
        let longest = base.join(name(u32::MAX)).as_os_str().len();
        if longest <= LONGEST_SOCKET_DIRECTORY && account.reaches(&base) {
            let made = fresh_in(&base)?;
            account.take_over(&made).inspect_err(|_| discard(&made, false))?;
            return Ok(made);
        }
    }
    let tried = bases.map(|base| base.display().to_string()).join(" and ");
    Err(EmbeddedError::NoSocketDirectory { tried })
}

/// Removes a directory that nothing uses yet, unless it is to be kept.
pub(super) fn discard(directory: &Path, keep: bool) {
    if !keep {
        // Already failing for another reason, which is the one to tell.
        let _ = fs::remove_dir_all(directory);
    }
}

/// `mkdir` refuses a name that is taken, so a name foreseen by someone else does no harm.
fn fresh_in(base: &Path) -> Result<PathBuf, EmbeddedError> {
    let mut number = 0;
    loop {
        let path = base.join(name(number));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(EmbeddedError::system("make the directory", &path)(error)),
        }
    }
}

fn name(number: u32) -> String {
    format!("fleetgate-{}-{number}", process::id())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn fresh_directories_differ_and_are_closed() {
        let base = tempfile::tempdir().unwrap();
        let (a, b) = (fresh_in(base.path()).unwrap(), fresh_in(base.path()).unwrap());
        assert_ne!(a, b);
        assert_eq!(fs::metadata(&a).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn another_user_does_not_reach_below_a_closed_directory() {
        let base = tempfile::tempdir().unwrap();
        let other = Account::Other { uid: 1, gid: 1 };
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!other.reaches(base.path()));
        assert!(Account::Own.reaches(base.path()));
    }
}
