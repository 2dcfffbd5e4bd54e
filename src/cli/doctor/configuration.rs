//! Checks that need nothing but the configuration and the files it names.

use super::finding::{Finding, Report, Status, counted};
use crate::authn::hash_threads::imported_places;
use crate::authn::token::{key_id, read_signing_key, read_verification_key};
use crate::config::{Problem, Problems, Settings, Sources, Tokens};

const TOKEN: &str = "emqx.webhook_token";
const CONFIGURATION: &str = "configuration";
const WEBHOOK_TOKEN: &str = "webhook token";
const ACL_IN_LOGIN: &str = "rights in login";
const PASSWORD_PLACES: &str = "password checks";
const VERIFICATION_KEYS: &str = "verification keys";
const SIGNING_KEY: &str = "signing key";

/// The checks that need a configuration.
pub(super) const DEPENDENT: [&str; 5] =
    [WEBHOOK_TOKEN, ACL_IN_LOGIN, PASSWORD_PLACES, VERIFICATION_KEYS, SIGNING_KEY];

/// The configuration is wrong: one finding a problem.
pub(super) fn refuse(problems: &Problems, report: &mut Report) {
    for problem in problems.iter() {
        report.add(Finding::problem(CONFIGURATION, problem));
    }
}

pub(super) fn examine(settings: &Settings, sources: &Sources, report: &mut Report) {
    let file = match &sources.file {
        Some(file) => file.display().to_string(),
        None => "no file".to_owned(),
    };
    let given = counted(settings.given.len(), "setting");
    let missing = settings.config().err();
    let missing = |key: &str| missing.iter().flat_map(Problems::iter).find(|p| concerns(p, key));
    let valid = if missing(TOKEN).is_some() { "what is given is valid" } else { "valid" };
    report.add(match missing("database.url") {
        Some(problem) => Finding::problem(CONFIGURATION, problem),
        None => Finding::ok(CONFIGURATION, format!("{valid} ({file}; {given} given)")),
    });
    for warning in &settings.warnings {
        let found = format!("{}: {}", warning.at, warning.setting);
        report.add(Finding::warning(CONFIGURATION, found, &warning.message));
    }
    report.add(match missing(TOKEN) {
        Some(problem) => Finding::problem(WEBHOOK_TOKEN, problem),
        None => Finding::ok(WEBHOOK_TOKEN, "set; it must be the same in EMQX's configuration"),
    });
    report.add(acl_in_login(settings));
    report.add(password_places(settings));
    examine_keys(&settings.tokens, report);
}

fn concerns(problem: &Problem, key: &str) -> bool {
    problem.setting.as_deref() == Some(key)
}

/// Rights that a session has taken along can only be taken back by ending it.
fn acl_in_login(settings: &Settings) -> Finding {
    let given = settings.given.iter().find(|given| given.setting == "emqx.acl_in_login");
    let can_end_sessions = settings.emqx_api().is_ok_and(|api| api.is_some());
    let on = given.map_or(can_end_sessions, |given| given.value == "true");
    match (on, can_end_sessions) {
        (false, _) => Finding::ok(
            ACL_IN_LOGIN,
            "off: EMQX asks for every action, which costs it most of the messages it could carry",
        ),
        (true, true) => {
            Finding::ok(ACL_IN_LOGIN, "on: sessions whose rights are taken away are ended")
        }
        (true, false) => Finding::warning(
            ACL_IN_LOGIN,
            "emqx.acl_in_login is on, and without emqx.api_url fleetgate cannot end sessions: rights \
             taken away stay in force in open sessions until they reconnect",
            "set emqx.api_url, emqx.api_key and emqx.api_secret, or emqx.acl_in_login = false",
        ),
    }
}

/// Connections of EMQX's authenticator as `emqx-config/` and `emqx apply` set them (`pool_size`).
const EMQX_CONNECTIONS: usize = 32;
/// Three eighths of them: a quarter, and half as many for imported passwords. `hashing.queue` says the same.
const MOST_PLACES: usize = EMQX_CONNECTIONS * 3 / 8;

/// Every login whose password is being checked keeps one of EMQX's connections busy.
fn password_places(settings: &Settings) -> Finding {
    let (places, limits) = (settings.hashing.queue, settings.logins.limits);
    let imported = imported_places(places);
    if places + imported > MOST_PLACES {
        return Finding::warning(
            PASSWORD_PLACES,
            format!(
                "hashing.queue is {places}, imported passwords have {imported} places besides, and EMQX has \
                 {EMQX_CONNECTIONS} connections: strangers who guess passwords can keep most of them busy, \
                 and devices with good secrets wait"
            ),
            "set hashing.queue to a quarter of EMQX's connections (pool_size) or less",
        );
    }
    if !limits {
        return Finding::warning(
            PASSWORD_PLACES,
            "logins.limits is off: nobody slows who guesses chosen passwords",
            "set logins.limits = true, and name networks of your own in logins.exempt_networks",
        );
    }
    Finding::ok(
        PASSWORD_PLACES,
        format!("{places} at the same time; wrong ones make further ones wait"),
    )
}

fn examine_keys(tokens: &Tokens, report: &mut Report) {
    let mut kids = Vec::new();
    for file in &tokens.verification_keys {
        match read_verification_key(file) {
            Ok(key) => kids.push(key_id(&key)),
            Err(error) => report.add(Finding::error(VERIFICATION_KEYS, error)),
        }
    }
    if !kids.is_empty() {
        let count = counted(kids.len(), "key");
        report.add(Finding::ok(VERIFICATION_KEYS, format!("{count}: {}", kids.join(", "))));
    } else if tokens.verification_keys.is_empty() {
        let found = "none (tokens.verification_keys): no device token is accepted";
        report.add(Finding::ok(VERIFICATION_KEYS, found));
    }
    report.add(signing_key(tokens, &kids));
}

/// `serve` does without a signing key, so what is wrong with it stops nothing.
fn signing_key(tokens: &Tokens, kids: &[String]) -> Finding {
    let Some(file) = &tokens.signing_key else {
        return Finding::ok(SIGNING_KEY, "none (tokens.signing_key): no token can be issued here");
    };
    let kid = match read_signing_key(file) {
        Ok(key) => key_id(&key.verifying_key()),
        Err(error) => {
            return Finding { status: Status::Warning, ..Finding::error(SIGNING_KEY, error) };
        }
    };
    if kids.contains(&kid) {
        return Finding::ok(SIGNING_KEY, format!("{kid}, which is among the verification keys"));
    }
    Finding::warning(
        SIGNING_KEY,
        format!("{kid} is not among the verification keys: tokens issued here are refused here"),
        format!("add {} or its public half to tokens.verification_keys", file.display()),
    )
}
