//! Topic matching written down a second time, as plainly as MQTT 5 §4.7 says it.

/// MQTT 5 §4.7: `+` is one level, a last `#` any number of them, none included; a wildcard in the
/// first level matches no topic that begins with `$`.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    let dollar = topic.first().is_some_and(|level| level.starts_with('$'));
    let wildcard = matches!(filter.first(), Some(&("+" | "#")));
    !(dollar && wildcard) && levels_match(&filter, &topic)
}

/// How EMQX 5.8.9 applies an allow rule (docs/EMQX.md): `eq ` in front means the topic literally; else
/// placeholders are expanded, and it matches as above, but the words of a subscription are taken as they
/// are, so that a rule's `+` also matches a subscription's `+` or `#`.
pub(crate) fn emqx_rule_allows(rule: &str, asked: &str) -> bool {
    match rule.strip_prefix("eq ") {
        Some(literal) => literal == asked,
        None => matches(&expanded(rule), asked),
    }
}

/// A rule or pattern with the client `a` put into it.
fn expanded(rule: &str) -> String {
    let placeholders = ["${clientid}", "${username}", "%c", "%u"];
    placeholders.iter().fold(rule.to_owned(), |text, placeholder| text.replace(placeholder, "a"))
}

/// What EMQX has taken off a topic before it compares it.
pub(crate) fn without_prefix(asked: &str) -> &str {
    let parts = |count| asked.splitn(count, '/').last().unwrap_or(asked);
    match asked.split('/').next() {
        Some("$exclusive") => parts(2),
        Some("$share" | "$delayed") if asked.split('/').count() > 2 => parts(3),
        _ => asked,
    }
}

fn levels_match(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => levels_match(filter, topic),
        ([wanted, filter @ ..], [level, topic @ ..]) => {
            wanted == level && levels_match(filter, topic)
        }
        _ => false,
    }
}

/// Every topic name of one to four levels.
pub(crate) fn all_topics() -> Vec<String> {
    paths(&["", "a", "b", "$x", "z"], 4)
}

/// Every topic filter of one to three levels, and each with `/#` behind it, and `#`.
pub(crate) fn all_filters() -> Vec<String> {
    let stems = paths(&["", "a", "b", "$x", "+"], 3);
    let deep = stems.iter().map(|stem| format!("{stem}/#"));
    let root = ["#".to_owned(), "/#".to_owned()];
    root.into_iter().chain(deep).chain(stems.iter().cloned()).collect()
}

/// Every path of one to `depth` levels but the empty text, which is no topic.
fn paths(levels: &[&str], depth: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut longest: Vec<String> = levels.iter().map(|level| (*level).to_owned()).collect();
    for _ in 1..depth {
        let longer = longest
            .iter()
            .flat_map(|path| levels.iter().map(move |level| format!("{path}/{level}")));
        let longer = longer.collect();
        all.append(&mut longest);
        longest = longer;
    }
    all.append(&mut longest);
    all.retain(|path| !path.is_empty());
    all
}
