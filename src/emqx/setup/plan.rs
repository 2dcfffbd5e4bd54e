//! What each step has to do, as EMQX stands.

use reqwest::Method;
use serde_json::{Value, json};

use super::difference::{all_fields, differences, merge};
use super::{Change, Difference, Kind, Lookup, Resource, Setup, SetupError, Target};
use crate::emqx::EmqxError;

const SETTINGS: &str = "authorization/settings";
const LOGIN_CACHE: &str = "authentication/settings";
const ACTION_CACHE: &str = "authorization/node_cache";
const AUTHENTICATORS: &str = "authentication";
const SOURCES: &str = "authorization/sources";
const AUTHENTICATOR: &str = "password_based:http";

/// One step of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// What decides where no source does.
    Settings,
    /// No login is answered from the node's memory.
    LoginCache,
    /// No action is.
    ActionCache,
    /// Who may log in.
    Authenticator,
    /// Before all other authenticators.
    AuthenticatorFirst,
    /// Who may do what.
    Source,
    /// Before all other sources.
    SourceFirst,
    /// EMQX's own source goes.
    NoFile,
    /// Connections for events.
    Connector,
    /// Delivery of events.
    Action,
    /// Connects and disconnects.
    PresenceRule,
    /// Messages.
    MessageRule,
    /// What becomes of commands.
    CommandRule,
}

impl Step {
    /// All of them. The module documentation of [`super`] says why in this order.
    pub const ORDER: [Self; 13] = [
        Self::Settings,
        Self::LoginCache,
        Self::ActionCache,
        Self::Authenticator,
        Self::AuthenticatorFirst,
        Self::Source,
        Self::SourceFirst,
        Self::NoFile,
        Self::Connector,
        Self::Action,
        Self::PresenceRule,
        Self::MessageRule,
        Self::CommandRule,
    ];
}

impl Setup<'_> {
    /// What a step would do as EMQX stands now.
    ///
    /// # Errors
    /// When EMQX cannot be asked.
    pub async fn plan(&self, step: Step) -> Result<Option<Change>, SetupError> {
        match step {
            Step::Settings => self.settings().await,
            Step::LoginCache => {
                let name = "authentication settings";
                self.cache(name, LOGIN_CACHE, &Target::login_cache()).await
            }
            Step::ActionCache => {
                let name = "authorization node cache";
                self.cache(name, ACTION_CACHE, &Target::action_cache()).await
            }
            Step::Authenticator => self.resource(&self.target.authenticator()).await,
            Step::AuthenticatorFirst => self.authenticator_first().await,
            Step::Source => self.resource(&self.target.source()).await,
            Step::SourceFirst => self.source_first().await,
            Step::NoFile => self.no_file().await,
            Step::Connector => self.resource(&self.target.connector()).await,
            Step::Action => self.resource(&self.target.action()).await,
            Step::PresenceRule => self.resource(&self.target.presence_rule()).await,
            Step::MessageRule => self.resource(&self.target.message_rule()).await,
            Step::CommandRule => self.resource(&self.target.command_rule()).await,
        }
    }

    /// Enabled authenticators and sources that are neither Fleetgate's nor taken away.
    ///
    /// # Errors
    /// When EMQX cannot be asked.
    pub async fn set_up_by_others(&self) -> Result<Vec<String>, SetupError> {
        let is_on = |entry: &&Value| entry.get("enable") != Some(&Value::Bool(false));
        let others = |list: &[Value], key: &str, ours: &[&str], what: &str| {
            let names = list.iter().filter(is_on).filter_map(|entry| text(entry, key));
            let names = names.filter(|name| !ours.contains(name));
            names.map(|name| format!("{what} {name}")).collect::<Vec<_>>()
        };
        let mut found = others(
            &self.list(AUTHENTICATORS, None).await?,
            "id",
            &[AUTHENTICATOR],
            "authenticator",
        );
        let sources = self.list(SOURCES, Some("sources")).await?;
        found.extend(others(&sources, "type", &["http", "file"], "authorization source"));
        Ok(found)
    }

    /// What EMQX has for a resource; `None`: nothing.
    ///
    /// # Errors
    /// When EMQX cannot be asked.
    pub async fn current(&self, resource: &Resource) -> Result<Option<Value>, SetupError> {
        match resource.lookup {
            Lookup::Alone => self.read(resource.item).await,
            Lookup::InList { list, key, value } => {
                let all = self.list(resource.collection, list).await?;
                Ok(all.into_iter().find(|entry| text(entry, key) == Some(value)))
            }
        }
    }

    async fn resource(&self, resource: &Resource) -> Result<Option<Change>, SetupError> {
        let Some(is) = self.current(resource).await? else {
            let mut change =
                Change::new(resource.name, Kind::Create, Method::POST, resource.collection);
            change.fields = all_fields(&resource.fields);
            change.body = Some(resource.fields.clone());
            return Ok(Some(change));
        };
        let fields = differences(&is, &resource.fields, self.rotate);
        Ok((!fields.is_empty()).then(|| {
            let mut body = resource.fields.clone();
            if let Some(body) = body.as_object_mut() {
                body.retain(|key, _| !resource.only_created.contains(&key.as_str()));
            }
            let change = Change::new(resource.name, Kind::Replace, Method::PUT, resource.item);
            let others = resource.others(text(&is, "url"));
            Change { fields, others, body: Some(body), ..change }
        }))
    }

    async fn settings(&self) -> Result<Option<Change>, SetupError> {
        let is = self.needed(SETTINGS).await?;
        Ok(adjusted("authorization settings", SETTINGS, is, &Target::settings()))
    }

    /// EMQX before 5.9 has no such cache: one path is not served there, the other is an authenticator's.
    async fn cache(
        &self,
        name: &'static str,
        path: &str,
        shall: &Value,
    ) -> Result<Option<Change>, SetupError> {
        match self.api.configuration(path).await {
            Ok(is) => Ok(is.and_then(|is| adjusted(name, path, is, shall))),
            Err(EmqxError::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(path, error)),
        }
    }

    async fn authenticator_first(&self) -> Result<Option<Change>, SetupError> {
        let all = self.list(AUTHENTICATORS, None).await?;
        let path = "authentication/password_based:http/position/front";
        let change = Change::new("authenticator", Kind::Move, Method::PUT, path);
        Ok(place_behind(&all, "id", AUTHENTICATOR).map(|fields| Change { fields, ..change }))
    }

    async fn source_first(&self) -> Result<Option<Change>, SetupError> {
        let all = self.list(SOURCES, Some("sources")).await?;
        let path = "authorization/sources/http/move";
        let change = Change::new("authorization source http", Kind::Move, Method::POST, path);
        let body = Some(json!({"position": "front"}));
        Ok(place_behind(&all, "type", "http").map(|fields| Change { fields, body, ..change }))
    }

    async fn no_file(&self) -> Result<Option<Change>, SetupError> {
        let all = self.list(SOURCES, Some("sources")).await?;
        let Some(file) = all.iter().find(|entry| text(entry, "type") == Some("file")) else {
            return Ok(None);
        };
        let is = file.get("rules").cloned();
        let fields = vec![Difference { field: "rules".to_owned(), is, becomes: None }];
        let path = "authorization/sources/file";
        let change = Change::new("authorization source file", Kind::Delete, Method::DELETE, path);
        Ok(Some(Change { fields, ..change }))
    }

    async fn read(&self, path: &str) -> Result<Option<Value>, SetupError> {
        self.api.configuration(path).await.map_err(|error| failed(path, error))
    }

    async fn needed(&self, path: &str) -> Result<Value, SetupError> {
        let missing = || EmqxError::NotFound { code: "NOT_FOUND".to_owned() };
        self.read(path).await?.ok_or_else(|| failed(path, missing()))
    }

    async fn list(&self, path: &str, field: Option<&str>) -> Result<Vec<Value>, SetupError> {
        let mut answer = self.needed(path).await?;
        let list = match field {
            Some(field) => answer.get_mut(field).map(Value::take),
            None => Some(answer),
        };
        match list {
            Some(Value::Array(list)) => Ok(list),
            _ => Err(failed(path, EmqxError::UnreadableConfiguration("no list".to_owned()))),
        }
    }
}

/// Settings that are always there. What they have besides stays.
fn adjusted(name: &'static str, path: &str, is: Value, shall: &Value) -> Option<Change> {
    let fields = differences(&is, shall, false);
    if fields.is_empty() {
        return None;
    }
    let mut body = is;
    merge(&mut body, shall.clone());
    let change = Change::new(name, Kind::Replace, Method::PUT, path);
    Some(Change { fields, body: Some(body), ..change })
}

fn failed(path: &str, error: EmqxError) -> SetupError {
    SetupError::Call { call: format!("GET /api/v5/{path}"), error }
}

fn text<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry.get(key).and_then(Value::as_str)
}

/// Where an entry is in a list, counted from 1, unless it is the first or missing.
fn place_behind(list: &[Value], key: &str, value: &str) -> Option<Vec<Difference>> {
    let place = list.iter().position(|entry| text(entry, key) == Some(value))?;
    (place > 0).then(|| {
        let (is, becomes) = (Some(json!(place + 1)), Some(json!(1)));
        vec![Difference { field: "position".to_owned(), is, becomes }]
    })
}
