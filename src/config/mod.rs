//! The configuration: a TOML file and environment variables, checked as a whole.
//!
//! `table` is the one list of settings. Reading (`file`, `environment`), refusing unknown
//! keys, `check-config` and `docs/CONFIGURATION.md` (`reference`) all come from it; `parts`
//! holds the same settings as types for the rest of the program.
//!
//! The walk: [`Sources`] says where to look → `file::read` and `environment::read` give what is
//! written there → `value::parse` checks each value → `layers` lays environment over file over
//! default and reads secret files → `settings` builds the parts. No step stops at
//! the first problem, and no message carries a value of a secret setting or of its `_file` twin
//! (people do paste the secret there).

mod database_url;
mod environment;
mod file;
mod given;
mod layers;
mod parts;
mod problem;
mod reference;
mod rules;
mod secret_file;
mod settings;
mod sources;
pub(crate) mod suggestion;
mod table;
mod value;

pub use database_url::{DatabaseUrl, RootCert, SslMode, UrlTls, WantedServer};
pub use parts::{
    Cache, Config, Database, Emqx, EmqxApi, Hashing, Http, Ingest, Log, LogFormat, Logins, Tokens,
};
pub use problem::{Origin, Problem, Problems, Warning};
pub use reference::reference;
pub use secret_file::read_database_password;
pub use settings::{GivenSetting, Settings};
pub use sources::Sources;
