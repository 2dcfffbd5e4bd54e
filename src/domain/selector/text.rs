//! The short form of selectors, as Kubernetes has it: `area=lab,kind in (relay,plug),!floor,meta/fw="1.2"`.
//!
//! It is read into JSON, so that all rules have one place.

use serde_json::{Map, Value};

use super::ValueTest;
use super::{Comparison, Member, Scalar, Selector, SelectorError, Test, TextField, TextTest};

/// What is between two commas, shown where one cannot be read.
const EXAMPLE: &str =
    r#"area=lab,kind in (relay,plug),!floor,meta/fw="1.2",state/temperature>25,online"#;

fn error(message: String) -> SelectorError {
    SelectorError { pointer: String::new(), message }
}

/// Reads the short form.
pub(super) fn parse(text: &str) -> Result<Selector, SelectorError> {
    let mut fields = Map::new();
    let mut rest = Rest(text);
    loop {
        let (key, says) = rest.term()?;
        add(&mut fields, key, says)?;
        rest.skip_space();
        if rest.0.is_empty() {
            return Selector::from_json(&fields.into());
        }
        if !rest.take(",") {
            return Err(rest.unexpected());
        }
    }
}

/// What a term says about its key.
enum Says {
    Present,
    Absent,
    Equals(Word),
    Differs(Word),
    In(Vec<Word>),
    NotIn(Vec<Word>),
    Compares(Comparison, Word),
}

/// A value as it was written.
enum Word {
    Quoted(String),
    Plain(String),
}

impl Word {
    fn text(self) -> Value {
        let (Self::Quoted(text) | Self::Plain(text)) = self;
        text.into()
    }

    /// Under `meta/` and `state/`: what is not quoted and looks like a number, `true` or `false` is that.
    fn typed(self) -> Value {
        match self {
            Self::Quoted(text) => text.into(),
            Self::Plain(text) => match serde_json::from_str(&text) {
                Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
                _ => text.into(),
            },
        }
    }
}

/// What has not been read so far.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip_space(&mut self) {
        self.0 = self.0.trim_start();
    }

    fn take(&mut self, mark: &str) -> bool {
        let rest = self.0.strip_prefix(mark);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn unexpected(&self) -> SelectorError {
        let place = match self.0.chars().take(20).collect::<String>() {
            place if place.is_empty() => "its end".to_owned(),
            place => format!("{place:?}"),
        };
        error(format!("cannot be read at {place}; write something like {EXAMPLE}, or JSON"))
    }

    /// Takes characters without a meaning of their own.
    fn word(&mut self) -> Result<&'a str, SelectorError> {
        let end = self.0.find(|c| !is_plain(c)).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        if word.is_empty() {
            return Err(self.unexpected());
        }
        self.0 = rest;
        Ok(word)
    }

    fn value(&mut self) -> Result<Word, SelectorError> {
        self.skip_space();
        if !self.0.starts_with('"') {
            return Ok(Word::Plain(self.word()?.to_owned()));
        }
        let mut strings = serde_json::Deserializer::from_str(self.0).into_iter::<String>();
        let Some(Ok(text)) = strings.next() else { return Err(self.unexpected()) };
        self.0 = self.0.get(strings.byte_offset()..).unwrap_or_default();
        Ok(Word::Quoted(text))
    }

    fn values(&mut self) -> Result<Vec<Word>, SelectorError> {
        self.skip_space();
        if !self.take("(") {
            return Err(self.unexpected());
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            self.skip_space();
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return Err(self.unexpected());
            }
        }
    }

    fn term(&mut self) -> Result<(&'a str, Says), SelectorError> {
        self.skip_space();
        if self.take("!") {
            return Ok((self.word()?, Says::Absent));
        }
        let key = self.word()?;
        self.skip_space();
        let says = if self.0.is_empty() || self.0.starts_with(',') {
            Says::Present
        } else if self.take("!=") {
            Says::Differs(self.value()?)
        } else if self.take("=") {
            Says::Equals(self.value()?)
        } else if let Some(comparison) = self.comparison() {
            Says::Compares(comparison, self.value()?)
        } else {
            let before = self.0;
            match self.word()? {
                "in" => Says::In(self.values()?),
                "notin" => Says::NotIn(self.values()?),
                _ => return Err(Rest(before).unexpected()),
            }
        };
        Ok((key, says))
    }

    fn comparison(&mut self) -> Option<Comparison> {
        // The longer signs first.
        let all = [
            Comparison::LessOrEqual,
            Comparison::GreaterOrEqual,
            Comparison::Less,
            Comparison::Greater,
        ];
        all.into_iter().find(|comparison| self.take(comparison.sign()))
    }
}

fn is_plain(c: char) -> bool {
    !c.is_whitespace()
        && !c.is_control()
        && !matches!(c, ',' | '(' | ')' | '"' | '=' | '!' | '<' | '>')
}

fn object(name: &str, value: impl Into<Value>) -> Value {
    Map::from_iter([(name.to_owned(), value.into())]).into()
}

/// Adds what a term says to the fields of a selector.
fn add(fields: &mut Map<String, Value>, key: &str, says: Says) -> Result<(), SelectorError> {
    let twice = || error(format!("tests {key:?} twice; only JSON can say what that means"));
    if let Some((field @ ("meta" | "state"), name)) = key.split_once('/') {
        let name = if field == "meta" { format!("/{name}") } else { name.to_owned() };
        let tests = fields.entry(field).or_insert_with(|| Map::new().into());
        // Nothing else puts anything there.
        let Value::Object(tests) = tests else { return Err(twice()) };
        return match (tests.get_mut(&name), value_test(says)) {
            (None, test) => {
                tests.insert(name, test);
                Ok(())
            }
            (Some(Value::Object(known)), Value::Object(more))
                if more.keys().all(|name| !known.contains_key(name)) =>
            {
                known.extend(more);
                Ok(())
            }
            _ => Err(twice()),
        };
    }
    let only_json = |example: &str| {
        error(format!("cannot test {key:?} in this form; write JSON, such as {example}"))
    };
    let test = match (key, says) {
        ("online" | "enabled", Says::Present) => true.into(),
        ("online" | "enabled", Says::Absent) => false.into(),
        ("online" | "enabled", _) => {
            return Err(error(format!("has a value for {key:?}; write {key} or !{key}")));
        }
        ("capability", Says::Equals(word)) => {
            let all = fields.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(all) = all {
                all.push(word.text());
            }
            return Ok(());
        }
        ("capability", _) => {
            return Err(error(
                "can only say which capabilities a device has: capability=relay; write JSON for the rest"
                    .to_owned(),
            ));
        }
        ("meta", _) => {
            return Err(only_json(r#"{"meta": {"": {"exists": true}}}, or a name: meta/fw"#));
        }
        ("state", _) => {
            return Err(only_json(
                r#"{"state": {"temperature": {"gt": 25}}}, or a binding: state/temperature"#,
            ));
        }
        ("seen", _) => return Err(only_json(r#"{"seen": {"within": "5m"}}"#)),
        ("any", _) => return Err(only_json(r#"{"any": [{"area": "lab"}, {"kind": "relay"}]}"#)),
        ("not", _) => return Err(only_json(r#"{"not": {"area": "lab"}}"#)),
        (_, says) => text_test(key, says)?,
    };
    match fields.insert(key.to_owned(), test) {
        None => Ok(()),
        Some(_) => Err(twice()),
    }
}

fn value_test(says: Says) -> Value {
    let all = |words: Vec<Word>| words.into_iter().map(Word::typed).collect::<Vec<_>>();
    match says {
        Says::Present => object("exists", true),
        Says::Absent => object("exists", false),
        Says::Equals(word) => word.typed(),
        Says::Differs(word) => object("not", word.typed()),
        Says::In(words) => all(words).into(),
        Says::NotIn(words) => object("not", all(words)),
        Says::Compares(comparison, word) => object(comparison.word(), word.typed()),
    }
}

fn text_test(key: &str, says: Says) -> Result<Value, SelectorError> {
    let all = |words: Vec<Word>| words.into_iter().map(Word::text).collect::<Vec<_>>();
    Ok(match says {
        Says::Present => object("not", Value::Null),
        Says::Absent => Value::Null,
        Says::Equals(word) => word.text(),
        Says::Differs(word) => object("not", word.text()),
        Says::In(words) => all(words).into(),
        Says::NotIn(words) => object("not", all(words)),
        Says::Compares(..) => {
            return Err(error(format!(
                "compares {key:?}; only values under meta/ and state/ can be compared"
            )));
        }
    })
}

/// Writes the short form; `None` where it cannot say it.
pub(super) fn write(selector: &Selector) -> Option<String> {
    let terms: Option<Vec<Vec<String>>> = selector.tests().iter().map(terms).collect();
    let text = terms?.concat().join(",");
    (!text.is_empty() && text.len() <= super::MAX_BYTES).then_some(text)
}

fn terms(test: &Test) -> Option<Vec<String>> {
    let flag =
        |name: &str, holds: bool| Some(vec![format!("{}{name}", if holds { "" } else { "!" })]);
    match test {
        Test::Text(field, test) => Some(vec![text_term(*field, test)?]),
        Test::Capabilities(all) => {
            Some(all.iter().map(|one| format!("capability={}", text_word(one))).collect())
        }
        Test::Online(online) => flag("online", *online),
        Test::Enabled(enabled) => flag("enabled", *enabled),
        Test::Meta(pointer, test) => {
            let key = format!("meta{pointer}");
            value_terms(&key, test).filter(|_| key != "meta" && key.chars().all(is_plain))
        }
        Test::State { binding, pointer, test } => {
            let key = format!("state/{binding}{pointer}");
            value_terms(&key, test).filter(|_| key.chars().all(is_plain))
        }
        Test::Seen(_) | Test::Any(_) | Test::Not(_) => None,
    }
}

fn text_term(field: TextField, test: &TextTest) -> Option<String> {
    let key = field.word();
    let list =
        |texts: &[String]| texts.iter().map(|text| text_word(text)).collect::<Vec<_>>().join(",");
    Some(match test {
        TextTest::Equals(text) => format!("{key}={}", text_word(text)),
        TextTest::OneOf(texts) => format!("{key} in ({})", list(texts)),
        TextTest::Absent => format!("!{key}"),
        TextTest::Prefix(_) => return None,
        TextTest::Not(test) => match &**test {
            TextTest::Absent => key.to_owned(),
            TextTest::Equals(text) => format!("{key}!={}", text_word(text)),
            TextTest::OneOf(texts) => format!("{key} notin ({})", list(texts)),
            TextTest::Prefix(_) | TextTest::Not(_) => return None,
        },
    })
}

fn value_terms(key: &str, test: &ValueTest) -> Option<Vec<String>> {
    let list = |scalars: &[Scalar]| {
        Some(scalars.iter().map(typed_word).collect::<Option<Vec<_>>>()?.join(","))
    };
    let term = |member: &Member| {
        Some(match member {
            Member::Exists(true) => key.to_owned(),
            Member::Exists(false) => format!("!{key}"),
            Member::Compare(comparison, bound) => format!("{key}{}{bound}", comparison.sign()),
            Member::Within(_) => return None,
            Member::Not(test) => match &**test {
                ValueTest::Equals(scalar) => format!("{key}!={}", typed_word(scalar)?),
                ValueTest::OneOf(scalars) => format!("{key} notin ({})", list(scalars)?),
                ValueTest::All(_) => return None,
            },
        })
    };
    match test {
        ValueTest::Equals(scalar) => Some(vec![format!("{key}={}", typed_word(scalar)?)]),
        ValueTest::OneOf(scalars) => Some(vec![format!("{key} in ({})", list(scalars)?)]),
        ValueTest::All(members) => members.iter().map(term).collect(),
    }
}

fn text_word(text: &str) -> String {
    let is_plain = !text.is_empty() && text.chars().all(is_plain);
    if is_plain { text.to_owned() } else { quoted(text) }
}

fn typed_word(scalar: &Scalar) -> Option<String> {
    match scalar {
        Scalar::Text(text) => Some(quoted(text)),
        Scalar::Number(number) => Some(number.to_string()),
        Scalar::Bool(value) => Some(value.to_string()),
        Scalar::Null => None,
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
