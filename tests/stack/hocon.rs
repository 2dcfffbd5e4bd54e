//! Reads as much of HOCON as `emqx-config/fleetgate.conf` uses, and refuses the rest.
//!
//! `include "file"` becomes a field `include` with the file's name.

use serde_json::{Map, Value};

/// What a text says, as JSON. A value that is given twice is a mistake.
pub(crate) fn parse(text: &str) -> Value {
    let mut reader = Reader { rest: text };
    let root = reader.fields();
    assert_eq!(reader.rest, "", "something is left");
    Value::Object(root)
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// Goes on to what means something; tells what that begins with.
    fn next(&mut self) -> Option<char> {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\n', ',']);
            if !self.rest.starts_with('#') {
                return self.rest.chars().next();
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, behind)| behind);
        }
    }

    fn takes(&mut self, expected: char) -> bool {
        let found = self.next() == Some(expected);
        if found {
            self.rest = &self.rest[expected.len_utf8()..];
        }
        found
    }

    /// Up to the brace that closes the object, or to the end.
    fn fields(&mut self) -> Map<String, Value> {
        let mut object = Map::new();
        while self.next().is_some_and(|c| c != '}') {
            let path = self.word(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
            let value = match self.next() {
                Some('{') => self.value(),
                Some('"') if path == "include" => self.value(),
                _ if self.takes('=') => self.value(),
                _ => panic!("{path} is followed by {:.40}", self.rest),
            };
            put(&mut object, path, value);
        }
        object
    }

    fn value(&mut self) -> Value {
        if self.takes('{') {
            let object = self.fields();
            assert!(self.takes('}'), "no brace before {:.40}", self.rest);
            return Value::Object(object);
        }
        if self.takes('[') {
            let mut items = Vec::new();
            while !self.takes(']') {
                items.push(self.value());
            }
            return Value::Array(items);
        }
        if self.next() == Some('"') {
            return self.quoted();
        }
        let word = self.word(|c| c.is_ascii_alphanumeric() || c == '_');
        serde_json::from_str(word).unwrap_or_else(|_| Value::from(word))
    }

    /// Escapes are JSON's.
    fn quoted(&mut self) -> Value {
        let mut literals = serde_json::Deserializer::from_str(self.rest).into_iter::<Value>();
        let text = literals.next().unwrap().unwrap();
        self.rest = &self.rest[literals.byte_offset()..];
        text
    }

    fn word(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        assert_ne!(end, 0, "no word at {:.40}", self.rest);
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }
}

/// Puts a value where a path with dots leads to.
fn put(object: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        Some((key, path)) => {
            let inner = object.entry(key).or_insert_with(|| Value::Object(Map::new()));
            put(inner.as_object_mut().unwrap(), path, value);
        }
        None => assert!(object.insert(path.to_owned(), value).is_none(), "{path} is there twice"),
    }
}

#[test]
fn a_text_is_read_as_what_it_means() {
    let text = "# a comment\na.b = 5s, a.c { d = \"x # \\\"y\\\"\" } # behind\n\
                list = [ { e = true }\n { f = 10 } ]\nh { include \"/file\" }\n";
    let meant = serde_json::json!({
        "a": {"b": "5s", "c": {"d": "x # \"y\""}}, "list": [{"e": true}, {"f": 10}],
        "h": {"include": "/file"},
    });
    assert_eq!(parse(text), meant);
    for wrong in ["a = 1\na = 2", "a ${b}", "a = 1 }", "a = ${b}", "a += 1"] {
        assert!(std::panic::catch_unwind(|| parse(wrong)).is_err(), "{wrong}");
    }
}
