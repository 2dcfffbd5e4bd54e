//! Laying the sources over each other, and opening the files they name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::database_url::{DatabaseUrl, RootCert, SslMode};
use super::given::{Given, Raw};
use super::problem::{Origin, Problem, Warning};
use super::secret_file;
use super::settings::GivenSetting;
use super::table::{Kind, Preset, SETTINGS, Setting, variable_of};
use super::value::{Value, parse};

const CONNECT_TIMEOUT: &str = "database.connect_timeout";

/// The values that hold so far, by key.
#[derive(Default)]
pub(super) struct Layers {
    entries: BTreeMap<&'static str, Entry>,
}

struct Entry {
    value: Value,
    /// The value for people; nothing of a secret.
    shown: String,
    /// `None` for a default.
    origin: Option<Origin>,
    /// The key as given, with `_file` if so.
    key: String,
}

impl Layers {
    /// Lays the values of one source over those that are there.
    pub(super) fn add(&mut self, layer: Vec<Given>, problems: &mut Vec<Problem>) {
        problems.extend(given_twice(&layer));
        for given in layer {
            let (setting, origin, key) = (given.setting, given.origin.clone(), given.key());
            let shown = if setting.is_secret() { "set".to_owned() } else { given.raw.shown() };
            match parse(given) {
                Ok(value) => {
                    let entry = Entry { value, shown, origin: Some(origin), key };
                    self.entries.insert(setting.key, entry);
                }
                Err(message) => problems.push(Problem::of(&origin, &key, message)),
            }
        }
    }

    /// Opens the files that the remaining values name. Those that another layer replaced are left
    /// alone: replacing them may be the remedy for their absence.
    pub(super) fn read_files(&mut self, problems: &mut Vec<Problem>) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for setting in SETTINGS {
            let Some(entry) = self.entries.get_mut(setting.key) else { continue };
            let Some(origin) = entry.origin.clone() else { continue };
            if let Some(message) = exposure(setting, entry, &origin) {
                let key = entry.key.clone();
                warnings.push(Warning { at: origin.clone(), setting: key, message });
            }
            if let Err(message) = open(setting, entry) {
                problems.push(Problem::of(&origin, &entry.key, message));
            }
        }
        warnings
    }

    /// Checks what `database.url` says against the other settings, and opens the files that it names. A
    /// time-out of connecting that is part of it counts where the setting is not given.
    pub(super) fn check_database(&mut self, problems: &mut Vec<Problem>) -> Vec<Warning> {
        let Some(Entry { value: Value::Secret(url), origin: Some(at), key, .. }) =
            self.entries.get("database.url")
        else {
            return Vec::new();
        };
        let Ok(url) = url.expose().parse::<DatabaseUrl>() else { return Vec::new() };
        let twice = [
            (url.config.get_password().is_some(), "database.password", "the password is"),
            (url.tls.root_cert.is_some(), "database.ca_file", "sslrootcert is"),
        ];
        for (in_url, setting, what) in twice {
            let origin = self.entries.get(setting).and_then(|entry| entry.origin.as_ref());
            if let Some(origin) = origin.filter(|_| in_url) {
                let message = format!("{what} also part of database.url; write it in one place");
                problems.push(Problem::of(origin, setting, message));
            }
        }
        problems.extend(self.unused_authorities(&url));
        let files = [
            ("sslrootcert", url.tls.root_cert.as_ref().and_then(RootCert::file)),
            ("sslcert", url.tls.cert.as_deref()),
            ("sslkey", url.tls.key.as_deref()),
        ];
        for (part, path) in files {
            if let Some(Err(problem)) = path.map(|path| secret_file::check_exists(path, true)) {
                let problem = problem.replace("named here", &format!("named by {part}"));
                problems.push(Problem::of(at, key, problem));
            }
        }
        let exposed = url.tls.key.as_deref().and_then(secret_file::exposure);
        let warning = |message| Warning { at: at.clone(), setting: key.clone(), message };
        let warnings = exposed.map(warning).into_iter().collect();
        if let Some(limit) = url.connect_timeout.filter(|_| !self.is_given(CONNECT_TIMEOUT)) {
            let value = Value::Duration(limit);
            let entry = Entry {
                value,
                shown: String::new(),
                origin: None,
                key: CONNECT_TIMEOUT.to_owned(),
            };
            self.entries.insert(CONNECT_TIMEOUT, entry);
        }
        warnings
    }

    /// A file of authorities asks for TLS, and the URL may rule it out.
    fn unused_authorities(&self, url: &DatabaseUrl) -> Option<Problem> {
        let given = self.entries.get("database.ca_file")?;
        let message = "is not used: database.url says sslmode=disable; take one of the two out";
        let problem = Problem::of(given.origin.as_ref()?, &given.key, message.to_owned());
        (url.tls.mode == Some(SslMode::Disable)).then_some(problem)
    }

    pub(super) fn add_defaults(&mut self, problems: &mut Vec<Problem>) {
        for setting in SETTINGS {
            if self.entries.contains_key(setting.key) {
                continue;
            }
            match default_of(setting) {
                Ok(Some(value)) => {
                    let (shown, key) = (String::new(), setting.key.to_owned());
                    self.entries.insert(setting.key, Entry { value, shown, origin: None, key });
                }
                Ok(None) => {}
                Err(message) => problems.push(Problem::missing(setting.key, message)),
            }
        }
    }

    pub(super) fn get<T: TryFrom<Value>>(&self, key: &'static str) -> Result<T, Problem> {
        self.optional(key).ok_or_else(|| missing(key))
    }

    pub(super) fn optional<T: TryFrom<Value>>(&self, key: &str) -> Option<T> {
        self.entries.get(key).and_then(|entry| entry.value.clone().try_into().ok())
    }

    pub(super) fn is_given(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.origin.is_some())
    }

    pub(super) fn given(&self) -> Vec<GivenSetting> {
        let given = |setting: &Setting| {
            let entry = self.entries.get(setting.key)?;
            let at = entry.origin.clone()?;
            Some(GivenSetting { setting: setting.key, value: entry.shown.clone(), at })
        };
        SETTINGS.iter().filter_map(given).collect()
    }
}

/// Secrets that one source gives both as themselves and as a file. (In different sources, the
/// stronger source counts, as for every setting.)
fn given_twice(layer: &[Given]) -> Vec<Problem> {
    let files = layer.iter().filter(|given| given.in_file);
    let twice = files.filter(|given| {
        layer.iter().any(|other| other.setting.key == given.setting.key && !other.in_file)
    });
    twice
        .map(|given| {
            let message = format!("{} is given as well; keep one of the two", given.setting.key);
            Problem::of(&given.origin, &given.key(), message)
        })
        .collect()
}

/// Reads the secret from its file, or looks whether the files are there.
fn open(setting: &Setting, entry: &mut Entry) -> Result<(), String> {
    match (&setting.kind, &entry.value) {
        (Kind::Secret(rule), Value::Path(path)) => {
            entry.value = Value::Secret(secret_file::read(path, rule)?);
            Ok(())
        }
        (Kind::Path { private }, Value::Path(path)) => secret_file::check_exists(path, *private),
        (_, Value::Paths(paths)) => {
            paths.iter().try_for_each(|path| secret_file::check_exists(path, false))
        }
        _ => Ok(()),
    }
}

fn exposure(setting: &Setting, entry: &Entry, origin: &Origin) -> Option<String> {
    match (&setting.kind, &entry.value, origin) {
        (Kind::Secret(_) | Kind::Path { private: true }, Value::Path(path), _) => {
            secret_file::exposure(path)
        }
        (Kind::Secret(_), Value::Secret(_), Origin::File { file, .. }) => {
            secret_file::exposure(file)
        }
        _ => None,
    }
}

fn default_of(setting: &'static Setting) -> Result<Option<Value>, String> {
    match &setting.preset {
        Preset::Machine { count, .. } => Ok(Some(Value::Count(count()))),
        Preset::Absent(_) | Preset::Required => Ok(None),
        Preset::Value(text) => {
            let raw = Raw::from_text(&setting.kind, (*text).to_owned());
            let origin = Origin::Environment { variable: variable_of(setting.key) };
            let given = Given { setting, in_file: false, raw, origin, base: PathBuf::new() };
            parse(given).map(Some)
        }
    }
}

fn missing(key: &'static str) -> Problem {
    let variable = variable_of(key);
    let mut message =
        format!("is needed and not given; write it in the configuration file or set {variable}");
    if let Some(setting) = Setting::find(key).filter(|setting| setting.is_secret()) {
        let file_key = setting.file_key();
        message += &format!(", or name a file that holds it with {file_key} or {variable}_FILE");
    }
    Problem::missing(key, message)
}
