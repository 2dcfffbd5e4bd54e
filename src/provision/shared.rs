//! Secrets that one or two parts know, each in the form that it reads.

use super::chosen::{self, Chosen};
use super::draw;
use super::error::ProvisionError;
use super::files::{Part, Place, Store};
use super::init::{Outcome, Report};
use crate::secret::Secret;

/// The token that EMQX shows to Fleetgate.
pub const WEBHOOK_TOKEN: Place = Place(Part::Fleetgate, "webhook-token");
/// The secret of Fleetgate's key for EMQX's REST API.
pub const API_SECRET: Place = Place(Part::Fleetgate, "emqx-api-secret");
/// The password of the dashboard's first user.
pub const DASHBOARD_PASSWORD: Place = Place(Part::Emqx, "dashboard-password");

/// The password of the role that owns the database's tables. Fleetgate's part has no copy.
const OWNER_PASSWORD: Place = Place(Part::Postgres, "owner-password");
/// The password of the role that serves, as the database is told it.
const SERVING_PASSWORD: Place = Place(Part::Postgres, "database-password");

/// The name of Fleetgate's key for EMQX's REST API.
const API_KEY: &str = "fleetgate";

/// How a file writes a secret.
#[derive(Clone, Copy)]
enum Form {
    /// The secret alone. Without a newline, which not everything that reads it would take off.
    Plain,
    /// HOCON with an `Authorization` header.
    BearerHocon,
    /// EMQX's list of API keys, one a line: name, secret, role.
    ApiKeys,
}

impl Form {
    fn write(self, secret: &Secret) -> Secret {
        let secret = secret.expose();
        Secret::new(match self {
            Self::Plain => secret.to_owned(),
            Self::BearerHocon => format!("authorization = \"Bearer {secret}\"\n"),
            Self::ApiKeys => format!("{API_KEY}:{secret}:administrator\n"),
        })
    }

    fn read(self, text: &str) -> Option<&str> {
        match self {
            Self::Plain => Some(text.trim_end_matches(['\r', '\n'])),
            Self::BearerHocon => {
                let value = text.trim().strip_prefix("authorization")?.trim_start();
                value.strip_prefix('=')?.trim_start().strip_prefix("\"Bearer ")?.strip_suffix('"')
            }
            Self::ApiKeys => text.lines().find_map(|line| {
                let (secret, role) =
                    line.trim().strip_prefix(API_KEY)?.strip_prefix(':')?.split_once(':')?;
                (role == "administrator").then_some(secret)
            }),
        }
    }
}

/// A secret, and where it is kept.
pub(super) struct Shared {
    what: &'static str,
    /// The variable by which an operator may choose it.
    variable: Option<&'static str>,
    copies: &'static [(Place, Form)],
    /// Where an older release has it.
    before: Option<Place>,
    /// Whose secret it must not be when it is made anew: a directory of an older release has one for both.
    not_of: Option<(&'static str, Place)>,
}

/// All of them.
pub(super) const SHARED: [Shared; 6] = [
    Shared {
        what: "webhook token",
        variable: Some(chosen::WEBHOOK),
        copies: &[
            (WEBHOOK_TOKEN, Form::Plain),
            (Place(Part::Emqx, "webhook-token.hocon"), Form::BearerHocon),
        ],
        before: None,
        not_of: None,
    },
    Shared {
        what: "secret of EMQX's API key",
        variable: Some(chosen::EMQX_API),
        copies: &[(API_SECRET, Form::Plain), (Place(Part::Emqx, "api-keys"), Form::ApiKeys)],
        before: None,
        not_of: None,
    },
    // Before the next one, so that only an older release leaves that one alone behind.
    Shared {
        what: "password of the database's owner",
        variable: None,
        copies: &[(OWNER_PASSWORD, Form::Plain)],
        before: Some(SERVING_PASSWORD),
        not_of: None,
    },
    Shared {
        what: "database password",
        variable: Some(chosen::DATABASE),
        copies: &[
            (Place(Part::Fleetgate, "database-password"), Form::Plain),
            (SERVING_PASSWORD, Form::Plain),
        ],
        before: None,
        not_of: Some(("the database's owner", OWNER_PASSWORD)),
    },
    Shared {
        what: "dashboard password",
        variable: Some(chosen::DASHBOARD),
        copies: &[(DASHBOARD_PASSWORD, Form::Plain)],
        before: None,
        not_of: None,
    },
    Shared {
        what: "node cookie",
        variable: None,
        copies: &[(Place(Part::Emqx, "node-cookie"), Form::Plain)],
        before: None,
        not_of: None,
    },
];

/// Says so where the serving role would have the owner's password, as in a directory of an older release.
pub(super) fn compare_roles(store: &Store, report: &mut Report) -> Result<(), ProvisionError> {
    let serving = store.directory.read(SERVING_PASSWORD)?;
    if let Some(serving) = serving
        && is_held(store, OWNER_PASSWORD, &serving)?
    {
        report.remark(
            "the role that serves has the password of the database's owner, as before there were two \
             roles: remove fleetgate/database-password and postgres/database-password, run this again, \
             then `fleetgate migrate` and a restart of `fleetgate serve`"
                .to_owned(),
        );
    }
    Ok(())
}

/// Whether a file holds this secret and nothing else, but for the end of its line.
fn is_held(store: &Store, place: Place, secret: &Secret) -> Result<bool, ProvisionError> {
    let plain =
        |secret: &Secret| Form::Plain.read(secret.expose()).map(str::to_owned).map(Secret::new);
    let (held, secret) = (store.directory.read(place)?.as_ref().and_then(plain), plain(secret));
    Ok(held.zip(secret).is_some_and(|(held, secret)| held.matches(secret.expose().as_bytes())))
}

impl Shared {
    /// Completes the copies from the one that is there, else from what was chosen, else draws a secret.
    pub(super) fn settle(
        &self,
        store: &Store,
        report: &mut Report,
        chosen: &Chosen,
    ) -> Result<(), ProvisionError> {
        let known = match (self.known(store, self.copies)?, self.before) {
            (None, Some(place)) => self.known(store, &[(place, Form::Plain)])?,
            (known, _) => known,
        };
        let chosen = self.variable.and_then(|variable| Some((variable, chosen.of(variable)?)));
        if let (Some(known), Some((variable, chosen))) = (&known, chosen)
            && !known.matches(chosen.expose().as_bytes())
        {
            report.remark(format!(
                "{variable} is not the {} that is in use, which stays: the other parts know it",
                self.what
            ));
        }
        let secret = match (known, chosen) {
            (Some(known), _) => known,
            (None, Some((variable, chosen))) => {
                self.unlike_others(store, report, variable, chosen)?
            }
            (None, None) => draw::secret(),
        };
        for (place, form) in self.copies {
            if store.directory.read(*place)?.is_some() {
                store.keep(*place)?;
                report.note(*place, Outcome::Kept);
            } else {
                store.make(*place, form.write(&secret).expose())?;
                report.note(*place, Outcome::Made);
            }
        }
        Ok(())
    }

    /// What was chosen, or a drawn secret where that is the one of somebody who must have another.
    fn unlike_others(
        &self,
        store: &Store,
        report: &mut Report,
        variable: &str,
        chosen: &Secret,
    ) -> Result<Secret, ProvisionError> {
        let Some((whose, place)) = self.not_of else { return Ok(chosen.clone()) };
        if !is_held(store, place, chosen)? {
            return Ok(chosen.clone());
        }
        report.remark(format!(
            "{variable} is the secret of {whose}, so a {} was drawn instead: choose another, or unset it",
            self.what
        ));
        Ok(draw::secret())
    }

    /// The secret that all of these copies hold that are there.
    fn known(
        &self,
        store: &Store,
        copies: &[(Place, Form)],
    ) -> Result<Option<Secret>, ProvisionError> {
        let mut known: Option<(Place, Secret)> = None;
        for (place, form) in copies {
            let Some(text) = store.directory.read(*place)? else { continue };
            let file = || store.directory.path(*place);
            let secret = form.read(text.expose()).filter(|secret| self.is_fit(secret));
            let secret = secret
                .ok_or_else(|| ProvisionError::Unusable { file: file(), wanted: self.what })?;
            match &known {
                Some((first, held)) if !held.matches(secret.as_bytes()) => {
                    let first = store.directory.path(*first);
                    return Err(ProvisionError::Contradiction {
                        what: self.what,
                        first,
                        second: file(),
                    });
                }
                Some(_) => {}
                None => known = Some((*place, Secret::new(secret.to_owned()))),
            }
        }
        Ok(known.map(|(_, secret)| secret))
    }

    /// Whether every copy can hold this secret as it is: HOCON and the list of API keys have
    /// characters of their own.
    fn is_fit(&self, secret: &str) -> bool {
        let plain = self.copies.iter().all(|(_, form)| matches!(form, Form::Plain));
        let harmless = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
        !secret.is_empty() && (plain || secret.chars().all(harmless))
    }
}
