//! Commands in processes of their own.

use std::process::{Command, Output, Stdio};

/// `fleetgate` with these arguments and nothing of this process's settings.
pub(crate) fn fleetgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleetgate"));
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("FLEETGATE_") && text != "FLEETGATE_PG_BIN" {
            command.env_remove(name);
        }
    }
    // Tests run side by side, and a port has one listener.
    command.env("FLEETGATE_API_LISTEN", "off");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end.
pub(crate) fn run(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}
