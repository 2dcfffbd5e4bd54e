//! The file of mosquitto's dynamic security plugin.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::acl::{Decisive, Rank, Right, Rule, Who, Writing};
use super::foreign::{Entry, Foreign, Proof, User};
use super::hashes::{SaltEncoding, base64, of_password_file, stored};
use super::line::{Item, LineError};
use crate::domain::acl::Action;
use crate::domain::foreign_hash::Digest;
use crate::domain::name::ClientId;

/// What the file has. Members that mean nothing here are passed over: other versions have others.
#[derive(Deserialize)]
struct Form {
    #[serde(default, rename = "defaultACLAccess")]
    default_access: BTreeMap<String, bool>,
    #[serde(default)]
    clients: Vec<ClientForm>,
    #[serde(default)]
    groups: Vec<GroupForm>,
    #[serde(default)]
    roles: Vec<RoleForm>,
    #[serde(rename = "anonymousGroup")]
    anonymous_group: Option<String>,
}

#[derive(Deserialize)]
struct ClientForm {
    username: String,
    clientid: Option<String>,
    #[serde(default)]
    disabled: bool,
    encoded_password: Option<String>,
    password: Option<String>,
    salt: Option<String>,
    iterations: Option<u32>,
    #[serde(default)]
    roles: Vec<HasRole>,
}

#[derive(Deserialize)]
struct HasRole {
    rolename: String,
    #[serde(default = "none")]
    priority: i64,
}

#[derive(Deserialize)]
struct GroupForm {
    groupname: String,
    #[serde(default)]
    roles: Vec<HasRole>,
    #[serde(default)]
    clients: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    username: String,
    #[serde(default = "none")]
    priority: i64,
}

#[derive(Deserialize)]
struct RoleForm {
    rolename: String,
    #[serde(default = "yes", rename = "allowwildcardsubs")]
    allows_wildcards: bool,
    #[serde(default)]
    acls: Vec<AclForm>,
}

#[derive(Deserialize)]
struct AclForm {
    acltype: String,
    topic: String,
    #[serde(default = "none")]
    priority: i64,
    #[serde(default)]
    allow: bool,
}

/// The priority of what has none.
fn none() -> i64 {
    -1
}

fn yes() -> bool {
    true
}

/// A role's rules, each with its priority.
struct Role {
    rules: Vec<(i64, Rule)>,
    allows_wildcards: bool,
}

/// A file of users with their roles.
pub struct Dynsec {
    foreign: Foreign,
    rename_from_client_id: bool,
    receives: bool,
    roles: BTreeMap<String, Role>,
    groups: BTreeMap<String, Vec<HasRole>>,
    /// Of users, by name: with the priority.
    groups_of: BTreeMap<String, Vec<(i64, String)>>,
    clients: std::vec::IntoIter<ClientForm>,
    /// Client ids of several users: no device can have the name.
    shared_client_ids: BTreeSet<String>,
    left_out: Vec<String>,
}

impl Dynsec {
    /// Reads the file. With `rename_from_client_id` a device has the client id as its name, where the file has one.
    ///
    /// # Errors
    /// A text that is no such file: where, and why.
    pub fn new(text: &str, foreign: Foreign, rename_from_client_id: bool) -> Result<Self, String> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let form: Form = super::document(&mut reader)?;
        let mut left_out = Vec::new();
        let defaults = &form.default_access;
        let is_on = |name: &str| defaults.get(name).copied().unwrap_or(false);
        for name in ["publishClientSend", "subscribe"].into_iter().filter(|name| is_on(name)) {
            left_out.push(format!(
                "defaultACLAccess: {name} is allowed to everybody; grant what devices need"
            ));
        }
        left_out.extend(form.anonymous_group.filter(|it| !it.is_empty()).map(|group| {
            format!("anonymousGroup {group:?}: clients without user name are not let in here")
        }));
        let mut roles = BTreeMap::new();
        for role in form.roles {
            let read = role.read(&mut left_out);
            roles.insert(role.rolename, read);
        }
        let (mut groups, mut groups_of) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
        for group in form.groups {
            for member in group.clients {
                let of_one = groups_of.entry(member.username).or_default();
                of_one.push((member.priority, group.groupname.clone()));
            }
            groups.insert(group.groupname, group.roles);
        }
        let (mut client_ids, mut shared_client_ids) = (BTreeSet::new(), BTreeSet::new());
        for id in form.clients.iter().filter_map(|client| client.clientid.clone()) {
            if !client_ids.insert(id.clone()) {
                shared_client_ids.insert(id);
            }
        }
        let clients = form.clients.into_iter();
        let receives = is_on("publishClientReceive");
        Ok(Self {
            foreign,
            rename_from_client_id,
            receives,
            roles,
            groups,
            groups_of,
            clients,
            shared_client_ids,
            left_out,
        })
    }

    /// Passes over users.
    ///
    /// # Errors
    /// There are no more: how many it has.
    pub fn skip(mut self, users: u64) -> Result<Self, usize> {
        super::pass_over(&mut self.clients, users)?;
        Ok(self)
    }

    /// What the next user brings; `None` after the last.
    pub fn next_user(&mut self) -> Option<Result<Entry, LineError>> {
        let client = self.clients.next()?;
        Some(self.entry(&client))
    }

    fn entry(&mut self, client: &ClientForm) -> Result<Entry, LineError> {
        let wrong =
            |message: String| LineError::whole(format!("user {:?}: {message}", client.username));
        let credential = client.proof().map_err(wrong)?;
        let client_id = client.clientid.as_deref().filter(|it| !it.is_empty());
        let name = match (self.rename_from_client_id, client_id) {
            (true, Some(client_id)) if self.shared_client_ids.contains(client_id) => {
                return Err(wrong(format!(
                    "has the clientid {client_id:?}, as another user has: one device cannot be both"
                )));
            }
            (true, Some(client_id)) => client_id,
            (true, None) => return Err(wrong("has no clientid to be renamed to".to_owned())),
            (false, _) => &client.username,
        };
        let user =
            User { name, client_id, credential, enabled: !client.disabled, is_superuser: false };
        let mut entry = self.foreign.entry(user)?;
        let Item::Device(device) = &mut entry.item else { return Ok(entry) };
        // In topics the user name is what it was.
        let own_id = device.client_id.as_ref().map_or(device.name.as_str(), ClientId::as_str);
        let (mut rules, mut unknown) = (Vec::new(), Vec::new());
        self.collect([1, 0], &client.roles, &mut rules, &mut unknown);
        for (priority, group) in self.groups_of.get(&client.username).into_iter().flatten() {
            let roles = self.groups.get(group).map(Vec::as_slice).unwrap_or_default();
            self.collect([0, *priority], roles, &mut rules, &mut unknown);
        }
        entry.left_out.extend(
            unknown
                .into_iter()
                .map(|role| format!("role {role:?}: the file has none of this name")),
        );
        let of_client = client.roles.iter().map(|it| &it.rolename);
        let groups = self.groups_of.get(&client.username).into_iter().flatten();
        let of_groups =
            groups.filter_map(|(_, group)| self.groups.get(group)).flatten().map(|it| &it.rolename);
        let mut roles = of_client.chain(of_groups).filter_map(|name| self.roles.get(name));
        let allows_wildcards = roles.all(|role| role.allows_wildcards);
        let who = Who {
            user: &client.username,
            client_id: (!self.foreign.kind.is_service()).then_some(own_id),
        };
        let (grants, left_out) = Decisive { rules, receives: self.receives }.grants(who);
        entry.left_out.extend(left_out);
        for grant in grants {
            let filter = grant.topic_filter.as_str();
            let is_subscription = grant.action == Action::Subscribe;
            if !allows_wildcards && is_subscription && filter.contains(['+', '#']) {
                entry
                    .left_out
                    .push(format!("subscribe {filter:?}: one of its roles allows no wildcards"));
            } else {
                device.grants.push(grant);
            }
        }
        Ok(entry)
    }

    fn collect<'a>(
        &'a self,
        [level, group]: [i64; 2],
        roles: &[HasRole],
        rules: &mut Vec<(Rank, &'a Rule)>,
        unknown: &mut Vec<String>,
    ) {
        for has in roles {
            match self.roles.get(&has.rolename) {
                // Which of several roles and groups is asked first, and that literals come before patterns, is more than
                // priorities say: what denies is taken to be asked before all that allows.
                Some(role) => rules.extend(role.rules.iter().map(|(priority, rule)| {
                    let rank = [level, group, has.priority, *priority];
                    (if rule.allows { rank } else { [i64::MAX; 4] }, rule)
                })),
                None => unknown.push(has.rolename.clone()),
            }
        }
    }

    /// What concerns no user, and is left out.
    #[must_use]
    pub fn left_out(&self) -> Vec<String> {
        self.left_out.clone()
    }
}

impl ClientForm {
    fn proof(&self) -> Result<Proof, String> {
        if let Some(encoded) = &self.encoded_password {
            return match of_password_file(encoded, SaltEncoding::Base64)? {
                Proof::Password(_) => Err("encoded_password is not a hash".to_owned()),
                proof => Ok(proof),
            };
        }
        match (&self.password, &self.salt, self.iterations) {
            (Some(output), Some(salt), Some(rounds)) => match (base64(salt), base64(output)) {
                (Some(salt), Some(output)) => stored(Digest::Sha512.pbkdf2(rounds, &salt, &output)),
                _ => Err("password and salt are not base64".to_owned()),
            },
            (None, None, None) => Ok(Proof::None),
            _ => Err("password, salt and iterations belong together".to_owned()),
        }
    }
}

impl RoleForm {
    fn read(&self, left_out: &mut Vec<String>) -> Role {
        let mut rules = Vec::new();
        for (number, acl) in (1..).zip(&self.acls) {
            let place = format!("rule {number} of role {:?}", self.rolename);
            let mut rule = |right, condition: Option<&str>| {
                // What is meant literally has no placeholders. A denial is taken to have them: then it denies more.
                let is_literal = acl.allow && acl.acltype == "subscribeLiteral";
                let rule = Rule {
                    place: place.clone(),
                    allows: acl.allow,
                    right,
                    topic: acl.topic.clone(),
                    writing: if is_literal { Writing::Plain } else { Writing::Mosquitto },
                    condition: condition.map(str::to_owned),
                };
                rules.push((acl.priority, rule));
            };
            let has_wildcard = acl.topic.contains(['+', '#']);
            match acl.acltype.as_str() {
                "publishClientSend" => {
                    let is_system = acl.topic.starts_with("$SYS");
                    rule(
                        Right::Publish,
                        is_system.then_some("mosquitto lets nobody publish to $SYS"),
                    );
                }
                "publishClientReceive" => rule(Right::Receive, None),
                "subscribePattern" => rule(Right::Subscribe, None),
                "subscribeLiteral" => rule(
                    Right::Subscribe,
                    has_wildcard.then_some(
                        "it means this filter literally, and a grant would allow parts of it too",
                    ),
                ),
                "unsubscribe" | "unsubscribeLiteral" | "unsubscribePattern" if acl.allow => {}
                "unsubscribe" | "unsubscribeLiteral" | "unsubscribePattern" => {
                    left_out.push(format!("{place}: everybody may unsubscribe here"));
                }
                other => {
                    left_out.push(format!("{place}: {other:?} is not known here"));
                    if !acl.allow {
                        for right in [Right::Publish, Right::Subscribe, Right::Receive] {
                            rule(right, None);
                        }
                    }
                }
            }
        }
        Role { rules, allows_wildcards: self.allows_wildcards }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r##"{
        "defaultACLAccess": {"publishClientSend": false, "publishClientReceive": true, "subscribe": false, "unsubscribe": true},
        "clients": [
            {"username": "bob", "clientid": "b1", "textname": "x", "encoded_password": "$7$101$AAE=$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==", "roles": [{"rolename": "sensor"}]},
            {"username": "ann", "disabled": true, "password": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==", "salt": "AAE=", "iterations": 101,
             "roles": [{"rolename": "reader", "priority": 1}, {"rolename": "gone"}]},
            {"username": "carl"},
            {"username": "dora", "password": "AAAA"}
        ],
        "groups": [{"groupname": "g", "roles": [{"rolename": "all"}], "clients": [{"username": "ann"}, {"username": "carl"}]}],
        "roles": [
            {"rolename": "sensor", "acls": [
                {"acltype": "publishClientSend", "topic": "up/%u/%c", "allow": true},
                {"acltype": "subscribeLiteral", "topic": "down/%c", "allow": true},
                {"acltype": "subscribeLiteral", "topic": "down/#", "allow": true},
                {"acltype": "unsubscribePattern", "topic": "#", "allow": true}
            ]},
            {"rolename": "reader", "acls": [
                {"acltype": "subscribePattern", "topic": "a/#", "priority": 5, "allow": true},
                {"acltype": "subscribePattern", "topic": "#", "priority": 0, "allow": false},
                {"acltype": "publishClientReceive", "topic": "a/secret", "priority": 0, "allow": false},
                {"acltype": "subscribePattern", "topic": "a/b", "priority": 6, "allow": true}
            ]},
            {"rolename": "all", "acls": [
                {"acltype": "publishClientSend", "topic": "x/#", "allow": true},
                {"acltype": "publishClientSend", "topic": "$SYS/x", "allow": true}
            ]}
        ],
        "anonymousGroup": "g"
    }"##;

    fn foreign() -> Foreign {
        Foreign {
            kind: "x".parse().unwrap(),
            acl: super::super::acl::Acl::default(),
            superusers: false,
        }
    }

    #[test]
    fn users_become_devices_with_the_grants_of_their_roles() {
        let mut file = Dynsec::new(FILE, foreign(), false).ok().unwrap();
        let bob = file.next_user().unwrap().ok().unwrap();
        assert_eq!(
            bob.summary(),
            "device bob (x), client id b1, imported (PBKDF2 with sha512, rounds 101), publish up/bob/b1"
        );
        // A literal topic has no placeholders, and no wildcards.
        for (told, rule) in bob.left_out.iter().zip(["rule 2", "rule 3"]) {
            assert!(told.contains(&format!("{rule} of role \"sensor\"")), "{told}");
        }
        assert_eq!(bob.left_out.len(), 2);
        let ann = file.next_user().unwrap().ok().unwrap();
        assert_eq!(
            ann.summary(),
            "device ann (x), disabled, imported (PBKDF2 with sha512, rounds 101), publish x/#"
        );
        let told = ann.left_out.join("\n");
        for expected in [
            "\"gone\"",
            "rule 2 of role \"reader\" denies a part",
            "$SYS",
            "rule 3 of role \"reader\"",
        ] {
            assert!(told.contains(expected), "{told}");
        }
        assert_eq!(
            file.next_user().unwrap().ok().unwrap().summary(),
            "device carl (x), publish x/#"
        );
        assert!(file.next_user().unwrap().err().unwrap().message.contains("belong together"));
        assert!(file.next_user().is_none());
        assert!(file.left_out()[0].contains("anonymousGroup"));
    }

    #[test]
    fn a_client_id_may_become_the_name() {
        let mut file = Dynsec::new(FILE, foreign(), true).ok().unwrap();
        let bob = file.next_user().unwrap().ok().unwrap();
        assert!(
            bob.summary().starts_with(
                "device b1 (x), imported (PBKDF2 with sha512, rounds 101), publish up/bob/b1"
            ),
            "{}",
            bob.summary()
        );
        assert!(file.next_user().unwrap().err().unwrap().message.contains("no clientid"));
    }

    #[test]
    fn what_is_no_such_file_is_named() {
        for text in ["", "[]", r#"{"clients":[{"username":7}]}"#, r#"{"clients":[{}]}"#] {
            assert!(Dynsec::new(text, foreign(), false).is_err(), "{text}");
        }
    }

    #[test]
    fn two_users_do_not_become_one_device() {
        let file = r#"{"clients": [{"username": "bob", "clientid": "gw"}, {"username": "ann", "clientid": "gw"}]}"#;
        let mut renamed = Dynsec::new(file, foreign(), true).ok().unwrap();
        for _ in 0..2 {
            let error = renamed.next_user().unwrap().err().unwrap();
            assert!(error.message.contains("as another user has"), "{}", error.message);
        }
        let mut by_user = Dynsec::new(file, foreign(), false).ok().unwrap();
        assert!(by_user.next_user().unwrap().is_ok());
    }
}
