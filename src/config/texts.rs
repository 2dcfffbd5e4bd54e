//! What particular settings demand of their text, beyond being text.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

use super::database_url::DatabaseUrl;
use super::raw::{cut, quoted};

/// Shorter tokens can be guessed.
const SHORTEST_TOKEN: usize = 16;
const LONGEST_AUDIENCE: usize = 256;

pub(super) const AUDIENCE: &str = "1 to 256 characters, no control characters";

/// The token travels in an HTTP header.
pub(super) fn webhook_token(token: &str) -> Result<(), String> {
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "the token may hold only printable ASCII characters and no spaces, because it \
                    travels in an HTTP header; `openssl rand -hex 32` makes a good one"
                .to_owned(),
        );
    }
    if token.len() < SHORTEST_TOKEN {
        return Err(format!(
            "the token has {} characters and needs at least {SHORTEST_TOKEN}; `openssl rand -hex \
             32` makes a good one",
            token.len()
        ));
    }
    Ok(())
}

/// The URL as it was understood, without a slash at its end: spaces around it and the like are gone, and a host
/// is written as it is sent. Says nothing of the text: people do paste `user:password@` into URLs.
pub(super) fn api_url(text: &str) -> Result<String, String> {
    const EXAMPLE: &str = "write it as http://emqx:18083";
    let url = reqwest::Url::parse(text)
        .map_err(|error| format!("not a valid URL: {error}; {EXAMPLE}"))?;
    if !["http", "https"].contains(&url.scheme()) || url.host().is_none() {
        return Err(format!("the URL must begin with http:// or https:// and a host; {EXAMPLE}"));
    }
    // Behind a slash in the password all of the rest is the path.
    if !url.username().is_empty() || url.password().is_some() || url.path().contains('@') {
        return Err(
            "the URL holds a user name or password; write them as emqx.api_key and emqx.api_secret"
                .to_owned(),
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("the URL holds a query or fragment; {EXAMPLE}"));
    }
    Ok(understood(&url))
}

fn understood(url: &reqwest::Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

/// What the `Host` of a request is held against: so nothing else may be in it. As [`api_url`].
pub(super) fn public_url(text: &str) -> Result<String, String> {
    const EXAMPLE: &str = "write it as https://fleet.example.net";
    let url = reqwest::Url::parse(text)
        .map_err(|error| format!("not a valid URL: {error}; {EXAMPLE}"))?;
    let has_more = url.path() != "/"
        || url.query().is_some()
        || url.fragment().is_some()
        || !url.username().is_empty()
        || url.password().is_some();
    if !["http", "https"].contains(&url.scheme()) || url.host().is_none() || has_more {
        return Err(format!(
            "the URL must be http:// or https://, a host and perhaps a port; {EXAMPLE}"
        ));
    }
    Ok(understood(&url))
}

/// Basic authentication (RFC 7617) ends the user name at the first colon.
pub(super) fn api_key(key: &str) -> Result<(), String> {
    match api_secret(key) {
        Ok(()) if !key.contains(':') => Ok(()),
        _ => Err(
            "the key must be printable ASCII without spaces and colons; copy it from EMQX, the \
             secret goes into emqx.api_secret"
                .to_owned(),
        ),
    }
}

pub(super) fn api_secret(secret: &str) -> Result<(), String> {
    if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("must be printable ASCII without spaces; copy it from EMQX".to_owned());
    }
    Ok(())
}

pub(super) fn database_url(url: &str) -> Result<(), String> {
    url.parse::<DatabaseUrl>().map(drop)
}

pub(super) fn database_password(password: &str) -> Result<(), String> {
    if password.is_empty() {
        return Err("the password is empty; remove the setting if there is none".to_owned());
    }
    if password.contains('\0') {
        return Err("the password holds a NUL character, which PostgreSQL can't take".to_owned());
    }
    Ok(())
}

pub(super) fn audience(audience: &str) -> Result<(), String> {
    let length = audience.chars().count();
    if length == 0 || length > LONGEST_AUDIENCE || audience.chars().any(char::is_control) {
        return Err(format!("{} is not a valid audience; write {AUDIENCE}", quoted(audience)));
    }
    Ok(())
}

/// `EnvFilter` takes a bare unknown word as the name of a module to log in full, so that a
/// misspelt level would flood the log or silence it.
pub(super) fn log_filter(filter: &str) -> Result<(), String> {
    // The parser takes an empty word for `error`.
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    let is_bare = |part: &&str| !part.contains(['=', '[']) && !is_level(part);
    if let Some(word) = filter.split(',').map(str::trim).find(is_bare) {
        return Err(format!(
            "{} is not a level; write error, warn, info, debug, trace or off, or module=level",
            quoted(word)
        ));
    }
    let parsed = EnvFilter::builder().parse(filter);
    let refused = |error: ParseError| {
        format!("{} is not a valid log filter: {}", quoted(filter), cut(&error.to_string()))
    };
    parsed.map(drop).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhook_tokens() {
        assert!(webhook_token("0123456789abcdef").is_ok());
        assert!(webhook_token("0123456789abcde").is_err_and(|e| e.contains("15 characters")));
        for token in ["", "0123456789 abcdef", "0123456789abcdefä", "0123456789abcdef\n"] {
            assert!(webhook_token(token).is_err(), "{token:?}");
        }
    }

    #[test]
    fn database_urls() {
        for url in ["postgres://u:p@db:5432/x", "host=/run/postgresql user=u", "hostaddr=::1"] {
            assert_eq!(database_url(url), Ok(()), "{url}");
        }
        assert!(database_url("").is_err_and(|e| e.contains("no host")));
        assert!(database_url("user=u").is_err_and(|e| e.contains("no host")));
        assert!(database_url("postgres://u@h:port/x").is_err_and(|e| e.contains("\"port\"")));
        let leaky = database_url("host=h password=top secretword=x").unwrap_err();
        assert!(!leaky.contains("secretword"), "{leaky}");
    }

    #[test]
    fn api_urls() {
        for (url, understood) in [
            ("http://emqx:18083", "http://emqx:18083"),
            ("https://EMQX.example.net/", "https://emqx.example.net"),
            ("http://[::1]:18083/mqtt", "http://[::1]:18083/mqtt"),
            ("http://emqx:18083/ ", "http://emqx:18083"),
            (" http://emqx:18083 \n", "http://emqx:18083"),
            ("http:emqx:18083", "http://emqx:18083"),
            ("http://bücher.example", "http://xn--bcher-kva.example"),
        ] {
            assert_eq!(api_url(url).as_deref(), Ok(understood), "{url}");
        }
        for url in ["emqx:18083", "http://", "ftp://emqx", "http://emqx?x=1", "http://emqx#x", ""] {
            assert!(api_url(url).is_err_and(|e| e.contains("http://emqx:18083")), "{url:?}");
        }
        for url in ["http://key:topsecret@emqx", "http://key:1/topsecret@emqx"] {
            let leaky = api_url(url).unwrap_err();
            assert!(leaky.contains("emqx.api_key") && !leaky.contains("topsecret"), "{leaky}");
        }
    }

    #[test]
    fn public_urls() {
        for (url, understood) in [
            ("https://fleet.example.net", "https://fleet.example.net"),
            ("https://fleet:8443/ ", "https://fleet:8443"),
            ("http://[0::1]:8090", "http://[::1]:8090"),
            ("https:fleet.example.net", "https://fleet.example.net"),
            ("https://flotte.bücher.example:443", "https://flotte.xn--bcher-kva.example"),
        ] {
            assert_eq!(public_url(url).as_deref(), Ok(understood), "{url}");
        }
        for url in ["fleet", "https://a/b", "https://u:secret@a", "https://a?x", "ftp://a", ""] {
            let refused = public_url(url);
            assert!(
                refused.is_err_and(|e| e.contains("https://fleet") && !e.contains("secret")),
                "{url:?}"
            );
        }
    }

    #[test]
    fn api_keys() {
        assert!(api_key("ee26b0dd4af7e749").is_ok() && api_secret("a:b").is_ok());
        for key in ["", "key:secret", "a b", "ä"] {
            assert!(api_key(key).is_err(), "{key:?}");
        }
    }

    #[test]
    fn log_filters() {
        for filter in ["info", "WARN", "off", "info,fleetgate::http=debug", "[request]=trace"] {
            assert_eq!(log_filter(filter), Ok(()), "{filter}");
        }
        assert!(log_filter("inof").is_err_and(|e| e.contains("\"inof\" is not a level")));
        assert!(log_filter("info,fleetgate=loud").is_err());
        assert!(log_filter("info,").is_err_and(|e| e.contains("\"\" is not a level")));
        assert!(log_filter("").is_err());
    }
}
