//! One table for people, and the same as JSON for machines.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{Table as Drawing, presets};
use serde::Serialize;

use crate::support::process::machine;
use crate::turns::Run;

/// What a figure has to reach.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

impl Bar {
    fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bar) => figure >= bar,
            Self::AtMost(bar) => figure <= bar,
        }
    }

    fn words(self) -> String {
        match self {
            Self::AtLeast(bar) => format!("≥ {bar}"),
            Self::AtMost(bar) => format!("≤ {bar}"),
        }
    }
}

/// The other side: how many a second, and its processor time for each where that is known.
#[derive(Serialize)]
pub(crate) struct Against {
    what: &'static str,
    per_second: f64,
    cpu_us: Option<f64>,
}

/// A line of the table. Times are in microseconds.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) scenario: String,
    pub(crate) per_second: Option<f64>,
    pub(crate) p50_us: Option<u128>,
    pub(crate) p99_us: Option<u128>,
    pub(crate) p999_us: Option<u128>,
    pub(crate) cpu_us: Option<f64>,
    pub(crate) database_cpu_us: Option<f64>,
    /// What it is compared with.
    pub(crate) against: Option<Against>,
    pub(crate) figure: f64,
    /// What the figure is.
    pub(crate) unit: &'static str,
    /// `None`: told, because it explains another row.
    pub(crate) bar: Option<Bar>,
    pub(crate) met: Option<bool>,
}

impl Row {
    /// A line that is only about its figure.
    pub(crate) fn figure(
        scenario: &str,
        figure: f64,
        unit: &'static str,
        bar: impl Into<Option<Bar>>,
    ) -> Self {
        let bar = bar.into();
        Self {
            scenario: scenario.to_owned(),
            per_second: None,
            p50_us: None,
            p99_us: None,
            p999_us: None,
            cpu_us: None,
            database_cpu_us: None,
            against: None,
            figure,
            unit,
            bar,
            met: bar.map(|bar| bar.is_met(figure)),
        }
    }

    /// With the run that the figure stands for.
    pub(crate) fn run(mut self, run: &Run) -> Self {
        self.per_second = Some(run.report.per_second);
        self.p50_us = Some(run.report.p50.as_micros());
        self.p99_us = Some(run.report.p99.as_micros());
        self.p999_us = Some(run.report.p999.as_micros());
        self.cpu_us = micros(run.cpu);
        self.database_cpu_us = micros(run.database_cpu);
        self
    }

    pub(crate) fn against(mut self, what: &'static str, run: &Run) -> Self {
        let per_second = run.report.per_second;
        self.against = Some(Against { what, per_second, cpu_us: micros(run.cpu) });
        self
    }

    /// The 99th percentile of single measures in place of a generator's.
    pub(crate) fn quantiles(mut self, sorted: &[Duration]) -> Self {
        let at = |share: usize| sorted.get(sorted.len() * share / 1000).map(Duration::as_micros);
        (self.p50_us, self.p99_us, self.p999_us) = (at(500), at(990), at(999));
        self
    }

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
        let whole = |time: Option<u128>| or_dash(time.map(|time| time.to_string()));
        let tenths = |time: Option<f64>| or_dash(time.map(|time| format!("{time:.1}")));
        let against = self.against.as_ref().map(|Against { what, per_second, cpu_us }| {
            let cpu = cpu_us.map(|cpu| format!(", {cpu:.1} µs")).unwrap_or_default();
            format!("{what}: {}{cpu}", thousands(*per_second))
        });
        vec![
            self.scenario.clone(),
            or_dash(self.per_second.map(thousands)),
            whole(self.p50_us),
            whole(self.p99_us),
            whole(self.p999_us),
            tenths(self.cpu_us),
            tenths(self.database_cpu_us),
            or_dash(against),
            format!("{:.2} {}", self.figure, self.unit),
            or_dash(self.bar.map(Bar::words)),
            or_dash(self.met.map(|met| if met { "yes" } else { "NO" }.to_owned())),
        ]
    }
}

fn micros(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64() * 1e6)
}

fn thousands(rate: f64) -> String {
    if rate < 10_000.0 { format!("{rate:.0}") } else { format!("{:.1} k", rate / 1000.0) }
}

#[derive(Serialize)]
pub(crate) struct Table {
    pub(crate) machine: String,
    pub(crate) rows: Vec<Row>,
}

impl Table {
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        Self { machine: machine(), rows }
    }

    /// Prints it as Markdown and writes `bench-load.json` beside the build.
    pub(crate) fn show(&self) {
        let mut drawing = Drawing::new();
        drawing.load_style(presets::ASCII_MARKDOWN).set_header([
            "scenario",
            "/s",
            "p50 µs",
            "p99 µs",
            "p999 µs",
            "CPU µs",
            "DB CPU µs",
            "against",
            "figure",
            "bar",
            "met",
        ]);
        for row in &self.rows {
            drawing.add_row(row.cells());
        }
        println!("\n{}\n\n{drawing}", self.machine);
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-load.json");
        let json = serde_json::to_string_pretty(self).expect("a table is JSON");
        fs::write(&file, json).expect("the build directory can be written");
        println!("\nAs JSON: {}", file.display());
    }
}
