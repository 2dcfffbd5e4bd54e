//! What a command asks or reads from standard input.

use std::io::{self, IsTerminal, Read};

use zeroize::Zeroizing;

use crate::cli::error::CliError;
use crate::cli::output::remark;
use crate::fleet::credentials::MAX_PASSWORD_BYTES;
use crate::secret::Secret;

/// Asks for a yes when a person is there; otherwise `--yes` is needed.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(CliError::Usage(format!(
            "{question} Nobody is there to answer: add --yes to say so."
        )));
    }
    remark(&format!("{question} [y/N]"));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|error| unreadable(&error))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(CliError::Failed("nothing was changed".to_owned()))
    }
}

/// Reads a password: standard input, without the end of its last line. One that is too long is cut, and still
/// too long.
pub(super) fn read_password() -> Result<Secret, CliError> {
    if io::stdin().is_terminal() {
        remark("Type the password (it will be seen), then Enter and Ctrl-D:");
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(8192));
    io::stdin()
        .lock()
        .take(MAX_PASSWORD_BYTES as u64 + 3)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(&error))?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let password = std::str::from_utf8(line).map_err(|_| {
        CliError::Failed("the password is not UTF-8; encode it as UTF-8".to_owned())
    })?;
    Ok(Secret::new(password.to_owned()))
}

fn unreadable(error: &io::Error) -> CliError {
    CliError::Failed(format!("standard input cannot be read: {error}"))
}
