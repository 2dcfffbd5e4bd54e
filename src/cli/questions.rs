//! What a command asks or reads from standard input.

use std::io::{self, IsTerminal, Read};

use zeroize::Zeroizing;

use crate::cli::error::CliError;
use crate::cli::output::remark;
use crate::secret::Secret;

/// Longest password in bytes. EMQX's own limit for what it sends is 64 KiB a request.
const MAX_PASSWORD_BYTES: u64 = 4096;
/// Fewest characters of a password that is not called weak (NIST SP 800-63B).
const MIN_PASSWORD_CHARACTERS: usize = 8;

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

/// Reads a password: standard input, without the end of its last line.
pub(super) fn read_password(allow_weak: bool) -> Result<Secret, CliError> {
    if io::stdin().is_terminal() {
        remark("Type the password (it will be seen), then Enter and Ctrl-D:");
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(8192));
    io::stdin()
        .lock()
        .take(MAX_PASSWORD_BYTES + 3)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(&error))?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let password = std::str::from_utf8(line).map_err(|_| {
        CliError::Failed("the password is not UTF-8; encode it as UTF-8".to_owned())
    })?;
    check_password(password, allow_weak).map_err(CliError::Failed)?;
    Ok(Secret::new(password.to_owned()))
}

fn check_password(password: &str, allow_weak: bool) -> Result<(), String> {
    let characters = password.chars().count();
    if password.is_empty() {
        return Err("the password is empty; write it to standard input".to_owned());
    }
    if password.len() as u64 > MAX_PASSWORD_BYTES {
        return Err(format!(
            "the password is longer than {MAX_PASSWORD_BYTES} bytes; choose a shorter one"
        ));
    }
    if password.contains(['\n', '\r', '\0']) {
        return Err("the password has several lines or a NUL; write one line".to_owned());
    }
    if characters < MIN_PASSWORD_CHARACTERS && !allow_weak {
        return Err(format!(
            "the password has {characters} characters, fewer than {MIN_PASSWORD_CHARACTERS}; choose a longer one, let --generate make one, or insist with --allow-weak"
        ));
    }
    Ok(())
}

fn unreadable(error: &io::Error) -> CliError {
    CliError::Failed(format!("standard input cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::check_password;

    #[test]
    fn weak_and_impossible_passwords_are_refused() {
        assert!(check_password("eight ch", false).is_ok());
        assert!(check_password("gerät-ß", false).unwrap_err().contains("7 characters"));
        assert!(check_password("short", true).is_ok());
        assert!(check_password("", true).is_err());
        assert!(check_password("two\nlines and more", false).is_err());
        assert!(check_password(&"x".repeat(4097), false).is_err());
    }
}
