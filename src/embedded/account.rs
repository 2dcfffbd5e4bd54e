//! Who PostgreSQL runs as: this user, or, since it refuses root, another one.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use super::EmbeddedError;

/// The users to become instead of root, the best first.
const INSTEAD_OF_ROOT: [&str; 2] = ["postgres", "nobody"];

/// The user that PostgreSQL runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Account {
    /// The user of this process.
    Own,
    /// Another one; this process is root's.
    Other { uid: u32, gid: u32 },
}

impl Account {
    /// The user for a data directory: its owner where there is one already.
    pub(super) fn for_data(data: &Path) -> Result<Self, EmbeddedError> {
        let owner = fs::metadata(data).ok().map(|found| (found.uid(), found.gid()));
        let own = rustix::process::geteuid().as_raw();
        match (own, owner) {
            (0, Some((uid, gid))) if uid != 0 => Ok(Self::Other { uid, gid }),
            (0, _) => {
                let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
                unprivileged(&passwd).ok_or(EmbeddedError::NoAccount)
            }
            (own, Some((owner, _))) if owner != own => {
                Err(EmbeddedError::OtherOwner { data: data.to_owned(), owner })
            }
            _ => Ok(Self::Own),
        }
    }

    /// The command that runs a program as this user.
    pub(super) fn command(&self, program: PathBuf) -> Vec<OsString> {
        let mut command = Vec::new();
        if let Self::Other { uid, gid } = self {
            let ids = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()];
            command.push(OsString::from("setpriv"));
            command.extend(ids.map(OsString::from));
        }
        command.push(program.into_os_string());
        command
    }

    /// Gives a file to this user.
    pub(super) fn take_over(&self, path: &Path) -> Result<(), EmbeddedError> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(*uid), Some(*gid))
                .map_err(EmbeddedError::system("give away", path)),
        }
    }

    /// Whether this user can walk to a directory: root's own right to says nothing about it.
    pub(super) fn reaches(&self, directory: &Path) -> bool {
        let open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
        *self == Self::Own || directory.ancestors().all(open)
    }
}

/// Finds the first of [`INSTEAD_OF_ROOT`] in the text of `/etc/passwd`.
fn unprivileged(passwd: &str) -> Option<Account> {
    INSTEAD_OF_ROOT.iter().find_map(|wanted| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == *wanted).then_some(())?;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            Some(Account::Other { uid, gid })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_becomes_postgres_else_nobody() {
        let passwd = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\n";
        assert_eq!(unprivileged(passwd), Some(Account::Other { uid: 65534, gid: 65533 }));
        let passwd = format!("{passwd}postgres:x:104:105::/var/lib/postgresql:/bin/bash\n");
        assert_eq!(unprivileged(&passwd), Some(Account::Other { uid: 104, gid: 105 }));
        assert_eq!(unprivileged("root:x:0:0::/root:/bin/sh\n"), None);
    }

    #[test]
    fn only_another_user_is_prefixed() {
        let own = Account::Own.command("initdb".into());
        assert_eq!(own, ["initdb"]);
        let other = Account::Other { uid: 7, gid: 8 }.command("initdb".into());
        assert_eq!(other, ["setpriv", "--reuid=7", "--regid=8", "--clear-groups", "initdb"]);
    }
}
