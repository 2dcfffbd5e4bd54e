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
        // A line end more, and a character that is cut.
        .take(MAX_PASSWORD_BYTES as u64 + 8)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(&error))?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let password = match std::str::from_utf8(line) {
        Ok(password) => password,
        // The last character was cut, and what is left is too long all the same.
        Err(error) if error.error_len().is_none() && error.valid_up_to() > MAX_PASSWORD_BYTES => {
            line.get(..error.valid_up_to()).map_or("", |cut| std::str::from_utf8(cut).unwrap_or(""))
        }
        Err(_) => {
            let why = "the password is not UTF-8; encode it as UTF-8";
            return Err(CliError::Failed(why.to_owned()));
        }
    };
    Ok(Secret::new(password.to_owned()))
}

fn unreadable(error: &io::Error) -> CliError {
    CliError::Failed(format!("standard input cannot be read: {error}"))
}
