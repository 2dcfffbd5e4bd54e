//! Tables, and numbers as people read them.

use std::time::Duration;

use comfy_table::{Table, presets};

/// Prints a table as Markdown below its title.
pub(crate) fn show(title: &str, heads: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(heads.to_vec()).add_rows(rows);
    println!("\n{title}\n\n{table}");
}

pub(crate) fn time(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    match millis {
        1000.0.. => format!("{:.2} s", millis / 1e3),
        10.0.. => format!("{millis:.0} ms"),
        _ => format!("{millis:.1} ms"),
    }
}

pub(crate) fn micros(time: Duration) -> String {
    format!("{:.1} µs", time.as_secs_f64() * 1e6)
}

pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        1_000_000.0.. => format!("{:.2} M", per_second / 1e6),
        10_000.0.. => format!("{:.1} k", per_second / 1e3),
        _ => format!("{per_second:.0}"),
    }
}
