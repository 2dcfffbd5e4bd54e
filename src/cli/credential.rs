//! `fleetgate credential`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::{or_dash, table, timestamp, yes_no};
use crate::cli::questions::read_password;
use crate::cli::timestamp::{parse_future_timestamp, parse_timestamp};
use crate::domain::credential::CredentialId;
use crate::domain::name::DeviceName;
use crate::fleet::Part;
use crate::fleet::credentials::{self, CredentialRow, MAX_FOREIGN, Revocation, Terms, Wanted};
use crate::remote;

/// Credentials, what a device logs in with: add, list, revoke.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Add(AddArguments),
    /// List a device's credentials, revoked and expired ones too; or those of all devices that still have the hash of
    /// another broker.
    List {
        /// The device.
        #[arg(required_unless_present = "foreign")]
        device: Option<DeviceName>,
        /// Those that were imported and that nobody has logged in with since, oldest first.
        #[arg(long, conflicts_with = "device")]
        foreign: bool,
    },
    /// Revoke a credential for ever.
    Revoke {
        /// Its number, as the list shows it.
        #[arg(value_parser = number)]
        id: i64,
    },
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self.action {
            Action::Add(arguments) => arguments.run(context).await,
            Action::List { device: Some(device), .. } => list(context, &device).await,
            Action::List { device: None, .. } => list_foreign(context).await,
            Action::Revoke { id } => revoke(context, id).await,
        }
    }
}

fn number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| {
        "is not a credential's number, such as 17; see `fleetgate credential list DEVICE`"
            .to_owned()
    })
}

/// Give a device a credential. Others it has stay valid, so that they can be rotated.
#[derive(Args)]
struct AddArguments {
    /// The device.
    device: DeviceName,
    #[command(flatten)]
    kind: Kind,
    /// Take a password of fewer than 8 characters.
    #[arg(long, conflicts_with_all = ["generate", "certificate_cn"])]
    allow_weak: bool,
    /// The certificate and another credential are needed. Without this option the certificate is enough alone.
    #[arg(long, conflicts_with_all = ["generate", "password_stdin"])]
    required: bool,
    /// What you call it.
    #[arg(long)]
    label: Option<String>,
    /// When it expires: 90d, 2027-01-01 or 2027-01-01T00:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = parse_future_timestamp)]
    expires: Option<Timestamp>,
    /// When it begins to be valid, in the same ways.
    #[arg(long, value_name = "WHEN", value_parser = parse_timestamp)]
    not_before: Option<Timestamp>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Kind {
    /// Generate a secret and print it once.
    #[arg(long)]
    generate: bool,
    /// Read a password from standard input.
    #[arg(long)]
    password_stdin: bool,
    /// A client certificate with this common name.
    #[arg(long, value_name = "COMMON NAME")]
    certificate_cn: Option<String>,
}

impl AddArguments {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let wanted = self.wanted()?;
        let terms =
            Terms { label: self.label, not_before: self.not_before, expires_at: self.expires };
        let device = self.device.as_str();
        let (CredentialId(id), secret) = context
            .change(
                async |fleet| {
                    let (secret, credential) = wanted.make()?;
                    let added = credentials::add(fleet, &self.device, &credential, &terms).await;
                    Ok((added?, secret))
                },
                async |api| remote::credentials::add(api, &self.device, &wanted, &terms).await,
            )
            .await?;
        let kind = wanted.kind();
        let text = || {
            format!(
                "Device \"{device}\" has the {kind} {id}. To revoke it: fleetgate credential revoke {id}"
            )
        };
        let mut result =
            json!({"id": id, "device": device, "kind": kind, "expires_at": terms.expires_at});
        let Some(secret) = secret else { return context.output.result(&result, text) };
        if let Some(fields) = result.as_object_mut() {
            fields.insert("secret".to_owned(), secret.expose().into());
        }
        context.output.result_with_secret(&result, &secret, text)
    }

    fn wanted(&self) -> Result<Wanted, CliError> {
        if self.kind.generate {
            return Ok(Wanted::Secret);
        }
        if let Some(common_name) = self.kind.certificate_cn.clone() {
            return Ok(Wanted::Certificate { common_name, required: self.required });
        }
        Ok(Wanted::Password { password: read_password()?, weak_is_fine: self.allow_weak })
    }
}

async fn list(context: &Context, device: &DeviceName) -> Result<(), CliError> {
    let found = context
        .look(
            async |client| credentials::list(client, device).await,
            async |api| remote::credentials::list(api, device).await,
        )
        .await?;
    context.output.result(&found, || credential_table(&found))
}

async fn list_foreign(context: &Context) -> Result<(), CliError> {
    let found = context
        .look(
            async |client| credentials::foreign(client, &Part::whole(), None, MAX_FOREIGN).await,
            async |api| remote::credentials::foreign(api).await,
        )
        .await?;
    context.output.result(&found, || {
        let rows = found.iter().map(|one| {
            let guessing = if one.weak { "weak" } else { "" };
            [
                one.id.to_string(),
                one.device.clone(),
                one.hash.clone(),
                guessing.to_owned(),
                timestamp(Some(one.created_at)),
            ]
        });
        let list = table(["ID", "DEVICE", "HASH", "", "IMPORTED"], rows);
        match found.len() >= usize::from(MAX_FOREIGN) {
            true => format!("{list}\nThese are the oldest {MAX_FOREIGN}; there may be more."),
            false => list,
        }
    })
}

async fn revoke(context: &Context, id: i64) -> Result<(), CliError> {
    let revocation = context
        .change(
            async |fleet| credentials::revoke(fleet, CredentialId(id)).await,
            async |api| remote::credentials::revoke(api, CredentialId(id)).await,
        )
        .await?;
    let was_valid = revocation == Revocation::Revoked;
    let result = json!({"id": id, "revoked": true, "was_valid": was_valid});
    context.output.result(&result, || match revocation {
        Revocation::Revoked => format!("Credential {id} is revoked."),
        Revocation::Expired => format!("Credential {id} is revoked; it had expired already."),
        Revocation::RevokedBefore => format!("Credential {id} was revoked before."),
    })
}

/// Credentials, for people.
pub(super) fn credential_table(credentials: &[CredentialRow]) -> String {
    let header =
        ["ID", "KIND", "VALID", "LABEL", "COMMON NAME", "NOT BEFORE", "EXPIRES", "REVOKED"];
    let rows = credentials.iter().map(|credential| {
        let kind = match credential.certificate_required {
            Some(true) => "certificate (required)",
            _ => &credential.kind,
        };
        [
            credential.id.to_string(),
            kind.to_owned(),
            yes_no(credential.valid),
            or_dash(credential.label.as_deref()),
            or_dash(credential.common_name.as_deref()),
            timestamp(credential.not_before),
            timestamp(credential.expires_at),
            timestamp(credential.revoked_at),
        ]
    });
    table(header, rows)
}
