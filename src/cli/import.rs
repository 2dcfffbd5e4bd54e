//! `fleetgate import`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio_postgres::{Client, GenericClient};

use self::destination::{Destination, send};
use self::progress::{MOST_TOLD, Progress};
use self::secrets_out::SecretsOut;
use self::source::{Lines, MAX_DOCUMENT_BYTES, Reader, Source};
use crate::cli::context::{Context, actor};
use crate::cli::error::CliError;
use crate::cli::output::{print, remark, visible};
use crate::cli::wording;
use crate::domain::name::{DeviceKind, DeviceName};
use crate::fleet::imports::{
    self, Acl, Algorithm, Chunk, Counts, Csv, Dynsec, EmqxCsv, EmqxJson, Foreign, Item,
    PasswordFile, SaltEncoding,
};
use crate::fleet::wire::MAX_TRIED_BYTES;
use crate::fleet::{FleetError, act};
use crate::read_file::read_at_most;
use crate::remote::{Remote, RemoteError};
use crate::secret::Secret;

mod destination;
mod progress;
mod secrets_out;
mod source;

/// What to do where a name is taken already.
#[derive(Clone, Copy, ValueEnum)]
enum OnConflict {
    /// Stop: nothing of its chunk is imported.
    Fail,
    /// Leave what is there as it is.
    Skip,
    /// Make it what the line says. Credentials that the line does not have stay; of a file of another form so does all that the file does not know of.
    Update,
}

/// What the file is.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object a line, as `export` writes them.
    Fleetgate,
    /// Devices as comma-separated values with a header: name, kind, area, floor, client_id, enabled, secret, generate, meta.KEY, bind.CAPABILITY, state_topic.CAPABILITY, command_topic.CAPABILITY.
    Csv,
    /// Users of EMQX's built-in database, CSV or JSON, as EMQX imports them.
    EmqxUsers,
    /// A password file of mosquitto, mosquitto-go-auth or VerneMQ, or of htpasswd -B.
    Mosquitto,
    /// The file of mosquitto's dynamic security plugin.
    MosquittoDynsec,
}

/// What becomes a device's name.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RenameFrom {
    Clientid,
}

/// How a salt in a hash of mosquitto-go-auth is written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Salts {
    Base64,
    #[value(name = "utf-8")]
    Utf8,
}

/// Read devices from a file: capabilities, devices and routing rules as `export` writes them, devices from CSV, or the users of another broker (docs/IMPORT.md). Lines go in chunks of 500, each all or nothing; the first chunk with a wrong line ends the import, which --from-line continues.
#[derive(Args)]
pub(super) struct Arguments {
    /// The file; - is standard input.
    file: PathBuf,
    /// What the file is.
    #[arg(long, value_enum, default_value = "fleetgate")]
    format: Format,
    /// What to do where a name is taken already.
    #[arg(long, value_enum, default_value = "fail")]
    on_conflict: OnConflict,
    /// Begin with this line, or user of a JSON file, counted from 1.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    from_line: u64,
    /// Try all lines, tell what would be made, what would be left out and which lines are wrong, and change nothing. Whoever changes the same things meanwhile waits, and so do events of devices that would be changed: try a large file at a quiet time.
    #[arg(long)]
    dry_run: bool,
    /// What the devices are whose line does not say it. "device" for users of other brokers.
    #[arg(long, value_name = "NAME")]
    kind: Option<DeviceKind>,
    /// How EMQX hashed the passwords: plain, bcrypt, sha256,prefix (sha or sha512, suffix or disable) or pbkdf2,sha256,iterations=4096 (and ,dk_length=32).
    #[arg(long)]
    algorithm: Option<Algorithm>,
    /// What users may do: an access file of mosquitto's form, or the rules of EMQX's built-in database as its API tells them.
    #[arg(long, value_name = "FILE")]
    acl: Option<PathBuf>,
    /// Let superusers of EMQX publish and subscribe to everything.
    #[arg(long)]
    superusers: bool,
    /// Name devices by their client id, where the file has one for each.
    #[arg(long, value_name = "WHAT", value_enum)]
    rename_from: Option<RenameFrom>,
    /// How salts are written in hashes that begin with PBKDF2$ (mosquitto-go-auth's hasher_salt_encoding).
    #[arg(long, value_enum, default_value = "base64", hide_default_value = true)]
    salt_encoding: Salts,
    /// Where generated secrets go: a new file that only you may read, or - for standard output.
    #[arg(long, value_name = "FILE")]
    secrets_out: Option<PathBuf>,
}

/// Why a transaction is undone.
enum RolledBack {
    /// It was to be: a dry run, or a chunk with wrong lines, which are noted.
    OnPurpose,
    Failed(CliError),
}

impl From<FleetError> for RolledBack {
    fn from(error: FleetError) -> Self {
        Self::Failed(error.into())
    }
}

impl Arguments {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        self.check()?;
        if context.output.json && self.secrets_out.as_deref() == Some(Path::new("-")) {
            let why = "--secrets-out - does not go with --json: both are for standard output; name a file";
            return Err(CliError::Usage(why.to_owned()));
        }
        let mut source = self.source()?;
        let mut destination = Destination::open(context, self.passes_over_present(&source)).await?;
        if let Source::Csv(_, csv) = &mut source {
            if csv.generates() && self.secrets_out.is_none() && !self.dry_run {
                return Err(CliError::Usage(
                    "the file asks for secrets to be generated: say with --secrets-out where they go".to_owned(),
                ));
            }
            for name in csv.bindings() {
                let directions = destination.directions(&name).await?;
                csv.know(name, directions);
            }
        }
        let goes_on = self.from_line > 1;
        let out = self.secrets_out.as_deref().filter(|_| !self.dry_run);
        let out = out.map(|path| SecretsOut::open(path, goes_on)).transpose()?;
        let mut progress = Progress::new(source.done(), source.unit());
        let outcome = match (self.dry_run, &mut destination) {
            (false, destination) => self.import(destination, &mut source, out, &mut progress).await,
            (true, Destination::Database(client)) => {
                self.try_all(context, client, &mut source, &mut progress).await
            }
            (true, Destination::Api(api, names)) => {
                self.try_over_the_api(context, (api, names), &mut source, &mut progress).await
            }
        };
        progress.end_line();
        let whole =
            self.from_line == 1 && outcome.is_ok() && (self.dry_run || progress.wrong.is_empty());
        // First, and all of it: it concerns everybody, or nobody in the file.
        progress.left_out.splice(0..0, source.left_out(whole));
        self.conclude(context, &progress, outcome)
    }

    /// Options that mean nothing for a format are refused: whoever gave them expected something.
    fn check(&self) -> Result<(), CliError> {
        use Format::{Csv, EmqxUsers, Mosquitto, MosquittoDynsec};
        let given = [
            ("--kind", self.kind.is_some(), &[Csv, EmqxUsers, Mosquitto, MosquittoDynsec][..]),
            ("--algorithm", self.algorithm.is_some(), &[EmqxUsers]),
            ("--acl", self.acl.is_some(), &[EmqxUsers, Mosquitto]),
            ("--superusers", self.superusers, &[EmqxUsers]),
            ("--rename-from", self.rename_from.is_some(), &[MosquittoDynsec]),
            ("--salt-encoding", self.salt_encoding != Salts::Base64, &[Mosquitto]),
            ("--secrets-out", self.secrets_out.is_some(), &[Csv]),
        ];
        let wrong = given
            .iter()
            .find(|(_, is_given, formats)| *is_given && !formats.contains(&self.format));
        match wrong {
            Some((option, _, formats)) => {
                let values = formats.iter().filter_map(Format::to_possible_value);
                let names: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
                Err(CliError::Usage(format!("{option} is for --format {}", names.join(" or "))))
            }
            None => Ok(()),
        }
    }

    fn source(&self) -> Result<Source, CliError> {
        let mut reader = Reader::open(&self.file)?;
        let wrong = |why: String| CliError::Failed(format!("{}: {why}", self.file.display()));
        let first = self.from_line;
        let behind = |has: usize| {
            CliError::Failed(format!("--from-line is {first}, and the file has {has} users"))
        };
        Ok(match self.format {
            Format::Fleetgate => Source::Own(reader.skip_to(first)?),
            Format::Csv => {
                let header = reader.header()?;
                let csv = Csv::new(&header, self.kind.clone());
                let csv = csv.map_err(|error| wrong(format!("line 1: {error}")))?;
                Source::Csv(reader.skip_to(first)?, csv)
            }
            Format::Mosquitto => {
                let salts = match self.salt_encoding {
                    Salts::Base64 => SaltEncoding::Base64,
                    Salts::Utf8 => SaltEncoding::Utf8,
                };
                let file = PasswordFile::new(self.foreign()?, salts);
                Source::PasswordFile(reader.skip_to(first)?, file)
            }
            Format::EmqxUsers if reader.is_json()? => {
                let text = reader.whole()?;
                let users = EmqxJson::new(&text, self.algorithm, self.foreign()?).map_err(wrong)?;
                Source::EmqxJson(first - 1, users.skip(first - 1).map_err(behind)?)
            }
            Format::EmqxUsers => {
                let header = reader.header()?;
                let file = EmqxCsv::new(&header, self.algorithm, self.foreign()?);
                let file = file.map_err(|error| wrong(format!("line 1: {error}")))?;
                Source::EmqxCsv(reader.skip_to(first)?, file)
            }
            Format::MosquittoDynsec => {
                let rename = self.rename_from == Some(RenameFrom::Clientid);
                let file = Dynsec::new(&reader.whole()?, self.foreign()?, rename).map_err(wrong)?;
                Source::Dynsec(first - 1, file.skip(first - 1).map_err(behind)?)
            }
        })
    }

    /// How users of another broker become devices.
    fn foreign(&self) -> Result<Foreign, CliError> {
        let kind = match &self.kind {
            Some(kind) => kind.clone(),
            None => "device".parse().map_err(|error| CliError::Usage(format!("--kind {error}")))?,
        };
        let acl = self.acl.as_deref().map(|path| self.acl(path)).transpose()?.unwrap_or_default();
        Ok(Foreign { kind, acl, superusers: self.superusers })
    }

    fn acl(&self, path: &Path) -> Result<Acl, CliError> {
        let wrong = |why: String| CliError::Failed(format!("--acl {}: {why}", path.display()));
        let bytes =
            read_at_most(path, MAX_DOCUMENT_BYTES).map_err(|error| wrong(error.to_string()))?;
        let text =
            std::str::from_utf8(&bytes).map_err(|error| wrong(format!("is not UTF-8: {error}")))?;
        let text = text.trim_start_matches('\u{feff}');
        if self.format == Format::EmqxUsers {
            return Acl::of_emqx(text).map_err(wrong);
        }
        Acl::of_mosquitto(text).map_err(|lines| {
            let told =
                lines.iter().take(MOST_TOLD).map(|(line, why)| format!("line {line}: {why}"));
            wrong(told.collect::<Vec<_>>().join("\n"))
        })
    }

    /// `with_secrets`: lines have secrets that are told as made.
    fn on_conflict(&self, source: &Source, with_secrets: bool) -> imports::OnConflict {
        match self.on_conflict {
            OnConflict::Fail => imports::OnConflict::Fail,
            // What is there was taken out before. A device that somebody made since then has another secret.
            OnConflict::Skip if with_secrets => imports::OnConflict::Fail,
            OnConflict::Skip => imports::OnConflict::Skip,
            OnConflict::Update => source.update(),
        }
    }

    /// Whether lines of devices that are there are taken out before: no password of theirs is hashed, and no secret made.
    fn passes_over_present(&self, source: &Source) -> bool {
        matches!(self.on_conflict, OnConflict::Skip) && !matches!(source, Source::Own(_))
    }

    /// Takes out the lines of devices that are there, where these are passed over; returns how many.
    async fn without_present(
        &self,
        client: &impl GenericClient,
        source: &Source,
        lines: &mut Lines,
    ) -> Result<usize, FleetError> {
        if !self.passes_over_present(source) {
            return Ok(0);
        }
        let names = lines.entries.iter().filter_map(|(_, entry)| entry.device());
        let names: Vec<&str> = names.map(DeviceName::as_str).collect();
        let mut present = imports::present(client, &names).await?;
        Ok(lines.pass_over(&mut present))
    }

    /// Imports chunk by chunk, to the first that is refused.
    async fn import(
        &self,
        destination: &mut Destination,
        source: &mut Source,
        mut out: Option<SecretsOut>,
        progress: &mut Progress,
    ) -> Result<(), CliError> {
        let actor = actor();
        let is_sent = matches!(destination, Destination::Api(..));
        while let Some(mut lines) = source.next_lines(is_sent)? {
            let skipped = match destination {
                Destination::Database(client) => {
                    self.without_present(client, source, &mut lines).await?
                }
                Destination::Api(_, names) if self.passes_over_present(source) => {
                    lines.pass_over(names)
                }
                Destination::Api(..) => 0,
            };
            let secrets: Vec<(DeviceName, Secret)> = if lines.wrong.is_empty() {
                let mut entries: Vec<_> =
                    lines.entries.iter_mut().map(|(_, entry)| entry).collect();
                imports::hash_logins(&mut entries)
            } else {
                Vec::new()
            };
            if let Some(out) = &mut out {
                out.note(&secrets)?;
            }
            let on_conflict = self.on_conflict(source, !secrets.is_empty());
            let chunk = match destination {
                Destination::Database(client) => {
                    act(client, &actor, async |transaction| {
                        match write(transaction, &lines, on_conflict, progress).await? {
                            true => Ok(()),
                            false => Err(RolledBack::OnPurpose),
                        }
                    })
                    .await
                }
                Destination::Api(api, _) => {
                    let sent = send(api, &lines, on_conflict, false).await;
                    sent.map_err(|error| RolledBack::Failed(error.into())).and_then(|imported| {
                        match progress.add(imported) {
                            true => Ok(()),
                            false => Err(RolledBack::OnPurpose),
                        }
                    })
                }
            };
            match chunk {
                Ok(()) => {
                    progress.counts.skipped += skipped;
                    progress.done = lines.last;
                    progress.secrets += secrets.len();
                    for (number, entry) in &lines.entries {
                        progress.note(*number, entry);
                    }
                    if let Some(out) = &mut out {
                        out.keep()?;
                    }
                }
                Err(RolledBack::OnPurpose) => {
                    if let Some(out) = &mut out {
                        out.take_back()?;
                    }
                    return Ok(());
                }
                Err(RolledBack::Failed(error)) => {
                    match &mut out {
                        Some(out) if is_undone(&error) => out.take_back()?,
                        // It may be committed though nobody was told so: nobody else has its secrets.
                        Some(out) => out.keep()?,
                        None => {}
                    }
                    return Err(error);
                }
            }
            progress.show(lines.last, source.share());
        }
        Ok(())
    }

    /// Imports all of it in one transaction, chunks that are refused left out, and undoes it.
    async fn try_all(
        &self,
        context: &Context,
        client: &mut Client,
        source: &mut Source,
        progress: &mut Progress,
    ) -> Result<(), CliError> {
        let (each, hash) = imports::measure_one();
        progress.tally.each_password = each;
        let tells = !context.output.json && !matches!(source, Source::Own(_));
        let tried: Result<(), RolledBack> = act(client, &actor(), async |transaction| {
            while let Some(mut lines) = source.next_lines(false).map_err(RolledBack::Failed)? {
                progress.counts.skipped +=
                    self.without_present(transaction, source, &mut lines).await?;
                tell_and_pretend(&mut lines, tells, &hash, progress).map_err(RolledBack::Failed)?;
                write(transaction, &lines, self.on_conflict(source, false), progress).await?;
                progress.show(lines.last, source.share());
            }
            Err(RolledBack::OnPurpose)
        })
        .await;
        match tried {
            Ok(()) | Err(RolledBack::OnPurpose) => Ok(()),
            Err(RolledBack::Failed(error)) => Err(error),
        }
    }

    /// The same over the API, with one request.
    async fn try_over_the_api(
        &self,
        context: &Context,
        (api, names): (&Remote, &mut BTreeSet<String>),
        source: &mut Source,
        progress: &mut Progress,
    ) -> Result<(), CliError> {
        let (each, hash) = imports::measure_one();
        progress.tally.each_password = each;
        let tells = !context.output.json && !matches!(source, Source::Own(_));
        let (mut all, mut bytes) = (Lines::default(), 0);
        while let Some(mut lines) = source.next_lines(true)? {
            if self.passes_over_present(source) {
                progress.counts.skipped += lines.pass_over(names);
            }
            tell_and_pretend(&mut lines, tells, &hash, progress)?;
            bytes += lines.sent_bytes();
            all.append(lines);
            if bytes > MAX_TRIED_BYTES {
                return Err(CliError::Usage(format!(
                    "a dry run over the API tries {MAX_TRIED_BYTES} bytes at most; split the file"
                )));
            }
        }
        if !all.is_empty() {
            progress.add(send(api, &all, self.on_conflict(source, false), true).await?);
        }
        Ok(())
    }

    /// Tells what was imported, and as far as what.
    fn conclude(
        &self,
        context: &Context,
        progress: &Progress,
        outcome: Result<(), CliError>,
    ) -> Result<(), CliError> {
        self.tell(context, progress)?;
        let Progress { counts, done, wrong_count, unit, .. } = progress;
        let Counts { added, updated, skipped, .. } = counts;
        let counted = format!("{added} added, {updated} updated, {skipped} left as they were");
        if let Err(error) = outcome {
            // Where nothing was done, there is nothing to go on from.
            if !self.dry_run && !context.output.json && (*done > 0 || !is_undone(&error)) {
                let next = done + 1;
                let (unknown, how) = match is_undone(&error) {
                    true => ("", ""),
                    false => (
                        ", and whether those of the next chunk are is not known",
                        ", and with --on-conflict skip or update where devices are there already",
                    ),
                };
                remark(&format!(
                    "the {unit}s before {next} are imported ({counted}){unknown}; go on with --from-line {next}{how}"
                ));
            }
            return Err(error);
        }
        match (*wrong_count, self.dry_run) {
            (0, dry_run) if !context.output.json => {
                let would = if dry_run { "It would be: " } else { "" };
                context.output.result(&json!(null), || format!("{would}{counted}."))
            }
            (0, _) => Ok(()),
            (count, true) => Err(CliError::Failed(format!(
                "{} wrong; besides those and the {unit}s of their chunks it would be: {counted}",
                are(count, unit)
            ))),
            (count, false) => Err(CliError::Failed(format!(
                "{} wrong, and nothing of the {unit}s from {} on is imported ({counted}); correct them and go on with --from-line {}",
                are(count, unit),
                done + 1,
                done + 1
            ))),
        }
    }

    /// Tells what is wrong and what is left out.
    fn tell(&self, context: &Context, progress: &Progress) -> Result<(), CliError> {
        let Progress {
            counts,
            done,
            wrong,
            wrong_count,
            left_out,
            left_out_more,
            advice,
            advice_count,
            secrets,
            tally,
            unit,
            ..
        } = progress;
        let told = wrong.iter();
        let times = if self.dry_run { tally.told() } else { Vec::new() };
        if context.output.json {
            let wrong: Vec<_> =
                told.map(|(line, why)| json!({"line": line, "message": why})).collect();
            let result = json!({
                "dry_run": self.dry_run, "added": counts.added, "updated": counts.updated,
                "skipped": counts.skipped, "kept_passwords": counts.kept_passwords, "last_line": done, "wrong": wrong, "wrong_lines": wrong_count,
                "left_out": left_out, "left_out_more": left_out_more, "advice": advice, "advice_count": advice_count, "times": times,
            });
            context.output.result(&result, String::new)?;
        } else {
            left_out.iter().for_each(|what| remark(&format!("not imported: {}", visible(what))));
            if *left_out_more > 0 {
                remark(&format!("not imported: {left_out_more} more"));
            }
            advice.iter().for_each(|what| remark(&visible(what)));
            if *advice_count > advice.len() {
                remark(&format!("and the like for {} more", advice_count - advice.len()));
            }
            if *secrets > 0 && matches!(self.on_conflict, OnConflict::Update) {
                remark(&format!(
                    "{secrets} secrets were made, also for devices that were there: what those had is valid still; see `fleetgate \
                     credential list DEVICE`"
                ));
            }
            if counts.kept_passwords > 0 {
                let are = if self.dry_run { "would not be" } else { "are not" };
                remark(&format!(
                    "passwords of the file that {are} stored, because their devices have or had one: {}; `fleetgate credential add \
                     DEVICE --password-stdin` gives a device another",
                    counts.kept_passwords
                ));
            }
            times.iter().for_each(|line| remark(line));
            told.for_each(|(line, why)| remark(&format!("{unit} {line}: {}", visible(why))));
        }
        Ok(())
    }
}

/// Whether a chunk that ended so is certain not to be imported.
fn is_undone(error: &CliError) -> bool {
    match error {
        CliError::Remote(RemoteError::Refused { status, .. }) => *status < 500,
        CliError::Failed(_) | CliError::Usage(_) => true,
        _ => false,
    }
}

fn are(count: usize, unit: &str) -> String {
    match count {
        1 => format!("1 {unit} is"),
        count => format!("{count} {unit}s are"),
    }
}

/// Tells what would be made of lines, if `tells`, and gives them `hash` in the place of what a dry run does not hash.
fn tell_and_pretend(
    lines: &mut Lines,
    tells: bool,
    hash: &str,
    progress: &mut Progress,
) -> Result<(), CliError> {
    for (number, entry) in &mut lines.entries {
        if tells {
            print(&format!("{} {number}: {}", progress.unit, visible(&entry.summary())))?;
        }
        progress.tally.add(entry);
        progress.note(*number, entry);
        entry.pretend(hash);
    }
    Ok(())
}

/// Writes a chunk, and notes what became of it. `false`: it was refused.
async fn write(
    client: &mut impl GenericClient,
    lines: &Lines,
    on_conflict: imports::OnConflict,
    progress: &mut Progress,
) -> Result<bool, FleetError> {
    let mut wrong = lines.wrong.clone();
    let items: Vec<&Item> = lines.entries.iter().map(|(_, entry)| &entry.item).collect();
    match imports::import(client, &items, on_conflict).await? {
        Chunk::Done(counts) if wrong.is_empty() => progress.counts.add(counts),
        Chunk::Done(_) => {}
        Chunk::Refused(refused) => {
            let number = |position: usize| lines.entries.get(position).map_or(0, |(line, _)| *line);
            let told = refused
                .into_iter()
                .map(|(position, error)| (number(position), wording::of_line(&error)));
            wrong.extend(told);
        }
    }
    let is_done = wrong.is_empty();
    progress.add_wrong(wrong.len(), wrong);
    Ok(is_done)
}
