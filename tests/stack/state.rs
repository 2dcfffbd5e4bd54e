//! `emqx-config/fleetgate.conf` and `fleetgate emqx apply` lead to the same state.

use std::collections::BTreeMap;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use fleetgate::config::EmqxApi as Settings;
use fleetgate::emqx::EmqxApi;
use fleetgate::emqx::setup::{HIDDEN, Setup, Target};
use fleetgate::metrics::Metrics;
use fleetgate::secret::Secret;
use serde_json::{Value, json};

use crate::compose::service;
use crate::emqx::configuration;

/// Every value with the path that leads to it.
pub(crate) type State = BTreeMap<String, Value>;

/// What a container needs besides, and what is of no concern to an EMQX that already runs.
const OF_THE_CONTAINER: [&str; 5] = ["node", "listeners", "dashboard", "api_key", "telemetry"];

/// Variables beside the file that are about the container too.
const OF_THE_CONTAINERS_ENVIRONMENT: [&str; 2] = ["node_name", "prometheus.enable_basic_auth"];

/// Where `emqx.conf` has what `emqx apply` calls so.
const PLACES: [(&str, &str); 10] = [
    ("authentication settings", "authentication_settings"),
    ("authorization settings", "authorization"),
    ("authorization node cache", "authorization.node_cache"),
    ("authenticator", "authentication.0"),
    ("authorization source http", "authorization.sources.0"),
    ("connector", "connectors.http.fleetgate"),
    ("action", "actions.http.fleetgate_events"),
    ("rule for presence", "rule_engine.rules.fleetgate_presence"),
    ("rule for messages", "rule_engine.rules.fleetgate_messages"),
    ("rule for commands", "rule_engine.rules.fleetgate_commands"),
];

pub(crate) fn flatten(path: &str, value: &Value, state: &mut State) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, field)| flatten(&below(key), field, state));
        }
        Value::Array(items) if items.first().is_some_and(Value::is_object) => {
            let items = items.iter().enumerate();
            items.for_each(|(at, item)| flatten(&below(&at.to_string()), item, state));
        }
        _ => drop(state.insert(path.to_owned(), value.clone())),
    }
}

/// The file, and the variables beside it.
pub(crate) fn configured() -> State {
    let mut root = configuration();
    for own in OF_THE_CONTAINER {
        assert!(root.as_object_mut().unwrap().remove(own).is_some(), "{own}");
    }
    let mut state = State::new();
    flatten("", &root, &mut state);
    for (name, value) in service("emqx")["environment"].as_object().unwrap() {
        let path = name.strip_prefix("EMQX_").unwrap().to_lowercase().replace("__", ".");
        if !OF_THE_CONTAINERS_ENVIRONMENT.contains(&path.as_str()) {
            let value = serde_json::from_str(value.as_str().unwrap()).unwrap();
            assert!(state.insert(path, value).is_none(), "{name} is in the file too");
        }
    }
    state
}

/// The whole token header comes from a file.
pub(crate) fn with_token(state: State) -> State {
    let shown = |(path, value): (String, Value)| match path.strip_suffix(".include") {
        Some(headers) => {
            assert_eq!(value, "/opt/emqx/etc/fleetgate/webhook-token.hocon");
            (format!("{headers}.authorization"), Value::from(HIDDEN))
        }
        None => (path, value),
    };
    state.into_iter().map(shown).collect()
}

/// An EMQX that has nothing.
async fn nothing(request: HttpRequest) -> HttpResponse {
    HttpResponse::Ok().json(match request.path().strip_prefix("/api/v5/").unwrap() {
        "authentication" => json!([]),
        "authorization/sources" => json!({"sources": []}),
        "authorization/settings" | "authorization/node_cache" | "authentication/settings" => {
            json!({})
        }
        _ => return HttpResponse::NotFound().json(json!({"code": "NOT_FOUND"})),
    })
}

/// What `emqx apply` would do with an EMQX that has nothing.
async fn applied() -> State {
    let server = HttpServer::new(|| App::new().default_service(web::to(nothing))).workers(1);
    let server = server.bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", server.addrs()[0]);
    let server = server.disable_signals().run();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    let secret = Secret::new("0123456789abcdef".to_owned());
    let settings = Settings { url, key: "fleetgate".to_owned(), secret, ca_file: None };
    let api = EmqxApi::new(&settings, Metrics::new().unwrap().emqx).unwrap();
    let target = Target::new("http://fleetgate:8080", Secret::generate());
    let changes = Setup::new(&api, &target, false).changes().await.unwrap();
    handle.stop(false).await;
    let mut state = State::new();
    for change in changes {
        let place = PLACES.iter().find(|(name, _)| *name == change.name);
        let (_, place) = place.unwrap_or_else(|| panic!("where is {}?", change.name));
        for field in change.fields {
            let path = format!("{place}.{}", field.field);
            assert!(state.insert(path, field.becomes.unwrap()).is_none(), "{place}");
        }
    }
    state
}

/// In the file the kind and the name of a thing are its path.
pub(crate) fn without_names(mut state: State) -> State {
    for (_, place) in PLACES {
        let mut path = place.rsplit('.');
        let (name, kind) = (path.next().unwrap(), path.next());
        let named: &[(&str, Option<&str>)] = match place.split('.').next().unwrap() {
            "connectors" | "actions" => &[("name", Some(name)), ("type", kind)],
            "rule_engine" => &[("id", Some(name))],
            _ => &[],
        };
        for (key, expected) in named {
            let told = state.remove(&format!("{place}.{key}"));
            assert_eq!(told, expected.map(Value::from), "{place}.{key}");
        }
    }
    state
}

#[actix_web::test]
async fn the_file_and_emqx_apply_lead_to_the_same_state() {
    let configured = with_token(configured());
    let mut applied = without_names(applied().await);
    // What the file defines is enabled, unless it says otherwise.
    let told = |path: &String| configured.contains_key(path);
    applied.retain(|path, value| told(path) || !path.ends_with(".enable") || *value != json!(true));
    assert!(configured.len() > 50, "{configured:#?}");
    assert_eq!(configured, applied);
}
