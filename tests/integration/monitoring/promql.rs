//! As much of PromQL as it takes to see which series an expression reads.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

/// Words that are followed by labels in brackets.
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Words that are no series, even where no bracket follows at once.
const WORDS: [&str; 11] =
    ["and", "or", "unless", "offset", "bool", "sum", "min", "max", "avg", "count", "topk"];

/// What an expression reads.
#[derive(Debug, Default)]
pub(super) struct Expression {
    pub(super) selectors: Vec<Selector>,
    /// Labels that it groups or matches by.
    pub(super) grouping: BTreeSet<String>,
}

/// A series name, and the labels it is selected by with the values they are compared with.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Selector {
    pub(super) metric: String,
    pub(super) labels: Vec<(String, String)>,
}

impl Selector {
    pub(super) fn value_of(&self, label: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == label).map(|(_, value)| value.as_str())
    }
}

/// Reads an expression, or a series as it is exported.
pub(super) fn read(text: &str) -> Expression {
    let mut expression = Expression::default();
    let mut rest = text.chars().peekable();
    while let Some(first) = rest.peek().copied() {
        if first == '"' {
            quoted(&mut rest);
        } else if first == '[' {
            rest.by_ref().find(|c| *c == ']').expect("an end of the range");
        } else if first.is_ascii_digit() {
            while rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '.').is_some() {}
        } else if is_in_name(first) {
            take_word(word(&mut rest), &mut rest, &mut expression);
        } else {
            rest.next();
        }
    }
    expression
}

fn take_word(word: String, rest: &mut Peekable<Chars<'_>>, expression: &mut Expression) {
    while rest.next_if_eq(&' ').is_some() {}
    if GROUPING.contains(&word.as_str()) {
        if rest.next_if_eq(&'(').is_some() {
            let labels: String = rest.by_ref().take_while(|c| *c != ')').collect();
            let labels = labels.split(',').map(|label| label.trim().to_owned());
            expression.grouping.extend(labels.filter(|label| !label.is_empty()));
        }
    } else if !WORDS.contains(&word.as_str()) && rest.peek() != Some(&'(') {
        let labels = if rest.next_if_eq(&'{').is_some() { labels(rest) } else { Vec::new() };
        expression.selectors.push(Selector { metric: word, labels });
    }
}

fn labels(rest: &mut Peekable<Chars<'_>>) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    while rest.next_if_eq(&'}').is_none() {
        let label = word(rest);
        while rest.next_if(|c| "=!~".contains(*c)).is_some() {}
        labels.push((label, quoted(rest)));
        while rest.next_if(|c| ", ".contains(*c)).is_some() {}
    }
    labels
}

fn word(rest: &mut Peekable<Chars<'_>>) -> String {
    std::iter::from_fn(|| rest.next_if(|c| is_in_name(*c))).collect()
}

fn quoted(rest: &mut Peekable<Chars<'_>>) -> String {
    assert_eq!(rest.next(), Some('"'), "a quoted value");
    rest.by_ref().take_while(|c| *c != '"').collect()
}

fn is_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_:".contains(c)
}

#[test]
fn an_expression_is_read() {
    let expression = read(
        r#"sum by (a, b) (rate(x_total{a=~"p|q",b!="r"}[5m])) > 0.5 * avg_over_time(l:x:rate5m[1d] offset 10m)
           and on () time() - max(y) < 21 * 86400"#,
    );
    let names: Vec<&str> = expression.selectors.iter().map(|s| s.metric.as_str()).collect();
    assert_eq!(names, ["x_total", "l:x:rate5m", "y"]);
    let labels = [("a", "p|q"), ("b", "r")].map(|(l, v)| (l.to_owned(), v.to_owned()));
    assert_eq!(expression.selectors[0].labels, labels);
    assert_eq!(expression.grouping, BTreeSet::from(["a", "b"].map(String::from)));
}
