//! An operator who writes files, sets variables and reads what is said.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use fleetgate::cli::check_config::check_config;
use fleetgate::config::{Problems, Settings, Sources};
use tempfile::TempDir;

pub(crate) const TOKEN: &str = "0123456789abcdef";
pub(crate) const NEEDED: &str = "database.url = 'postgres://fleetgate@db/fleetgate'\n\
                      emqx.webhook_token = '0123456789abcdef'\n";

/// A directory with a configuration file, and an environment.
pub(crate) struct Operator {
    pub(crate) directory: TempDir,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) not_utf8: Vec<String>,
}

impl Operator {
    pub(crate) fn writes(text: &str) -> Self {
        let operator = Self {
            directory: tempfile::tempdir().expect("a directory"),
            environment: Vec::new(),
            not_utf8: Vec::new(),
        };
        operator.saves("fleetgate.toml", text, 0o600);
        operator
    }

    pub(crate) fn sets(mut self, variable: &str, value: &str) -> Self {
        self.environment.push((variable.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn saves(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, text).expect("writing");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("permissions");
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn sources(&self) -> Sources {
        Sources {
            file: Some(self.path("fleetgate.toml")),
            environment: self.environment.clone(),
            not_utf8: self.not_utf8.clone(),
        }
    }

    pub(crate) fn loads(&self) -> Settings {
        Settings::load(&self.sources()).unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// The lines said about a bad configuration, without the directory.
    pub(crate) fn is_told(&self) -> Vec<String> {
        let problems = check_config(&self.sources()).expect_err("problems");
        self.lines(&problems)
    }

    pub(crate) fn lines(&self, problems: &Problems) -> Vec<String> {
        let directory = format!("{}/", self.directory.path().display());
        problems.to_string().lines().map(|line| line.replace(&directory, "")).collect()
    }
}

/// What is said of one bad line in an otherwise good file.
pub(crate) fn told_of(line: &str) -> String {
    let told = Operator::writes(&format!("{NEEDED}{line}\n")).is_told();
    assert_eq!(told.len(), 1, "{told:#?}");
    told[0].clone()
}

/// What is said of one bad variable beside a good file.
pub(crate) fn told_of_variable(variable: &str, value: &str) -> String {
    let told = Operator::writes(NEEDED).sets(variable, value).is_told();
    assert_eq!(told.len(), 1, "{told:#?}");
    told[0].clone()
}
