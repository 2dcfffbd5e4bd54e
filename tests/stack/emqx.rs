//! `emqx-config/fleetgate.conf`: what EMQX sends, and where, is what Fleetgate serves and reads.

use std::collections::BTreeSet;

use actix_web::App;
use actix_web::http::StatusCode;
use actix_web::test::{TestRequest, call_service, init_service};
use fleetgate::http::emqx::{authn, authz, events};
use serde_json::{Map, Value, json};

use crate::compose::{mounts, service, texts};
use crate::{hocon, secrets_of, text_of};

const FILE: &str = "emqx-config/fleetgate.conf";

/// What it says.
pub(crate) fn configuration() -> Value {
    hocon::parse(&text_of(FILE))
}

pub(crate) fn authentication() -> Value {
    configuration()["authentication"][0].take()
}

pub(crate) fn source() -> Value {
    configuration()["authorization"]["sources"][0].take()
}

/// A rule's query.
pub(crate) fn sql(rule: &str) -> String {
    configuration()["rule_engine"]["rules"][rule]["sql"].as_str().unwrap().to_owned()
}

/// The fields of a body template; each takes EMQX's placeholder of its own name.
pub(crate) fn template(of: &Value) -> BTreeSet<String> {
    let fields = of["body"].as_object().unwrap().iter().map(|(name, placeholder)| {
        assert_eq!(*placeholder, format!("${{{name}}}"));
        name.clone()
    });
    fields.collect()
}

/// The recorded bodies of a file in `tests/recorded`.
fn recorded(file: &str) -> Vec<Map<String, Value>> {
    let text = text_of(&format!("tests/recorded/{file}"));
    let bodies = text.lines().map(|line| {
        let request: Value = serde_json::from_str(line).unwrap();
        serde_json::from_str(request["body"].as_str().unwrap()).unwrap()
    });
    bodies.collect()
}

/// A template gives what EMQX was recorded to send, all that is read, and what is read can't be left out.
fn check_template(
    fields: &BTreeSet<String>,
    file: &str,
    needed: &[&str],
    reads: fn(&[u8]) -> bool,
) {
    let sent = recorded(file).into_iter().flat_map(|body| body.into_iter().map(|(key, _)| key));
    assert_eq!(*fields, sent.collect::<BTreeSet<_>>());
    let body = fields.iter().map(|field| (field.clone(), json!("x"))).collect::<Map<_, _>>();
    assert!(reads(&serde_json::to_vec(&body).unwrap()));
    for field in needed {
        let mut without = body.clone();
        assert!(without.remove(*field).is_some(), "{field} is not in the template");
        assert!(!reads(&serde_json::to_vec(&without).unwrap()), "{field} is not read");
    }
}

#[actix_web::test]
async fn every_address_is_a_route_of_fleetgate() {
    let text = configuration();
    let port = service("fleetgate")["environment"]["FLEETGATE_HTTP_LISTEN"].clone();
    let origin = format!("http://fleetgate:{}", port.as_str().unwrap().rsplit_once(':').unwrap().1);
    assert_eq!(text["connectors"]["http"]["fleetgate"]["url"], origin);
    let urls = [authentication()["url"].take(), source()["url"].take()];
    let urls = urls.iter().map(|url| url.as_str().unwrap().strip_prefix(&origin).unwrap());
    let path = text["actions"]["http"]["fleetgate_events"]["parameters"]["path"].as_str();
    let paths = urls.chain(path).collect::<Vec<_>>();
    assert_eq!(paths, ["/emqx/authn", "/emqx/authz", "/emqx/events"]);
    let app = init_service(App::new().configure(fleetgate::http::routes)).await;
    let status = async |path: &str| {
        let request = TestRequest::post().uri(path).to_request();
        call_service(&app, request).await.status()
    };
    assert_eq!(status("/emqx/nothing").await, StatusCode::NOT_FOUND);
    for path in paths {
        let status = status(path).await;
        // There is no AppState behind the route here: it is found and cannot answer.
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
    }
}

#[test]
fn a_login_tells_what_fleetgate_reads() {
    let fields = template(&authentication());
    for field in ["cert_common_name", "peerhost"] {
        assert!(fields.contains(field), "{field} is read where it is there");
    }
    let reads = |body: &[u8]| authn::parse(body).is_ok();
    check_template(&fields, "authn.jsonl", &["clientid", "username", "password"], reads);
}

#[test]
fn an_action_tells_what_fleetgate_reads() {
    let reads = |body: &[u8]| authz::parse(body).is_ok();
    let fields = template(&source());
    check_template(&fields, "authz.jsonl", &["username", "action", "topic"], reads);
}

/// The SELECT of a rule: field and the name it is sent under.
fn selected(rule: &str) -> (String, String) {
    let sql = sql(rule);
    let (fields, from) = sql.strip_prefix("SELECT ").unwrap().split_once(" FROM ").unwrap();
    (fields.to_owned(), from.to_owned())
}

#[test]
fn the_messages_rule_selects_what_an_event_needs() {
    let (fields, from) = selected("fleetgate_messages");
    assert_eq!(from, "\"#\" WHERE clientid <> 'http_api'");
    // The recordings have no messages with it; it is where those of commands have it.
    let correlation = ", pub_props.'Correlation-Data' as correlation";
    assert!(fields.contains(correlation), "{fields}");
    let fields = fields.replace(correlation, "");
    let names = fields.split(", ").map(|field| match field.split_once(" as ") {
        Some((_, name)) => name,
        None => field,
    });
    let names = names.collect::<BTreeSet<_>>();
    let messages = recorded("events.jsonl").into_iter();
    let messages = messages.filter(|body| body["event"] == "message.publish").collect::<Vec<_>>();
    assert!(messages.len() > 5, "{}", messages.len());
    for message in messages {
        let bytes = |body: &Map<String, Value>| serde_json::to_vec(body).unwrap();
        let mut selected = message.clone();
        selected.retain(|key, _| names.contains(key.as_str()));
        assert_eq!(selected.len(), names.len(), "EMQX sends every one of {names:?}");
        let whole = bytes(&message);
        let part = bytes(&selected);
        assert_eq!(events::parse(&part).unwrap(), events::parse(&whole).unwrap());
    }
}

/// A field that an event lacks is `undefined` when a rule selects it; nothing is sent that is not read.
#[test]
fn the_presence_rule_selects_what_an_event_needs() {
    let (fields, from) = selected("fleetgate_presence");
    assert_eq!(from, "\"$events/client_connected\", \"$events/client_disconnected\"");
    let names = fields.split(", ").collect::<BTreeSet<_>>();
    let is_presence = |body: &Map<String, Value>| {
        ["client.connected", "client.disconnected"].contains(&body["event"].as_str().unwrap())
    };
    let sessions = recorded("events.jsonl").into_iter().filter(is_presence).collect::<Vec<_>>();
    assert!(sessions.len() > 20, "{}", sessions.len());
    for whole in &sessions {
        let field = |name: &&str| {
            let value = whole.get(*name).cloned().unwrap_or_else(|| json!("undefined"));
            ((*name).to_owned(), value)
        };
        let part = names.iter().map(field).collect::<Map<_, _>>();
        let bytes = |body| serde_json::to_vec(body).unwrap();
        let (whole, part) = (bytes(whole), bytes(&part));
        assert_eq!(events::parse(&part).unwrap(), events::parse(&whole).unwrap());
    }
    for name in names {
        assert!(sessions.iter().any(|body| body.contains_key(name)), "no event has {name}");
    }
}

/// Each field stands in the recordings under the name that it is selected by; a correlation is what the message had.
#[test]
fn the_commands_rule_selects_what_an_event_needs() {
    let (fields, from) = selected("fleetgate_commands");
    assert_eq!(
        from,
        "\"$events/message_delivered\", \"$events/message_acked\", \"$events/delivery_dropped\" WHERE from_clientid = 'http_api'"
    );
    let events = ["message.delivered", "message.acked", "delivery.dropped"];
    for recording in ["commands.jsonl", "emqx-6.2.2/commands.jsonl"] {
        let told = recorded(recording).into_iter();
        let told = told.filter(|body| events.contains(&body["event"].as_str().unwrap_or_default()));
        let told = told.filter(|body| body["from_clientid"] == "http_api").collect::<Vec<_>>();
        assert!(told.len() > 25, "{recording}: {}", told.len());
        let mut understood = 0;
        for whole in &told {
            let field = |field: &str| match field.split_once(" as ") {
                Some((place, name)) => {
                    assert_eq!(place, "pub_props.'Correlation-Data'");
                    (name.to_owned(), whole["pub_props"].get("Correlation-Data").cloned())
                }
                None => (field.to_owned(), whole.get(field).cloned()),
            };
            let part = fields.split(", ").map(field);
            let part =
                part.map(|(name, value)| (name, value.unwrap_or_else(|| json!("undefined"))));
            let part = serde_json::to_vec(&part.collect::<Map<_, _>>()).unwrap();
            let event = events::parse(&part).unwrap();
            let has_id = whole["pub_props"].get("Correlation-Data").is_some();
            assert_eq!(matches!(event, events::ParsedEvent::Event(_)), has_id, "{whole:?}");
            understood += usize::from(has_id);
        }
        assert!(understood > 15, "{recording}: {understood}");
    }
}

#[test]
fn rules_action_and_connector_name_each_other() {
    let text = configuration();
    let names = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&text["connectors"]["http"]), ["fleetgate"]);
    assert_eq!(names(&text["actions"]["http"]), ["fleetgate_events"]);
    assert_eq!(text["actions"]["http"]["fleetgate_events"]["connector"], "fleetgate");
    let rules = &text["rule_engine"]["rules"];
    assert_eq!(names(rules), ["fleetgate_commands", "fleetgate_messages", "fleetgate_presence"]);
    for rule in names(rules) {
        assert_eq!(rules[rule]["actions"], json!(["http:fleetgate_events"]));
    }
}

#[test]
fn nothing_is_allowed_by_default_remembered_or_given_up() {
    let text = configuration();
    let authorization = &text["authorization"];
    assert_eq!(authorization["no_match"], "deny");
    assert_eq!(authorization["cache"], json!({"enable": false}));
    let sources = authorization["sources"].as_array().unwrap();
    assert_eq!(sources.len(), 1, "the file source would allow everything");
    assert_eq!(sources[0]["type"], "http");
    assert_eq!(text["authentication"].as_array().unwrap().len(), 1);
    // actix-web answers one request at a time on a connection.
    for decision in [&text["authentication"][0], &sources[0]] {
        assert_eq!(decision["enable_pipelining"], 1);
        assert_eq!(decision["request_timeout"], "5s");
    }
    let kept = &text["actions"]["http"]["fleetgate_events"]["resource_opts"];
    assert_eq!(kept["request_ttl"], "infinity");
    let tls = &text["listeners"]["ssl"]["default"]["ssl_options"];
    assert_eq!(tls["verify"], "verify_peer");
    assert_eq!(tls["fail_if_no_peer_cert"], false);
}

#[test]
fn waiting_events_fit_into_the_memory_limit() {
    let megabytes = |text: &str| text.strip_suffix("MB").unwrap().parse::<u64>().unwrap();
    let text = configuration();
    let kept = &text["actions"]["http"]["fleetgate_events"]["resource_opts"];
    let buffer = megabytes(kept["max_buffer_bytes"].as_str().unwrap());
    let limit = service("emqx")["mem_limit"].as_str().unwrap().to_owned();
    let limit = limit.strip_suffix('g').unwrap().parse::<u64>().unwrap() * 1024;
    // An action has 16 workers (`worker_pool_size`, seen in recordings); 2 GB are for all else.
    assert!(buffer * 16 + 2048 <= limit, "{buffer} MB for each of 16 workers, of {limit} MB");
}

#[test]
fn the_doors_are_those_that_are_published() {
    let text = configuration();
    let mqtt = &text["listeners"];
    let doors = [
        &mqtt["tcp"]["default"]["bind"],
        &mqtt["ssl"]["default"]["bind"],
        &text["dashboard"]["listeners"]["http"]["bind"],
    ];
    let doors =
        doors.map(|door| door.as_str().unwrap().strip_prefix("0.0.0.0:").unwrap().to_owned());
    let published = texts(&service("emqx")["ports"]).into_iter();
    let published = published.map(|port| port.rsplit_once(':').unwrap().1.to_owned());
    assert_eq!(doors.to_vec(), published.collect::<Vec<_>>());
    for closed in ["ws", "wss"] {
        assert_eq!(mqtt[closed]["default"], json!({"enable": false}));
    }
}

#[test]
fn every_file_it_names_is_made_and_mounted() {
    let emqx = service("emqx");
    let mounts = mounts(&emqx);
    let place = |what: &str| &mounts.iter().find(|(mounted, ..)| mounted == what).unwrap().1;
    assert_eq!(place("../emqx-config/fleetgate.conf"), "/opt/emqx/etc/emqx.conf");
    let prefix = format!("{}/", place("secrets-emqx"));
    let entrypoint = texts(&emqx["entrypoint"]).join("\n");
    let text = text_of(FILE) + &entrypoint;
    let named = text.match_indices(&prefix).map(|(at, _)| {
        let rest = &text[at + prefix.len()..];
        rest.split(['"', ')', '\n', ' ']).next().unwrap()
    });
    let named = named.collect::<BTreeSet<_>>();
    let made = secrets_of("secrets-emqx").iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(named, made);
}
