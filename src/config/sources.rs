//! Where the configuration is looked for.

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
        Self { file, environment: process_environment() }
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

/// What is not UTF-8 becomes U+FFFD here, which `environment` refuses by name.
fn process_environment() -> Vec<(String, String)> {
    let ours = |name: &str| name.starts_with(PREFIX);
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| ours(name))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
