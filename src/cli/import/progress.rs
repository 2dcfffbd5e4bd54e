//! How far an import has come, and what is to be told of it.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use crate::cli::output::remark;
use crate::cli::wording;
use crate::fleet::imports::{Counts, Entry, Tally};
use crate::remote::imports::Imported;
use crate::remote::{Wrong, WrongLine};

/// Most wrong lines, and most pieces of advice, that are told one by one.
pub(super) const MOST_TOLD: usize = 100;
/// The same of what lines are not imported with: who moves in has to look at each.
const MOST_LEFT_OUT: usize = 100_000;
/// How often it is shown how far an import has come.
const SHOWN_EVERY: Duration = Duration::from_millis(200);

/// How far an import has come.
pub(super) struct Progress {
    pub(super) counts: Counts,
    /// The last line of the last chunk that is done.
    pub(super) done: u64,
    /// The first wrong lines, and how many there are.
    pub(super) wrong: Vec<(u64, String)>,
    pub(super) wrong_count: usize,
    pub(super) left_out: Vec<String>,
    pub(super) left_out_more: usize,
    /// The first pieces of advice, and how many there are.
    pub(super) advice: Vec<String>,
    pub(super) advice_count: usize,
    /// How many secrets were made.
    pub(super) secrets: usize,
    pub(super) tally: Tally,
    pub(super) unit: &'static str,
    begun: Instant,
    first: u64,
    shown: Option<Instant>,
}

impl Progress {
    pub(super) fn new(done: u64, unit: &'static str) -> Self {
        Self {
            counts: Counts::default(),
            done,
            wrong: Vec::new(),
            wrong_count: 0,
            left_out: Vec::new(),
            left_out_more: 0,
            advice: Vec::new(),
            advice_count: 0,
            secrets: 0,
            tally: Tally::default(),
            unit,
            begun: Instant::now(),
            first: done,
            shown: None,
        }
    }

    /// Adds what the API did. `false`: it refused something.
    pub(super) fn add(&mut self, imported: Imported) -> bool {
        let Imported { counts, wrong, wrong_lines } = imported;
        let is_done = wrong.is_empty();
        self.counts.add(counts);
        let in_words = |WrongLine { line, wrong }| match wrong {
            Wrong::Refused(error) => (line, wording::of_line(&error)),
            Wrong::Other(told) => (line, told),
        };
        let wrong: Vec<_> = wrong.into_iter().map(in_words).collect();
        self.add_wrong(wrong_lines.max(wrong.len()), wrong);
        is_done
    }

    /// Adds so many wrong lines; the first are told.
    pub(super) fn add_wrong(&mut self, count: usize, mut wrong: Vec<(u64, String)>) {
        wrong.sort_by_key(|(line, _)| *line);
        self.wrong_count += count;
        self.wrong.extend(wrong.into_iter().take(MOST_TOLD - self.wrong.len()));
    }

    fn leave_out(&mut self, what: String) {
        if self.left_out.len() < MOST_LEFT_OUT {
            self.left_out.push(what);
        } else {
            self.left_out_more += 1;
        }
    }

    /// Notes what is to be told of an entry.
    pub(super) fn note(&mut self, number: u64, entry: &Entry) {
        let unit = self.unit;
        for what in &entry.left_out {
            self.leave_out(format!("{unit} {number}: {what}"));
        }
        if let Some(advice) = &entry.advice {
            self.advice_count += 1;
            if self.advice.len() < MOST_TOLD {
                self.advice.push(format!("{unit} {number}: {advice}"));
            }
        }
    }

    /// Shows how far it has come, where somebody watches.
    pub(super) fn show(&mut self, line: u64, share: Option<f64>) {
        let is_due = self.shown.is_none_or(|shown| shown.elapsed() >= SHOWN_EVERY);
        if !is_due || !io::stderr().is_terminal() {
            return;
        }
        self.shown = Some(Instant::now());
        let seconds = self.begun.elapsed().as_secs().max(1);
        let rate = (line - self.first) / seconds;
        let bar = share.map_or_else(String::new, |share| {
            let tenths =
                (1..=20_u8).map(|step| if f64::from(step) <= share * 20.0 { '#' } else { '.' });
            format!("[{}] {:.0} % ", tenths.collect::<String>(), share * 100.0)
        });
        eprint!("\r{bar}{line} {}s, {rate} a second  ", self.unit);
    }

    /// Ends the line that is shown.
    pub(super) fn end_line(&self) {
        if self.shown.is_some() {
            remark("");
        }
    }
}
