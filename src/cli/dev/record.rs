//! `demo.json`: the secrets of the demo, which the database does not hold.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::home::{failed, write_private};
use crate::cli::error::CliError;
use crate::secret::Secret;

/// What the next start needs to print again. No `Debug`: all of it is secret.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    webhook_token: String,
    pub(super) devices: Vec<RecordedDevice>,
}

/// A device of the demo with its secret.
#[derive(Serialize, Deserialize)]
pub(super) struct RecordedDevice {
    pub(super) name: String,
    /// The row of the credential: another start prints the secret only while it is still valid.
    pub(super) credential: i64,
    pub(super) secret: String,
}

impl Record {
    pub(super) fn new(webhook_token: &Secret, devices: Vec<RecordedDevice>) -> Self {
        Self { webhook_token: webhook_token.expose().to_owned(), devices }
    }

    /// For a fleet whose secrets are lost.
    pub(super) fn without_devices(webhook_token: &Secret) -> Self {
        Self::new(webhook_token, Vec::new())
    }

    pub(super) fn webhook_token(&self) -> Secret {
        Secret::new(self.webhook_token.clone())
    }

    pub(super) fn read(path: &Path) -> Result<Option<Self>, CliError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", path)(error)),
        };
        // The parser's own words could quote a secret.
        let record = serde_json::from_str(&text);
        record.map(Some).map_err(|error| {
            CliError::Failed(format!(
                "{} cannot be read (no JSON of dev's at line {}); remove it: the demo fleet stays, and the next \
                 start says how to give its devices new secrets",
                path.display(),
                error.line()
            ))
        })
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| failed("write", path)(error.into()))?;
        write_private(path, &text)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_record_comes_back_and_is_closed_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("demo.json");
        assert!(Record::read(&path).unwrap().is_none());
        let device = RecordedDevice { name: "a".to_owned(), credential: 7, secret: "s".to_owned() };
        Record::new(&Secret::new("token".to_owned()), vec![device]).write(&path).unwrap();
        let back = Record::read(&path).unwrap().unwrap();
        assert_eq!(back.webhook_token, "token");
        assert_eq!((back.devices[0].credential, back.devices[0].secret.as_str()), (7, "s"));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_broken_record_is_refused_without_quoting_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("demo.json");
        std::fs::write(&path, r#"{"webhook_token": {"TOPSECRET": 1}, "devices": []}"#).unwrap();
        let Err(error) = Record::read(&path) else { panic!("read a broken record") };
        let error = error.to_string();
        assert!(error.contains("demo.json") && error.contains("remove it"), "{error}");
        assert!(!error.contains("TOPSECRET"), "{error}");
    }
}
