//! `emqx-config/fleetgate.conf`: what EMQX sends, and where, is what Fleetgate serves and reads.

use std::collections::BTreeSet;

use actix_web::App;
use actix_web::http::StatusCode;
use actix_web::test::{TestRequest, call_service, init_service};
use fleetgate::http::emqx::{authn, authz, events};
use serde_json::{Map, Value, json};

use crate::compose::{mounts, service, texts};
use crate::{secrets_of, text_of};

const FILE: &str = "emqx-config/fleetgate.conf";

/// The file without its comments. No text in it holds a `#` behind white space.
pub(crate) fn configuration() -> String {
    let text = text_of(FILE);
    let lines = text.lines().map(|line| match line.trim_start().starts_with('#') {
        true => "",
        false => line.split(" # ").next().unwrap(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What stands between the brackets that follow each of these words.
fn blocks(text: &str, word: &str, [open, close]: [char; 2]) -> Vec<String> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices(&format!("{word} {open}")) {
        let inner = &text[start + word.len() + 2..];
        let mut depth = 1;
        let end = inner.find(|c| {
            depth += i32::from(c == open) - i32::from(c == close);
            depth == 0
        });
        found.push(inner[..end.unwrap()].to_owned());
    }
    found
}

pub(crate) fn block(text: &str, word: &str) -> String {
    let mut found = blocks(text, word, ['{', '}']);
    assert_eq!(found.len(), 1, "{word}");
    found.remove(0)
}

/// Every value given to a key, without quotes.
pub(crate) fn values(text: &str, key: &str) -> Vec<String> {
    let prefix = format!("{key} = ");
    let begins = |line: &str, at: usize| line[..at].trim().is_empty() || line[..at].ends_with("{ ");
    let lines = text.lines().filter_map(|line| {
        let at = line.find(&prefix).filter(|at| begins(line, *at))?;
        let value = line[at + prefix.len()..].trim_end_matches([' ', '}']);
        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        Some(quoted.unwrap_or(value).to_owned())
    });
    lines.collect()
}

pub(crate) fn authentication() -> String {
    blocks(&configuration(), "authentication =", ['[', ']']).remove(0)
}

pub(crate) fn authorization() -> String {
    block(&configuration(), "authorization")
}

/// The fields of a body template; each takes EMQX's placeholder of its own name.
pub(crate) fn template(of: &str) -> BTreeSet<String> {
    let body = block(of, "body");
    let fields = body.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
        let (name, placeholder) = line.split_once(" = ").unwrap();
        assert_eq!(placeholder, format!("\"${{{name}}}\""));
        name.to_owned()
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
    let urls = values(&text, "url");
    assert_eq!(urls.len(), 3, "{urls:?}");
    let paths = urls.iter().map(|url| url.strip_prefix(&origin).unwrap().to_owned());
    let mut paths = paths.filter(|path| !path.is_empty()).collect::<Vec<_>>();
    paths.extend(values(&text, "path"));
    assert_eq!(paths, ["/emqx/authn", "/emqx/authz", "/emqx/events"]);
    let app = init_service(App::new().configure(fleetgate::http::routes)).await;
    let status = async |path: &str| {
        let request = TestRequest::post().uri(path).to_request();
        call_service(&app, request).await.status()
    };
    assert_eq!(status("/emqx/nothing").await, StatusCode::NOT_FOUND);
    for path in paths {
        let status = status(&path).await;
        // There is no Gate behind the route here: it is found and cannot answer.
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
    let fields = template(&authorization());
    check_template(&fields, "authz.jsonl", &["username", "action", "topic"], reads);
}

/// The SELECT of a rule: field and the name it is sent under.
fn selected(rule: &str) -> (String, String) {
    let sql = values(&block(&configuration(), rule), "sql").remove(0);
    let (fields, from) = sql.strip_prefix("SELECT ").unwrap().split_once(" FROM ").unwrap();
    (fields.to_owned(), from.replace('\\', ""))
}

#[test]
fn the_messages_rule_selects_what_an_event_needs() {
    let (fields, from) = selected("rule_engine.rules.fleetgate_messages");
    assert_eq!(from, "\"#\"");
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

#[test]
fn the_presence_rule_hears_both_ends_of_a_session() {
    let (fields, from) = selected("rule_engine.rules.fleetgate_presence");
    assert_eq!(fields, "*");
    assert_eq!(from, "\"$events/client_connected\", \"$events/client_disconnected\"");
}

#[test]
fn rules_action_and_connector_name_each_other() {
    let text = configuration();
    let action = block(&text, "actions.http.fleetgate_events");
    assert_eq!(values(&action, "connector"), ["fleetgate"]);
    block(&text, "connectors.http.fleetgate");
    assert_eq!(values(&text, "actions"), [r#"["http:fleetgate_events"]"#; 2]);
}

#[test]
fn nothing_is_allowed_by_default_remembered_or_given_up() {
    let text = configuration();
    let authorization = authorization();
    assert_eq!(values(&authorization, "no_match"), ["deny"]);
    assert_eq!(block(&authorization, "cache").trim(), "enable = false");
    let sources = blocks(&authorization, "sources =", ['[', ']']).remove(0);
    assert_eq!(values(&sources, "type"), ["http"], "the file source would allow everything");
    assert_eq!(values(&text, "request_ttl"), ["infinity"]);
    // actix-web answers one request at a time on a connection.
    for decision in [authentication(), sources] {
        assert_eq!(values(&decision, "enable_pipelining"), ["1"]);
        assert_eq!(values(&decision, "request_timeout"), ["5s"]);
    }
    assert_eq!(values(&text, "verify"), ["verify_peer"]);
    assert_eq!(values(&text, "fail_if_no_peer_cert"), ["false"]);
}

#[test]
fn waiting_events_fit_into_the_memory_limit() {
    let megabytes = |text: &str| text.strip_suffix("MB").unwrap().parse::<u64>().unwrap();
    let buffer = megabytes(&values(&configuration(), "max_buffer_bytes").remove(0));
    let limit = service("emqx")["mem_limit"].as_str().unwrap().to_owned();
    let limit = limit.strip_suffix('g').unwrap().parse::<u64>().unwrap() * 1024;
    // An action has 16 workers (`worker_pool_size`, CONTRACT.md's recordings); 2 GB are for all else.
    assert!(buffer * 16 + 2048 <= limit, "{buffer} MB for each of 16 workers, of {limit} MB");
}

#[test]
fn the_doors_are_those_that_are_published() {
    let text = configuration();
    let mut doors =
        values(&text, "bind").into_iter().chain(values(&text, "dashboard.listeners.http.bind"));
    let published = texts(&service("emqx")["ports"]).into_iter();
    let published = published.map(|port| port.rsplit_once(':').unwrap().1.to_owned());
    for port in published {
        let door = doors.next().unwrap();
        assert_eq!(door.rsplit(':').next(), Some(port.as_str()));
    }
    assert_eq!(doors.next(), None);
}

#[test]
fn every_file_it_names_is_made_and_mounted() {
    let emqx = service("emqx");
    let mounts = mounts(&emqx);
    let place = |what: &str| &mounts.iter().find(|(mounted, ..)| mounted == what).unwrap().1;
    assert_eq!(place("../emqx-config/fleetgate.conf"), "/opt/emqx/etc/emqx.conf");
    let prefix = format!("{}/", place("secrets-emqx"));
    let entrypoint = texts(&emqx["entrypoint"]).join("\n");
    let text = configuration() + &entrypoint;
    let named = text.match_indices(&prefix).map(|(at, _)| {
        let rest = &text[at + prefix.len()..];
        rest.split(['"', ')', '\n', ' ']).next().unwrap()
    });
    let named = named.collect::<BTreeSet<_>>();
    let made = secrets_of("secrets-emqx").iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(named, made);
}
