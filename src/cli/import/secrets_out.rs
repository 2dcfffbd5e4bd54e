//! Where the secrets go that an import generates.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::cli::error::CliError;
use crate::cli::output::print_secret;
use crate::domain::name::DeviceName;
use crate::secret::Secret;

/// The first line of the file.
const HEADER: &[u8] = b"name,secret\n";

/// Where the secrets go: a file that only its owner reads, or standard output.
pub(super) enum SecretsOut {
    File { path: PathBuf, file: File, kept: u64 },
    Stdout,
}

impl SecretsOut {
    /// Makes the file. `goes_on`: the import does, and so may the file.
    pub(super) fn open(path: &Path, goes_on: bool) -> Result<Self, CliError> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let failed =
            |why: String| CliError::Failed(format!("--secrets-out {}: {why}", path.display()));
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let opened = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && goes_on => {
                options.open(path)
            }
            opened => opened,
        };
        let mut file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                failed("is there; name another file, or go on with --from-line".to_owned())
            }
            _ => failed(error.to_string()),
        })?;
        let metadata = file.metadata().map_err(|error| failed(error.to_string()))?;
        if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
            return Err(failed(
                "is not a file that only its owner may read; chmod 600 it".to_owned(),
            ));
        }
        let mut text = Zeroizing::new(Vec::new());
        file.read_to_end(&mut text).map_err(|error| failed(error.to_string()))?;
        let missing: &[u8] = match text.as_slice() {
            [] => HEADER,
            text if !text.starts_with(HEADER) => {
                return Err(failed("holds something else; name another file".to_owned()));
            }
            // It broke off in the middle of a line, or somebody edited it.
            [.., last] if *last != b'\n' => b"\n",
            _ => &[],
        };
        let begun = file.write_all(missing).and_then(|()| file.stream_position());
        let kept = begun.map_err(|error| failed(error.to_string()))?;
        Ok(Self::File { path: path.to_owned(), file, kept })
    }

    /// Writes secrets before their devices are committed: one that nobody has would have to be made anew.
    pub(super) fn note(&mut self, secrets: &[(DeviceName, Secret)]) -> Result<(), CliError> {
        if secrets.is_empty() {
            return Ok(());
        }
        let text = lines(secrets);
        let Self::File { path, file, .. } = self else { return print_secret(&text) };
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        let written = written.map_err(|error| unwritable(path, &error));
        if written.is_err() {
            self.take_back()?;
        }
        written
    }

    /// Their devices are committed.
    pub(super) fn keep(&mut self) -> Result<(), CliError> {
        let Self::File { path, file, kept } = self else { return Ok(()) };
        *kept = file.stream_position().map_err(|error| unwritable(path, &error))?;
        Ok(())
    }

    /// Their devices are not.
    pub(super) fn take_back(&mut self) -> Result<(), CliError> {
        let Self::File { path, file, kept } = self else { return Ok(()) };
        let undone = file.set_len(*kept).and_then(|()| file.seek(SeekFrom::Start(*kept)));
        undone.map(drop).map_err(|error| unwritable(path, &error))
    }
}

fn unwritable(path: &Path, error: &io::Error) -> CliError {
    CliError::Failed(format!("--secrets-out {}: {error}", path.display()))
}

fn lines(secrets: &[(DeviceName, Secret)]) -> Zeroizing<String> {
    let length =
        |(name, secret): &(DeviceName, Secret)| 2 * name.as_str().len() + secret.expose().len() + 4;
    let mut text = Zeroizing::new(String::with_capacity(secrets.iter().map(length).sum()));
    for (name, secret) in secrets {
        if name.as_str().contains([',', '"']) {
            text.push('"');
            text.push_str(&name.as_str().replace('"', "\"\""));
            text.push('"');
        } else {
            text.push_str(name.as_str());
        }
        text.push(',');
        text.push_str(secret.expose());
        text.push('\n');
    }
    text
}
