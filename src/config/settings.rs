//! Putting the layers together: environment over file over default.

use serde::Serialize;

use super::layers::Layers;
use super::parts::{
    Cache, Config, Database, Emqx, EmqxApi, Hashing, Http, Ingest, Log, Logins, Tokens,
};
use super::problem::{Origin, Problem, Problems, Warning};
use super::sources::Sources;
use super::{environment, file};

/// A checked configuration, of which parts that nobody gave may be missing.
///
/// No `Debug`: it holds secrets.
pub struct Settings {
    http: Http,
    database: Result<Database, Problem>,
    emqx: Result<Emqx, Problem>,
    emqx_api: Result<Option<EmqxApi>, Problem>,
    cache: Cache,
    hashing: Hashing,
    logins: Logins,
    ingest: Ingest,
    tokens: Tokens,
    log: Log,
    given: Vec<GivenSetting>,
    warnings: Vec<Warning>,
}

/// A setting that somebody gave a value, for `check-config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GivenSetting {
    /// The setting's key as in the file.
    pub setting: &'static str,
    /// The value as written; `set` for a secret.
    pub value: String,
    /// Where it is given.
    pub at: Origin,
}

impl Settings {
    /// Reads and checks everything that is given.
    ///
    /// # Errors
    /// All that is wrong with what is given. That a needed setting is missing is told only by
    /// [`Settings::config`] and [`Settings::database`], because most commands need few.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let in_file = sources.file.as_deref().map(|path| file::read(path, &mut problems));
        let in_environment = environment::read(&sources.environment, &mut problems);
        let mut layers = Layers::default();
        layers.add(in_file.unwrap_or_default(), &mut problems);
        layers.add(in_environment, &mut problems);
        let mut warnings = layers.read_files(&mut problems);
        warnings.extend(layers.check_database(&mut problems));
        layers.add_defaults(&mut problems);
        Problems::unless_none(problems, ())?;
        Ok(layers.settings(warnings)?)
    }

    /// Everything `serve` needs.
    ///
    /// # Errors
    /// The settings that are missing.
    pub fn config(&self) -> Result<Config, Problems> {
        let missing = [
            self.database.as_ref().err(),
            self.emqx.as_ref().err(),
            // Where the webhook token is missing as well, both are told.
            self.emqx_api.as_ref().err().filter(|api| self.emqx.as_ref().err() != Some(*api)),
        ];
        let missing = missing.into_iter().flatten().cloned().collect();
        Problems::unless_none(missing, ())?;
        Ok(Config {
            http: self.http.clone(),
            database: self.database.clone()?,
            emqx: self.emqx.clone()?,
            cache: self.cache.clone(),
            hashing: self.hashing.clone(),
            logins: self.logins.clone(),
            ingest: self.ingest.clone(),
            tokens: self.tokens.clone(),
            log: self.log.clone(),
        })
    }

    /// What a command needs that only uses the registry.
    ///
    /// # Errors
    /// When `database.url` is missing.
    pub fn database(&self) -> Result<Database, Problems> {
        Ok(self.database.clone()?)
    }

    /// What EMQX and Fleetgate agree on, for commands that do without a database.
    ///
    /// # Errors
    /// When `emqx.webhook_token` is missing.
    pub fn emqx(&self) -> Result<Emqx, Problems> {
        Ok(self.emqx.clone()?)
    }

    /// How to call EMQX's REST API, when that is configured.
    ///
    /// # Errors
    /// When some of its settings are given and others missing.
    pub fn emqx_api(&self) -> Result<Option<EmqxApi>, Problems> {
        Ok(self.emqx_api.clone()?)
    }

    /// Where and how HTTP is served.
    #[must_use]
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// How chosen passwords are checked.
    #[must_use]
    pub fn hashing(&self) -> &Hashing {
        &self.hashing
    }

    /// Limits on guessing passwords.
    #[must_use]
    pub fn logins(&self) -> &Logins {
        &self.logins
    }

    /// How events are taken in.
    #[must_use]
    pub fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    /// The settings of device tokens.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The settings of the log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What works and should still be changed.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The settings that somebody gave a value, in the order of `docs/CONFIGURATION.md`.
    #[must_use]
    pub fn given(&self) -> &[GivenSetting] {
        &self.given
    }
}

impl Layers {
    fn settings(&self, warnings: Vec<Warning>) -> Result<Settings, Problem> {
        Ok(Settings {
            http: self.http()?,
            database: self.database(),
            emqx: self.emqx(),
            emqx_api: self.emqx_api(),
            cache: self.cache()?,
            hashing: Hashing {
                threads: self.get("hashing.threads")?,
                queue: self.get("hashing.queue")?,
            },
            logins: Logins {
                limits: self.get("logins.limits")?,
                exempt_networks: self.get("logins.exempt_networks")?,
            },
            ingest: Ingest {
                queue: self.get("ingest.queue")?,
                batch: self.get("ingest.batch")?,
                linger: self.get("ingest.linger")?,
                writers: self.get("ingest.writers")?,
                max_payload: self.get("ingest.max_payload")?,
                keep_sessions: self.get("ingest.keep_sessions")?,
            },
            tokens: Tokens {
                audience: self.get("tokens.audience")?,
                verification_keys: self.get("tokens.verification_keys")?,
                signing_key: self.optional("tokens.signing_key"),
            },
            log: Log { format: self.get("log.format")?, filter: self.get("log.filter")? },
            given: self.given(),
            warnings,
        })
    }

    fn http(&self) -> Result<Http, Problem> {
        Ok(Http {
            listen: self.get("http.listen")?,
            workers: self.get("http.workers")?,
            keep_alive: self.get("http.keep_alive")?,
            max_connections: self.get("http.max_connections")?,
            shutdown_grace: self.get("http.shutdown_grace")?,
        })
    }

    fn database(&self) -> Result<Database, Problem> {
        Ok(Database {
            url: self.get("database.url")?,
            password: self.optional("database.password"),
            ca_file: self.optional("database.ca_file"),
            pool_size: self.get("database.pool_size")?,
            connect_timeout: self.get("database.connect_timeout")?,
            query_timeout: self.get("database.query_timeout")?,
        })
    }

    fn emqx(&self) -> Result<Emqx, Problem> {
        let webhook_token = self.get("emqx.webhook_token")?;
        let api = self.emqx_api()?;
        // Rights that travel with the login can only be taken back by ending the session.
        let acl_in_login = self.optional("emqx.acl_in_login").unwrap_or(api.is_some());
        let sweep_interval = self.get("emqx.sweep_interval")?;
        let max_session = self.optional("emqx.max_session");
        Ok(Emqx { webhook_token, acl_in_login, api, sweep_interval, max_session })
    }

    /// All of the API's settings or none: half of them is a mistake, not "off".
    fn emqx_api(&self) -> Result<Option<EmqxApi>, Problem> {
        let needed = ["emqx.api_url", "emqx.api_key", "emqx.api_secret"];
        if !needed.iter().any(|key| self.is_given(key)) {
            return Ok(None);
        }
        Ok(Some(EmqxApi {
            url: self.get::<String>("emqx.api_url")?.trim_end_matches('/').to_owned(),
            key: self.get("emqx.api_key")?,
            secret: self.get("emqx.api_secret")?,
            ca_file: self.optional("emqx.api_ca_file"),
        }))
    }

    fn cache(&self) -> Result<Cache, Problem> {
        Ok(Cache {
            devices: self.get("cache.devices")?,
            unknown_names: self.get("cache.unknown_names")?,
            unknown_ttl: self.get("cache.unknown_ttl")?,
            max_staleness: self.get("cache.max_staleness")?,
        })
    }
}
