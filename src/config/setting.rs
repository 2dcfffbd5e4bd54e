//! What a setting is: the type it gives, how it is written, and what holds where nobody gives it.

use std::path::{Path, PathBuf};

use super::raw::{Form, Raw, file_key};

/// What every variable of Fleetgate begins with.
pub(super) const PREFIX: &str = "FLEETGATE_";

/// Understands what is written; relative paths begin at the directory. The error says what is wrong and
/// what would be right, and nothing of a secret.
type Parse<T> = Box<dyn Fn(Raw, &Path) -> Result<T, String>>;

/// What a setting takes, and the type it gives. `kinds` makes them.
pub(super) struct Rule<T> {
    /// What it takes, for `docs/CONFIGURATION.md`.
    pub(super) takes: String,
    pub(super) parse: Parse<T>,
    /// How the text of an environment variable would be written in the file.
    pub(super) from_variable: fn(String) -> Raw,
    /// Whether no message may show it. It is then also taken as `<key>_file`, the path of a file that
    /// holds it.
    pub(super) is_secret: bool,
    /// The files that the value names; they must exist.
    pub(super) files: fn(&T) -> &[PathBuf],
    /// Whether only their owner should read those files.
    pub(super) files_are_private: bool,
}

/// A rule, and what holds where nobody gives a value. `F` is the type of the field.
pub(super) struct Definition<T, F> {
    pub(super) rule: Rule<T>,
    /// What holds where nobody gives a value, for `docs/CONFIGURATION.md`.
    pub(super) default: String,
    pub(super) given: fn(T) -> F,
    /// `None`: its section can't do without it.
    pub(super) absent: Option<F>,
}

impl<T> Rule<T> {
    pub(super) fn new(
        takes: impl Into<String>,
        parse: impl Fn(Raw, &Path) -> Result<T, String> + 'static,
    ) -> Self {
        Self {
            takes: takes.into(),
            parse: Box::new(parse),
            from_variable: Raw::Text,
            is_secret: false,
            files: |_| &[],
            files_are_private: false,
        }
    }

    /// With a default, written as in an environment variable. It is held to the rule as well: one that
    /// breaks it lets no configuration load.
    pub(super) fn or(self, default: &str) -> Definition<T, T> {
        let raw = (self.from_variable)(default.to_owned());
        let default = format!("`{}`", raw.shown());
        let absent = (self.parse)(raw, Path::new("")).ok();
        Definition { default, absent, given: |value| value, rule: self }
    }

    /// With a default that depends on the machine or on other settings, and what it is in words.
    pub(super) fn or_computed(self, words: &str, default: T) -> Definition<T, T> {
        let absent = Some(default);
        Definition { default: words.to_owned(), absent, given: |value| value, rule: self }
    }

    /// Optional; the words say what its absence means.
    pub(super) fn or_none(self, words: &str) -> Definition<T, Option<T>> {
        Definition { default: words.to_owned(), absent: Some(None), given: Some, rule: self }
    }

    /// Whoever needs the section needs the setting.
    pub(super) fn required(self, words: &str) -> Definition<T, T> {
        Definition { default: words.to_owned(), absent: None, given: |value| value, rule: self }
    }
}

/// A setting as the file, the environment and the documentation know it.
pub(super) struct Setting {
    /// Section and name as in the file: `http.listen`.
    pub(super) key: &'static str,
    pub(super) is_secret: bool,
    pub(super) takes: String,
    pub(super) default: String,
    pub(super) meaning: &'static str,
}

impl Setting {
    pub(super) fn new<T, F>(
        key: &'static str,
        meaning: &'static str,
        definition: Definition<T, F>,
    ) -> Self {
        let Definition { rule: Rule { is_secret, takes, .. }, default, .. } = definition;
        Self { key, is_secret, takes, default, meaning: meaning.trim() }
    }

    pub(super) fn section(&self) -> &'static str {
        self.key.split('.').next().unwrap_or_default()
    }

    /// The ways to write it.
    pub(super) fn forms(&self) -> Vec<Form> {
        let itself = Form { written: self.key.to_owned(), setting: self.key, in_file: false };
        let in_file = Form { written: file_key(self.key), setting: self.key, in_file: true };
        if self.is_secret { vec![itself, in_file] } else { vec![itself] }
    }
}

/// The environment variable of a key: `http.listen` is `FLEETGATE_HTTP_LISTEN`.
pub(super) fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// Declares a section: one line a setting, with its meaning as doc comment, its name, its type, the rule
/// of its value and what holds without one. Makes the struct, the list of the settings and the reading,
/// so that none of these can differ from another. `with` adds a field that is not a setting and is filled
/// in by the rules between settings.
macro_rules! section {
    (
        $(#[$attribute:meta])*
        pub struct $section:ident = $prefix:literal {
            $($(#[doc = $meaning:literal])+ $name:ident: $type:ty = $definition:expr,)+
        }
        $(with { $(#[$extra_attribute:meta])+ $extra:ident: $extra_type:ty })?
    ) => {
        $(#[$attribute])*
        pub struct $section {
            $($(#[doc = $meaning])+ pub $name: $type,)+
            $($(#[$extra_attribute])+ pub $extra: $extra_type,)?
        }

        impl $section {
            pub(super) fn settings() -> Vec<Setting> {
                vec![$(
                    Setting::new(
                        concat!($prefix, stringify!($name)),
                        concat!($($meaning),+),
                        $definition,
                    ),
                )+]
            }

            /// Reads every setting. Fails with all that are required and missing.
            pub(super) fn read(reader: &mut Reader) -> Result<Self, Problems> {
                $(
                    let $name: Result<$type, Problem> =
                        reader.read(concat!($prefix, stringify!($name)), $definition);
                )+
                let missing = [$($name.as_ref().err().cloned()),+];
                Problems::unless_none(missing.into_iter().flatten().collect())?;
                Ok(Self { $($name: $name?,)+ $($extra: Default::default(),)? })
            }
        }
    };
}

pub(super) use section;
