use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::*;

fn selector(value: &Value) -> Selector {
    Selector::from_json(value).unwrap()
}

fn refused(text: &str) -> String {
    text.parse::<Selector>().unwrap_err().to_string()
}

#[test]
fn the_example_of_the_short_form_is_read_and_written() {
    let text = r#"kind in (relay,plug),area=lab,!floor,online,meta/fw="1.2",state/temperature>25"#;
    let read: Selector = text.parse().unwrap();
    let json = json!({
        "area": "lab", "kind": ["relay", "plug"], "floor": null, "online": true,
        "meta": {"/fw": "1.2"}, "state": {"temperature": {"gt": 25}}
    });
    assert_eq!(read.to_json(), json);
    assert_eq!(read.to_string(), text);
    assert_eq!(selector(&json), read);
    let spaced = "  area = lab , kind  notin( \"a b\" , c ) , !enabled ";
    let read: Selector = spaced.parse().unwrap();
    assert_eq!(read.to_string(), "kind notin (\"a b\",c),area=lab,!enabled");
}

#[test]
fn what_is_quoted_is_text_and_what_is_not_is_typed_under_meta_and_state() {
    let of = |text: &str| text.parse::<Selector>().unwrap().to_json();
    assert_eq!(of("meta/fw=1.20"), json!({"meta": {"/fw": 1.2}}));
    assert_eq!(of("meta/fw=\"1.20\""), json!({"meta": {"/fw": "1.20"}}));
    assert_eq!(of("meta/fw=v1"), json!({"meta": {"/fw": "v1"}}));
    assert_eq!(of("meta/fw=01"), json!({"meta": {"/fw": "01"}}));
    assert_eq!(of("state/relay=true"), json!({"state": {"relay": true}}));
    assert_eq!(
        of("state/climate/t in (1,\"1\",false)"),
        json!({"state": {"climate/t": [1, "1", false]}})
    );
    assert_eq!(of("name=42"), json!({"name": "42"}));
    assert_eq!(of("area"), json!({"area": {"not": null}}));
    assert_eq!(
        of("meta/a,!meta/b"),
        json!({"meta": {"/a": {"exists": true}, "/b": {"exists": false}}})
    );
    assert_eq!(
        of("meta/a>1,meta/a<=5,meta/a!=3"),
        json!({"meta": {"/a": {"gt": 1, "le": 5, "not": 3}}})
    );
    assert_eq!(of("capability=a,capability=b"), json!({"capability": ["a", "b"]}));
}

#[test]
fn what_the_short_form_cannot_say_is_shown_as_json() {
    for json in [
        json!({}),
        json!({"name": {"prefix": "lamp-"}}),
        json!({"seen": {"within": "5m"}}),
        json!({"any": [{"area": "lab"}, {"online": true}]}),
        json!({"not": {"area": "lab"}}),
        json!({"meta": {"/a b": 1}}),
        json!({"meta": {"": {"exists": true}}}),
        json!({"meta": {"/a": null}}),
        json!({"state": {"t": {"within": "1h"}}}),
    ] {
        let shown = selector(&json).to_string();
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), json);
        assert_eq!(shown.parse::<Selector>().unwrap(), selector(&json));
    }
}

#[test]
fn errors_name_the_field_and_what_would_be_right() {
    for (text, says) in [
        ("", "the selector is empty; write {} for all devices"),
        ("{", "the selector is not valid JSON"),
        (r#"{"colour": "red"}"#, "/colour is not a field of a selector; the fields are name"),
        (r#"{"area": 5}"#, "/area must be a text, a list of texts, null"),
        (r#"{"area": {"suffix": "x"}}"#, "/area/suffix is not a test of a text"),
        (r#"{"area": []}"#, "/area must have 1 to 100 entries"),
        (r#"{"area": ["a", 1]}"#, "/area/1 must be a text"),
        (r#"{"online": "yes"}"#, "/online must be true or false"),
        (r#"{"capability": {"prefix": "x"}}"#, "/capability must be a text or a list of texts"),
        (r#"{"seen": "5m"}"#, "/seen must be {\"within\": time} or {\"before\": time}"),
        (r#"{"seen": {"within": "5 minutes"}}"#, "/seen/within must be a time such as \"30s\""),
        (r#"{"meta": {"fw": 1}}"#, "/meta/fw is not a JSON pointer; write something like \"/fw\""),
        (r#"{"meta": {"/a/b~1c": {"gt": "1"}}}"#, "/meta/~1a~1b~01c/gt must be a number"),
        (r#"{"meta": {"/a": {"within": "5m"}}}"#, "/meta/~1a/within is not a test"),
        (r#"{"meta": {"/a": [[1]]}}"#, "/meta/~1a/0 must be a text, a number, true, false or null"),
        (r#"{"meta": {}}"#, "/meta must be an object of tests, such as {\"/fw\": \"1.2\"}"),
        (r#"{"meta": {"/a": {}}}"#, "/meta/~1a must be a text, a number"),
        (r#"{"state": {"/t": 1}}"#, "/state/~1t is not a binding"),
        (r#"{"any": []}"#, "/any must have 1 to 8 entries"),
        (
            r#"{"any": [{"not": 5}]}"#,
            "/any/0/not must be a JSON object, such as {\"area\": \"lab\"}",
        ),
        ("{\"area\": \"a\\u0000\"}", "the selector cannot be stored: it holds U+0000"),
        (
            r#"{"meta": {"/a": {"lt": 1e200000}}}"#,
            "the selector cannot be stored: it holds a number",
        ),
        ("colour=red", "/colour is not a field of a selector"),
        ("area=lab;kind=relay", "the selector cannot be read at \"=relay\""),
        ("area=", "the selector cannot be read at its end"),
        ("area in lab", "the selector cannot be read at \"lab\""),
        ("area=a,area=b", "the selector tests \"area\" twice; only JSON can say what that means"),
        ("meta/a=1,meta/a=2", "the selector tests \"meta/a\" twice"),
        (
            "area>5",
            "the selector compares \"area\"; only values under meta/ and state/ can be compared",
        ),
        ("online=true", "the selector has a value for \"online\"; write online or !online"),
        ("capability in (a,b)", "the selector can only say which capabilities a device has"),
        (
            "seen=5m",
            "the selector cannot test \"seen\" in this form; write JSON, such as {\"seen\"",
        ),
        ("state/t>warm", "/state/t/gt must be a number"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(says), "{text}: {error}");
    }
}

#[test]
fn a_selector_has_limits() {
    let depth = |deep: usize| (0..deep).fold(json!({}), |inner, _| json!({"not": inner}));
    assert!(Selector::from_json(&depth(4)).is_ok());
    let error = Selector::from_json(&depth(5)).unwrap_err().to_string();
    assert_eq!(error, "/not/not/not/not/not is nested too deep; any and not go 4 deep");
    let mixed = json!({"any": [{"not": {"meta": {"/a": {"not": {"not": {"not": 1}}}}}}]});
    assert!(Selector::from_json(&mixed).unwrap_err().message.contains("nested too deep"));

    let tests = |count: usize| {
        let tests = (0..count).map(|number| (format!("/{number}"), json!(1)));
        json!({"meta": tests.collect::<serde_json::Map<_, _>>()})
    };
    assert!(Selector::from_json(&tests(32)).is_ok());
    let error = Selector::from_json(&tests(33)).unwrap_err().to_string();
    assert_eq!(error, "the selector has 33 tests; at most 32 are allowed");

    assert!(Selector::from_json(&json!({"name": vec!["x"; 100]})).is_ok());
    let error = Selector::from_json(&json!({"name": vec!["x"; 101]})).unwrap_err().to_string();
    assert_eq!(error, "/name must have 1 to 100 entries");

    // {"name": "…"} has 12 bytes around the text.
    assert!(Selector::from_json(&json!({"name": "x".repeat(4084)})).is_ok());
    let error = Selector::from_json(&json!({"name": "x".repeat(4085)})).unwrap_err().to_string();
    assert_eq!(error, "the selector has 4097 bytes; at most 4096 are allowed");
    // jsonb writes exponents out.
    assert!(refused(r#"{"meta": {"/a": 1e5000}}"#).contains("at most 4096 are allowed"));
    assert!(refused(&" x".repeat(4096)).contains("at most 4096 are allowed"));
}

#[test]
fn ages_are_whole_numbers_with_a_unit() {
    for (text, seconds) in
        [("1s", 1), ("90s", 90), ("5m", 300), ("2h", 7200), ("3650d", Age::MAX_SECONDS)]
    {
        assert_eq!(Age::parse(text).unwrap().seconds(), seconds);
    }
    assert_eq!(Age::parse("3600s").unwrap().to_string(), "1h");
    for text in [
        "",
        "5",
        "m",
        "0s",
        "05m",
        "1.5h",
        "-1s",
        "+1s",
        "1 s",
        "3651d",
        "99999999999s",
        "1w",
        "١s",
    ] {
        assert_eq!(Age::parse(text), None, "{text}");
    }
}

fn candidate() -> Candidate {
    Candidate {
        name: "lamp".to_owned(),
        kind: "relay".to_owned(),
        area: Some("lab".to_owned()),
        floor: None,
        capabilities: vec!["relay".to_owned(), "dim".to_owned()],
        online: true,
        enabled: true,
        last_seen: Some(at(0)),
        meta: json!({"fw": "1.2", "rack": [1, {"a/b": null}], "": {"": 5}}),
        state: json!({
            "temperature": {"value": 25.5, "at": at(0).as_millisecond(), "id": "a"},
            "cleared": {"at": at(0).as_millisecond(), "id": "a"},
        }),
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_800_000_000 + seconds)
}

#[test]
fn a_selector_holds_or_it_does_not() {
    let mut device = candidate();
    let selects = |device: &Candidate, json: Value| {
        let holds = selector(&json).selects(device, at(60));
        let opposite = selector(&json!({"not": json})).selects(device, at(60));
        assert_ne!(holds, opposite);
        holds
    };
    for json in [
        json!({}),
        json!({"name": {"prefix": "la"}, "area": ["lab", "hall"], "floor": null}),
        json!({"floor": {"not": "1"}}),
        json!({"floor": {"not": {"prefix": ""}}}),
        json!({"capability": ["dim", "relay", "dim"]}),
        json!({"online": true, "enabled": true, "seen": {"within": "1m"}}),
        json!({"meta": {"/fw": ["1", "1.2"], "/rack/0": {"ge": 1, "le": 1.00}, "/rack/1/a~1b": null}}),
        json!({"meta": {"//": 5, "": {"exists": true}, "/none": {"exists": false, "not": {"gt": 1}}}}),
        json!({"state": {"temperature": {"gt": 25, "within": "1m", "exists": true}}}),
        json!({"state": {"cleared": {"exists": false}}}),
        json!({"any": [{"name": "other"}, {"kind": "relay"}]}),
    ] {
        assert!(selects(&device, json.clone()), "{json}");
    }
    for json in [
        json!({"floor": {"prefix": ""}}),
        json!({"floor": ["1"]}),
        json!({"capability": ["dim", "temperature"]}),
        json!({"seen": {"within": "59s"}}),
        json!({"meta": {"/fw": 1.2}}),
        json!({"meta": {"/fw": {"lt": 2}}}),
        json!({"meta": {"/rack/-1": {"exists": true}}}),
        json!({"meta": {"/rack/00": {"exists": true}}}),
        json!({"meta": {"/rack": [1, null]}}),
        json!({"meta": {"/none": null}}),
        json!({"state": {"temperature": {"within": "59s"}}}),
        json!({"state": {"temperature/deep": {"within": "1m"}}}),
        json!({"state": {"cleared": {"within": "1m"}}}),
        json!({"any": [{"name": "other"}, {"kind": "plug"}]}),
    ] {
        assert!(!selects(&device, json.clone()), "{json}");
    }
    device.last_seen = None;
    assert!(selects(&device, json!({"seen": {"before": "1s"}})), "never seen");
}

#[test]
fn whether_enabled_is_mentioned_is_known_at_any_depth() {
    assert!(!selector(&json!({"online": true})).mentions_enabled());
    assert!(selector(&json!({"any": [{"not": {"enabled": false}}]})).mentions_enabled());
}
