//! Writes files whole or not at all: afterwards a file is the old one or the new one, also after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// User and group ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Writes a file that is not there yet.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if anything is there, be it a symbolic link; or what the operating system said.
pub fn create(file: &Path, text: &str, mode: u32, owner: Option<Owner>) -> io::Result<()> {
    if fs::symlink_metadata(file).is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    put(file, text, mode, owner, rename_new)
}

/// Writes a file in the place of the one that is there, if there is one.
///
/// # Errors
/// What the operating system said.
pub fn replace(file: &Path, text: &str, mode: u32, owner: Option<Owner>) -> io::Result<()> {
    put(file, text, mode, owner, |from, to| fs::rename(from, to))
}

fn put(
    file: &Path,
    text: &str,
    mode: u32,
    owner: Option<Owner>,
    rename: impl Fn(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let unfinished = unfinished(directory, file);
    write(&unfinished, text, mode, owner)?;
    rename(&unfinished, file).inspect_err(|_| {
        // It may hold a secret, and the error says more than a failure to remove it.
        let _ = fs::remove_file(&unfinished);
    })?;
    // The name itself must survive a power cut: what comes next may be derived from this file.
    File::open(directory)?.sync_all()
}

fn unfinished(directory: &Path, file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    directory.join(format!(".{name}.unfinished"))
}

fn write(file: &Path, text: &str, mode: u32, owner: Option<Owner>) -> io::Result<()> {
    // Left behind by a process that was killed, perhaps with other permissions.
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(file)?;
    opened.write_all(text.as_bytes())?;
    if let Some(owner) = owner {
        fchown(&opened, Some(owner.uid), Some(owner.gid))?;
    }
    opened.sync_all()
}

fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that has no such call, as NFS: what was looked at before has to do.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => fs::rename(from, to),
        outcome => outcome.map_err(io::Error::from),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(file: &Path) -> u32 {
        fs::metadata(file).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_file_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        create(&file, "one", 0o600, None).unwrap();
        assert_eq!(mode(&file), 0o600);
        let link = directory.path().join("link");
        symlink("nowhere", &link).unwrap();
        for there in [&file, &link] {
            let error = create(there, "two", 0o600, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            let unfinished = unfinished(directory.path(), there);
            write(&unfinished, "two", 0o600, None).unwrap();
            let error = rename_new(&unfinished, there).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "even if it came meanwhile");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
    }

    #[test]
    fn a_replaced_file_is_the_new_one_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("configuration");
        fs::write(unfinished(directory.path(), &file), "left behind by a crash").unwrap();
        for text in ["old", "new"] {
            replace(&file, text, 0o600, None).unwrap();
            assert_eq!((fs::read_to_string(&file).unwrap().as_str(), mode(&file)), (text, 0o600));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else stays");
    }
}
