//! Secrets that an operator chose, for those who must not have them drawn.

use super::error::ProvisionError;
use crate::secret::Secret;

/// Gives the token that EMQX shows to Fleetgate.
pub(super) const WEBHOOK: &str = "FLEETGATE_SECRET_WEBHOOK";
/// Gives the secret of Fleetgate's key for EMQX's REST API.
pub(super) const EMQX_API: &str = "FLEETGATE_SECRET_EMQX_API";
/// Gives the password of the database role that serves.
pub(super) const DATABASE: &str = "FLEETGATE_SECRET_DATABASE";
/// Gives the password of the dashboard's first user.
pub(super) const DASHBOARD: &str = "FLEETGATE_SECRET_DASHBOARD";

/// Bytes of a chosen secret: fewer can be guessed, and EMQX takes no longer dashboard password.
const LENGTH: std::ops::RangeInclusive<usize> = 16..=64;

/// Chosen secrets by the variable that gives them.
#[derive(Default)]
pub struct Chosen(Vec<(&'static str, Secret)>);

impl Chosen {
    /// Takes them from environment variables; an empty one counts as unset.
    ///
    /// # Errors
    /// When one cannot be a secret of all parts that know it; the error names its variable alone.
    pub fn from_environment(environment: &[(String, String)]) -> Result<Self, ProvisionError> {
        let mut chosen = Vec::new();
        for variable in [WEBHOOK, EMQX_API, DATABASE, DASHBOARD] {
            let given =
                environment.iter().find(|(name, text)| name == variable && !text.is_empty());
            match given {
                Some((_, text)) if is_fit(text) => {
                    chosen.push((variable, Secret::new(text.clone())));
                }
                Some(_) => return Err(ProvisionError::UnfitChoice { variable }),
                None => {}
            }
        }
        Ok(Self(chosen))
    }

    pub(super) fn of(&self, variable: &str) -> Option<&Secret> {
        self.0.iter().find(|(name, _)| *name == variable).map(|(_, secret)| secret)
    }
}

/// Whether every part takes it, in a file, a header, a list with colons, and as an argument. EMQX wants
/// two kinds of characters in a dashboard password.
fn is_fit(secret: &str) -> bool {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    LENGTH.contains(&secret.len())
        && secret.chars().all(harmless)
        && !secret.starts_with('-')
        && secret.contains(|c: char| c.is_ascii_digit())
        && secret.contains(|c: char| c.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_some_part_could_not_take_is_refused_by_its_variables_name() {
        let chosen = |text: &str| {
            let environment = [(DASHBOARD.to_owned(), text.to_owned())];
            Chosen::from_environment(&environment)
        };
        assert!(chosen("correct-horse-7-battery").unwrap().of(DASHBOARD).is_some());
        assert!(chosen("").unwrap().of(DASHBOARD).is_none());
        for unfit in
            ["short7", "-starts-with-a-dash-7", "no-digit-in-all-of-it", "a quoted \"7\" one!!"]
        {
            let error = chosen(unfit).err().unwrap().to_string();
            assert!(error.contains(DASHBOARD) && !error.contains(unfit), "{error}");
        }
        assert!(chosen(&format!("7{}", "a".repeat(64))).is_err());
    }
}
