//! The whole configuration, and the rules between settings.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::database_url::{DatabaseUrl, RootCert, SslMode};
use super::problem::{Problem, Problems, Warning};
use super::reader::{GivenSetting, Reader};
use super::secret_file::{check_exists, exposure};
use super::sections::{
    self, Api, Audit, Cache, Commands, Config, Database, Emqx, EmqxApi, Hashing, Http, Imports,
    Ingest, Log, Logins, Tokens,
};
use super::sources::Sources;
use super::{environment, file};

/// A checked configuration, of which parts that nobody gave may be missing.
///
/// No `Debug`: it holds secrets.
pub struct Settings {
    /// Where and how HTTP is served.
    pub http: Http,
    /// Where and how the HTTP API is served.
    pub api: Api,
    /// The cache of devices.
    pub cache: Cache,
    /// How chosen passwords are checked.
    pub hashing: Hashing,
    /// Imported passwords.
    pub imports: Imports,
    /// Limits on guessing passwords.
    pub logins: Logins,
    /// How events are taken in.
    pub ingest: Ingest,
    /// Commands to devices.
    pub commands: Commands,
    /// The audit log.
    pub audit: Audit,
    /// Device tokens.
    pub tokens: Tokens,
    /// Logging.
    pub log: Log,
    /// The settings that somebody gave a value, in the order of `docs/CONFIGURATION.md`.
    pub given: Vec<GivenSetting>,
    /// What works and should still be changed.
    pub warnings: Vec<Warning>,
    database: Result<Database, Problems>,
    emqx: Result<Emqx, Problems>,
    emqx_api: Result<Option<EmqxApi>, Problems>,
}

/// What [`Settings::examine`] found.
struct Examined {
    settings: Settings,
    /// What is wrong with what is given.
    wrong: Vec<Problem>,
    /// Whether all of the configuration file could be read.
    is_whole: bool,
}

impl Settings {
    /// Reads and checks everything that is given.
    ///
    /// # Errors
    /// All that is wrong with what is given. That a required setting is missing is told only by
    /// [`Settings::config`], [`Settings::database`] and the like, because most commands need few.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        let Examined { settings, wrong, .. } = Self::examine(sources)?;
        Problems::unless_none(wrong)?;
        Ok(settings)
    }

    /// The same for whoever needs a whole [`Config`]. `further` looks for what else is wrong, at settings of which
    /// those that are wrong have their defaults.
    ///
    /// # Errors
    /// All that is wrong with what is given, what `further` found, and all that is missing.
    pub fn complete(
        sources: &Sources,
        further: impl FnOnce(&Self) -> Vec<Problem>,
    ) -> Result<(Self, Config), Problems> {
        let Examined { settings, mut wrong, is_whole } = Self::examine(sources)?;
        let mut others = further(&settings);
        // Nobody knows what stands in a file that could not be read.
        if is_whole {
            others.extend(settings.missing());
        }
        // What is given and wrong is not missing, and says no more the second time.
        others.retain(|other| !wrong.iter().any(|problem| problem.is_about_the_setting_of(other)));
        wrong.extend(others);
        Problems::unless_none(wrong)?;
        let config = settings.config()?;
        Ok((settings, config))
    }

    fn examine(sources: &Sources) -> Result<Examined, Problems> {
        let known = sections::settings();
        let mut reader = Reader::default();
        let is_whole = match &sources.file {
            Some(path) => file::read(path, &known, &mut reader),
            None => true,
        };
        environment::read(sources, &known, &mut reader);
        let http = Http::read(&mut reader);
        let api = Api::read(&mut reader);
        let mut database = Database::read(&mut reader);
        let mut emqx = Emqx::read(&mut reader);
        let emqx_api = emqx_api(&mut reader);
        let cache = Cache::read(&mut reader);
        let hashing = Hashing::read(&mut reader);
        let imports = Imports::read(&mut reader);
        let logins = Logins::read(&mut reader);
        let ingest = Ingest::read(&mut reader);
        let commands = Commands::read(&mut reader);
        let audit = Audit::read(&mut reader);
        let tokens = Tokens::read(&mut reader);
        let log = Log::read(&mut reader);
        if let (Ok(http), Ok(api)) = (&http, &api) {
            api_rules(http, api, &mut reader);
        }
        if let Ok(database) = &mut database {
            database_rules(database, &mut reader);
        }
        if let Ok(api) = &emqx_api {
            emqx_api_rules(api.as_ref(), &mut reader);
        }
        if let (Ok(database), Ok(ingest)) = (&database, &ingest) {
            writer_rules(database, ingest, &mut reader);
        }
        if logins.as_ref().is_ok_and(|logins| !logins.limits) {
            reader.warn_of_unused(&["logins.exempt_networks"], "logins.limits is false");
        }
        if let (Ok(emqx), None) = (&mut emqx, reader.find("emqx.acl_in_login")) {
            // Rights that travel with the login can only be taken back by ending the session.
            emqx.acl_in_login = matches!(emqx_api, Ok(Some(_)));
        }
        let Reader { problems: wrong, given, warnings, .. } = reader;
        let settings = Self {
            http: http?,
            api: api?,
            cache: cache?,
            hashing: hashing?,
            imports: imports?,
            logins: logins?,
            ingest: ingest?,
            commands: commands?,
            audit: audit?,
            tokens: tokens?,
            log: log?,
            given,
            warnings,
            database,
            emqx,
            emqx_api,
        };
        Ok(Examined { settings, wrong, is_whole })
    }

    /// What `serve` needs and nobody gave.
    fn missing(&self) -> Vec<Problem> {
        let missing =
            [self.database.as_ref().err(), self.emqx.as_ref().err(), self.emqx_api.as_ref().err()];
        missing.into_iter().flatten().flat_map(Problems::iter).cloned().collect()
    }

    /// Everything `serve` needs.
    ///
    /// # Errors
    /// The settings that are missing.
    pub fn config(&self) -> Result<Config, Problems> {
        Problems::unless_none(self.missing())?;
        Ok(Config {
            http: self.http.clone(),
            api: self.api.clone(),
            database: self.database()?,
            emqx: self.emqx()?,
            cache: self.cache.clone(),
            hashing: self.hashing.clone(),
            imports: self.imports.clone(),
            logins: self.logins.clone(),
            ingest: self.ingest.clone(),
            commands: self.commands.clone(),
            audit: self.audit.clone(),
            tokens: self.tokens.clone(),
            log: self.log.clone(),
        })
    }

    /// What a command needs that only uses the registry.
    ///
    /// # Errors
    /// When `database.url` is missing.
    pub fn database(&self) -> Result<Database, Problems> {
        self.database.clone()
    }

    /// What EMQX and Fleetgate agree on, for commands that do without a database.
    ///
    /// # Errors
    /// When `emqx.webhook_token` is missing, or some of the API's settings.
    pub fn emqx(&self) -> Result<Emqx, Problems> {
        Ok(Emqx { api: self.emqx_api()?, ..self.emqx.clone()? })
    }

    /// How to call EMQX's REST API, when that is configured.
    ///
    /// # Errors
    /// When some of its settings are given and others missing.
    pub fn emqx_api(&self) -> Result<Option<EmqxApi>, Problems> {
        self.emqx_api.clone()
    }
}

/// All of the API's settings or none: half of them is a mistake, not "off".
fn emqx_api(reader: &mut Reader) -> Result<Option<EmqxApi>, Problems> {
    let api = EmqxApi::read(reader);
    let parts = ["emqx.api_url", "emqx.api_key", "emqx.api_secret", "emqx.api_ca_file"];
    let Some(given) = parts.into_iter().find(|setting| reader.find(setting).is_some()) else {
        return Ok(None);
    };
    api.map(Some).map_err(|missing| missing.needed_by(given))
}

/// Tokens travel over this connection: in the clear only where nobody else can listen.
fn api_rules(http: &Http, api: &Api, reader: &mut Reader) {
    let other = match (&api.tls_certificate, &api.tls_key) {
        (Some(_), None) => Some(("api.tls_certificate", "api.tls_key")),
        (None, Some(_)) => Some(("api.tls_key", "api.tls_certificate")),
        _ => None,
    };
    if let Some((given, missing)) = other {
        let message = format!("needs {missing} as well");
        let problem = reader.find(given).map(|at| Problem::of(&at.at, &at.written, message));
        reader.problems.extend(problem);
    }
    let in_the_clear = api.tls_certificate.is_none() && api.tls_key.is_none();
    if in_the_clear && api.listen.is_some_and(|address| !address.ip().is_loopback()) {
        let message = "tokens would be sent in the clear; set api.tls_certificate and api.tls_key, or listen on \
                       127.0.0.1 behind a proxy that has TLS";
        let problem = reader.find("api.listen");
        let problem = problem.map(|at| Problem::of(&at.at, &at.written, message.to_owned()));
        reader.problems.extend(problem);
    }
    let Some(listen) = api.listen else {
        let of_api =
            ["api.tls_certificate", "api.tls_key", "api.public_url", "api.first_token_file"];
        return reader.warn_of_unused(&of_api, "api.listen is off");
    };
    if are_one(http.listen, listen) {
        let both = [("api.listen", "http.listen"), ("http.listen", "api.listen")];
        let given = both.iter().find_map(|(one, other)| Some((reader.find(one)?, other)));
        let problem = given.map(|(given, other)| {
            let message = format!("is the same port as {other}; choose another");
            Problem::of(&given.at, &given.written, message)
        });
        reader.problems.extend(problem);
    }
}

/// Whether only one can listen on both of them.
fn are_one(one: SocketAddr, other: SocketAddr) -> bool {
    // `[::]` takes IPv4 as well.
    let covers =
        |all: IpAddr, some: IpAddr| all.is_unspecified() && (all.is_ipv6() || some.is_ipv4());
    let (one_ip, other_ip) = (one.ip(), other.ip());
    one.port() != 0
        && one.port() == other.port()
        && (one_ip == other_ip || covers(one_ip, other_ip) || covers(other_ip, one_ip))
}

fn emqx_api_rules(api: Option<&EmqxApi>, reader: &mut Reader) {
    let Some(api) = api else {
        return reader.warn_of_unused(&["emqx.sweep_interval"], "there is no emqx.api_url");
    };
    if api.url.starts_with("http://")
        && let Some(given) = reader.find("emqx.api_ca_file")
    {
        let message =
            "is not used: emqx.api_url begins with http://; take it out, or write https://";
        let problem = given.problem(message);
        reader.problems.push(problem);
    }
}

/// Transactions of events must leave a connection to logins: those wait for two seconds, and are refused then.
fn writer_rules(database: &Database, ingest: &Ingest, reader: &mut Reader) {
    let (writers, pool) = (ingest.writers, database.pool_size);
    if writers < pool {
        return;
    }
    let message = format!(
        "ingest.writers is {writers} and database.pool_size {pool}: while events take long to be written, no \
         connection is left to logins; keep pool_size larger"
    );
    let given = ["database.pool_size", "ingest.writers"].iter().find_map(|it| reader.find(it));
    if let Some(GivenSetting { at, written, .. }) = given.cloned() {
        reader.warn(&at, &written, Some(message));
    }
}

/// Holds what `database.url` says against the other settings, and checks the files that it names.
fn database_rules(database: &mut Database, reader: &mut Reader) {
    let Some(given) = reader.find("database.url").cloned() else { return };
    database.directory = given.at.directory();
    let Ok(url) = DatabaseUrl::of(database) else { return };
    // A file of authorities asks for TLS, and the URL may rule it out.
    let unused = "is not used: database.url says sslmode=disable; take one of the two out";
    let twice = |what| format!("{what} also part of database.url; write it in one place");
    let conflicts = [
        (url.config.get_password().is_some(), "database.password", twice("the password is")),
        (url.tls.root_cert.is_some(), "database.ca_file", twice("sslrootcert is")),
        (url.tls.mode == Some(SslMode::Disable), "database.ca_file", unused.to_owned()),
    ];
    for (_, setting, message) in conflicts.into_iter().filter(|(conflicts, ..)| *conflicts) {
        let problem = reader.find(setting).map(|at| Problem::of(&at.at, &at.written, message));
        reader.problems.extend(problem);
    }
    let files = [
        ("sslrootcert", url.tls.root_cert.as_ref().and_then(RootCert::file)),
        ("sslcert", url.tls.cert.as_deref()),
        ("sslkey", url.tls.key.as_deref()),
    ];
    for (part, path) in files {
        if let Some(Err(problem)) = path.map(|path: &Path| check_exists(path, true)) {
            let problem = problem.replace("named here", &format!("named by {part}"));
            reader.problems.push(Problem::of(&given.at, &given.written, problem));
        }
    }
    reader.warn(&given.at, &given.written, url.tls.key.as_deref().and_then(exposure));
    if let (Some(limit), None) = (url.connect_timeout, reader.find("database.connect_timeout")) {
        database.connect_timeout = limit;
    }
}
