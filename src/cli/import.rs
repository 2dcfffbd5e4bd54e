//! `fleetgate import`

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio_postgres::{Client, GenericClient};

use crate::cli::context::{Context, actor};
use crate::cli::error::CliError;
use crate::cli::output::{remark, visible};
use crate::fleet::imports::{self, CHUNK_BYTES, CHUNK_LINES, Chunk, Counts, Item, MAX_LINE_BYTES};
use crate::fleet::{FleetError, act};

/// Most wrong lines that are told one by one.
const MOST_TOLD: usize = 100;

/// What to do where a name is taken already.
#[derive(Clone, Copy, ValueEnum)]
enum OnConflict {
    /// Stop: nothing of its chunk is imported.
    Fail,
    /// Leave what is there as it is.
    Skip,
    /// Make it what the line says. Credentials that the line does not have stay.
    Update,
}

/// Read capabilities, devices and routing rules from a file, one JSON object a line, as `export` writes them. Lines go in chunks of 500, each all or nothing; the first chunk with a wrong line ends the import, which --from-line continues.
#[derive(Args)]
pub(super) struct Arguments {
    /// The file; - is standard input.
    file: PathBuf,
    /// What to do where a name is taken already.
    #[arg(long, value_enum, default_value = "fail")]
    on_conflict: OnConflict,
    /// Begin with this line, counted from 1.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    from_line: u64,
    /// Try all lines, tell which are wrong, and change nothing. Whoever changes the same things meanwhile waits.
    #[arg(long)]
    dry_run: bool,
}

/// Some lines that are imported together.
#[derive(Default)]
struct Lines {
    items: Vec<(u64, Item)>,
    bytes: usize,
    wrong: Vec<(u64, String)>,
    last: u64,
}

impl Lines {
    fn is_full(&self) -> bool {
        self.items.len() + self.wrong.len() >= CHUNK_LINES || self.bytes >= CHUNK_BYTES
    }
}

/// How far an import has come.
#[derive(Default)]
struct Progress {
    counts: Counts,
    /// The last line of the last chunk that is done.
    done: u64,
    wrong: Vec<(u64, String)>,
}

/// Why a transaction is undone.
enum Undone {
    /// It was to be: a dry run, or a chunk with wrong lines, which are noted.
    OnPurpose,
    Failed(CliError),
}

impl From<FleetError> for Undone {
    fn from(error: FleetError) -> Self {
        Self::Failed(error.into())
    }
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let mut reader = Reader::open(&self.file, self.from_line)?;
        let mut client = context.connect().await?;
        let mut progress = Progress { done: self.from_line - 1, ..Progress::default() };
        let outcome = if self.dry_run {
            self.try_all(&mut client, &mut reader, &mut progress).await
        } else {
            self.import(&mut client, &mut reader, &mut progress).await
        };
        if io::stderr().is_terminal() && !context.output.json {
            remark("");
        }
        outcome?;
        self.conclude(context, &progress)
    }

    fn on_conflict(&self) -> imports::OnConflict {
        match self.on_conflict {
            OnConflict::Fail => imports::OnConflict::Fail,
            OnConflict::Skip => imports::OnConflict::Skip,
            OnConflict::Update => imports::OnConflict::Update,
        }
    }

    /// Imports chunk by chunk, to the first that is refused.
    async fn import(
        &self,
        client: &mut Client,
        reader: &mut Reader,
        progress: &mut Progress,
    ) -> Result<(), CliError> {
        let actor = actor();
        while let Some(lines) = reader.next_lines()? {
            let last = lines.last;
            let chunk = act(client, &actor, async |transaction| {
                match write(transaction, &lines, self.on_conflict(), progress).await? {
                    true => Ok(()),
                    false => Err(Undone::OnPurpose),
                }
            });
            match chunk.await {
                Ok(()) => progress.done = last,
                Err(Undone::OnPurpose) => return Ok(()),
                Err(Undone::Failed(error)) => return Err(error),
            }
            tell(last);
        }
        Ok(())
    }

    /// Imports all of it in one transaction, chunks that are refused left out, and undoes it.
    async fn try_all(
        &self,
        client: &mut Client,
        reader: &mut Reader,
        progress: &mut Progress,
    ) -> Result<(), CliError> {
        let tried: Result<(), Undone> = act(client, &actor(), async |transaction| {
            while let Some(lines) = reader.next_lines().map_err(Undone::Failed)? {
                write(transaction, &lines, self.on_conflict(), progress).await?;
                tell(lines.last);
            }
            Err(Undone::OnPurpose)
        })
        .await;
        match tried {
            Ok(()) | Err(Undone::OnPurpose) => Ok(()),
            Err(Undone::Failed(error)) => Err(error),
        }
    }

    fn conclude(&self, context: &Context, progress: &Progress) -> Result<(), CliError> {
        let Progress { counts, done, wrong } = progress;
        let told = wrong.iter().take(MOST_TOLD);
        if context.output.json {
            let wrong: Vec<_> =
                told.map(|(line, why)| json!({"line": line, "message": why})).collect();
            let result = json!({
                "dry_run": self.dry_run, "added": counts.added, "updated": counts.updated,
                "skipped": counts.skipped, "last_line": done, "wrong": wrong,
            });
            context.output.result(&result, String::new)?;
        } else {
            told.for_each(|(line, why)| remark(&format!("line {line}: {}", visible(why))));
        }
        let Counts { added, updated, skipped } = counts;
        let counted = format!("{added} added, {updated} updated, {skipped} left as they were");
        match (wrong.len(), self.dry_run) {
            (0, dry_run) if !context.output.json => {
                let would = if dry_run { "It would be: " } else { "" };
                context.output.result(&json!(null), || format!("{would}{counted}."))
            }
            (0, _) => Ok(()),
            (count, true) => Err(CliError::Failed(format!(
                "{} wrong; besides those and the lines of their chunks it would be: {counted}",
                lines_are(count)
            ))),
            (count, false) => Err(CliError::Failed(format!(
                "{} wrong, and nothing of the lines from {} on is imported ({counted}); correct them and go on with --from-line {}",
                lines_are(count),
                done + 1,
                done + 1
            ))),
        }
    }
}

fn lines_are(count: usize) -> String {
    match count {
        1 => "1 line is".to_owned(),
        count => format!("{count} lines are"),
    }
}

/// Writes a chunk, and notes what became of it. `false`: it was refused.
async fn write(
    client: &mut impl GenericClient,
    lines: &Lines,
    on_conflict: imports::OnConflict,
    progress: &mut Progress,
) -> Result<bool, FleetError> {
    let mut wrong = lines.wrong.clone();
    let items: Vec<&Item> = lines.items.iter().map(|(_, item)| item).collect();
    match imports::import(client, &items, on_conflict).await? {
        Chunk::Done(counts) if wrong.is_empty() => progress.counts.add(counts),
        Chunk::Done(_) => {}
        Chunk::Refused(refused) => {
            let number = |position: usize| lines.items.get(position).map_or(0, |(line, _)| *line);
            let told = refused
                .into_iter()
                .map(|(position, error)| (number(position), CliError::from(error).to_string()));
            wrong.extend(told);
        }
    }
    let is_done = wrong.is_empty();
    wrong.sort_by_key(|(line, _)| *line);
    progress.wrong.append(&mut wrong);
    Ok(is_done)
}

/// Shows how far it has come, where somebody watches.
fn tell(line: u64) {
    if io::stderr().is_terminal() {
        eprint!("\r{line} lines");
    }
}

/// Reads a file line by line, within bounds.
struct Reader {
    file: Box<dyn BufRead>,
    number: u64,
    is_over: bool,
}

impl Reader {
    fn open(path: &Path, from_line: u64) -> Result<Self, CliError> {
        let unreadable = |error: io::Error| {
            CliError::Failed(format!("{} cannot be read: {error}", path.display()))
        };
        let file: Box<dyn BufRead> = if path == Path::new("-") {
            Box::new(BufReader::new(io::stdin()))
        } else {
            Box::new(BufReader::new(File::open(path).map_err(unreadable)?))
        };
        let mut reader = Self { file, number: 0, is_over: false };
        while reader.number + 1 < from_line && !reader.is_over {
            reader.next_line()?;
        }
        Ok(reader)
    }

    /// The next line without its end; `None` after the last. One that is too long is an error in its place, and passed over.
    fn next_line(&mut self) -> Result<Option<Result<String, String>>, CliError> {
        let unreadable =
            |error: io::Error| CliError::Failed(format!("the file cannot be read: {error}"));
        let mut line = Vec::new();
        let most = u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        let read =
            self.file.by_ref().take(most).read_until(b'\n', &mut line).map_err(unreadable)?;
        if read == 0 {
            self.is_over = true;
            return Ok(None);
        }
        self.number += 1;
        if line.len() > MAX_LINE_BYTES && !line.ends_with(b"\n") {
            self.file.skip_until(b'\n').map_err(unreadable)?;
            return Ok(Some(Err(format!("has more than {MAX_LINE_BYTES} bytes"))));
        }
        // As some editors begin a file.
        let text = if self.number == 1 {
            line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line)
        } else {
            &line
        };
        Ok(Some(match std::str::from_utf8(text) {
            Ok(text) => Ok(text.trim_end().to_owned()),
            Err(error) => Err(format!("is not UTF-8 at byte {}", error.valid_up_to() + 1)),
        }))
    }

    /// The lines of the next chunk; `None` when there are no more.
    fn next_lines(&mut self) -> Result<Option<Lines>, CliError> {
        let mut lines = Lines::default();
        while !lines.is_full() {
            let Some(line) = self.next_line()? else { break };
            lines.last = self.number;
            match line {
                Ok(text) if text.trim().is_empty() => {}
                Ok(text) => match Item::read(&text) {
                    Ok(item) => {
                        lines.bytes += text.len();
                        lines.items.push((self.number, item));
                    }
                    Err(error) => lines.wrong.push((self.number, error.to_string())),
                },
                Err(why) => lines.wrong.push((self.number, why)),
            }
        }
        Ok((lines.last > 0).then_some(lines))
    }
}
