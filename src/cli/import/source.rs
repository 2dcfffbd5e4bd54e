//! What an import reads: a file of lines, or of one JSON document.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use zeroize::Zeroizing;

use crate::cli::error::CliError;
use crate::fleet::imports::{
    CHUNK_BYTES, CHUNK_LINES, Columns, Csv, Dynsec, EmqxCsv, EmqxJson, Entry, LineError,
    MAX_LINE_BYTES, OnConflict, PasswordFile,
};

/// Largest file that is read as a whole.
pub(super) const MAX_DOCUMENT_BYTES: u64 = 128 * 1024 * 1024;
/// U+FEFF in UTF-8, with which some editors begin a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Some lines that are imported together.
#[derive(Default)]
pub(super) struct Lines {
    pub(super) entries: Vec<(u64, Entry)>,
    pub(super) wrong: Vec<(u64, String)>,
    pub(super) last: u64,
    bytes: usize,
}

/// What a line has in the own form, its end included.
fn length(entry: &Entry) -> usize {
    entry.line().map_or(0, |line| line.len() + 1)
}

/// What a credential that is added to a line takes at most.
const HASH_BYTES: usize = 256;
/// Most bytes of a chunk's lines before their passwords are hashed, as they are read and as the API is sent them: it takes them
/// as one chunk then.
const READ_BYTES: usize = CHUNK_BYTES - CHUNK_LINES * HASH_BYTES;

impl Lines {
    fn is_full(&self) -> bool {
        self.entries.len() + self.wrong.len() >= CHUNK_LINES || self.bytes >= READ_BYTES
    }

    /// Bytes that the API is sent for them. One that is wrong counts as what is kept of it.
    pub(super) fn sent_bytes(&self) -> usize {
        let entries: usize = self.entries.iter().map(|(_, entry)| length(entry)).sum();
        entries + self.wrong.len() * HASH_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.wrong.is_empty()
    }

    /// Takes out the lines of devices that are there, and notes the others as there; returns how many went.
    pub(super) fn pass_over(&mut self, present: &mut BTreeSet<String>) -> usize {
        let before = self.entries.len();
        self.entries.retain(|(_, entry)| {
            entry.device().is_none_or(|name| present.insert(name.as_str().to_owned()))
        });
        before - self.entries.len()
    }

    pub(super) fn append(&mut self, more: Self) {
        self.entries.extend(more.entries);
        self.wrong.extend(more.wrong);
    }
}

/// What is read, and how.
pub(super) enum Source {
    Own(Reader),
    Csv(Reader, Csv),
    PasswordFile(Reader, PasswordFile),
    EmqxCsv(Reader, EmqxCsv),
    EmqxJson(u64, EmqxJson),
    Dynsec(u64, Dynsec),
}

impl Source {
    /// What its parts are called.
    pub(super) fn unit(&self) -> &'static str {
        match self {
            Self::EmqxJson(..) | Self::Dynsec(..) => "user",
            _ => "line",
        }
    }

    /// The last line or user that is passed over or read already.
    pub(super) fn done(&self) -> u64 {
        match self {
            Self::Own(reader)
            | Self::Csv(reader, _)
            | Self::PasswordFile(reader, _)
            | Self::EmqxCsv(reader, _) => reader.number,
            Self::EmqxJson(number, _) | Self::Dynsec(number, _) => *number,
        }
    }

    /// What an update may change.
    pub(super) fn update(&self) -> OnConflict {
        match self {
            Self::Own(_) => OnConflict::Update,
            Self::Csv(_, csv) => OnConflict::Complete(csv.known()),
            Self::Dynsec(..) => OnConflict::Complete(Columns::default().and_disabling()),
            _ => OnConflict::Complete(Columns::default()),
        }
    }

    /// How much of the file is read, from 0 to 1; `None` where that is not known.
    pub(super) fn share(&self) -> Option<f64> {
        match self {
            Self::Own(reader)
            | Self::Csv(reader, _)
            | Self::PasswordFile(reader, _)
            | Self::EmqxCsv(reader, _) => reader.share(),
            Self::EmqxJson(..) | Self::Dynsec(..) => None,
        }
    }

    /// What is left out and concerns no line. `whole`: all of them were read.
    pub(super) fn left_out(&self, whole: bool) -> Vec<String> {
        match self {
            Self::Own(_) | Self::Csv(..) => Vec::new(),
            Self::PasswordFile(_, file) => file.left_out(whole),
            Self::EmqxCsv(_, file) => file.left_out(whole),
            Self::EmqxJson(_, file) => file.left_out(whole),
            Self::Dynsec(_, file) => file.left_out(),
        }
    }

    /// The lines of the next chunk; `None` when there are no more. `is_sent`: they go to the API, in the own form.
    pub(super) fn next_lines(&mut self, is_sent: bool) -> Result<Option<Lines>, CliError> {
        let mut lines = Lines::default();
        while !lines.is_full() {
            let Some((number, bytes, read)) = self.next()? else { break };
            lines.last = number;
            match read {
                Ok(Some(entry)) => {
                    lines.bytes += if is_sent { bytes.max(length(&entry)) } else { bytes };
                    lines.entries.push((number, entry));
                }
                Ok(None) => {}
                Err(why) => lines.wrong.push((number, why)),
            }
        }
        Ok((lines.last > 0).then_some(lines))
    }

    /// The next line's number, its bytes, and what it brings.
    fn next(&mut self) -> Result<Option<Next>, CliError> {
        let own = |text: &str| Entry::read(text).map(Some);
        match self {
            Self::Own(reader) => reader.next(own),
            Self::Csv(reader, csv) => reader.next(|text| csv.line(text).map(Some)),
            Self::PasswordFile(reader, file) => reader.next(|text| file.line(text)),
            Self::EmqxCsv(reader, file) => reader.next(|text| file.line(text).map(Some)),
            Self::EmqxJson(number, file) => Ok(element(number, file.next_user())),
            Self::Dynsec(number, file) => Ok(element(number, file.next_user())),
        }
    }
}

type Next = (u64, usize, Result<Option<Entry>, String>);

fn element(number: &mut u64, user: Option<Result<Entry, LineError>>) -> Option<Next> {
    let user = user?;
    *number += 1;
    let read = user.map(Some).map_err(|error| match error.pointer.as_str() {
        "" => error.message,
        pointer => format!("{pointer} {}", error.message),
    });
    Some((*number, 0, read))
}

/// Reads a file line by line, within bounds.
pub(super) struct Reader {
    file: Box<dyn BufRead>,
    size: Option<u64>,
    read: u64,
    number: u64,
    is_over: bool,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, CliError> {
        let unreadable = |error: io::Error| {
            CliError::Failed(format!("{} cannot be read: {error}", path.display()))
        };
        let (file, size): (Box<dyn BufRead>, _) = if path == Path::new("-") {
            (Box::new(BufReader::new(io::stdin())), None)
        } else {
            let file = File::open(path).map_err(unreadable)?;
            let size = file.metadata().ok().filter(|it| it.is_file()).map(|it| it.len());
            (Box::new(BufReader::new(file)), size)
        };
        Ok(Self { file, size, read: 0, number: 0, is_over: false })
    }

    /// Passes over what is before a line.
    pub(super) fn skip_to(mut self, line: u64) -> Result<Self, CliError> {
        while self.number + 1 < line && !self.is_over {
            self.next_line()?;
        }
        if self.number + 1 < line {
            let has = self.number;
            return Err(CliError::Failed(format!(
                "--from-line is {line}, and the file has {has} lines"
            )));
        }
        Ok(self)
    }

    /// The first line, where it says what is in the others.
    pub(super) fn header(&mut self) -> Result<Zeroizing<String>, CliError> {
        let line = self.next_line()?;
        let line = line.ok_or_else(|| CliError::Failed("the file is empty".to_owned()))?;
        line.map_err(|why| CliError::Failed(format!("line 1: {why}")))
    }

    /// Whether the file is JSON.
    pub(super) fn is_json(&mut self) -> Result<bool, CliError> {
        let start = self.file.fill_buf().map_err(|error| broken(&error))?;
        let start = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(start);
        let first = start.iter().find(|byte| !byte.is_ascii_whitespace());
        Ok(matches!(first, Some(b'[' | b'{')))
    }

    /// All of it.
    pub(super) fn whole(mut self) -> Result<Zeroizing<String>, CliError> {
        let mut text = Zeroizing::new(String::new());
        self.file
            .by_ref()
            .take(MAX_DOCUMENT_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(|error| broken(&error))?;
        if text.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(CliError::Failed(format!(
                "the file has more than {MAX_DOCUMENT_BYTES} bytes; split it"
            )));
        }
        if text.as_bytes().starts_with(BYTE_ORDER_MARK) {
            text.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(text)
    }

    pub(super) fn share(&self) -> Option<f64> {
        let part = |number: u64| u32::try_from(number >> 10).map(f64::from).ok();
        Some(part(self.read)? / part(self.size?)?.max(1.0))
    }

    fn next(
        &mut self,
        read: impl FnOnce(&str) -> Result<Option<Entry>, LineError>,
    ) -> Result<Option<Next>, CliError> {
        Ok(self.next_line()?.map(|line| match line {
            Ok(text) if text.trim().is_empty() => (self.number, 0, Ok(None)),
            Ok(text) => (self.number, text.len(), read(&text).map_err(|error| error.to_string())),
            Err(why) => (self.number, 0, Err(why)),
        }))
    }

    /// The next line without its end; `None` after the last. One that is too long is an error in its place, and passed over.
    fn next_line(&mut self) -> Result<Option<Result<Zeroizing<String>, String>>, CliError> {
        let mut line = Zeroizing::new(Vec::new());
        let most = u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        let read = self
            .file
            .by_ref()
            .take(most)
            .read_until(b'\n', &mut line)
            .map_err(|error| broken(&error))?;
        if read == 0 {
            self.is_over = true;
            return Ok(None);
        }
        self.number += 1;
        self.read += read as u64;
        if line.len() > MAX_LINE_BYTES && !line.ends_with(b"\n") {
            self.read += self.file.skip_until(b'\n').map_err(|error| broken(&error))? as u64;
            return Ok(Some(Err(format!("has more than {MAX_LINE_BYTES} bytes"))));
        }
        let text = if self.number == 1 {
            line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line)
        } else {
            &line
        };
        Ok(Some(match std::str::from_utf8(text) {
            Ok(text) => Ok(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned())),
            Err(error) => Err(format!("is not UTF-8 at byte {}", error.valid_up_to() + 1)),
        }))
    }
}

fn broken(error: &io::Error) -> CliError {
    CliError::Failed(format!("the file cannot be read: {error}"))
}
