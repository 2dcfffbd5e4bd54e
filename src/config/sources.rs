//! Where the configuration is looked for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::setting::PREFIX;

/// The variable that names the configuration file.
const FILE_VARIABLE: &str = "FLEETGATE_CONFIG";

/// Tried in this order when nobody names a file.
const USUAL_FILES: [&str; 2] = ["fleetgate.toml", "/etc/fleetgate/fleetgate.toml"];

/// Where the configuration is looked for.
///
/// No `Debug`: the environment may hold secrets.
#[derive(Clone, Default)]
pub struct Sources {
    /// The configuration file; it must be readable when there is one.
    pub file: Option<PathBuf>,
    /// The environment; only variables that begin with `FLEETGATE_` matter.
    pub environment: Vec<(String, String)>,
    /// The variables of it whose values are not UTF-8, and stand there with U+FFFD for what is not.
    pub not_utf8: Vec<String>,
}

impl Sources {
    /// The sources of this process: the file named on the command line, else by
    /// `FLEETGATE_CONFIG`, else `./fleetgate.toml`, else `/etc/fleetgate/fleetgate.toml`, else none;
    /// and the process's environment.
    #[must_use]
    pub fn from_process(config_flag: Option<PathBuf>) -> Self {
        let named = std::env::var_os(FILE_VARIABLE).map(PathBuf::from);
        // A file that is there but can't be looked at (a closed directory) is taken as there: passing
        // over it in silence would run with other settings than the operator wrote.
        let is_there = |path: &Path| path.try_exists().unwrap_or(true);
        let file = choose_file(config_flag, named, is_there);
        let (environment, not_utf8) = read_environment(std::env::vars_os());
        Self { file, environment, not_utf8 }
    }
}

fn choose_file(
    flag: Option<PathBuf>,
    variable: Option<PathBuf>,
    is_there: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let named = flag.or_else(|| variable.filter(|path| !path.as_os_str().is_empty()));
    let usual = || USUAL_FILES.iter().map(Path::new).find(|path| is_there(path));
    named.or_else(|| usual().map(Path::to_owned))
}

/// The variables that matter, and which of them are not UTF-8.
fn read_environment(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> (Vec<(String, String)>, Vec<String>) {
    let (mut environment, mut not_utf8) = (Vec::new(), Vec::new());
    for (name, value) in variables {
        let name = name.to_string_lossy().into_owned();
        if !name.starts_with(PREFIX) {
            continue;
        }
        if value.to_str().is_none() {
            not_utf8.push(name.clone());
        }
        environment.push((name, value.to_string_lossy().into_owned()));
    }
    (environment, not_utf8)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn only_what_is_not_utf8_is_said_not_to_be() {
        let variable =
            |name: &str, value: &[u8]| (OsString::from(name), OsString::from_vec(value.to_vec()));
        let variables = [
            variable("FLEETGATE_A", "a\u{fffd}b".as_bytes()),
            variable("FLEETGATE_B", b"a\xffb"),
            variable("OTHER", b"\xff"),
        ];
        let (environment, not_utf8) = read_environment(variables.into_iter());
        assert_eq!(environment.len(), 2);
        assert_eq!(not_utf8, ["FLEETGATE_B"]);
    }

    #[test]
    fn the_file_is_the_flags_else_the_variables_else_a_usual_one() {
        let path = |text: &str| Some(PathBuf::from(text));
        let everywhere = |_: &Path| true;
        let in_etc = |path: &Path| path.starts_with("/etc");
        assert_eq!(choose_file(path("flag"), path("variable"), everywhere), path("flag"));
        assert_eq!(choose_file(None, path("variable"), everywhere), path("variable"));
        assert_eq!(choose_file(None, path(""), everywhere), path("fleetgate.toml"));
        assert_eq!(choose_file(None, None, in_etc), path("/etc/fleetgate/fleetgate.toml"));
        assert_eq!(choose_file(None, None, |_| false), None);
    }
}
