//! Results for people (tables) and for programs (JSON).

use std::borrow::Cow;
use std::io::{self, Write};

use comfy_table::{Table, presets};
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::error::CliError;
use crate::secret::Secret;

/// Where results go.
#[derive(Clone, Copy)]
pub(super) struct Output {
    /// Whether they are JSON.
    pub(super) json: bool,
}

impl Output {
    /// Prints a result: as JSON, or as the text that stands for it.
    pub(super) fn result(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        if self.json { self.print_json(value) } else { print(&text()) }
    }

    /// Prints a result that carries a secret. For people the secret stands alone on standard output,
    /// so that a script can take it, and everything else on standard error.
    pub(super) fn result_with_secret(
        self,
        value: &impl Serialize,
        secret: &Secret,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        let shown = if self.json {
            print_secret(&json(value)?)
        } else {
            remark(&text());
            print_secret(secret.expose())
        };
        shown.map_err(|error| {
            CliError::Failed(format!(
                "{error}; the secret was made, and nobody has it: make another"
            ))
        })?;
        remark("This secret is shown once and stored nowhere: keep it now.");
        Ok(())
    }

    fn print_json(self, value: &impl Serialize) -> Result<(), CliError> {
        print(&json(value)?)
    }

    /// Prints a remark for people; programs don't need it.
    pub(super) fn hint(self, text: &str) {
        if !self.json {
            remark(text);
        }
    }

    /// Prints why a command failed.
    pub(super) fn error(self, error: &CliError) {
        if self.json {
            let mut body = serde_json::json!({"kind": error.kind(), "message": error.to_string()});
            if let (Some(field), Some(members)) = (error.field(), body.as_object_mut()) {
                members.insert("field".to_owned(), field.into());
            }
            remark(&serde_json::json!({ "error": body }).to_string());
        } else {
            remark(&format!("error: {error}"));
        }
    }
}

fn json(value: &impl Serialize) -> Result<String, CliError> {
    serde_json::to_string_pretty(value)
        .map_err(|error| CliError::Failed(format!("the result is not valid JSON: {error}")))
}

/// Prints to standard output. A reader that has seen enough (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    print_on(text).map(drop)
}

/// The same for what goes on and on; `false`: the reader is gone.
pub(super) fn print_on(text: &str) -> Result<bool, CliError> {
    match write_out(text) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(unwritable(&error)),
    }
}

/// Prints what is stored nowhere. A reader that is gone has not got it.
pub(super) fn print_secret(text: &str) -> Result<(), CliError> {
    write_out(text).map_err(|error| unwritable(&error))
}

fn write_out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush())
}

fn unwritable(error: &io::Error) -> CliError {
    CliError::Failed(format!("standard output cannot be written: {error}"))
}

/// Prints to standard error. When even that fails there is nobody left to tell.
pub(super) fn remark(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
}

/// A table without lines, which is easy to read and to cut.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows.into_iter().map(|row| row.map(|cell| visible(&cell))));
    table.trim_fmt()
}

/// A text without anything that a terminal would act on.
pub(super) fn visible(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_unicode().collect() } else { vec![c] })
        .collect()
}

/// The first so many characters of a text, and a sign that there are more.
pub(super) fn shortened(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// What is there, or a dash.
pub(super) fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

/// A timestamp to the second, or a dash.
pub(super) fn timestamp(timestamp: Option<Timestamp>) -> String {
    timestamp.map_or_else(
        || "-".to_owned(),
        |timestamp| timestamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

/// `yes` or `no`.
pub(super) fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// A word as a POSIX shell takes it literally.
pub(super) fn shell_word(text: &str) -> String {
    // No shell can be told a NUL.
    shlex::try_quote(text).unwrap_or(Cow::Borrowed("''")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_a_terminal_that_it_would_act_on() {
        assert_eq!(visible("a\u{1b}[2J"), "a\\u{1b}[2J");
    }
}
