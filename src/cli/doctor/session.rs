//! One connection on which checks run one after the other.

use tokio_postgres::Client;

use super::LIMIT;
use super::finding::{Finding, Report, Status};
use crate::registry::error::RegistryError;

/// One connection on which checks run one after the other, and where their findings go.
pub(super) struct Session<'a> {
    pub(super) client: &'a Client,
    pub(super) report: &'a mut Report,
    /// The database stopped answering: asking on would only take time.
    lost: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(client: &'a Client, report: &'a mut Report) -> Self {
        Self { client, report, lost: false }
    }

    /// Runs a check within [`LIMIT`] and tells how it ended.
    pub(super) async fn check(
        &mut self,
        check: &'static str,
        work: impl Future<Output = Result<Finding, RegistryError>>,
    ) -> Status {
        if self.lost {
            self.report.skip(&[check], "the database stopped answering, see above");
            return Status::Skipped;
        }
        let finding = match tokio::time::timeout(LIMIT, work).await {
            Ok(Ok(finding)) => finding,
            Ok(Err(error)) => {
                self.lost = error.is_unreachable();
                Finding::error(check, error)
            }
            Err(_) => {
                self.lost = true;
                Finding::failure(
                    check,
                    format!("no answer within {LIMIT:?}"),
                    "look for locks and load in pg_stat_activity, and at the network",
                )
            }
        };
        let status = finding.status;
        self.report.add(finding);
        status
    }
}
