//! Files of mosquitto, and of what took over their form: mosquitto-go-auth, VerneMQ, `htpasswd`.

use super::acl::{Acl, Rank, Right, Rule, Writing};
use super::foreign::{Entry, Foreign, User};
use super::hashes::{SaltEncoding, of_password_file};
use super::line::LineError;

/// A password file: `name:hash` a line.
pub struct PasswordFile {
    foreign: Foreign,
    salts: SaltEncoding,
}

impl PasswordFile {
    /// Reads for users who become devices like this.
    #[must_use]
    pub fn new(foreign: Foreign, salts: SaltEncoding) -> Self {
        Self { foreign, salts }
    }

    /// What a line brings; `None` for a comment.
    ///
    /// # Errors
    /// A line that cannot be imported.
    pub fn line(&mut self, text: &str) -> Result<Option<Entry>, LineError> {
        if text.starts_with('#') {
            return Ok(None);
        }
        let Some((name, hash)) = text.split_once(':') else {
            return Err(LineError::whole(
                "has no colon; write name:hash, or begin a comment with #",
            ));
        };
        let credential = of_password_file(hash, self.salts)
            .map_err(|why| LineError::at(name.len() + 2, "", why))?;
        let user = User { name, client_id: None, credential, enabled: true, is_superuser: false };
        self.foreign.entry(user).map(Some)
    }

    /// What of the access rules is left out, and concerns no user. `whole`: all lines were read.
    #[must_use]
    pub fn left_out(&self, whole: bool) -> Vec<String> {
        self.foreign.acl.left_out(whole)
    }
}

/// What denies is asked first.
const DENIES: Rank = [1, 0, 0, 0];
const ALLOWS: Rank = [0; 4];

impl Acl {
    /// Reads an access file of mosquitto, mosquitto-go-auth or VerneMQ.
    ///
    /// # Errors
    /// Its wrong lines by their numbers, and why.
    pub fn of_mosquitto(text: &str) -> Result<Self, Vec<(u64, String)>> {
        let mut acl = Self::default();
        let mut user: Option<String> = None;
        let mut wrong = Vec::new();
        for (number, line) in (1_u64..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let rest = rest.trim_start();
            if rest.is_empty() {
                wrong.push((number, "has nothing behind its first word".to_owned()));
                continue;
            }
            let (rules, to) = match word {
                "user" => {
                    user = Some(rest.to_owned());
                    continue;
                }
                "topic" => match &user {
                    Some(user) => {
                        let to = acl.of_users.entry(user.clone()).or_default();
                        (rules(number, rest, Writing::Plain), Some(to))
                    }
                    // In mosquitto for clients without user name; mosquitto-go-auth and VerneMQ ask it for everybody.
                    None => (rules(number, rest, Writing::Mosquitto), None),
                },
                "pattern" => (rules(number, rest, Writing::Mosquitto), Some(&mut acl.of_all)),
                _ => {
                    wrong.push((number, "must begin with user, topic, pattern or #".to_owned()));
                    continue;
                }
            };
            match (rules, to) {
                (Ok(rules), Some(to)) => to.extend(rules),
                (Ok(rules), None) => {
                    acl.left_out.push(format!(
                        "line {number} of the access file: is for clients without user name, which are not let in here (in mosquitto-go-auth and VerneMQ: for everybody)"
                    ));
                    acl.of_all.extend(rules.into_iter().filter(|(_, rule)| !rule.allows));
                }
                (Err(why), _) => {
                    acl.left_out.push(format!("line {number} of the access file: {why}"));
                }
            }
        }
        if wrong.is_empty() { Ok(acl) } else { Err(wrong) }
    }
}

/// The rules that a line is.
///
/// # Errors
/// Why it is none, though it allows nothing either.
fn rules(number: u64, rest: &str, writing: Writing) -> Result<Vec<(Rank, Rule)>, String> {
    let (access, topic) = match rest.split_once(char::is_whitespace) {
        Some((access, topic)) if is_access(access) => (access, topic.trim_start()),
        _ => ("readwrite", rest),
    };
    let rights: &[Right] = match access {
        "read" => &[Right::Subscribe],
        "write" => &[Right::Publish],
        "subscribe" => return Err("lets subscribe and receive nothing".to_owned()),
        _ => &[Right::Publish, Right::Subscribe],
    };
    let allows = access != "deny";
    let rule = |right: &Right| {
        let is_system = allows && *right == Right::Publish && topic.starts_with("$SYS");
        let condition = is_system.then(|| "mosquitto lets nobody publish to $SYS".to_owned());
        let place = format!("line {number} of the access file");
        let rule =
            Rule { place, allows, right: *right, topic: topic.to_owned(), writing, condition };
        (if allows { ALLOWS } else { DENIES }, rule)
    };
    Ok(rights.iter().map(rule).collect())
}

fn is_access(word: &str) -> bool {
    matches!(word, "read" | "write" | "readwrite" | "subscribe" | "deny")
}

#[cfg(test)]
mod tests {
    use super::super::acl::Who;
    use super::*;

    fn grants(acl: &mut Acl, user: &str) -> (Vec<String>, Vec<String>) {
        let (grants, left_out) = acl.grants(Who { user, client_id: Some(user) });
        let text =
            |it: &super::super::line::Grant| format!("{} {}", it.action.word(), it.topic_filter);
        (grants.iter().map(text).collect(), left_out)
    }

    #[test]
    fn an_access_file_becomes_grants_where_they_say_the_same() {
        let text = "# who may what\n\
            topic read $SYS/#\n\
            user bob the builder\n\
            topic site/tools and more\n\
            topic  write site/report\r\n\
            topic read site/#\n\
            topic deny site/secret\n\
            topic readwrite $SYS/broker\n\
            topic subscribe x\n\
            user ann\n\
            topic write a/b\n\
            pattern read to/%u/#\n\
            pattern write from/%c\n\
            pattern read x%u\n";
        let mut acl = Acl::of_mosquitto(text).ok().unwrap();
        let (bob, left_out) = grants(&mut acl, "bob the builder");
        assert_eq!(
            bob,
            [
                "publish from/bob the builder",
                "publish site/report",
                "publish site/tools and more",
                "subscribe $SYS/broker",
                "subscribe site/tools and more",
                "subscribe to/bob the builder/#",
            ]
        );
        let told = left_out.join("\n");
        for expected in [
            "line 6 of the access file, which allows subscribe \"site/#\": line 7",
            "line 7 of",
            "$SYS",
            "line 14",
        ] {
            assert!(told.contains(expected), "{told}");
        }
        assert_eq!(grants(&mut acl, "carl").0, ["publish from/carl", "subscribe to/carl/#"]);
        let told = acl.left_out(true).join("\n");
        for expected in [
            "line 2 of the access file: is for clients without",
            "line 9 of the access file: ",
            "\"ann\": no such user",
        ] {
            assert!(told.contains(expected), "{told}");
        }
        assert!(!told.contains("bob"), "{told}");
    }

    #[test]
    fn what_is_denied_before_the_first_user_narrows_what_all_are_allowed() {
        let text = "topic deny site/secret\n\
            topic read all/#\n\
            user bob\n\
            topic read site/#\n\
            topic read other\n";
        let mut acl = Acl::of_mosquitto(text).ok().unwrap();
        let (bob, left_out) = grants(&mut acl, "bob");
        assert_eq!(bob, ["subscribe other"]);
        let told = left_out.join("\n");
        assert!(told.contains("line 1 of the access file denies a part"), "{told}");
        assert_eq!(acl.left_out(true).len(), 2, "both lines are told");
    }

    #[test]
    fn wrong_lines_are_named() {
        let wrong = Acl::of_mosquitto("user\nuser a\ntopics x\ntopic").err().unwrap();
        assert_eq!(wrong.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 3, 4]);
    }
}
