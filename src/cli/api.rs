//! `--api`: the fleet of another machine, over its HTTP API.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::cli::error::CliError;
use crate::read_file::read_at_most;
use crate::remote::Remote;
use crate::secret::Secret;

/// No token is longer.
const MAX_TOKEN_BYTES: u64 = 1024;

/// The variable that says `--api`.
const URL_VARIABLE: &str = "FLEETGATE_API";
const TOKEN_VARIABLE: &str = "FLEETGATE_API_TOKEN_FILE";
const CA_VARIABLE: &str = "FLEETGATE_API_CA";

/// Where the fleet is, if it is not in this machine's database.
#[derive(Args)]
pub(super) struct ApiOptions {
    /// Work over the HTTP API at this URL instead of the database. Without this option, FLEETGATE_API says it.
    #[arg(long = "api", global = true, value_name = "URL", overrides_with = "url")]
    url: Option<OsString>,
    /// File with the API token, for --api. Without this option, FLEETGATE_API_TOKEN_FILE says it.
    #[arg(
        long = "api-token-file",
        global = true,
        value_name = "FILE",
        overrides_with = "token_file"
    )]
    token_file: Option<OsString>,
    /// File with the authorities to trust for --api, instead of the operating system's. Without this option, FLEETGATE_API_CA says it.
    #[arg(long = "api-ca", global = true, value_name = "FILE", overrides_with = "ca_file")]
    ca_file: Option<OsString>,
}

/// What an option says, else a variable. An empty variable is taken as unset; an empty option is what somebody's unset variable
/// left, and no reason to work on another fleet.
fn given(option: Option<&OsString>, variable: &str) -> Option<OsString> {
    let variable = || std::env::var_os(variable).filter(|text| !text.is_empty());
    option.cloned().or_else(variable)
}

impl ApiOptions {
    /// Whether the fleet is asked over the API.
    pub(super) fn is_given(&self) -> bool {
        self.url().is_some()
    }

    /// Refuses what cannot be done over the API, where it is asked for there.
    pub(super) fn refuse(&self, why: &str) -> Result<(), CliError> {
        match self.is_given() {
            false => Ok(()),
            true => Err(CliError::Usage(format!(
                "{why}, and does not work over the API; run it there, without --api and with {URL_VARIABLE} unset"
            ))),
        }
    }

    fn url(&self) -> Option<OsString> {
        given(self.url.as_ref(), URL_VARIABLE)
    }

    /// The API; `None`: the fleet is in the database.
    pub(super) fn remote(&self) -> Result<Option<Remote>, CliError> {
        let Some(url) = self.url() else { return Ok(None) };
        let token_file = given(self.token_file.as_ref(), TOKEN_VARIABLE).map(PathBuf::from);
        let token_file = token_file.ok_or_else(|| {
            CliError::Usage(format!(
                "--api needs a token: write one that `fleetgate api-token add` made into a file, and name the file with \
                 --api-token-file or {TOKEN_VARIABLE}"
            ))
        })?;
        let unusable = |why: String| {
            CliError::Usage(format!(
                "the token file {} {why}; write an API token into it, and nothing else",
                token_file.display()
            ))
        };
        let bytes = read_at_most(&token_file, MAX_TOKEN_BYTES)
            .map_err(|error| unusable(format!("cannot be read: {error}")))?;
        let token = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(unusable("holds no token".to_owned()));
        }
        let ca_file = given(self.ca_file.as_ref(), CA_VARIABLE).map(PathBuf::from);
        let token = Secret::new(token.to_owned());
        Ok(Some(Remote::new(&url.to_string_lossy(), ca_file.as_deref(), token)?))
    }
}
