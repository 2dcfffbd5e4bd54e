//! The first token of the HTTP API, in `api.first_token_file`.

use std::path::Path;
use std::{fs, io};

use crate::domain::api_token::PresentedToken;
use crate::fleet::{Actor, FleetError, act, api_tokens};
use crate::read_file::read_at_most;
use crate::registry::connection::Target;
use crate::write_file;

/// No token is longer.
const MAX_TOKEN_BYTES: u64 = 256;

const NO_TOKEN: &str = "the file is there and holds something else than a token, which would be lost; name another file";

/// Writes a token that may do everything to a file, if none of its name was ever made. What goes wrong is told in the log;
/// nothing is made then, and the next start tries again.
///
/// The file is written before the token is committed: a crash between leaves a file with a token that is not valid, never a
/// token that nobody has.
pub(super) async fn write(target: &Target, file: &Path) {
    match make(target, file).await {
        Ok(true) => {
            let file = file.display();
            tracing::warn!(%file, "wrote the API's first token, which may do everything: keep it, or revoke it");
        }
        Ok(false) => {}
        Err(error) => {
            let file = file.display();
            tracing::error!(%file, error, "the API's first token was not made (api.first_token_file)");
        }
    }
}

/// Whether the file may be written: it is not there, or what is there is a token of an earlier attempt, or nothing. Tells
/// whether it is there.
///
/// # Errors
/// What is in the way. Nothing of the path, in place of which somebody may have pasted a token.
pub(crate) fn place(file: &Path) -> Result<bool, String> {
    let found = match fs::metadata(file) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
            return match directory.is_none_or(Path::is_dir) {
                true => Ok(false),
                false => Err("the directory of the file is not there; make it".to_owned()),
            };
        }
        Err(error) => return Err(format!("the file cannot be looked at: {error}")),
    };
    if found.is_dir() {
        return Err("is a directory; write a file's path".to_owned());
    }
    if !found.is_file() {
        return Err("the file is not a plain file; write the path of one".to_owned());
    }
    let bytes = match read_at_most(file, MAX_TOKEN_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(NO_TOKEN.to_owned());
        }
        Err(error) => return Err(format!("the file is there and cannot be read: {error}")),
    };
    let bytes = bytes.trim_ascii();
    match bytes.is_empty() || PresentedToken::parse(bytes).is_some() {
        true => Ok(true),
        false => Err(NO_TOKEN.to_owned()),
    }
}

async fn make(target: &Target, file: &Path) -> Result<bool, String> {
    let mut client = target.open_guarded().await.map_err(|error| error.to_string())?;
    let made = act(&mut client, &Actor::System, async |transaction| {
        let token = api_tokens::add_first(transaction).await.map_err(Failure::Fleet)?;
        let Some(token) = token else { return Ok(false) };
        let is_there = place(file).map_err(Failure::Place)?;
        let text = format!("{}\n", token.expose());
        let write = if is_there { write_file::replace } else { write_file::create };
        write(file, &text, 0o600, None).map_err(Failure::File)?;
        Ok(true)
    });
    made.await.map_err(|failure| match failure {
        Failure::Fleet(error) => error.to_string(),
        Failure::Place(why) => why,
        Failure::File(error) => format!("the file cannot be written: {error}"),
    })
}

enum Failure {
    Fleet(FleetError),
    Place(String),
    File(io::Error),
}

impl From<FleetError> for Failure {
    fn from(error: FleetError) -> Self {
        Self::Fleet(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_token_or_nothing_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        assert_eq!(place(&path("new")), Ok(false));
        for (name, content, replaced) in [
            ("token", "fg1_1_abc\n".to_owned(), true),
            ("empty", String::new(), true),
            ("key", "-----BEGIN PRIVATE KEY-----\n".to_owned(), false),
            ("long", "x".repeat(10_000), false),
        ] {
            fs::write(path(name), content).unwrap();
            assert_eq!(place(&path(name)).is_ok(), replaced, "{name}");
        }
        assert!(place(directory.path()).is_err_and(|why| why.contains("directory")));
        assert!(place(&path("not/there")).is_err_and(|why| why.contains("directory")));
        assert!(place(Path::new("/dev/null")).is_err_and(|why| why.contains("plain file")));
    }
}
