//! The configuration API of EMQX, with the answers of `rest.jsonl`.
//!
//! What a new object has besides what was asked for is what EMQX answered when it was recorded. A
//! field that EMQX neither was sent nor answered in the recording is refused.

use serde_json::{Map, Value, json};

const LOGIN_CACHE: &str = "authentication/settings";
const ACTION_CACHE: &str = "authorization/node_cache";
const FILE: &str = include_str!("../../recorded/rest.jsonl");

/// A recorded exchange.
#[derive(Clone, serde::Deserialize)]
pub(crate) struct Exchange {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) request: Value,
    pub(crate) status: u16,
    pub(crate) response: Value,
}

pub(crate) fn exchanges() -> Vec<Exchange> {
    FILE.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The first recorded exchange of a call that ended so.
pub(crate) fn recorded(method: &str, path: &str, status: u16) -> Exchange {
    let path = format!("/api/v5/{path}");
    let mut all = exchanges().into_iter();
    let found = all.find(|e| e.method == method && e.path == path && e.status == status);
    found.unwrap_or_else(|| panic!("{method} {path} {status} was not recorded"))
}

/// What goes wrong with changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// They are refused with a 500.
    Refused,
    /// They are carried out, and the connection closes without an answer.
    AnswerLost,
}

/// What somebody may do on this broker who should not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Exposure {
    /// Log in without being asked who they are.
    pub(crate) anybody_logs_in: bool,
    /// Do what no service decides.
    pub(crate) undecided_is_allowed: bool,
    /// Have the rights of a device whose name they took.
    pub(crate) impostors_have_rights: bool,
}

impl Exposure {
    pub(crate) fn holes(self) -> [bool; 3] {
        [self.anybody_logs_in, self.undecided_is_allowed, self.impostors_have_rights]
    }
}

/// A change as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// What a node remembers, as EMQX 6.3's source has it (emqx_auth_cache_schema, emqx_authn_api,
/// emqx_authz_api_cache); nobody recorded it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Caches {
    /// `authentication/settings`
    pub(crate) logins: Value,
    /// `authorization/node_cache`
    pub(crate) actions: Value,
}

impl Caches {
    /// On, as they are by default from 6.2 on.
    pub(crate) fn since_6_2() -> Self {
        let cache = json!({
            "enable": true, "cache_ttl": "1m", "cleanup_interval": "1m", "stat_update_interval": "5s",
            "max_count": 1_000_000, "max_memory": "100MB",
        });
        Self {
            logins: json!({"ignore_backend_failures": false, "node_cache": cache}),
            actions: cache,
        }
    }

    fn at(&mut self, path: &str) -> &mut Value {
        if path == LOGIN_CACHE { &mut self.logins } else { &mut self.actions }
    }
}

/// EMQX's configuration, secrets in the clear.
pub(crate) struct Broker {
    pub(crate) settings: Value,
    /// From 5.9 on.
    pub(crate) caches: Option<Caches>,
    pub(crate) authenticators: Vec<Value>,
    pub(crate) sources: Vec<Value>,
    pub(crate) connector: Option<Value>,
    pub(crate) action: Option<Value>,
    pub(crate) rules: Map<String, Value>,
    pub(crate) authenticator_status: Value,
    pub(crate) source_status: Value,
    pub(crate) action_metrics: Value,
    /// `configs/global_zone`; not every EMQX has it, and nobody recorded it.
    pub(crate) zone: Option<Value>,
    /// `banned`
    pub(crate) bans: Vec<Value>,
    pub(crate) listeners: Value,
    pub(crate) calls: Vec<Call>,
    /// After each change.
    pub(crate) exposures: Vec<Exposure>,
    /// What happens to changes from the one with this number on, counted from 0.
    pub(crate) fault: Option<(usize, Fault)>,
    /// What cannot be read, with a 500.
    pub(crate) unreadable: Option<&'static str>,
    /// What the role of the API key may not read, with a 403.
    pub(crate) forbidden: Option<&'static str>,
}

impl Default for Broker {
    /// A fresh EMQX 5.8.
    fn default() -> Self {
        let sources = recorded("GET", "authorization/sources", 200).response;
        Self {
            settings: recorded("GET", "authorization/settings", 200).response,
            caches: None,
            authenticators: Vec::new(),
            sources: sources["sources"].as_array().unwrap().clone(),
            connector: None,
            action: None,
            rules: Map::new(),
            authenticator_status: status("authentication/password_based:http"),
            source_status: status("authorization/sources/http"),
            action_metrics: recorded("GET", "actions/http:fleetgate_events/metrics", 200).response,
            zone: None,
            bans: Vec::new(),
            listeners: recorded("GET", "listeners", 200).response,
            calls: Vec::new(),
            exposures: Vec::new(),
            fault: None,
            unreadable: None,
            forbidden: None,
        }
    }
}

/// The headers that EMQX adds to those of a configuration file, as its REST API shows them (docs/EMQX.md).
const OF_THE_FILE: [&str; 5] =
    ["accept", "cache-control", "connection", "content-type", "keep-alive"];

impl Broker {
    /// As if what is there had been made by a configuration file instead of calls: seen of a connector on
    /// 5.8.9, taken for possible of everything that has headers.
    pub(crate) fn made_by_file(&mut self) {
        let places = [
            self.authenticators.first_mut(),
            self.sources.first_mut(),
            self.connector.as_mut(),
            self.action.as_mut().map(|action| &mut action["parameters"]),
        ];
        for place in places.into_iter().flatten() {
            for name in OF_THE_FILE {
                place["headers"][name] = json!("******");
            }
        }
    }
}

fn status(of: &str) -> Value {
    recorded("GET", &format!("{of}/status"), 200).response
}

/// An answer; `None`: the connection closes instead.
pub(crate) type Answer = Option<(u16, Value)>;

impl Broker {
    pub(crate) fn exposure(&self) -> Exposure {
        let on = |entry: &&Value| entry["enable"] != false;
        let anybody_logs_in = !self.authenticators.iter().any(|entry| on(&entry));
        let sources: Vec<_> = self.sources.iter().filter(on).collect();
        let file = sources.iter().position(|source| source["type"] == "file");
        let allows = |at: usize| sources[at]["rules"].as_str().unwrap().contains("{allow, all}.");
        let http = sources.iter().position(|source| source["type"] == "http");
        let asked = http.is_some_and(|http| file.is_none_or(|file| http < file));
        Exposure {
            anybody_logs_in,
            undecided_is_allowed: file.map_or(self.settings["no_match"] == "allow", allows),
            impostors_have_rights: anybody_logs_in && asked,
        }
    }

    pub(crate) fn answer(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        let body =
            if body.is_empty() { Value::Null } else { serde_json::from_slice(body).unwrap() };
        if method == "GET" && self.unreadable == Some(path) {
            return Some(refusal(500, "INTERNAL_ERROR", "injected"));
        }
        if method == "GET" && self.forbidden == Some(path) {
            return Some(refusal(403, "UNAUTHORIZED_ROLE", "You don't have permission"));
        }
        if method == "GET" {
            return Some(self.read(path));
        }
        let fault =
            self.fault.filter(|(from, _)| self.calls.len() >= *from).map(|(_, fault)| fault);
        let call = Call { method: method.to_owned(), path: path.to_owned(), body: body.clone() };
        if fault == Some(Fault::Refused) {
            return Some(refusal(500, "INTERNAL_ERROR", "injected"));
        }
        self.calls.push(call);
        let answer = self.change(method, path, body);
        self.exposures.push(self.exposure());
        (fault != Some(Fault::AnswerLost)).then_some(answer)
    }

    fn read(&self, path: &str) -> (u16, Value) {
        let authenticator = find(&self.authenticators, "id", "password_based:http").is_some();
        let source = find(&self.sources, "type", "http").is_some();
        let found = match path {
            ACTION_CACHE if self.caches.is_none() => return not_served(),
            LOGIN_CACHE | ACTION_CACHE => {
                self.caches.clone().map(|mut caches| caches.at(path).clone())
            }
            "authentication" => Some(Value::Array(self.authenticators.clone())),
            "authentication/password_based:http/status" => {
                authenticator.then(|| self.authenticator_status.clone())
            }
            "authorization/settings" => Some(self.settings.clone()),
            "authorization/sources" => Some(json!({"sources": self.sources})),
            // How EMQX says this was not recorded: not the way of all others, to be sure.
            "authorization/sources/http/status" if !source => {
                return refusal(400, "BAD_REQUEST", "no such source");
            }
            "authorization/sources/http/status" => Some(self.source_status.clone()),
            "connectors/http:fleetgate" => self.connector.clone(),
            "actions/http:fleetgate_events" => self.action.clone(),
            "actions/http:fleetgate_events/metrics" => {
                self.action.is_some().then(|| self.action_metrics.clone())
            }
            "configs/global_zone" if self.zone.is_none() => return not_served(),
            "configs/global_zone" => self.zone.clone(),
            "listeners" => Some(self.listeners.clone()),
            "banned?page=1&limit=100" => Some(json!({"data": self.bans})),
            _ if path.starts_with("listeners/") => {
                let id = path.trim_start_matches("listeners/");
                let all = self.listeners.as_array().unwrap();
                all.iter().find(|listener| listener["id"] == id).cloned()
            }
            _ => match path.strip_prefix("rules/") {
                Some(id) => self.rules.get(id).cloned(),
                None => return not_served(),
            },
        };
        found.map_or_else(|| refusal(404, "NOT_FOUND", "not found"), |found| (200, masked(found)))
    }

    fn change(&mut self, method: &str, path: &str, body: Value) -> (u16, Value) {
        match (method, path) {
            ("PUT", "authorization/settings") => {
                self.settings = body;
                (200, self.settings.clone())
            }
            ("PUT", LOGIN_CACHE | ACTION_CACHE) => match &mut self.caches {
                Some(caches) => {
                    let cache = caches.at(path);
                    assert_eq!(keys_of(&body), keys_of(cache), "a PUT replaces all of it");
                    *cache = body;
                    (204, Value::Null)
                }
                None => not_served(),
            },
            ("POST", "authentication") => {
                if find(&self.authenticators, "id", "password_based:http").is_some() {
                    return again("authentication", 409);
                }
                create("authentication", body, |new| self.authenticators.push(new))
            }
            ("PUT", "authentication/password_based:http") => {
                replace(&mut self.authenticators, "id", "password_based:http", |old| {
                    completed("authentication", body, old)
                })
            }
            ("PUT", "authentication/password_based:http/position/front") => {
                to_front(&mut self.authenticators, "id", "password_based:http")
            }
            ("POST", "authorization/sources") => {
                if find(&self.sources, "type", "http").is_some() {
                    return again("authorization/sources", 400);
                }
                create("authorization/sources", body, |new| self.sources.insert(0, new))
            }
            ("PUT", "authorization/sources/http") => {
                replace(&mut self.sources, "type", "http", |old| {
                    completed("authorization/sources", body, old)
                })
            }
            ("POST", "authorization/sources/http/move") => {
                assert_eq!(body, json!({"position": "front"}));
                to_front(&mut self.sources, "type", "http")
            }
            ("DELETE", "authorization/sources/file") => match find(&self.sources, "type", "file") {
                Some(at) => {
                    self.sources.remove(at);
                    (204, Value::Null)
                }
                None => refusal(404, "NOT_FOUND", "not found"),
            },
            _ => self.change_events(method, path, body),
        }
    }

    fn change_events(&mut self, method: &str, path: &str, body: Value) -> (u16, Value) {
        match (method, path) {
            ("POST", "connectors") if self.connector.is_some() => again("connectors", 400),
            ("POST", "connectors") => create("connectors", body, |new| self.connector = Some(new)),
            ("PUT", "connectors/http:fleetgate") => renew("connectors", &mut self.connector, body),
            ("POST", "actions") if self.action.is_some() => again("actions", 400),
            // An action needs its connector.
            ("POST", "actions") if self.connector.is_none() => {
                refusal(400, "BAD_REQUEST", "connector not found")
            }
            ("POST", "actions") => create("actions", body, |new| self.action = Some(new)),
            ("PUT", "actions/http:fleetgate_events") => renew("actions", &mut self.action, body),
            ("POST", "rules") => {
                let id = body["id"].as_str().unwrap().to_owned();
                match self.rules.contains_key(&id) {
                    true => again("rules", 400),
                    false => create("rules", body, |new| drop(self.rules.insert(id, new))),
                }
            }
            _ => {
                let id = path.strip_prefix("rules/").filter(|_| method == "PUT");
                let id = id.unwrap_or_else(|| panic!("{method} {path} is no call of EMQX"));
                let mut rule = self.rules.get(id).cloned();
                let answer = renew("rules", &mut rule, body);
                self.rules.insert(id.to_owned(), rule.unwrap());
                answer
            }
        }
    }
}

fn find(list: &[Value], key: &str, value: &str) -> Option<usize> {
    list.iter().position(|entry| entry[key] == value)
}

/// A path that EMQX has nothing for.
fn not_served() -> (u16, Value) {
    (404, json!("<html></html>"))
}

fn keys_of(object: &Value) -> Vec<&String> {
    object.as_object().unwrap().keys().collect()
}

fn refusal(status: u16, code: &str, message: &str) -> (u16, Value) {
    (status, json!({"code": code, "message": message}))
}

/// The recorded answer to creating what is there.
fn again(collection: &str, status: u16) -> (u16, Value) {
    (status, recorded("POST", collection, status).response)
}

fn creation(collection: &str) -> (Exchange, Value) {
    let status = match collection {
        "authentication" => 200,
        "authorization/sources" => 204,
        _ => 201,
    };
    let exchange = recorded("POST", collection, status);
    let object = if collection == "authorization/sources" {
        let lists = exchanges().into_iter().filter(|e| e.path == "/api/v5/authorization/sources");
        let mut lists =
            lists.filter(|e| e.method == "GET").map(|e| e.response["sources"][0].clone());
        lists.rfind(|source| source["type"] == "http").unwrap()
    } else {
        exchange.response.clone()
    };
    (exchange, object)
}

fn create(collection: &str, body: Value, keep: impl FnOnce(Value)) -> (u16, Value) {
    let (exchange, _) = creation(collection);
    match completed(collection, body, &Value::Null) {
        Ok(object) => {
            keep(object.clone());
            let answer = if exchange.status == 204 { Value::Null } else { masked(object) };
            (exchange.status, answer)
        }
        Err(answer) => answer,
    }
}

/// What EMQX makes of a body: with defaults, and nothing it does not know.
fn completed(collection: &str, body: Value, old: &Value) -> Result<Value, (u16, Value)> {
    let (exchange, object) = creation(collection);
    let named = ["connectors", "actions"].contains(&collection);
    if named && !old.is_null() && (body.get("type").is_some() || body.get("name").is_some()) {
        return Err(refusal(400, "BAD_REQUEST", "unknown fields: type, name"));
    }
    let mut new = defaults(&object, &exchange.request);
    if !old.is_null() {
        for key in ["type", "name"] {
            if named {
                new[key] = old[key].clone();
            }
        }
    }
    if let Err(field) = overlay(&mut new, body, &object) {
        return Err(refusal(400, "BAD_REQUEST", &format!("unknown field {field}")));
    }
    Ok(new)
}

/// Whether all keys of an object are EMQX's own.
fn has_schema(key: &str) -> bool {
    key == "parameters" || key == "resource_opts"
}

/// What EMQX answered without having been told.
fn defaults(answered: &Value, told: &Value) -> Value {
    let mut defaults = Map::new();
    for (key, value) in answered.as_object().unwrap() {
        match told.get(key) {
            None => drop(defaults.insert(key.clone(), value.clone())),
            Some(told) if has_schema(key) => {
                defaults.insert(key.clone(), self::defaults(value, told));
            }
            Some(_) => {}
        }
    }
    Value::Object(defaults)
}

fn overlay(new: &mut Value, body: Value, known: &Value) -> Result<(), String> {
    let Value::Object(body) = body else { return Err("no object".to_owned()) };
    for (key, value) in body {
        if known.get(&key).is_none() {
            return Err(key);
        }
        if has_schema(&key) {
            overlay(&mut new[&key], value, &known[&key])?;
        } else {
            new[&key] = value;
        }
    }
    Ok(())
}

fn replace(
    list: &mut [Value],
    key: &str,
    value: &str,
    make: impl FnOnce(&Value) -> Result<Value, (u16, Value)>,
) -> (u16, Value) {
    let Some(at) = find(list, key, value) else { return refusal(404, "NOT_FOUND", "not found") };
    match make(&list[at]) {
        Ok(new) => {
            list[at] = new;
            (204, Value::Null)
        }
        Err(answer) => answer,
    }
}

fn renew(collection: &str, place: &mut Option<Value>, body: Value) -> (u16, Value) {
    let Some(old) = place else { return refusal(404, "NOT_FOUND", "not found") };
    match completed(collection, body, old) {
        Ok(new) => {
            *place = Some(new.clone());
            (200, masked(new))
        }
        Err(answer) => answer,
    }
}

fn to_front(list: &mut Vec<Value>, key: &str, value: &str) -> (u16, Value) {
    let Some(at) = find(list, key, value) else { return refusal(404, "NOT_FOUND", "not found") };
    let entry = list.remove(at);
    list.insert(0, entry);
    (204, Value::Null)
}

/// As EMQX shows it.
fn masked(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for (key, field) in fields.iter_mut() {
                *field =
                    if key == "authorization" { json!("******") } else { masked(field.take()) };
            }
        }
        Value::Array(entries) => entries.iter_mut().for_each(|entry| *entry = masked(entry.take())),
        _ => {}
    }
    value
}
