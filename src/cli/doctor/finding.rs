//! What a check found.

use std::fmt;

use serde::Serialize;

use crate::cli::output::visible;

/// `secrets init` renews a certificate 30 days before its end, so less means that it has not run.
const DAYS_TO_MENTION: i64 = 21;
const DAYS_TO_FAIL: i64 = 3;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, and should still be looked at.
    Warning,
    /// Does not work.
    Failure,
    /// Could not be checked, because of another failure.
    Skipped,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "FAILURE",
            Self::Skipped => "skipped",
        }
    }
}

/// What one check found. Never carries a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, found: found.into(), remedy: None }
    }

    pub(super) fn warning(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { check, status: Status::Warning, found: found.into(), remedy }
    }

    pub(super) fn failure(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { check, status: Status::Failure, found: found.into(), remedy }
    }

    /// About a certificate that is valid for so many days more. `which` begins the sentence.
    pub(super) fn certificate(check: &'static str, which: &str, days: i64, remedy: &str) -> Self {
        let found = format!("{which} is valid for {days} days more");
        if days < 0 {
            Self::failure(check, format!("{which} has ended"), remedy)
        } else if days <= DAYS_TO_FAIL {
            Self::failure(check, found, remedy)
        } else if days <= DAYS_TO_MENTION {
            Self::warning(check, found, remedy)
        } else {
            Self::ok(check, found)
        }
    }

    /// A failure that is a problem of the configuration: its text is what is wrong, `;`, and what would be
    /// right.
    pub(super) fn problem(check: &'static str, problem: impl fmt::Display) -> Self {
        let text = problem.to_string();
        // Not a `;` of a value, which stands in quotes.
        let mut ends = text.match_indices("; ").map(|(at, _)| text.split_at(at));
        match ends.find(|(found, _)| found.matches('"').count() % 2 == 0) {
            Some((found, remedy)) => Self::failure(check, found, remedy.trim_start_matches("; ")),
            None => Self::error(check, text),
        }
    }

    /// A failure whose text names the remedy itself, as the errors of all layers do.
    pub(super) fn error(check: &'static str, error: impl fmt::Display) -> Self {
        Self { check, status: Status::Failure, found: error.to_string(), remedy: None }
    }
}

/// What all checks found, in the order in which they ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One or more a check.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    pub(super) fn skip(&mut self, checks: &[&'static str], why: &str) {
        let skipped = |check: &&'static str| Finding {
            check,
            status: Status::Skipped,
            found: why.to_owned(),
            remedy: None,
        };
        self.findings.extend(checks.iter().map(skipped));
    }

    /// Skips those of the checks that have no finding yet.
    pub(super) fn skip_the_rest(&mut self, checks: &[&'static str], why: &str) {
        let is_open = |check: &&&str| self.findings.iter().all(|finding| finding.check != **check);
        let rest: Vec<&'static str> = checks.iter().filter(is_open).copied().collect();
        self.skip(&rest, why);
    }

    /// How many findings say that something does not work.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.count(Status::Failure)
    }

    fn count(&self, status: Status) -> usize {
        self.findings.iter().filter(|finding| finding.status == status).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = self.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        for Finding { check, status, found, remedy } in &self.findings {
            writeln!(f, "{:<8} {check:<widest$}  {}", status.word(), lines(found))?;
            if let Some(remedy) = remedy {
                writeln!(f, "{:9}{:widest$}  → {}", "", "", lines(remedy))?;
            }
        }
        let (failures, warnings) = (self.failures(), self.count(Status::Warning));
        write!(f, "\n{} and {}", counted(failures, "failure"), counted(warnings, "warning"))?;
        match self.count(Status::Skipped) {
            0 => Ok(()),
            skipped => write!(f, "; {} not run", counted(skipped, "check")),
        }
    }
}

/// Every line without anything that a terminal would act on, and set in.
fn lines(text: &str) -> String {
    text.lines().map(visible).collect::<Vec<_>>().join("\n         ")
}

/// `1 warning`, `2 warnings`.
pub(super) fn counted(count: usize, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_and_its_remedy_are_told_apart() {
        let problem = Finding::problem("a", "x: \"b; c\" is wrong; write \"d; e\"");
        assert_eq!(problem.found, "x: \"b; c\" is wrong");
        assert_eq!(problem.remedy.as_deref(), Some("write \"d; e\""));
        assert_eq!(Finding::problem("a", "is wrong").remedy, None);
    }

    #[test]
    fn a_report_is_a_table_with_a_count() {
        let mut report = Report::default();
        report.add(Finding::ok("short", "all\u{1b}well"));
        report.add(Finding::warning("longer name", "late", "wait"));
        assert_eq!(report.failures(), 0);
        report.add(Finding::failure("short", "gone", "bring it back"));
        report.skip(&["other"], "gone");
        assert_eq!(report.failures(), 1);
        let lines = [
            "ok       short        all\\u{1b}well",
            "warning  longer name  late",
            "                      → wait",
            "FAILURE  short        gone",
            "                      → bring it back",
            "skipped  other        gone",
            "",
            "1 failure and 1 warning; 1 check not run",
        ];
        assert_eq!(report.to_string(), lines.join("\n"));
    }
}
