//! `fleetgate secrets`: the secrets and certificates of a whole bus.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output::{print, remark};
use crate::clock::Clock;
use crate::provision::chosen::Chosen;
use crate::provision::error::ProvisionError;
use crate::provision::files::{Directory, Owners, Part, Place};
use crate::provision::init::{Outcome, Report, init};
use crate::provision::names::{DEFAULT_NAMES, TlsNames};
use crate::provision::shared::{API_SECRET, DASHBOARD_PASSWORD, WEBHOOK_TOKEN};
use crate::write_file::Owner;

/// The secrets and certificates of a whole bus: make them, show one.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Init(InitArguments),
    Show(ShowArguments),
}

/// Make every secret and certificate that is missing.
///
/// Nothing that exists is overwritten, except that a server certificate signed by the directory's own
/// authority is renewed when it ends within 30 days or other names are asked for. Run it as often as
/// you like. Secrets are drawn, unless FLEETGATE_SECRET_WEBHOOK, FLEETGATE_SECRET_EMQX_API,
/// FLEETGATE_SECRET_DATABASE or FLEETGATE_SECRET_DASHBOARD gives them.
#[derive(Args)]
struct InitArguments {
    /// Directory that gets the subdirectories fleetgate, emqx, postgres and authority.
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// Names and addresses under which EMQX and Fleetgate's HTTP API are reached over TLS, with commas between them.
    #[arg(long, value_name = "NAMES", env = "FLEETGATE_TLS_NAMES", default_value = DEFAULT_NAMES)]
    tls_names: TlsNames,
    /// Who owns a subdirectory and all that is in it, such as emqx=1000:1000. Needs root.
    #[arg(long, value_name = "PART=UID:GID", value_parser = owner)]
    owner: Vec<(Part, Owner)>,
}

/// Print one secret, alone on standard output.
#[derive(Args)]
struct ShowArguments {
    /// Which.
    secret: WhichSecret,
    /// The directory that `secrets init` filled.
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum WhichSecret {
    /// Password of the user admin of EMQX's dashboard.
    Dashboard,
    /// Token that EMQX shows to Fleetgate.
    Webhook,
    /// Secret of the key "fleetgate" for EMQX's REST API.
    ApiKey,
}

impl WhichSecret {
    fn place(self) -> Place {
        match self {
            Self::Dashboard => DASHBOARD_PASSWORD,
            Self::Webhook => WEBHOOK_TOKEN,
            Self::ApiKey => API_SECRET,
        }
    }

    fn note(self) -> &'static str {
        match self {
            Self::Dashboard => {
                "The password of the dashboard's user admin, as EMQX took it at its first start."
            }
            Self::Webhook => {
                "The token that EMQX shows to Fleetgate as \"Authorization: Bearer ...\"."
            }
            Self::ApiKey => "The secret of the key \"fleetgate\" for EMQX's REST API.",
        }
    }
}

impl Arguments {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        match self.action {
            Action::Init(arguments) => arguments.run(context),
            Action::Show(arguments) => arguments.run(context),
        }
    }
}

impl InitArguments {
    fn run(self, context: &Context) -> Result<(), CliError> {
        let owners: Owners = self.owner.into_iter().collect();
        let chosen = Chosen::from_environment(&context.sources().environment)?;
        let report = init(&self.directory, owners, &self.tls_names, &chosen, Clock::System.now())?;
        for text in report.remarks() {
            remark(&format!("note: {text}"));
        }
        context.output.result(&as_json(&report), || as_text(&report))
    }
}

impl ShowArguments {
    fn run(self, context: &Context) -> Result<(), CliError> {
        let secret = Directory(self.directory).require(self.secret.place())?;
        let secret = secret.expose().trim_end();
        context.output.hint(self.secret.note());
        match context.output.json {
            true => context.output.result(&json!({"secret": secret}), String::new),
            false => print(secret),
        }
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Made => "made",
        Outcome::Kept => "kept",
        Outcome::Renewed(_) => "renewed",
    }
}

fn as_text(report: &Report) -> String {
    let lines = report.files().map(|(file, outcome)| {
        let reason = match outcome {
            Outcome::Renewed(reason) => format!(" ({reason})"),
            _ => String::new(),
        };
        format!("{:<8} {}{reason}\n", word(outcome), file.display())
    });
    lines.collect()
}

fn as_json(report: &Report) -> serde_json::Value {
    let files = report.files().map(|(file, outcome)| {
        let reason = match outcome {
            Outcome::Renewed(reason) => Some(reason),
            _ => None,
        };
        json!({"file": file, "outcome": word(outcome), "reason": reason})
    });
    json!({"files": files.collect::<Vec<_>>(), "remarks": report.remarks()})
}

fn owner(text: &str) -> Result<(Part, Owner), String> {
    let parsed = || {
        let (name, ids) = text.split_once('=')?;
        let (uid, gid) = ids.split_once(':')?;
        let part = Part::ALL.into_iter().find(|part| part.name() == name)?;
        Some((part, Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? }))
    };
    parsed().ok_or_else(|| {
        "write fleetgate, emqx, postgres or authority, = and two numbers: emqx=1000:1000".to_owned()
    })
}

impl From<ProvisionError> for CliError {
    fn from(error: ProvisionError) -> Self {
        match error {
            ProvisionError::UnfitChoice { .. } => Self::Usage(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}
