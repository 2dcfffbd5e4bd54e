//! `fleetgate token issue`: a token for one device.

use clap::Args;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::Serialize;

use crate::authn::token::{issue, key_id, read_signing_key, read_verification_key};
use crate::cli::context::{Context, actor};
use crate::cli::error::CliError;
use crate::cli::output::remark;
use crate::clock::Clock;
use crate::config::Tokens;
use crate::domain::name::DeviceName;
use crate::fleet::act;
use crate::fleet::tokens::{self, TokenBasis};
use crate::registry::migrate::schema_version;
use crate::secret::Secret;

/// Issue a token that a device shows as its MQTT password.
#[derive(Debug, Args)]
pub(crate) struct IssueArgs {
    /// The device's name.
    #[arg(value_name = "DEVICE")]
    device: DeviceName,
    /// How long the token is valid: 90d, 12h, 1y.
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = lifetime)]
    expires: Span,
}

#[derive(Serialize)]
struct IssuedToken<'a> {
    device: &'a str,
    token: &'a str,
    kid: String,
    /// The row that `credential revoke` takes: it revokes every token of the device.
    credential: i64,
    issued_at: Timestamp,
    expires_at: Timestamp,
}

pub(super) fn run(args: &IssueArgs, context: &Context) -> Result<(), CliError> {
    let tokens = &context.settings()?.tokens;
    let key_file = tokens.signing_key.as_deref().ok_or_else(|| {
        CliError::Usage(
            "tokens.signing_key is not set; make a key with `fleetgate token key generate --out FILE` and \
             set tokens.signing_key to that file"
                .to_owned(),
        )
    })?;
    let key = read_signing_key(key_file).map_err(CliError::failed)?;
    let kid = key_id(&key.verifying_key());
    // Before anything is changed.
    end(Clock::System.now(), args.expires)?;
    let basis = context.block_on(basis(context, &args.device))?;
    let expires_at = end(basis.issued_at, args.expires)?;
    let (device, issued_at) = (args.device.as_str(), basis.issued_at);
    let token = Secret::new(issue(&key, &tokens.audience, device, issued_at, expires_at));
    warn_if_unverifiable(tokens, &kid);
    let credential = basis.credential.0;
    let text = || {
        format!(
            "A token for device {device:?}, valid until {expires_at}. To revoke it, with all other \
             tokens of the device: fleetgate credential revoke {credential}"
        )
    };
    let value =
        IssuedToken { device, token: token.expose(), kid, credential, issued_at, expires_at };
    context.output.result_with_secret(&value, &token, text)
}

/// Makes sure that the device accepts tokens.
async fn basis(context: &Context, device: &DeviceName) -> Result<TokenBasis, CliError> {
    let mut client = context.connect().await?;
    schema_version(&client).await?.require_current()?;
    Ok(act(&mut client, &actor(), async |fleet| tokens::accept(fleet, device).await).await?)
}

/// Counted in UTC, so that a day has 24 hours; in whole seconds, as a token says it.
fn end(issued_at: Timestamp, lifetime: Span) -> Result<Timestamp, CliError> {
    let end = issued_at.to_zoned(TimeZone::UTC).checked_add(lifetime);
    let end = end.and_then(|end| Timestamp::from_second(end.timestamp().as_second()));
    end.map_err(|_| {
        let why = "the token would end after the year 9999; choose a shorter --expires";
        CliError::Usage(why.to_owned())
    })
}

fn lifetime(text: &str) -> Result<Span, String> {
    let asked = || "write a time of at least one second, such as 90d, 12h or 1y".to_owned();
    let span = text.parse::<Span>().map_err(|_| asked())?;
    let reaches_a_second = end(Timestamp::UNIX_EPOCH, span).is_ok_and(|end| end.as_second() > 0);
    if reaches_a_second { Ok(span) } else { Err(asked()) }
}

/// The configuration here need not be the one that serves, so this is no failure.
fn warn_if_unverifiable(tokens: &Tokens, kid: &str) {
    let keys = tokens.verification_keys.iter().filter_map(|file| read_verification_key(file).ok());
    if !keys.map(|key| key_id(&key)).any(|known| known == *kid) {
        remark(&format!(
            "warning: no file in tokens.verification_keys of this configuration has the key {kid}; \
             add its public half where fleetgate serves, or the token is refused"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_counted_in_utc() {
        let issued: Timestamp = "2026-02-28T12:00:00Z".parse().unwrap();
        for (text, ends) in [
            ("90d", "2026-05-29T12:00:00Z"),
            ("12h", "2026-03-01T00:00:00Z"),
            ("1y", "2027-02-28T12:00:00Z"),
        ] {
            assert_eq!(end(issued, lifetime(text).unwrap()).unwrap(), ends.parse().unwrap());
        }
    }

    #[test]
    fn lifetimes_that_end_before_they_begin_are_refused() {
        for text in ["", "0s", "-1d", "500ms", "soon", "99999y"] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_cannot_outlive_the_year_9999() {
        let lifetime = lifetime("7000y").unwrap();
        assert!(end(Timestamp::UNIX_EPOCH, lifetime).is_ok());
        let late: Timestamp = "3500-01-01T00:00:00Z".parse().unwrap();
        assert!(matches!(end(late, lifetime), Err(CliError::Usage(_))));
    }
}
