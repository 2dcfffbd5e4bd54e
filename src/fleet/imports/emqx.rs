//! Users and access rules of EMQX's built-in database.

use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use thiserror::Error;

use super::acl::{Acl, Rank, Right, Rule, Writing};
use super::csv::{Fields, columns_of};
use super::foreign::{Entry, Foreign, Proof, User};
use super::hashes::{digest, stored};
use super::line::LineError;
use crate::domain::foreign_hash::Digest;
use crate::secret::Secret;

/// How EMQX hashed the passwords of a file, which the file does not say (`password_hash_algorithm` of the authenticator).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Not at all.
    Plain,
    /// The hash says it itself.
    Bcrypt,
    /// One round.
    Salted {
        /// Of this function.
        digest: Digest,
        /// Over salt and password, or password and salt; `None`: without salt.
        salt_first: Option<bool>,
    },
    /// Many.
    Pbkdf2 {
        /// With HMAC of this function.
        digest: Digest,
        /// So many.
        rounds: u32,
        /// Bytes of the hash, where they are not those of the function.
        length: Option<usize>,
    },
}

/// Why a text is no [`Algorithm`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0}; write plain, bcrypt, sha256,prefix (sha or sha512 and suffix or disable as well) or \
     pbkdf2,sha256,iterations=4096 (and ,dk_length=32)"
)]
pub struct AlgorithmError(String);

impl FromStr for Algorithm {
    type Err = AlgorithmError;

    fn from_str(text: &str) -> Result<Self, AlgorithmError> {
        let error = |why: &str| AlgorithmError(why.to_owned());
        let digest = |name| digest(name).map_err(AlgorithmError);
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        match *parts {
            ["plain"] => Ok(Self::Plain),
            ["bcrypt"] => Ok(Self::Bcrypt),
            ["pbkdf2", name, ref numbers @ ..] => {
                let (mut rounds, mut length) = (None, None);
                for number in numbers {
                    match number.split_once('=') {
                        Some(("iterations", it)) => rounds = it.parse().ok(),
                        Some(("dk_length", it)) => {
                            length = Some(it.parse().map_err(|_| error("dk_length is a number"))?);
                        }
                        _ => return Err(error("has a part that is not known")),
                    }
                }
                let rounds = rounds.ok_or_else(|| error("needs iterations"))?;
                Ok(Self::Pbkdf2 { digest: digest(name)?, rounds, length })
            }
            [name, position] => {
                let salt_first = match position {
                    "prefix" => Some(true),
                    "suffix" => Some(false),
                    "disable" => None,
                    _ => return Err(error("the salt's position is prefix, suffix or disable")),
                };
                Ok(Self::Salted { digest: digest(name)?, salt_first })
            }
            [name @ ("sha" | "sha256" | "sha512" | "md5")] => {
                digest(name)?;
                Err(error("needs the salt's position"))
            }
            _ => Err(error("is not an algorithm that can be imported")),
        }
    }
}

impl Algorithm {
    /// A hash as it is stored.
    fn hash(self, hash: &str, salt: &str) -> Result<String, String> {
        let hex = |length: usize| {
            let bytes = hex(hash).ok_or("is not a hash in hexadecimal; is --algorithm right?")?;
            match bytes.len() == length {
                true => Ok(bytes),
                false => Err(format!("has {} bytes, and {length} by --algorithm", bytes.len())),
            }
        };
        match self {
            Self::Plain => Err("has a salt, which a password in plain text has not; say with --algorithm how it was made".to_owned()),
            Self::Bcrypt => Ok(hash.to_owned()),
            Self::Salted { digest, salt_first } => {
                let salt = if salt_first.is_some() { salt } else { "" };
                let output = hex(digest.bytes())?;
                Ok(digest.salted(salt_first.unwrap_or(true), salt.as_bytes(), &output))
            }
            Self::Pbkdf2 { digest, rounds, length } => {
                let length = length.unwrap_or_else(|| digest.bytes());
                Ok(digest.pbkdf2(rounds, salt.as_bytes(), &hex(length)?))
            }
        }
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    pairs.collect()
}

/// Makes entries of users.
struct Users {
    foreign: Foreign,
    algorithm: Option<Algorithm>,
}

/// What a file says of a user.
struct UserRow<'a> {
    name: &'a str,
    password: Option<&'a str>,
    hash: Option<&'a str>,
    salt: &'a str,
    is_superuser: bool,
}

impl Users {
    fn entry(&mut self, row: &UserRow<'_>) -> Result<Entry, String> {
        let credential = match (row.password, row.hash, self.algorithm) {
            (Some(_), Some(_), _) => return Err("has a password and a hash".to_owned()),
            (Some(password), None, _) => Proof::Password(Secret::new(password.to_owned())),
            (None, Some(text), Some(Algorithm::Plain)) if row.salt.is_empty() => {
                Proof::Password(Secret::new(text.to_owned()))
            }
            (None, Some(hash), Some(algorithm)) => {
                let hash = algorithm.hash(hash, row.salt);
                stored(hash.map_err(|why| format!("password_hash {why}"))?)?
            }
            (None, Some(_), None) => {
                return Err("has a hash; say with --algorithm how it was made".to_owned());
            }
            (None, None, _) => return Err("has neither password nor password_hash".to_owned()),
        };
        let user = User {
            name: row.name,
            client_id: None,
            credential,
            enabled: true,
            is_superuser: row.is_superuser,
        };
        self.foreign.entry(user).map_err(|error| error.message)
    }
}

/// A file of users as comma-separated values.
pub struct EmqxCsv {
    users: Users,
    columns: Vec<String>,
}

impl EmqxCsv {
    /// Reads the header.
    ///
    /// # Errors
    /// A column that is not known or missing.
    pub fn new(
        header: &str,
        algorithm: Option<Algorithm>,
        foreign: Foreign,
    ) -> Result<Self, LineError> {
        const KNOWN: [&str; 6] =
            ["user_id", "password", "password_hash", "salt", "is_superuser", "namespace"];
        let columns = columns_of(header, |text| match KNOWN.contains(&text) {
            true => Ok(text.to_owned()),
            false => Err(format!("is not known; the columns are {}", KNOWN.join(", "))),
        })?;
        let has = |name: &str| columns.iter().any(|column| column == name);
        if !has("user_id") || has("password") == has("password_hash") {
            let message =
                "must have the columns user_id and password_hash, or user_id and password";
            return Err(LineError::whole(message));
        }
        Ok(Self { users: Users { foreign, algorithm }, columns })
    }

    /// What a line brings.
    ///
    /// # Errors
    /// A line that cannot be imported.
    pub fn line(&mut self, text: &str) -> Result<Entry, LineError> {
        let fields = Fields::split(text)?;
        fields.expect(self.columns.len())?;
        let place = |name: &str| self.columns.iter().position(|column| column == name);
        let field = |name: &str| place(name).map(|position| fields.get(position));
        let text_of = |name: &str| field(name).map(|(text, _)| text);
        let error =
            |name: &str, why: &str| LineError::at(field(name).map_or(1, |(_, at)| at), name, why);
        let is_superuser = match text_of("is_superuser").unwrap_or_default() {
            "true" => true,
            "false" | "" => false,
            _ => return Err(error("is_superuser", "must be true or false")),
        };
        if text_of("namespace").is_some_and(|it| !it.is_empty()) {
            return Err(error("namespace", NAMESPACE));
        }
        let row = UserRow {
            name: text_of("user_id").unwrap_or_default(),
            password: text_of("password"),
            hash: text_of("password_hash"),
            salt: text_of("salt").unwrap_or_default(),
            is_superuser,
        };
        self.users.entry(&row).map_err(LineError::whole)
    }

    /// What of the access rules is left out, and concerns no user. `whole`: all lines were read.
    #[must_use]
    pub fn left_out(&self, whole: bool) -> Vec<String> {
        self.users.foreign.acl.left_out(whole)
    }
}

const NAMESPACE: &str = "is not empty; a registry has no namespaces: import each into one of its own, without this member";

/// A user, as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserForm {
    user_id: String,
    #[serde(default, deserialize_with = "secret")]
    password: Option<Secret>,
    password_hash: Option<String>,
    #[serde(default)]
    salt: Option<String>,
    #[serde(default)]
    is_superuser: Value,
    #[serde(default)]
    namespace: Option<String>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
}

/// A file of users as a JSON array.
pub struct EmqxJson {
    users: Users,
    forms: std::vec::IntoIter<UserForm>,
}

impl EmqxJson {
    /// Reads the file.
    ///
    /// # Errors
    /// A text that is not an array of users: where, and why.
    pub fn new(text: &str, algorithm: Option<Algorithm>, foreign: Foreign) -> Result<Self, String> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let forms: Vec<UserForm> = super::document(&mut reader)?;
        Ok(Self { users: Users { foreign, algorithm }, forms: forms.into_iter() })
    }

    /// Passes over users.
    ///
    /// # Errors
    /// There are no more: how many it has.
    pub fn skip(mut self, users: u64) -> Result<Self, usize> {
        super::pass_over(&mut self.forms, users)?;
        Ok(self)
    }

    /// What the next user brings; `None` after the last.
    pub fn next_user(&mut self) -> Option<Result<Entry, LineError>> {
        let form = self.forms.next()?;
        let is_superuser = match &form.is_superuser {
            Value::Null => Some(false),
            Value::Bool(it) => Some(*it),
            Value::String(it) => it.parse().ok(),
            _ => None,
        };
        let Some(is_superuser) = is_superuser else {
            return Some(Err(LineError::at(1, "/is_superuser", "must be true or false")));
        };
        if form.namespace.is_some_and(|it| !it.is_empty()) {
            return Some(Err(LineError::at(1, "/namespace", NAMESPACE)));
        }
        let row = UserRow {
            name: &form.user_id,
            password: form.password.as_ref().map(Secret::expose),
            hash: form.password_hash.as_deref(),
            salt: form.salt.as_deref().unwrap_or_default(),
            is_superuser,
        };
        Some(self.users.entry(&row).map_err(LineError::whole))
    }

    /// What of the access rules is left out, and concerns no user. `whole`: all users were read.
    #[must_use]
    pub fn left_out(&self, whole: bool) -> Vec<String> {
        self.users.foreign.acl.left_out(whole)
    }
}

/// Rules of a user, a client id, or all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesForm {
    username: Option<String>,
    clientid: Option<String>,
    rules: Vec<Map<String, Value>>,
}

/// An answer of EMQX's API.
#[derive(Deserialize)]
struct PageForm {
    data: Vec<RulesForm>,
    meta: Option<PlaceForm>,
}

/// Which page of a list it is.
#[derive(Clone, Copy, Deserialize)]
struct PlaceForm {
    page: Option<u64>,
    hasnext: Option<bool>,
}

impl PageForm {
    /// Which list it is of, as far as that can be seen, and which page of that.
    fn place(&self) -> Option<(bool, u64, bool)> {
        let PlaceForm { page, hasnext } = self.meta?;
        let of_users = self.data.first()?.username.is_some();
        Some((of_users, page.unwrap_or(1), hasnext.unwrap_or(false)))
    }
}

/// Refuses a list of which pages are missing: a rule that is not there may deny.
fn require_all_pages(pages: &[(bool, u64, bool)]) -> Result<(), String> {
    let is_here =
        |of_users, number| pages.iter().any(|(of, page, _)| (*of, *page) == (of_users, number));
    for (of_users, page, has_next) in pages {
        let missing = match (*has_next, *page) {
            (true, page) if !is_here(*of_users, page + 1) => page + 1,
            (_, 2..) if !is_here(*of_users, page - 1) => page - 1,
            _ => continue,
        };
        let list = if *of_users { "users" } else { "clients" };
        return Err(format!(
            "page {missing} of …/rules/{list} is missing: put all its pages into one array, or ask EMQX with limit=10000"
        ));
    }
    Ok(())
}

impl Acl {
    /// Reads the rules of EMQX's built-in database, as its API tells them: an answer of `…/rules/users`, `…/rules/clients` or
    /// `…/rules/all`, an element of one, or an array of any of these.
    ///
    /// # Errors
    /// A text that is none of these: where, and why. An answer of several pages of which one is missing.
    pub fn of_emqx(text: &str) -> Result<Self, String> {
        if text.trim_start().starts_with(['{', '%']) && serde_json::from_str::<Value>(text).is_err()
        {
            let is_terms =
                text.lines().any(|line| line.starts_with("{allow") || line.starts_with("{deny"));
            if is_terms {
                return Err("it is acl.conf, Erlang terms, which are not read: its rules are for all clients and depend on their order. Write grants by hand".to_owned());
            }
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let value: Value = super::document(&mut reader)?;
        let mut acl = Self::default();
        let pieces = match value {
            Value::Array(pieces) => pieces,
            piece => vec![piece],
        };
        let mut places = Vec::new();
        for (number, piece) in (1..).zip(pieces) {
            let read = |piece| {
                serde_json::from_value::<RulesForm>(piece)
                    .map_err(|error| format!("element {number}: {error}"))
            };
            match piece {
                Value::Object(page) if page.contains_key("data") => {
                    let page = serde_json::from_value::<PageForm>(Value::Object(page));
                    let page = page.map_err(|error| format!("element {number}: {error}"))?;
                    places.extend(page.place());
                    page.data.iter().for_each(|form| acl.take(form));
                }
                piece => acl.take(&read(piece)?),
            }
        }
        require_all_pages(&places)?;
        Ok(acl)
    }

    fn take(&mut self, form: &RulesForm) {
        // The first that matches decides: those of the client id, then those of the user.
        let (to, whose, level) = match (&form.username, &form.clientid) {
            (Some(user), None) => {
                (Some(self.of_users.entry(user.clone()).or_default()), format!("user {user:?}"), 0)
            }
            (None, Some(id)) => (
                Some(self.of_client_ids.entry(id.clone()).or_default()),
                format!("client id {id:?}"),
                1,
            ),
            (None, None) => (None, "all clients".to_owned(), 0),
            (Some(_), Some(_)) => {
                self.left_out.push("rules of a user and a client id at once".to_owned());
                return;
            }
        };
        let Some(to) = to else {
            if !form.rules.is_empty() {
                self.left_out.push(format!(
                    "the {} rules for all clients: give each device grants of its own",
                    form.rules.len()
                ));
            }
            return;
        };
        for (number, members) in (1..).zip(&form.rules) {
            let place = format!("rule {number} of {whose}");
            let before = i64::try_from(to.len()).unwrap_or(i64::MAX);
            let rank: Rank = [level, -before, 0, 0];
            match rules(&place, members) {
                Ok(rules) => to.extend(rules.into_iter().map(|rule| (rank, rule))),
                Err(why) => {
                    self.left_out.push(format!("{place}: {why}"));
                    // It may deny anything.
                    let both = [Right::Publish, Right::Subscribe].map(|right| Rule {
                        place: place.clone(),
                        allows: false,
                        right,
                        topic: "${}".to_owned(),
                        writing: Writing::Emqx,
                        condition: None,
                    });
                    to.extend(both.into_iter().map(|rule| (rank, rule)));
                }
            }
        }
    }
}

/// The rules that one is, by what it is about.
fn rules(place: &str, members: &Map<String, Value>) -> Result<Vec<Rule>, String> {
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let topic = text("topic").ok_or("has no topic")?;
    let allows = match text("permission") {
        Some("allow") => true,
        Some("deny") => false,
        _ => return Err("its permission is neither allow nor deny".to_owned()),
    };
    let rights: &[Right] = match members.get("action").map(Value::as_str) {
        Some(Some("publish")) => &[Right::Publish],
        Some(Some("subscribe")) => &[Right::Subscribe],
        None | Some(Some("all")) => &[Right::Publish, Right::Subscribe],
        _ => return Err("its action is not publish, subscribe or all".to_owned()),
    };
    let narrows = |(name, value): (&String, &Value)| {
        let is_all = match (name.as_str(), value) {
            ("topic" | "permission" | "action", _) | (_, Value::Null) => true,
            ("retain", value) => value == "all",
            ("qos", Value::Array(some)) => (0..3).all(|qos| some.contains(&Value::from(qos))),
            _ => false,
        };
        (!is_all).then(|| format!("it depends on {name}, which no grant can"))
    };
    let condition = members.iter().find_map(narrows);
    let rule = |right: &Right| Rule {
        place: place.to_owned(),
        allows,
        right: *right,
        topic: topic.to_owned(),
        writing: Writing::Emqx,
        condition: condition.clone(),
    };
    Ok(rights.iter().map(rule).collect())
}

#[cfg(test)]
mod tests {
    use super::super::acl::Who;
    use super::*;

    fn foreign() -> Foreign {
        Foreign { kind: "x".parse().unwrap(), acl: Acl::default(), superusers: false }
    }

    fn hash_of(entry: &Entry) -> String {
        let super::super::line::Item::Device(device) = &entry.item else { panic!("no device") };
        device.credentials[0].hash.clone().unwrap()
    }

    #[test]
    fn algorithms_are_as_emqx_names_them() {
        for text in [
            "plain",
            "bcrypt",
            "sha,prefix",
            "sha256,suffix",
            "sha512, disable",
            "pbkdf2,sha256,iterations=4096",
            "pbkdf2,sha,iterations=1,dk_length=8",
        ] {
            assert!(text.parse::<Algorithm>().is_ok(), "{text}");
        }
        for text in [
            "",
            "sha256",
            "md5,prefix",
            "sha256,front",
            "pbkdf2",
            "pbkdf2,sha256",
            "pbkdf2,md5,iterations=5",
            "pbkdf2,sha256,iterations=x",
            "pbkdf2,sha256,5",
        ] {
            assert!(text.parse::<Algorithm>().is_err(), "{text}");
        }
    }

    #[test]
    fn users_in_csv_and_json_are_the_same() {
        let algorithm = Some("sha256,prefix".parse().unwrap());
        let hash = "00".repeat(31) + "Ff";
        let mut csv = EmqxCsv::new("user_id,password_hash,salt,is_superuser", algorithm, foreign())
            .ok()
            .unwrap();
        let entry = csv.line(&format!("bob,{hash},abc,true")).ok().unwrap();
        let expected = "$sha256-salted$pos=prefix$YWJj$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8";
        assert_eq!(hash_of(&entry), expected);
        assert!(entry.left_out[0].contains("--superusers"));
        let json = format!(
            r#"[{{"user_id":"bob","password_hash":"{hash}","salt":"abc","is_superuser":"true"}},{{"user_id":"ann"}}]"#
        );
        let mut users = EmqxJson::new(&json, algorithm, foreign()).ok().unwrap();
        assert_eq!(hash_of(&users.next_user().unwrap().ok().unwrap()), expected);
        assert!(users.next_user().unwrap().err().unwrap().message.contains("neither"));
        assert!(users.next_user().is_none());
        for (text, why) in [
            (format!("a/b,{hash},,"), "user name"),
            (format!("bob,{hash}0,,"), "hexadecimal"),
            (format!("bob,{hash}00,,"), "33 bytes, and 32"),
            (format!("bob,{hash},,perhaps"), "is_superuser must be"),
            ("bob".to_owned(), "1 fields; the header has 4"),
        ] {
            let error = csv.line(&text).err().unwrap().to_string();
            assert!(error.contains(why) && !error.contains("0000"), "{error}");
        }
        for header in
            ["user_id", "user_id,password,password_hash", "user_id,password,x", "password"]
        {
            assert!(EmqxCsv::new(header, algorithm, foreign()).is_err(), "{header}");
        }
    }

    fn grants(acl: &mut Acl, user: &str) -> Vec<String> {
        let (grants, _) = acl.grants(Who { user, client_id: Some(user) });
        grants.iter().map(|it| format!("{} {}", it.action.word(), it.topic_filter)).collect()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = r#"[
            {"data": [{"username": "bob", "rules": [
                {"topic": "a/x", "permission": "deny", "action": "all"},
                {"topic": "a/#", "permission": "allow", "action": "subscribe"},
                {"topic": "b/#", "permission": "allow", "action": "publish", "qos": [0, 1, 2], "retain": "all"},
                {"topic": "b/x", "permission": "deny", "action": "publish"},
                {"topic": "c", "permission": "allow", "action": "publish", "qos": [0]},
                {"topic": "up/${username}", "permission": "allow", "action": "publish"}
            ]}], "meta": {"count": 1}},
            {"clientid": "ann", "rules": [{"topic": "up/#", "permission": "deny", "action": "publish", "qos": [1]}]},
            {"username": "ann", "rules": [
                {"topic": "up/x", "permission": "allow", "action": "all"},
                {"topic": "y", "permission": "perhaps", "action": "all"},
                {"topic": "down", "permission": "allow", "action": "all"}
            ]},
            {"rules": [{"topic": "all", "permission": "allow", "action": "all"}]}
        ]"#;
        let mut acl = Acl::of_emqx(rules).ok().unwrap();
        assert_eq!(grants(&mut acl, "bob"), ["publish b/#", "publish up/bob"]);
        assert_eq!(grants(&mut acl, "ann"), ["subscribe up/x"]);
        let mut of = |user, client_id| acl.grants(Who { user, client_id }).0.len();
        assert_eq!(
            of("ann", None),
            1,
            "a service may have any client id that begins with its name"
        );
        assert_eq!(of("ann", Some("other")), 2);
        let told = acl.left_out(true).join("\n");
        assert!(told.contains("rule 2 of user \"ann\"") && told.contains("all clients"), "{told}");
        let page = |number: u64, has_next: bool| {
            format!(
                r#"{{"data": [{{"username": "u{number}", "rules": []}}], "meta": {{"page": {number}, "hasnext": {has_next}}}}}"#
            )
        };
        let pages = |all: &[String]| Acl::of_emqx(&format!("[{}]", all.join(","))).map(drop);
        assert_eq!(pages(&[page(1, true), page(2, false)]), Ok(()));
        for incomplete in
            [&[page(1, true)][..], &[page(2, false)], &[page(1, true), page(3, false)]]
        {
            let why = pages(incomplete).unwrap_err();
            assert!(why.contains("rules/users is missing"), "{why}");
        }
        for text in ["", "[1]", "{\"rules\":1}", "{allow, all}.\n", "{\"data\":[{}]}"] {
            assert!(Acl::of_emqx(text).is_err(), "{text}");
        }
    }
}
