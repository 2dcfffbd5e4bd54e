//! Secrets that stand in files of their own.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::kinds::secret;
use super::raw::Raw;
use super::setting::Rule;
use super::texts;
use crate::read_file::read_at_most;
use crate::secret::Secret;

/// No token, password or URL is longer.
const MAX_BYTES: u64 = 64 * 1024;

/// No file of keys or certificates is longer.
const MAX_PEM_BYTES: u64 = 16 << 20;

/// Reads a secret; one newline at the end of the file is not part of it.
///
/// # Errors
/// What is wrong. Never the path: people do paste the secret where the path belongs.
pub(super) fn read_secret<T>(path: &Path, rule: &Rule<T>) -> Result<T, String> {
    let bytes = read_at_most(path, MAX_BYTES).map_err(|error| {
        format!(
            "the file named here cannot be read: {error}; write the path of a file that holds only \
             the secret"
        )
    })?;
    let text = str::from_utf8(&bytes)
        .map_err(|_| "the file named here is not UTF-8 text; save it as UTF-8".to_owned())?;
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return Err("the file named here is empty; write the secret into it".to_owned());
    }
    (rule.parse)(Raw::Text(text.to_owned()), Path::new(""))
        .map_err(|problem| format!("in the file named here, {problem}"))
}

/// Reads a database password that a command is given in a file: the rules of `database.password_file`.
///
/// # Errors
/// What is wrong. Never the path or the password.
pub fn read_database_password(path: &Path) -> Result<Secret, String> {
    read_secret(path, &secret(texts::database_password, "text"))
}

/// Checks that a path leads to a file that can be opened later.
///
/// # Errors
/// What is wrong; with the path, unless it should lead to a secret.
pub(super) fn check_exists(path: &Path, private: bool) -> Result<(), String> {
    let shown = match private {
        true => "the file named here".to_owned(),
        false => path.display().to_string(),
    };
    match std::fs::metadata(path) {
        Err(error) => Err(format!("{shown} cannot be used: {error}; write the path of a file")),
        Ok(found) if found.is_dir() => Err(format!("{shown} is a directory; write a file's path")),
        // A pipe or a device may never end, and is empty when it is read again.
        Ok(found) if !found.is_file() => {
            Err(format!("{shown} is not a plain file; write the path of one"))
        }
        Ok(found) if found.len() > MAX_PEM_BYTES => Err(format!(
            "{shown} is longer than {MAX_PEM_BYTES} bytes; write the path of a PEM file"
        )),
        Ok(_) => Ok(()),
    }
}

/// What is unwise about the permissions of a file that holds a secret, if anything.
pub(super) fn exposure(path: &Path) -> Option<String> {
    let found = std::fs::metadata(path).ok().filter(Metadata::is_file)?;
    let mode = found.permissions().mode() & 0o777;
    let readers = match (mode & 0o040 != 0, mode & 0o004 != 0) {
        (_, true) => "everybody on this machine",
        (true, false) => "its whole group",
        (false, false) => return None,
    };
    let shown = path.display();
    Some(format!(
        "{shown} holds a secret and can be read by {readers} (mode {mode:04o}); run: chmod 600 {shown}"
    ))
}
