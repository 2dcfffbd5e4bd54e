//! Reading the environment.

use super::problem::{Origin, Problem};
use super::raw::{Given, Raw, cut};
use super::reader::Reader;
use super::setting::{PREFIX, Setting, variable_of};
use super::sources::Sources;
use super::suggestion::nearest;

/// Variables with the prefix that are not settings, and what they are for.
pub(super) const OTHER_VARIABLES: [(&str, &str); 10] = [
    ("FLEETGATE_CONFIG", "the configuration file, unless `--config` names one"),
    ("FLEETGATE_API", "the URL that `--api` names otherwise: commands then work over that API"),
    ("FLEETGATE_API_TOKEN_FILE", "file with the token for it, unless `--api-token-file` names one"),
    ("FLEETGATE_API_CA", "authorities to trust for it, unless `--api-ca` names them"),
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

/// Finds the settings in the environment; what is wrong with it is added to the problems.
///
/// An empty variable is taken as unset: compose files can't leave a variable out, only empty.
pub(super) fn read(sources: &Sources, known: &[Setting], reader: &mut Reader) {
    let forms = known.iter().flat_map(Setting::forms);
    let forms: Vec<_> = forms.map(|form| (variable_of(&form.written), form)).collect();
    for (variable, text) in &sources.environment {
        if !variable.starts_with(PREFIX) || text.is_empty() {
            continue;
        }
        let at = Origin::Environment { variable: variable.clone() };
        let other = OTHER_VARIABLES.iter().any(|(other, _)| other == variable);
        match forms.iter().find(|(name, _)| name == variable) {
            Some((_, form)) if sources.not_utf8.contains(variable) => {
                let problem = Problem::of(&at, form.setting, "is not UTF-8; write it in UTF-8");
                reader.problems.push(problem);
            }
            Some((_, form)) => {
                let raw = Raw::Text(text.clone());
                reader.unread.push(Given { form: form.clone(), raw, at });
            }
            None if other || is_service_link(variable, text) => {}
            None => {
                let names = forms.iter().map(|(name, _)| name.as_str());
                let names = names.chain(OTHER_VARIABLES.iter().map(|(name, _)| *name));
                let advice = match nearest(variable, names) {
                    Some(name) => format!("did you mean {name}?"),
                    None => "docs/CONFIGURATION.md lists all variables".to_owned(),
                };
                let at = Origin::Environment { variable: cut(variable).into_owned() };
                reader.problems.push(Problem::at(&at, format!("unknown variable; {advice}")));
            }
        }
    }
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
