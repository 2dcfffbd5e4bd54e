//! Configures a running EMQX over its REST API to the state that `emqx-config/` describes.
//!
//! # The order of steps
//! Whatever stands before a step, the step lets nobody in, and nobody do anything, who should not.
//! A run that breaks off between two steps therefore leaves EMQX at most as open as it was.
//! 1. *`no_match = deny`, no cache, neither a client's nor the node's.* First, because taking a source
//!    away later makes it decide, and because what is remembered outlives what is taken away.
//! 2. *The authenticator*, and 3. *in front of all others*: those would decide before Fleetgate. It
//!    comes before the source of authorization: that one believes the user name, and on a broker
//!    where anybody may log in under any name it would hand out the rights of any device.
//! 4. *The HTTP source*, and 5. *in front of all others*. Before the `file` source goes, so that
//!    clients with rights keep them throughout.
//! 6. *The `file` source goes*: the one of a fresh EMQX allows everything that nobody decided.
//! 7. *Connector, action, rules*, each after what it refers to. They report and let nobody in.
//!
//! # What it does not do
//! Authenticators and sources of others stay, because it cannot know who needs them; they are told
//! ([`Setup::set_up_by_others`]), as are settings by which somebody could keep devices out ([`Setup::hazards`]). EMQX has room
//! for one HTTP authenticator and one HTTP source: one that asks another service than Fleetgate stops the run before
//! anything is changed, unless it may be replaced ([`Setup::replacing_others`]). Sessions that are open stay open: the authenticator has never seen them.
//! A resource that differs is replaced whole, so that a setting of it that is not part of the target
//! gets EMQX's default. Nothing is done twice: what is as it should be is not touched.

mod difference;
mod hazards;
mod place;
mod plan;
mod target;

use reqwest::Method;
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use crate::emqx::{EmqxApi, EmqxError};

pub use difference::{Difference, shown};
pub use hazards::Hazard;
pub use place::{USUAL_URL, fleetgate_url, without_secrets};
pub use plan::Step;
pub use target::{Resource, Target};

/// How EMQX shows a secret.
pub const HIDDEN: &str = "******";

/// How a resource is looked up.
#[derive(Debug, Clone, Copy)]
pub enum Lookup {
    /// By a path of its own.
    Alone,
    /// In the list of all: the one whose field `key` has this value.
    InList {
        /// The field of the answer that is the list; `None`: the answer is.
        list: Option<&'static str>,
        /// The field that tells them apart.
        key: &'static str,
        /// Its value.
        value: &'static str,
    },
}

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It was not there.
    Create,
    /// It is there, and differs.
    Replace,
    /// It gets in front of its like.
    Move,
    /// It goes.
    Delete,
}

/// A call that brings EMQX closer to the target. Its serialized form holds no secret.
#[derive(Clone, Serialize)]
pub struct Change {
    /// What is changed.
    pub name: &'static str,
    /// How.
    pub kind: Kind,
    /// The call, for people: `PUT /api/v5/…`.
    pub call: String,
    /// What changes in it.
    pub fields: Vec<Difference>,
    /// Where the one asks that it replaces, if that is not Fleetgate.
    #[serde(skip)]
    pub others: Option<String>,
    #[serde(skip)]
    method: Method,
    #[serde(skip)]
    path: String,
    /// Holds the webhook token.
    #[serde(skip)]
    body: Option<Value>,
}

impl Change {
    fn new(name: &'static str, kind: Kind, method: Method, path: &str) -> Self {
        let call = format!("{method} /api/v5/{path}");
        let (fields, path) = (Vec::new(), path.to_owned());
        Self { name, kind, call, fields, others: None, method, path, body: None }
    }
}

/// Why EMQX is not configured. Holds no secret.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A call failed.
    #[error("{call}: {error}")]
    Call {
        /// The call.
        call: String,
        /// Why.
        #[source]
        error: EmqxError,
    },
    /// What stands where Fleetgate's belongs asks another service.
    #[error(
        "EMQX's {name} asks {url}, which is not Fleetgate, and EMQX has room for one of its kind"
    )]
    OfOthers {
        /// What it is.
        name: &'static str,
        /// Where it asks.
        url: String,
    },
}

/// How far a run came.
pub struct Outcome {
    /// What was done, in order.
    pub done: Vec<Change>,
    /// Why it went no further; nothing: it is done.
    pub failed: Option<SetupError>,
}

/// EMQX and what it shall be.
pub struct Setup<'a> {
    api: &'a EmqxApi,
    target: &'a Target,
    /// Whether the token is sent even where EMQX has one.
    rotate: bool,
    /// Whether an authenticator or source that asks another service may be replaced.
    replace_others: bool,
}

impl<'a> Setup<'a> {
    /// Nothing is asked or changed yet.
    #[must_use]
    pub fn new(api: &'a EmqxApi, target: &'a Target, rotate: bool) -> Self {
        Self { api, target, rotate, replace_others: false }
    }

    /// Whether an HTTP authenticator or source may be replaced that asks another service than Fleetgate.
    #[must_use]
    pub fn replacing_others(self, replace_others: bool) -> Self {
        Self { replace_others, ..self }
    }

    /// What a run would do as EMQX stands now. Changes nothing.
    ///
    /// # Errors
    /// When EMQX cannot be asked, or has something of others that may not be replaced.
    pub async fn changes(&self) -> Result<Vec<Change>, SetupError> {
        self.look_for_others().await?;
        let mut changes = Vec::new();
        for step in Step::ORDER {
            changes.extend(self.plan(step).await?);
        }
        Ok(changes)
    }

    /// Brings EMQX to the target, step by step, and stops at the first that fails.
    pub async fn apply(&self) -> Outcome {
        let mut done = Vec::new();
        if let Err(error) = self.look_for_others().await {
            return Outcome { done, failed: Some(error) };
        }
        for step in Step::ORDER {
            match self.take(step).await {
                Ok(change) => done.extend(change),
                Err(error) => return Outcome { done, failed: Some(error) },
            }
        }
        Outcome { done, failed: None }
    }

    /// Refuses before anything is changed: half a configuration would keep the clients of others out.
    async fn look_for_others(&self) -> Result<(), SetupError> {
        for step in [Step::Authenticator, Step::Source] {
            if let Some(change) = self.plan(step).await? {
                self.permit(&change)?;
            }
        }
        Ok(())
    }

    fn permit(&self, change: &Change) -> Result<(), SetupError> {
        match &change.others {
            Some(url) if !self.replace_others => {
                Err(SetupError::OfOthers { name: change.name, url: url.clone() })
            }
            _ => Ok(()),
        }
    }

    async fn take(&self, step: Step) -> Result<Option<Change>, SetupError> {
        let Some(change) = self.plan(step).await? else { return Ok(None) };
        self.permit(&change)?;
        match self.carry_out(&change).await {
            Ok(()) => Ok(Some(change)),
            Err(error) => self.look_again(step, change, error).await.map(Some),
        }
    }

    /// A call that failed may have been carried out, or somebody else was quicker.
    async fn look_again(
        &self,
        step: Step,
        change: Change,
        error: SetupError,
    ) -> Result<Change, SetupError> {
        match self.plan(step).await {
            Ok(None) => Ok(change),
            Ok(Some(next)) if (change.kind, next.kind) == (Kind::Create, Kind::Replace) => {
                self.permit(&next)?;
                self.carry_out(&next).await.map(|()| next)
            }
            _ => Err(error),
        }
    }

    async fn carry_out(&self, change: &Change) -> Result<(), SetupError> {
        let outcome = self.api.change(&change.method, &change.path, change.body.as_ref()).await;
        outcome.map_err(|error| SetupError::Call {
            call: change.call.clone(),
            error: self.hide(error),
        })
    }

    fn hide(&self, error: EmqxError) -> EmqxError {
        match error {
            EmqxError::Rejected { status, code, message } => {
                let message = self.target.without_token(&message);
                EmqxError::Rejected { status, code, message }
            }
            other => other,
        }
    }
}
