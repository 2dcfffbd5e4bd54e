//! Puts the demo fleet into an empty registry, all or nothing.

use std::path::Path;

use base64ct::{Base64UrlUnpadded, Encoding};
use tokio_postgres::{Client, GenericClient, Transaction};

use super::DevError;
use super::demo::{self, parsed};
use super::record::{Record, RecordedDevice};
use crate::domain::acl::Action;
use crate::domain::name::DeviceName;
use crate::domain::password_hash::{Cost, hash_password};
use crate::registry::credentials::{self, NewCredential, Terms};
use crate::registry::devices::{self, NewDevice};
use crate::registry::error::RegistryError;
use crate::registry::{capabilities, grants};
use crate::secret::{Secret, random_bytes};

/// Whether nobody has put anything into the registry.
pub(super) async fn is_empty(client: &impl GenericClient) -> Result<bool, RegistryError> {
    let row = client
        .query_one(
            "SELECT NOT EXISTS (SELECT FROM devices) AND NOT EXISTS (SELECT FROM capabilities)",
            &[],
        )
        .await
        .map_err(RegistryError::on("the registry"))?;
    Ok(row.get(0))
}

/// Loads the fleet in one transaction. Its secrets are in the file before it commits.
pub(super) async fn load(
    client: &mut Client,
    webhook_token: &Secret,
    file: &Path,
) -> Result<Record, DevError> {
    let on_demo = || RegistryError::on("the demo fleet");
    let mut transaction = client.transaction().await.map_err(on_demo())?;
    for capability in demo::capabilities()? {
        capabilities::add(&transaction, &capability).await?;
    }
    let mut recorded = Vec::new();
    for device in demo::devices()? {
        recorded.push(add(&mut transaction, &device).await?);
    }
    let record = Record::new(webhook_token, recorded);
    record.write(file)?;
    transaction.commit().await.map_err(on_demo())?;
    Ok(record)
}

async fn add(
    transaction: &mut Transaction<'_>,
    device: &NewDevice,
) -> Result<RecordedDevice, DevError> {
    let id = devices::insert(transaction, device).await?;
    let (secret, credential) = credential(&device.name);
    let terms = Terms { label: Some("demo".to_owned()), ..Terms::default() };
    let row = credentials::add(transaction, id, &credential, &terms).await?;
    if device.name.as_str() == demo::DASHBOARD {
        let (listens, commands) =
            (parsed(demo::DASHBOARD_LISTENS)?, parsed(demo::DASHBOARD_COMMANDS)?);
        grants::add(transaction, id, Action::Subscribe, &listens).await?;
        grants::add(transaction, id, Action::Publish, &commands).await?;
    }
    let (name, secret) = (device.name.to_string(), secret.expose().to_owned());
    Ok(RecordedDevice { name, credential: row.0, secret })
}

fn credential(name: &DeviceName) -> (Secret, NewCredential) {
    if demo::has_password(name) {
        let password = password();
        let hash = hash_password(password.expose().as_bytes(), &random_bytes(), Cost::Chosen);
        return (password, NewCredential::Password { hash });
    }
    let secret = Secret::generate();
    let hash = hash_password(secret.expose().as_bytes(), &random_bytes(), Cost::Generated);
    (secret, NewCredential::Secret { hash })
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
        assert!(matches!(load(&mut client, &token, &nowhere).await, Err(DevError::File { .. })));
        assert!(is_empty(&client).await.unwrap());

        let record = load(&mut client, &token, &directory.path().join("demo.json")).await.unwrap();
        assert_eq!(record.devices.len(), 12);
        assert!(!is_empty(&client).await.unwrap());
        assert!(load(&mut client, &token, &directory.path().join("demo.json")).await.is_err());
    }
}
