//! The configuration: a TOML file and environment variables, checked as a whole.
//!
//! `sections` is the one list of settings: one line each, with its meaning, its type, the rule of its
//! value and its default. The structs that the rest of the program reads, the refusal of unknown
//! settings, `check-config` and `docs/CONFIGURATION.md` (`reference`) all come from it.
//!
//! The walk: [`Sources`] says where to look → `file` and `environment` find what is written there → each
//! section reads its settings through `Reader`: environment over file over default, by its rule
//! (`setting`, `kinds`, `texts`), with the files it names → `settings` holds the rules between
//! settings. No step stops at the first problem, and no message carries a value of a secret setting or of
//! its `_file` twin (people do paste the secret there).

mod database_url;
mod environment;
mod file;
mod kinds;
mod problem;
mod raw;
mod reader;
mod reference;
mod secret_file;
mod sections;
mod setting;
mod settings;
mod sources;
pub(crate) mod suggestion;
mod texts;

pub use database_url::{DatabaseUrl, RootCert, SslMode, UrlTls, WantedServer};
pub use problem::{Origin, Problem, Problems, Warning};
pub use reader::GivenSetting;
pub use reference::reference;
pub use secret_file::read_database_password;
pub use sections::{
    Api, Audit, Cache, Commands, Config, Database, Emqx, EmqxApi, Hashing, Http, Imports, Ingest,
    Log, LogFormat, Logins, Tokens,
};
pub use settings::Settings;
pub use sources::Sources;
