//! Reading the environment.

use std::path::PathBuf;

use super::given::{Given, Raw};
use super::problem::{Origin, Problem};
use super::sources::FILE_VARIABLE;
use super::suggestion::nearest;
use super::table::{Setting, variable_of};

/// What every variable of Fleetgate begins with.
pub(super) const PREFIX: &str = "FLEETGATE_";

/// Variables with the prefix that are no settings, and what they are for.
pub(super) const OTHER_VARIABLES: [(&str, &str); 7] = [
    (FILE_VARIABLE, "the configuration file, unless `--config` names one"),
    (
        "FLEETGATE_PG_BIN",
        "directory of PostgreSQL's server programs, for `fleetgate dev` and tests",
    ),
    (
        "FLEETGATE_TLS_NAMES",
        "names in the server certificate, with commas between them, for `fleetgate secrets init`",
    ),
    (
        "FLEETGATE_SECRET_WEBHOOK",
        "the webhook token that `fleetgate secrets init` writes where there is none, instead of drawing one",
    ),
    ("FLEETGATE_SECRET_EMQX_API", "the same for the secret of EMQX's API key"),
    ("FLEETGATE_SECRET_DATABASE", "the same for the database password"),
    ("FLEETGATE_SECRET_DASHBOARD", "the same for the password of EMQX's dashboard"),
];

/// Finds the settings in the environment; all problems are added to the list.
///
/// An empty variable counts as unset: compose files can't leave a variable out, only empty.
pub(super) fn read(environment: &[(String, String)], problems: &mut Vec<Problem>) -> Vec<Given> {
    let names: Vec<Name> = Setting::all_keys().filter_map(|key| Name::of_key(&key)).collect();
    let mut given = Vec::new();
    for (variable, text) in environment {
        if !variable.starts_with(PREFIX) || text.is_empty() {
            continue;
        }
        match setting_in(&names, variable, text) {
            Ok(found) => given.extend(found),
            Err(problem) => problems.push(problem),
        }
    }
    given
}

struct Name {
    variable: String,
    setting: &'static Setting,
    in_file: bool,
}

impl Name {
    fn of_key(key: &str) -> Option<Self> {
        let (setting, in_file) = Setting::by_file_key(key)?;
        Some(Self { variable: variable_of(key), setting, in_file })
    }
}

fn setting_in(names: &[Name], variable: &str, text: &str) -> Result<Option<Given>, Problem> {
    let origin = Origin::Environment { variable: variable.to_owned() };
    let Some(name) = names.iter().find(|name| name.variable == variable) else {
        let other = OTHER_VARIABLES.iter().any(|(other, _)| *other == variable);
        let foreign = other || is_service_link(variable, text);
        return if foreign { Ok(None) } else { Err(unknown(&origin, names, variable)) };
    };
    let setting = name.setting;
    // Stands for bytes that were not UTF-8; see `Sources::from_process`.
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(Problem::of(&origin, setting.key, "is not UTF-8; write it in UTF-8"));
    }
    let raw = match name.in_file {
        true => Raw::Text(text.to_owned()),
        false => Raw::from_text(&setting.kind, text.to_owned()),
    };
    Ok(Some(Given { setting, in_file: name.in_file, raw, origin, base: PathBuf::new() }))
}

fn unknown(origin: &Origin, names: &[Name], variable: &str) -> Problem {
    let known = names.iter().map(|name| name.variable.as_str());
    let known = known.chain(OTHER_VARIABLES.iter().map(|(name, _)| *name));
    let advice = match nearest(variable, known) {
        Some(name) => format!("did you mean {name}?"),
        None => "docs/CONFIGURATION.md lists all variables".to_owned(),
    };
    Problem::at(origin, format!("unknown variable; {advice}"))
}

/// Kubernetes tells every pod where the services of its namespace are, in variables named after
/// them: a service `fleetgate` or `fleetgate-db` makes `FLEETGATE_SERVICE_HOST`, `FLEETGATE_PORT`,
/// `FLEETGATE_DB_PORT_5432_TCP_ADDR` and so on. Nobody typed those.
fn is_service_link(variable: &str, text: &str) -> bool {
    let is_url = || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme));
    variable.ends_with("_SERVICE_HOST")
        || variable.ends_with("_SERVICE_PORT")
        || variable.contains("_SERVICE_PORT_")
        || (variable.ends_with("_PORT") && is_url())
        || variable.split("_PORT_").skip(1).any(is_port_and_protocol)
}

/// `8080_TCP`, `8080_TCP_ADDR`, …
fn is_port_and_protocol(rest: &str) -> bool {
    let mut parts = rest.split('_');
    let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
    number && parts.next().is_some_and(|part| ["TCP", "UDP", "SCTP"].contains(&part))
}
