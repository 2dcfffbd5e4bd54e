//! `fleetgate certificate`: client certificates of devices.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio_postgres::Transaction;

use crate::cli::arguments::number;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::clock::Clock;
use crate::domain::credential::CredentialId;
use crate::domain::name::DeviceName;
use crate::fleet::credentials::{self, NewCredential, Terms};
use crate::provision::authority::{Authority, Issued};
use crate::provision::device::{DeviceFiles, Written};
use crate::provision::files::Directory;

/// Client certificates of devices.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Issue(IssueArguments),
}

/// Sign a client certificate for a device and bind it to the device.
///
/// EMQX checks that the certificate comes from the authority; the registry binds its common name,
/// which is the device's name, until the certificate expires.
#[derive(Args)]
struct IssueArguments {
    /// The device.
    #[arg(long, value_name = "NAME")]
    device: DeviceName,
    /// The directory that `secrets init` filled; only its part authority is read.
    #[arg(long, value_name = "DIR", default_value = "/secrets")]
    directory: PathBuf,
    /// Days until it expires.
    #[arg(long, default_value_t = 365, value_parser = number(1_u16..=3650))]
    days: u16,
    /// Where NAME.pem, NAME.key and ca.pem are written. Only ca.pem may be there, and then the same.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// The certificate and another credential are needed. Without this option the certificate is enough alone.
    #[arg(long)]
    required: bool,
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.action {
            Action::Issue(arguments) => arguments.run(context).await,
        }
    }
}

impl IssueArguments {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let directory = Directory(self.directory.clone());
        let authority = Authority::open(&directory)?;
        let files = DeviceFiles::new(&self.out, self.device.as_str())?;
        let issued = self.sign(&directory, &authority)?;
        let write = || Ok(files.write(&issued, &authority.pem)?);
        let CredentialId(id) = self.bind(context, issued.ends, write).await?;
        let device = self.device.as_str();
        let result = json!({
            "id": id, "device": device, "expires_at": issued.ends, "certificate": files.certificate,
            "key": files.key, "authority": files.authority,
        });
        context.output.result(&result, || {
            format!(
                "Device {device:?} has the certificate {id}, which expires at {}:\n  {}\n  {}\n  {}\n\
                 To revoke it: fleetgate credential revoke {id}",
                issued.ends,
                files.certificate.display(),
                files.key.display(),
                files.authority.display(),
            )
        })
    }

    fn sign(&self, directory: &Directory, authority: &Authority) -> Result<Issued, CliError> {
        let now = Clock::System.now();
        let end = now + SignedDuration::from_hours(24 * i64::from(self.days));
        // A certificate tells whole seconds, and the registry must not tell more.
        let end = Timestamp::from_second(end.as_second())
            .map_err(|error| CliError::Failed(format!("the certificate has no end: {error}")))?;
        Ok(authority.issue_client(directory, self.device.as_str(), now, end)?)
    }

    /// Binds the certificate. The files are written before the binding is valid: with `--required` a
    /// binding without files would lock the device out.
    async fn bind(
        &self,
        context: &Context,
        ends: Timestamp,
        write: impl FnOnce() -> Result<Written, CliError>,
    ) -> Result<CredentialId, CliError> {
        let terms = Terms { expires_at: Some(ends), ..Terms::default() };
        let bind = async |fleet: &mut Transaction<'_>| {
            let credential = NewCredential::certificate(self.device.to_string(), self.required);
            let id = credentials::add(fleet, &self.device, &credential, &terms).await?;
            Ok::<_, CliError>((id, write()?))
        };
        let (id, written) = context.act(bind).await?;
        written.keep();
        Ok(id)
    }
}
