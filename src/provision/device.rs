//! The files that a device gets with its certificate.

use std::fs;
use std::path::{Path, PathBuf};

use super::authority::Issued;
use super::error::ProvisionError;
use super::files::{failed, write_new};

/// The files of one device, which are written together or not at all.
pub struct DeviceFiles {
    /// The device's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority's certificate, by which the device knows the broker.
    pub authority: PathBuf,
}

impl DeviceFiles {
    /// Where the files of a device go. Names of devices hold no `/`, so they stay in the directory.
    ///
    /// # Errors
    /// When the device's file would be the authority's.
    pub fn new(directory: &Path, device: &str) -> Result<Self, ProvisionError> {
        // Some file systems do not tell upper from lower case.
        if device.eq_ignore_ascii_case("ca") {
            return Err(ProvisionError::NamedLikeAuthority);
        }
        Ok(Self {
            certificate: directory.join(format!("{device}.pem")),
            key: directory.join(format!("{device}.key")),
            authority: directory.join("ca.pem"),
        })
    }

    /// Writes the files; when one fails, those written before are removed again.
    ///
    /// # Errors
    /// When one is there already (but for the same authority's certificate) or cannot be written.
    pub fn write(&self, issued: &Issued, authority: &str) -> Result<Written, ProvisionError> {
        let mut written = Written(Vec::new());
        if let Some(directory) = self.certificate.parent() {
            fs::create_dir_all(directory).map_err(failed("make", directory))?;
        }
        if fs::read(&self.authority).is_ok_and(|there| there == authority.as_bytes()) {
            // Of another device of the same authority.
        } else {
            written.add(&self.authority, authority, 0o644)?;
        }
        written.add(&self.key, issued.key.expose(), 0o600)?;
        written.add(&self.certificate, &issued.pem, 0o644)?;
        Ok(written)
    }
}

/// Files that are removed again unless they are kept.
#[must_use]
pub struct Written(Vec<PathBuf>);

impl Written {
    fn add(&mut self, file: &Path, text: &str, mode: u32) -> Result<(), ProvisionError> {
        write_new(file, text, mode, None)?;
        self.0.push(file.to_owned());
        Ok(())
    }

    /// Keeps the files.
    pub fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        for file in &self.0 {
            // Nobody has seen them yet. One that cannot be removed is useless without its credential.
            let _ = fs::remove_file(file);
        }
    }
}
