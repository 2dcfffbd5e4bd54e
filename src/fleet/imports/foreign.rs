//! What a line or element of a file of another form than Fleetgate's own brings.

use std::fmt::Write;

use zeroize::Zeroizing;

use super::acl::{Acl, Who};
use super::line::{Device, Grant, Item, LineError};
use crate::domain::acl::Action;
use crate::domain::name::{ClientId, DeviceKind, DeviceName};
use crate::fleet::credentials::{MIN_PASSWORD_CHARACTERS, broken_rule};
use crate::fleet::error::PasswordRule;
use crate::secret::Secret;

/// What a line brings. No `Debug`: passwords.
pub struct Entry {
    /// What is made of it.
    pub item: Item,
    /// What has to be hashed or made first.
    pub login: Login,
    /// What it says and cannot be expressed here.
    pub left_out: Vec<String>,
    /// What is imported, and should be better.
    pub advice: Option<String>,
    /// The line itself, where it is of the own form.
    own: Option<Zeroizing<String>>,
}

/// What a device is to log in with, besides the credentials that it has.
pub enum Login {
    /// Nothing else.
    AsItIs,
    /// A password, which is hashed.
    Password(Secret),
    /// A secret, which is generated.
    Generate,
}

impl Entry {
    /// What a line of the own form brings.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(line: &str) -> Result<Self, LineError> {
        let own = Some(Zeroizing::new(line.to_owned()));
        Ok(Self { own, ..Self::new(Item::read(line)?, Login::AsItIs, Vec::new()) })
    }

    pub(super) fn new(item: Item, login: Login, left_out: Vec<String>) -> Self {
        Self { item, login, left_out, advice: None, own: None }
    }

    /// The line of the own form that says the same.
    ///
    /// # Errors
    /// None that is known: each part is one that JSON can say.
    pub fn line(&self) -> serde_json::Result<Zeroizing<String>> {
        self.own.clone().map_or_else(|| self.item.line(), Ok)
    }

    /// The device that it is about, if it is about one.
    #[must_use]
    pub fn device(&self) -> Option<&DeviceName> {
        match &self.item {
            Item::Device(device) => Some(&device.name),
            Item::Capability(_) | Item::Rule(_) => None,
        }
    }

    /// Puts a hash in the place of what a dry run does not hash.
    pub fn pretend(&mut self, hash: &str) {
        let kind = match self.login {
            Login::AsItIs => return,
            Login::Password(_) => "password",
            Login::Generate => "secret",
        };
        if let Item::Device(device) = &mut self.item {
            device.add_credential(kind, hash.to_owned());
        }
    }

    /// What would be made, in a line.
    #[must_use]
    pub fn summary(&self) -> String {
        let device = match &self.item {
            Item::Device(device) => device,
            Item::Capability(capability) => return format!("capability {}", capability.name),
            Item::Rule(rule) => return format!("rule {}", rule.name),
        };
        let mut text = format!("device {} ({})", device.name, device.kind);
        if let Some(client_id) = &device.client_id {
            let _ = write!(text, ", client id {}", client_id);
        }
        if device.enabled == Some(false) {
            text.push_str(", disabled");
        }
        match self.login {
            Login::AsItIs => {}
            Login::Password(_) => text.push_str(", password in plain text, which is hashed"),
            Login::Generate => text.push_str(", secret that is generated"),
        }
        for credential in &device.credentials {
            let _ = write!(text, ", {}", credential.kind);
            if let Some(hash) = credential.foreign_hash() {
                let _ = write!(text, " ({})", hash.description());
            }
        }
        for binding in &device.bindings {
            let _ = write!(text, ", bound to {}", binding.name);
        }
        for grant in &device.grants {
            let _ = write!(text, ", {} {}", grant.action.word(), grant.topic_filter);
        }
        text
    }
}

/// How users of another broker become devices.
pub struct Foreign {
    /// What they are.
    pub kind: DeviceKind,
    /// What they may do.
    pub acl: Acl,
    /// Whether one that may do everything there may publish and subscribe to `#` here.
    pub superusers: bool,
}

/// A user of another broker.
pub(super) struct User<'a> {
    pub(super) name: &'a str,
    pub(super) client_id: Option<&'a str>,
    pub(super) credential: Proof,
    pub(super) enabled: bool,
    pub(super) is_superuser: bool,
}

/// What a user of another broker logs in with.
pub(super) enum Proof {
    /// In plain text.
    Password(Secret),
    /// By its hash, in the form of an imported one.
    Hash(String),
    None,
}

/// What is wrong with a password that is to be hashed; `Ok` with advice.
pub(super) fn check_password(password: &Secret) -> Result<Option<String>, String> {
    Err(match broken_rule(password.expose(), false) {
        None => return Ok(None),
        Some(PasswordRule::Weak(characters)) => {
            return Ok(Some(format!(
                "the password has {characters} characters, fewer than {MIN_PASSWORD_CHARACTERS}; give it a better one"
            )));
        }
        Some(PasswordRule::Empty) => "the password is empty; remove the line, or give it one".to_owned(),
        Some(PasswordRule::TooLong) => "the password is too long; give it another".to_owned(),
        Some(PasswordRule::SeveralLines) => "the password has a line end or U+0000; give it another".to_owned(),
        Some(PasswordRule::TokenShape) => {
            "the password has the shape of a device token and would be judged as one; give it another"
                .to_owned()
        }
    })
}

impl Foreign {
    /// The device that a user becomes.
    pub(super) fn entry(&mut self, user: User<'_>) -> Result<Entry, LineError> {
        let name = user.name.parse::<DeviceName>();
        let name =
            name.map_err(|error| LineError::whole(format!("user name {:?} {error}", user.name)))?;
        let client_id =
            user.client_id.filter(|id| *id != name.as_str()).map(str::parse::<ClientId>);
        let client_id = client_id
            .transpose()
            .map_err(|error| LineError::whole(format!("client id {error}")))?;
        let mut left_out = Vec::new();
        let own_id = client_id.as_ref().map_or(name.as_str(), ClientId::as_str);
        let who =
            Who { user: name.as_str(), client_id: (!self.kind.is_service()).then_some(own_id) };
        let grants = match (user.is_superuser, self.superusers) {
            (true, true) => {
                self.acl.note_imported(who);
                everything()
            }
            (is_superuser, _) => {
                if is_superuser {
                    left_out.push("it may do everything, which --superusers grants".to_owned());
                }
                let (grants, more) = self.acl.grants(who);
                left_out.extend(more);
                grants
            }
        };
        let mut advice = None;
        let mut device = Device::new(name, self.kind.clone());
        device.client_id = client_id;
        device.enabled = Some(user.enabled);
        device.grants = grants;
        let login = match user.credential {
            Proof::Password(password) => {
                advice = check_password(&password).map_err(LineError::whole)?;
                Login::Password(password)
            }
            Proof::Hash(hash) => {
                device.add_credential("imported", hash);
                Login::AsItIs
            }
            Proof::None => Login::AsItIs,
        };
        Ok(Entry { advice, ..Entry::new(Item::Device(Box::new(device)), login, left_out) })
    }
}

fn everything() -> Vec<Grant> {
    let grant = |action| "#".parse().ok().map(|filter| Grant { action, topic_filter: filter });
    [Action::Publish, Action::Subscribe].into_iter().filter_map(grant).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Algorithm, Csv, Dynsec, EmqxCsv, EmqxJson, PasswordFile, SaltEncoding};
    use super::*;

    fn foreign(acl: Acl) -> Foreign {
        Foreign { kind: "x".parse().unwrap(), acl, superusers: true }
    }

    /// Texts in which what the parsers look for is frequent.
    fn texts() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            ",",
            "\"",
            "\n",
            "\r",
            ":",
            "$",
            "$6$",
            "$7$1$",
            "PBKDF2$sha512$1$",
            "AA==",
            "user ",
            "topic ",
            "pattern ",
            "deny ",
            "read ",
            "a/#",
            "%u",
            "%c",
            "/",
            "+",
            "{",
            "}",
            "[",
            "]",
            "\"rules\":",
            "\"data\":",
            "\"topic\":",
            "\"username\":",
            "\"a\"",
            "true",
            "7",
            "name",
            "kind",
            "meta.",
            "bind.main",
            "user_id",
            "password_hash",
            "\0",
            "ä",
            " ",
            "eq ",
            "${username}",
            "\u{feff}",
        ]);
        prop_oneof![prop::collection::vec(piece, 0..30).prop_map(|it| it.concat()), any::<String>()]
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(header in texts(), text in texts()) {
            let algorithm = "pbkdf2,sha256,iterations=1".parse::<Algorithm>().ok();
            let lines = |acl| {
                let mut file = PasswordFile::new(foreign(acl), SaltEncoding::Base64);
                text.lines().chain(["a:b"]).for_each(|line| drop(file.line(line)));
                file.left_out(true)
            };
            let _ = (Acl::of_mosquitto(&header).map(lines), Acl::of_emqx(&header).map(lines));
            for header in [header.as_str(), "name,kind,meta.x,secret"] {
                let _ = Csv::new(header, None).map(|csv| csv.line(&text).map(|it| it.summary()));
            }
            for header in [header.as_str(), "user_id,password_hash,salt"] {
                let csv = EmqxCsv::new(header, algorithm, foreign(Acl::default()));
                let _ = csv.map(|mut csv| csv.line(&text));
            }
            let _ = EmqxJson::new(&text, algorithm, foreign(Acl::default())).map(|mut it| it.next_user());
            let _ = Dynsec::new(&text, foreign(Acl::default()), false).map(|mut it| it.next_user());
        }
    }
}
