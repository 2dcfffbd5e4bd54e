//! Puts the demo fleet into an empty registry, all or nothing.

use std::path::Path;

use base64ct::{Base64UrlUnpadded, Encoding};
use tokio_postgres::{Client, Transaction};

use super::demo::{self, parsed};
use super::record::{Record, RecordedDevice};
use crate::cli::context::actor;
use crate::cli::error::CliError;
use crate::domain::acl::Action;
use crate::domain::name::DeviceName;
use crate::fleet::credentials::{NewCredential, Terms};
use crate::fleet::devices::{self, NewDevice};
use crate::fleet::{act, capabilities, grants};
use crate::secret::{Secret, random_bytes};

/// Loads the fleet in one transaction. Its secrets are in the file before it commits.
pub(super) async fn load(
    client: &mut Client,
    webhook_token: &Secret,
    file: &Path,
) -> Result<Record, CliError> {
    act(client, &actor(), async |transaction| {
        for capability in demo::capabilities()? {
            capabilities::add(transaction, &capability).await?;
        }
        let mut recorded = Vec::new();
        for device in demo::devices()? {
            recorded.push(add(transaction, device).await?);
        }
        let record = Record::new(webhook_token, recorded);
        record.write(file)?;
        Ok(record)
    })
    .await
}

async fn add(
    transaction: &mut Transaction<'_>,
    device: NewDevice,
) -> Result<RecordedDevice, CliError> {
    let (secret, credential) = credential(&device.name)?;
    let terms = Terms { label: Some("demo".to_owned()), ..Terms::default() };
    let device = NewDevice { credential: Some((credential, terms)), ..device };
    let added = devices::add(transaction, &device).await?;
    if device.name.as_str() == demo::DASHBOARD {
        let (listens, commands) =
            (parsed(demo::DASHBOARD_LISTENS)?, parsed(demo::DASHBOARD_COMMANDS)?);
        grants::add(transaction, &device.name, Action::Subscribe, &listens).await?;
        grants::add(transaction, &device.name, Action::Publish, &commands).await?;
    }
    let credential = added.credentials.first().map_or(0, |credential| credential.id);
    let (name, secret) = (device.name.to_string(), secret.expose().to_owned());
    Ok(RecordedDevice { name, credential, secret })
}

fn credential(name: &DeviceName) -> Result<(Secret, NewCredential), CliError> {
    if demo::has_password(name) {
        let password = password();
        let credential = NewCredential::password(&password, false)?;
        return Ok((password, credential));
    }
    Ok(NewCredential::generate())
}

/// As weak as people's passwords are, but not one that every copy of the demo shares.
fn password() -> Secret {
    Secret::new(format!("door-{}", Base64UrlUnpadded::encode_string(&random_bytes::<6>())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::dev::{administrator, migrate};
    use crate::embedded::{Home, PrivatePostgres};
    use crate::fleet::is_empty;

    #[tokio::test]
    async fn a_load_that_breaks_off_leaves_nothing() {
        let start = || PrivatePostgres::start(&Home::Temporary, 10);
        let postgres = tokio::task::spawn_blocking(start).await.unwrap().unwrap();
        let mut client = administrator(&postgres.connection_string("postgres")).await.unwrap();
        migrate(&mut client).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let token = Secret::generate();

        // The file is written last before the commit.
        let nowhere = directory.path().join("nowhere/demo.json");
        let refused = load(&mut client, &token, &nowhere).await.err().unwrap().to_string();
        assert!(refused.starts_with("cannot write "), "{refused}");
        assert!(is_empty(&client).await.unwrap());

        let record = load(&mut client, &token, &directory.path().join("demo.json")).await.unwrap();
        assert_eq!(record.devices.len(), 12);
        assert!(!is_empty(&client).await.unwrap());
        assert!(load(&mut client, &token, &directory.path().join("demo.json")).await.is_err());
    }
}
