//! Takes a connection string apart, in both of its forms: the parts that tokio-postgres does not know, and
//! the string without them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

pub(super) const EXAMPLE: &str = "write it as postgres://user@host:5432/database, with special characters \
                       percent-encoded, or as host=… user=… dbname=…";

/// libpq's parts that Fleetgate refuses, and what to do instead.
pub(super) const UNSUPPORTED: &[(&str, &str)] = &[
    ("passfile", "write the password into database.password_file instead"),
    ("require_auth", "leave it out; sslmode=verify-full keeps a password from a false server"),
    ("service", "write the host, user and database out"),
    ("servicefile", "write the host, user and database out"),
    ("sslcrl", "revoked certificates are not looked up; leave it out"),
    ("sslcrldir", "revoked certificates are not looked up; leave it out"),
    ("sslpassword", "store the key of sslkey without a password, readable by its owner alone"),
    ("sslcompression", "leave it out; TLS is never compressed"),
    ("sslsni", "leave it out; the host's name is always sent"),
    ("sslcertmode", "leave it out; a certificate is sent when the server asks for one"),
    ("sslkeylogfile", "leave it out"),
    ("ssl_min_protocol_version", "leave it out; TLS 1.2 and 1.3 are spoken"),
    ("ssl_max_protocol_version", "leave it out; TLS 1.2 and 1.3 are spoken"),
    ("min_protocol_version", "leave it out"),
    ("max_protocol_version", "leave it out"),
    ("requirepeer", "leave it out"),
    ("requiressl", "write sslmode=require"),
    ("krbsrvname", "Kerberos is not supported; leave it out"),
    ("gsslib", "Kerberos is not supported; leave it out"),
    ("gssdelegation", "Kerberos is not supported; leave it out"),
    ("replication", "leave it out"),
    ("scram_client_key", "write the password into database.password instead"),
    ("scram_server_key", "write the password into database.password instead"),
    ("oauth_issuer", "OAuth is not supported; leave it out"),
    ("oauth_client_id", "OAuth is not supported; leave it out"),
    ("oauth_client_secret", "OAuth is not supported; leave it out"),
    ("oauth_scope", "OAuth is not supported; leave it out"),
];

pub(super) fn only(name: &str, values: &str) -> String {
    format!("the URL's part {name:?} takes only {values}")
}

pub(super) fn not_a_url() -> String {
    format!("not a PostgreSQL URL; {EXAMPLE}")
}

/// Whether a part is read here, and not by tokio-postgres.
fn is_taken(name: &str) -> Option<&'static str> {
    const OURS: &[&str] = &[
        "client_encoding",
        "connect_timeout",
        "fallback_application_name",
        "gssencmode",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_retries",
        "ssl",
        "sslcert",
        "sslkey",
        "sslmode",
        "sslrootcert",
        "target_session_attrs",
        "tcp_user_timeout",
    ];
    let unsupported = UNSUPPORTED.iter().map(|(known, _)| known);
    OURS.iter().chain(unsupported).find(|known| **known == name).copied()
}

/// Names and values.
pub(super) type Parts = Vec<(&'static str, String)>;

/// Takes out the parts that are read here.
pub(super) fn split(url: &str) -> Result<(String, Parts), String> {
    let scheme = ["postgres://", "postgresql://"].into_iter().find(|it| url.starts_with(it));
    match scheme.and_then(|scheme| url.strip_prefix(scheme)) {
        Some(rest) => split_url(url, rest),
        None => split_keywords(url),
    }
}

/// tokio-postgres takes what stands before the first `@`, wherever that is, for the user and the password.
/// Where it is not the one that was meant, a part of the password would become the name of a host or a
/// database, which messages show.
fn one_at_sign(rest: &str) -> Result<(), String> {
    let before_query = rest.split('?').next().unwrap_or_default();
    if before_query.matches('@').count() == 1 || !rest.contains('@') {
        return Ok(());
    }
    Err(format!(
        "the URL holds an @ or ? that is part of a user, a password or a parameter; write %40 for such an \
         @ and %3F for such a ?, or the password into database.password; {EXAMPLE}"
    ))
}

/// `rest`: the URL without its scheme.
fn split_url(url: &str, rest: &str) -> Result<(String, Parts), String> {
    one_at_sign(rest)?;
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), Vec::new()));
    };
    let (mut kept, mut taken) = (Vec::new(), Vec::new());
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // tokio-postgres reads names decoded as well, and would take those that are read here.
        let name = percent_decode_str(name).decode_utf8().unwrap_or(Cow::Borrowed(name));
        match is_taken(&name) {
            Some(name) => {
                let value = percent_decode_str(value).decode_utf8();
                let value = value.map_err(|_| only(name, "UTF-8 text"))?;
                taken.push((name, value.into_owned()));
            }
            None => kept.push(pair),
        }
    }
    let rest = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
    Ok((rest, taken))
}

fn split_keywords(text: &str) -> Result<(String, Parts), String> {
    let (mut kept, mut taken) = (String::new(), Vec::new());
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let part = Keyword::read(rest).ok_or_else(not_a_url)?;
        match is_taken(part.name) {
            Some(name) => taken.push((name, part.value)),
            None => {
                kept.push_str(rest.get(..part.length).unwrap_or_default());
                kept.push(' ');
            }
        }
        rest = rest.get(part.length..).unwrap_or_default().trim_start();
    }
    Ok((kept, taken))
}

/// `name = value` or `name = 'value'`, with backslashes before what is meant literally.
struct Keyword<'a> {
    name: &'a str,
    value: String,
    /// How many bytes it takes.
    length: usize,
}

impl<'a> Keyword<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let name = text.split(|c: char| c.is_whitespace() || c == '=').next()?;
        let after = text.get(name.len()..)?.trim_start().strip_prefix('=')?.trim_start();
        let start = text.len() - after.len();
        let quoted = after.starts_with('\'');
        let mut value = String::new();
        let mut letters = after.char_indices().skip(usize::from(quoted));
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => value.push(letters.next()?.1),
                '\'' if quoted => return Some(Self { name, value, length: start + at + 1 }),
                space if !quoted && space.is_whitespace() => {
                    return Some(Self { name, value, length: start + at });
                }
                letter => value.push(letter),
            }
        }
        (!quoted && !name.is_empty()).then_some(Self { name, value, length: text.len() })
    }
}
