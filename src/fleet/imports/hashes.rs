//! Password hashes as other brokers write them, in the form that Fleetgate stores (`domain/foreign_hash.rs`). No error
//! repeats anything of one.

use base64ct::{Base64Unpadded, Encoding};

use super::foreign::Proof;
use crate::domain::foreign_hash::{Digest, ForeignHash};
use crate::secret::Secret;

/// A hash function by the name that EMQX, or a hash, has for it.
///
/// # Errors
/// It cannot be checked here.
pub(super) fn digest(name: &str) -> Result<Digest, String> {
    match name {
        "sha" | "sha1" => Ok(Digest::Sha1),
        "sha256" => Ok(Digest::Sha256),
        "sha512" => Ok(Digest::Sha512),
        "md5" | "md4" => {
            Err(format!("{name} is broken and not taken; give these users new passwords"))
        }
        _ => Err("only sha (SHA-1), sha256 and sha512 can be checked here".to_owned()),
    }
}

/// A hash in the form that is stored.
///
/// # Errors
/// It cannot be checked here, or would cost too much.
pub(super) fn stored(hash: String) -> Result<Proof, String> {
    ForeignHash::parse(&hash).map_err(|error| format!("the hash {error}"))?;
    Ok(Proof::Hash(hash))
}

/// Bytes in standard base64, with padding or without.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    Base64Unpadded::decode_vec(text.trim_end_matches('=')).ok()
}

/// How a salt in a hash of mosquitto-go-auth is meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SaltEncoding {
    /// As bytes in base64.
    #[default]
    Base64,
    /// As the text that it is (its option `hasher_salt_encoding=utf-8`).
    Utf8,
}

/// What stands behind `name:` in a password file of mosquitto, mosquitto-go-auth or VerneMQ.
///
/// # Errors
/// A hash that cannot be checked here, and what to do.
pub(super) fn of_password_file(text: &str, salts: SaltEncoding) -> Result<Proof, String> {
    let incomplete = |form: &str| format!("the hash is not complete; expected {form}");
    let Some(rest) = text.strip_prefix('$') else {
        if let Some(rest) = text.strip_prefix("PBKDF2$") {
            const FORM: &str = "PBKDF2$sha512$<rounds>$<salt>$<hash>";
            let parts: Vec<&str> = rest.split('$').collect();
            let [digest, rounds, salt, output] = *parts else { return Err(incomplete(FORM)) };
            let salt = match salts {
                SaltEncoding::Base64 => base64(salt),
                SaltEncoding::Utf8 => Some(salt.as_bytes().to_vec()),
            };
            let (Some(salt), Some(output), Ok(rounds)) = (salt, base64(output), rounds.parse())
            else {
                return Err(format!(
                    "{}; is its salt text? Then say --salt-encoding utf-8",
                    incomplete(FORM)
                ));
            };
            return stored(self::digest(digest)?.pbkdf2(rounds, &salt, &output));
        }
        if text.starts_with('{') && text.contains('}') {
            return Err(
                "looks like a hash of Apache or LDAP ({SHA} and the like), which is not taken; give it a new password"
                    .to_owned(),
            );
        }
        let is_crypt = |it: u8| it.is_ascii_alphanumeric() || b"./".contains(&it);
        if text.len() == 13 && text.bytes().all(is_crypt) {
            return Err(
                "looks like a hash of crypt(3), which is not taken; give it a new password, or, if this is one in plain text, import \
                 it as --format csv with a column `secret`"
                    .to_owned(),
            );
        }
        return Ok(Proof::Password(Secret::new(text.to_owned())));
    };
    let parts: Vec<&str> = rest.split('$').collect();
    match *parts {
        ["6", salt, output] => match (base64(salt), base64(output)) {
            (Some(salt), Some(output)) => stored(Digest::Sha512.salted(false, &salt, &output)),
            _ => Err(incomplete("$6$<salt>$<hash> in base64")),
        },
        ["7", rounds, salt, output] => match (rounds.parse(), base64(salt), base64(output)) {
            (Ok(rounds), Some(salt), Some(output)) => {
                stored(Digest::Sha512.pbkdf2(rounds, &salt, &output))
            }
            _ => Err(incomplete("$7$<rounds>$<salt>$<hash> in base64")),
        },
        ["6" | "7", ..] => Err(incomplete("$6$<salt>$<hash> or $7$<rounds>$<salt>$<hash>")),
        ["1" | "apr1", ..] => {
            Err("is an MD5 hash, which is broken and not taken; give it a new password".to_owned())
        }
        ["argon2id" | "2a" | "2b" | "2y", ..] => stored(text.to_owned()),
        [
            digest @ ("pbkdf2-sha1" | "pbkdf2-sha256" | "pbkdf2-sha512"),
            parameters,
            salt,
            output,
        ] => {
            // Where it is stored base64 has no padding.
            let output = output.trim_end_matches('=');
            let salt = match salts {
                SaltEncoding::Base64 => salt.trim_end_matches('=').to_owned(),
                SaltEncoding::Utf8 => Base64Unpadded::encode_string(salt.as_bytes()),
            };
            stored(format!("${digest}${parameters}${salt}${output}"))
        }
        _ => {
            Err("is a hash of a kind that cannot be checked here; give it a new password"
                .to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        match of_password_file(text, SaltEncoding::Base64)? {
            Proof::Hash(hash) => Ok(hash),
            Proof::Password(password) => Ok(format!("plain {}", password.expose())),
            Proof::None => Ok("none".to_owned()),
        }
    }

    #[test]
    fn hashes_of_other_programs_are_taken_for_no_passwords() {
        for text in
            ["rl.3StKT.4T8M", "abcdefghijklm", "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=", "{SSHA}x"]
        {
            assert!(read(text).is_err(), "{text}");
        }
        for text in ["abcdefghijkl", "abcdefghijkl-", "{curly", "twelve words"] {
            assert_eq!(read(text), Ok(format!("plain {text}")));
        }
    }

    #[test]
    fn hashes_of_password_files_are_told_apart() {
        let long = "A".repeat(86);
        let half = "A".repeat(43);
        let bcrypt = format!("$2y$05${}", "a".repeat(53));
        let argon2id = format!("$argon2id$v=19$m=4096,t=3,p=2$AAAAAAAAAAAAAAAAAAAAAA${half}");
        for (text, expected) in [
            (format!("$6$AAEC${long}=="), format!("$sha512-salted$pos=suffix$AAEC${long}")),
            (format!("$7$101$AAE=${long}=="), format!("$pbkdf2-sha512$i=101,l=64$AAE${long}")),
            (
                format!("PBKDF2$sha256$5$AAE=${half}="),
                format!("$pbkdf2-sha256$i=5,l=32$AAE${half}"),
            ),
            (
                format!("$pbkdf2-sha1$i=5,l=32$AAE=${half}="),
                format!("$pbkdf2-sha1$i=5,l=32$AAE${half}"),
            ),
            (bcrypt.clone(), bcrypt.clone()),
            (argon2id.clone(), argon2id.clone()),
            ("a password".to_owned(), "plain a password".to_owned()),
        ] {
            assert_eq!(read(&text), Ok(expected));
        }
        for text in [
            "$6$x",
            "$7$x$AA$AA",
            "$7$1$??$AA",
            "$apr1$a$b",
            "$5$a$b",
            "PBKDF2$md5$1$AA$AA",
            "PBKDF2$x",
            "{SHA}x",
            "$2y$05$??",
            &format!("$7$600001$AAE=${long}=="),
            &bcrypt.replace("$05", "$13"),
            &argon2id.replace("4096", "65537"),
        ] {
            let why = read(text).expect_err(text);
            assert!(!why.contains("??"), "{why}");
        }
    }

    #[test]
    fn a_salt_may_be_text() {
        let text = format!("PBKDF2$sha512$5$s?lt${}==", "A".repeat(86));
        let Ok(Proof::Hash(hash)) = of_password_file(&text, SaltEncoding::Utf8) else {
            panic!("not read")
        };
        assert!(hash.starts_with("$pbkdf2-sha512$i=5,l=64$cz9sdA$"), "{hash}");
        assert!(read(&text).is_err_and(|why| why.contains("--salt-encoding")));
    }
}
