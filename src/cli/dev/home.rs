//! The directory that `fleetgate dev` keeps things in.

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::error::CliError;
use crate::cli::token::generate_key;
use crate::config::Sources;
use crate::embedded::Home;
use crate::secret::Secret;
use crate::write_file;

/// Variables that dev sets itself; the configuration file holds them.
const OWN_VARIABLES: [&str; 4] =
    ["FLEETGATE_DATABASE_", "FLEETGATE_EMQX_", "FLEETGATE_HTTP_LISTEN", "FLEETGATE_CONFIG"];
const CONFIGURATION_HEAD: &str =
    "# Written anew by every start of `fleetgate dev`; for other commands, with --config.\n";

/// The file of the API's first token.
const API_TOKEN: &str = "api-token";

/// `.fleetgate/`, or what `--home` names.
pub(super) struct DevHome {
    path: PathBuf,
}

impl DevHome {
    /// Makes the directory if it is not there, closed to others.
    pub(super) fn make(path: &Path) -> Result<Self, CliError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(failed("make the directory", path))?;
        let home = Self { path: path.to_owned() };
        // It holds secrets, and people start `dev` inside their repositories.
        write_private(&home.path.join(".gitignore"), "*\n")?;
        // None is made where an earlier start made one.
        generate_key(&home.token_key())?;
        Ok(home)
    }

    pub(super) fn postgres(&self) -> Home {
        Home::Kept(self.path.join("postgres"))
    }

    pub(super) fn configuration(&self) -> PathBuf {
        self.path.join("fleetgate.toml")
    }

    pub(super) fn demo(&self) -> PathBuf {
        self.path.join("demo.json")
    }

    fn token_key(&self) -> PathBuf {
        self.path.join("token-key.pem")
    }

    /// Writes what dev decides itself. The socket's directory changes with every start.
    pub(super) fn write_configuration(
        &self,
        listen: SocketAddr,
        database_url: &str,
        webhook_token: &Secret,
        process: &Sources,
    ) -> Result<(), CliError> {
        let path = self.configuration();
        let (listen_of_api, off) = ("FLEETGATE_API_LISTEN", "off");
        let is_off = |(name, value): &(String, String)| name == listen_of_api && value == off;
        let has_api = !process.environment.iter().any(is_off);
        // Relative paths in the file start from the directory of the file.
        let key = Path::new("token-key.pem");
        let configuration = Configuration {
            http: Http { listen },
            api: Api { first_token_file: has_api.then_some(Path::new(API_TOKEN)) },
            database: Database { url: database_url },
            emqx: Emqx { webhook_token: webhook_token.expose() },
            tokens: Tokens { verification_keys: [key], signing_key: key },
        };
        let text = toml::to_string(&configuration)
            .map_err(|error| failed("write", &path)(io::Error::other(error)))?;
        write_private(&path, &format!("{CONFIGURATION_HEAD}{text}"))
    }

    /// The configuration of the service: dev's file, and what of the environment is left to it.
    pub(super) fn sources(&self, process: &Sources) -> Sources {
        let own = |name: &str| OWN_VARIABLES.iter().any(|own| name.starts_with(own));
        let environment = process.environment.iter().filter(|(name, _)| !own(name));
        Sources {
            file: Some(self.configuration()),
            environment: environment.cloned().collect(),
            not_utf8: process.not_utf8.clone(),
        }
    }
}

#[derive(Serialize)]
struct Configuration<'a> {
    http: Http,
    api: Api<'a>,
    database: Database<'a>,
    emqx: Emqx<'a>,
    tokens: Tokens<'a>,
}

#[derive(Serialize)]
struct Http {
    listen: SocketAddr,
}

#[derive(Serialize)]
struct Api<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    first_token_file: Option<&'a Path>,
}

#[derive(Serialize)]
struct Database<'a> {
    url: &'a str,
}

#[derive(Serialize)]
struct Emqx<'a> {
    webhook_token: &'a str,
}

#[derive(Serialize)]
struct Tokens<'a> {
    verification_keys: [&'a Path; 1],
    signing_key: &'a Path,
}

/// Writes a file that is closed to others.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), CliError> {
    write_file::replace(path, text, 0o600, None).map_err(failed("write", path))
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CliError {
    let path = path.display().to_string();
    move |error| {
        CliError::Failed(format!(
            "cannot {doing} {path}: {error}; check its permissions, or choose another --home"
        ))
    }
}
