//! Files in their places: read without following links, written whole or not at all ([`write_file`]).

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use super::error::ProvisionError;
use crate::secret::Secret;
use crate::write_file::{self, Owner};

/// A part of the bus, with a subdirectory of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// This service.
    Fleetgate,
    /// The broker.
    Emqx,
    /// The database.
    Postgres,
    /// What signs certificates; nothing that runs needs it.
    Authority,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fleetgate, Self::Emqx, Self::Postgres, Self::Authority];

    /// Its subdirectory.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fleetgate => "fleetgate",
            Self::Emqx => "emqx",
            Self::Postgres => "postgres",
            Self::Authority => "authority",
        }
    }
}

/// Where a file stands: in which part, and its path there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub Part, pub &'static str);

/// Who owns which part; a part that is not named is left to whoever makes it.
pub type Owners = BTreeMap<Part, Owner>;

/// A directory of secrets, for reading.
#[derive(Debug, Clone)]
pub struct Directory(pub PathBuf);

impl Directory {
    /// The path of a place.
    #[must_use]
    pub fn path(&self, Place(part, name): Place) -> PathBuf {
        self.0.join(part.name()).join(name)
    }

    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// When it is no plain file, is no text or is empty, or cannot be read.
    pub fn read(&self, place: Place) -> Result<Option<Secret>, ProvisionError> {
        let file = self.path(place);
        let Some(found) = found(&file)? else { return Ok(None) };
        if !found.is_file() {
            return Err(ProvisionError::Irregular { file, wanted: "file" });
        }
        let bytes = Zeroizing::new(fs::read(&file).map_err(failed("read", &file))?);
        let text = str::from_utf8(&bytes).unwrap_or_default();
        match text.trim().is_empty() {
            true => Err(ProvisionError::Unusable { file, wanted: "text" }),
            false => Ok(Some(Secret::new(text.to_owned()))),
        }
    }

    /// Reads a file that must be there.
    ///
    /// # Errors
    /// As [`Directory::read`], and [`ProvisionError::Missing`].
    pub fn require(&self, place: Place) -> Result<Secret, ProvisionError> {
        self.read(place)?.ok_or_else(|| ProvisionError::Missing(self.path(place)))
    }
}

/// A directory of secrets, for writing: by one process at a time.
pub(super) struct Store {
    pub(super) directory: Directory,
    owners: Owners,
    /// Held until this is dropped.
    _lock: File,
}

impl Store {
    /// Makes what is missing of the directories, and waits until no other process writes here.
    pub(super) fn open(root: &Path, owners: Owners) -> Result<Self, ProvisionError> {
        make_passable(root)?;
        let directory = Directory(root.to_owned());
        // Of a part and not the root: where each part is a volume, as in the stack, containers have the volumes in common
        // and each a root of its own.
        let locked = root.join(Part::Authority.name());
        settle_directory(&owners, Part::Authority, &locked)?;
        let lock = File::open(&locked).map_err(failed("open", &locked))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| failed("lock", &locked)(io::Error::from(error)))?;
        let store = Self { directory, owners, _lock: lock };
        for part in Part::ALL {
            settle_directory(&store.owners, part, &root.join(part.name()))?;
        }
        for part in [Part::Emqx, Part::Fleetgate] {
            settle_directory(&store.owners, part, &root.join(part.name()).join("tls"))?;
        }
        Ok(store)
    }

    /// Keeps a file as it is, but for its mode and owner.
    pub(super) fn keep(&self, place: Place) -> Result<(), ProvisionError> {
        settle(&self.owners, place.0, &self.directory.path(place), 0o600)
    }

    /// Writes a new file.
    pub(super) fn make(&self, place: Place, text: &str) -> Result<(), ProvisionError> {
        write_new(&self.directory.path(place), text, 0o600, self.owners.get(&place.0).copied())
    }

    /// Puts a new content in a file's place at once.
    pub(super) fn replace(&self, place: Place, text: &str) -> Result<(), ProvisionError> {
        let file = self.directory.path(place);
        write_file::replace(&file, text, 0o600, self.owners.get(&place.0).copied())
            .map_err(failed("write", &file))
    }
}

/// Makes what is missing of the directory that holds the parts, and of those above it. Others may walk through, whatever
/// the umask says, since each part may belong to another user; its own directory keeps everybody else out. What is there
/// stays as it is.
fn make_passable(directory: &Path) -> Result<(), ProvisionError> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    if let Some(above) = directory.parent() {
        make_passable(above)?;
    }
    make_directory(directory, 0o711)
}

fn settle_directory(owners: &Owners, part: Part, path: &Path) -> Result<(), ProvisionError> {
    match found(path)? {
        Some(found) if !found.is_dir() => {
            return Err(ProvisionError::Irregular { file: path.to_owned(), wanted: "directory" });
        }
        Some(_) => {}
        None => make_directory(path, 0o700)?,
    }
    settle(owners, part, path, 0o700)
}

/// Makes a directory with exactly this mode. Another process may make it meanwhile, with the same.
fn make_directory(path: &Path, mode: u32) -> Result<(), ProvisionError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(failed("make", path)(error)),
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(failed("change the mode of", path)),
    }
}

/// Gives a file or directory that is there its mode and owner; its content stays.
fn settle(owners: &Owners, part: Part, path: &Path, mode: u32) -> Result<(), ProvisionError> {
    let found = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    if found.permissions().mode() & 0o7777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(failed("change the mode of", path))?;
    }
    match owners.get(&part) {
        Some(owner) if (found.uid(), found.gid()) != (owner.uid, owner.gid) => {
            lchown(path, Some(owner.uid), Some(owner.gid))
                .map_err(failed("change the owner of", path))
        }
        _ => Ok(()),
    }
}

/// Writes a file that is not there yet.
///
/// # Errors
/// [`ProvisionError::Exists`], or what the operating system said.
pub(super) fn write_new(
    file: &Path,
    text: &str,
    mode: u32,
    owner: Option<Owner>,
) -> Result<(), ProvisionError> {
    write_file::create(file, text, mode, owner).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => ProvisionError::Exists(file.to_owned()),
        _ => failed("write", file)(error),
    })
}

fn found(path: &Path) -> Result<Option<fs::Metadata>, ProvisionError> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

pub(super) fn failed(
    action: &'static str,
    file: &Path,
) -> impl FnOnce(io::Error) -> ProvisionError + use<> {
    let file = file.to_owned();
    move |source| ProvisionError::File { action, file, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Containers of the stack share the parts' volumes, and not the directory that holds them.
    #[test]
    fn those_that_have_only_the_parts_in_common_wait_for_each_other() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), Owners::new()).unwrap();
        let part = File::open(root.path().join("authority")).unwrap();
        flock(&part, FlockOperation::NonBlockingLockExclusive).unwrap_err();
        drop(store);
        flock(&part, FlockOperation::NonBlockingLockExclusive).unwrap();
    }
}
