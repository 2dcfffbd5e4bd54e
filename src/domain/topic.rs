//! Topic names and topic filters (MQTT 5 §4.7): validity, matching, coverage.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest topic in bytes that the registry holds and a decision considers.
///
/// MQTT allows 65,535; a PostgreSQL index entry holds under 2,704, and no topic that people write
/// comes near this number. Anything longer is refused, never cut.
pub const MAX_TOPIC_BYTES: usize = 1024;

/// Prefixes that say *how* to subscribe; the filter follows them.
const SHARED_PREFIX: &str = "$share/";
const EXCLUSIVE_PREFIX: &str = "$exclusive/";
/// Prefixes that mean other things in different versions of EMQX. 5.8 takes `$queue/` off before it asks; 6.x asks with it,
/// because there the level behind it is the name of a queue, whose messages may come from any topic. So nothing is to
/// be concluded from what follows.
const QUEUE_PREFIXES: [&str; 2] = ["$queue/", "$stream/"];
/// Prefix that says when to publish. EMQX removes it before it asks.
const DELAYED_PREFIX: &str = "$delayed/";
/// What makes an EMQX rule mean its topic literally.
pub const LITERALLY: &str = "eq ";

/// Why a text is not a valid topic name or topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopicError {
    /// MQTT 5 §4.7.3: at least one character.
    #[error("is empty")]
    Empty,
    /// More than [`MAX_TOPIC_BYTES`].
    #[error("has {0} bytes; at most {MAX_TOPIC_BYTES} are allowed")]
    TooLong(usize),
    /// NUL (MQTT 5 §1.5.4) or another control character.
    #[error("contains a control character")]
    Control,
    /// `+` or `#` in a topic name (MQTT 5 §4.7.1).
    #[error("contains a wildcard (+ or #); a topic name has none")]
    Wildcard,
    /// `#` not last, or a wildcard that shares its level with text (MQTT 5 §4.7.1).
    #[error("has a misplaced wildcard: + and # stand alone in their level, # only at the end")]
    MisplacedWildcard,
    /// `${`, which EMQX would expand (docs/EMQX.md, `acl` rules).
    #[error(
        "contains ${{, which EMQX would take for a placeholder; write the device's own name or client id"
    )]
    Placeholder,
    /// `%u` or `%c`, which mosquitto would expand anywhere in a pattern. Not as a part of a longer word:
    /// `100%cpu` is not a pattern.
    #[error(
        "contains %u or %c with no letter or digit behind it, which is a mosquitto pattern and means \
         nothing here; write the device's own name or client id"
    )]
    MosquittoPattern,
    /// EMQX takes `eq lab/#` in a rule for "the filter `lab/#` literally" (docs/EMQX.md).
    #[error(
        "begins with \"eq \", which EMQX would take for \"literally\"; write the topic without it"
    )]
    Literally,
    /// A grant on when to publish instead of on topics.
    #[error("begins with $delayed/; grant the topic that follows the seconds")]
    Delayed,
    /// A binding's topic that begins with `$`, the broker's own name space (MQTT 5 §4.7.2).
    #[error("begins with $, which is the broker's own name space")]
    Dollar,
    /// A grant on a way of subscribing instead of on topics.
    #[error(
        "begins with $share/, $queue/, $stream/ or $exclusive/; grant the filter that follows it"
    )]
    SubscriptionPrefix,
}

fn check_text(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > MAX_TOPIC_BYTES {
        return Err(TopicError::TooLong(text.len()));
    }
    if has_control(text) {
        return Err(TopicError::Control);
    }
    Ok(())
}

/// Nearly every topic is ASCII, where no character has to be put together first.
fn has_control(text: &str) -> bool {
    if text.is_ascii() {
        return text.bytes().any(|byte| byte.is_ascii_control());
    }
    text.chars().any(char::is_control)
}

/// Checks that a text is a topic name: what a PUBLISH may carry.
///
/// # Errors
/// The first rule it breaks.
pub fn check_topic_name(text: &str) -> Result<(), TopicError> {
    check_text(text)?;
    if text.bytes().any(|byte| matches!(byte, b'+' | b'#')) {
        return Err(TopicError::Wildcard);
    }
    Ok(())
}

/// Checks that a text is a topic filter: what a SUBSCRIBE may carry.
///
/// # Errors
/// The first rule it breaks.
pub fn check_topic_filter(text: &str) -> Result<(), TopicError> {
    check_text(text)?;
    let mut levels = text.split('/').peekable();
    while let Some(level) = levels.next() {
        let wildcard = level.contains(['+', '#']);
        if wildcard && (level.len() > 1 || (level == "#" && levels.peek().is_some())) {
            return Err(TopicError::MisplacedWildcard);
        }
    }
    Ok(())
}

/// Takes off the prefix that says how to subscribe, if there is one.
///
/// One prefix only: what is left of `$share/a/$share/b/c` begins with `$` again and then needs an
/// explicit grant, which cannot be written.
#[must_use]
pub fn strip_subscription_prefix(filter: &str) -> &str {
    if let Some(rest) = filter.strip_prefix(SHARED_PREFIX) {
        return match rest.split_once('/') {
            Some((group, carried)) if !group.is_empty() && !group.contains(['+', '#']) => carried,
            _ => filter,
        };
    }
    filter.strip_prefix(EXCLUSIVE_PREFIX).unwrap_or(filter)
}

/// Whether a filter begins with what says how to subscribe, so that a grant of it would not be one of topics.
fn says_how_to_subscribe(filter: &str) -> bool {
    let mut prefixes = QUEUE_PREFIXES.iter().chain(&[SHARED_PREFIX, EXCLUSIVE_PREFIX]);
    prefixes.any(|prefix| filter.starts_with(prefix))
}

/// Whether a filter matches a topic name (MQTT 5 §4.7.1, §4.7.2). Both must be well formed.
#[must_use]
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && begins_with_wildcard(filter) {
        return false;
    }
    let mut filter_levels = filter.split('/');
    let mut topic_levels = topic.split('/');
    loop {
        match (filter_levels.next(), topic_levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

/// Whether a grant covers a filter: every topic that the filter can match, the grant matches.
///
/// Both must be well formed. `a/+/c` is covered by `a/#`; `a/#` is not covered by `a/+` nor by
/// `a/+/#`, because it also matches `a`. At the root that is different: no topic is empty, so `#` and
/// `/#` match nothing that `+/#` and `/+/#` would not.
#[must_use]
pub fn grant_covers(grant: &str, filter: &str) -> bool {
    if filter.starts_with('$') && begins_with_wildcard(grant) {
        return false;
    }
    match filter {
        "#" => return matches!(grant, "#" | "+/#"),
        "/#" if matches!(grant, "/+/#" | "+/+/#") => return true,
        _ => {}
    }
    let mut grant_levels = grant.split('/');
    let mut filter_levels = filter.split('/');
    loop {
        match (grant_levels.next(), filter_levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (_, Some("#")) => return false,
            (Some("+"), Some(_)) => {}
            (Some(granted), Some(level)) if granted == level => {}
            _ => return false,
        }
    }
}

/// Whether there is a topic that both filters match. Both must be well formed.
#[must_use]
pub fn filters_overlap(one: &str, other: &str) -> bool {
    // No wildcard at the beginning matches what begins with `$` (MQTT 5 §4.7.2).
    if [(one, other), (other, one)]
        .iter()
        .any(|(dollar, wild)| dollar.starts_with('$') && begins_with_wildcard(wild))
    {
        return false;
    }
    let mut levels = (one.split('/'), other.split('/'));
    loop {
        match (levels.0.next(), levels.1.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(level), Some(same)) if level == same => {}
            _ => return false,
        }
    }
}

/// What would be read as something else than a topic where rules are written: by EMQX, or by who comes
/// from mosquitto.
fn check_patterns(text: &str) -> Result<(), TopicError> {
    if text.contains("${") {
        return Err(TopicError::Placeholder);
    }
    if text.starts_with(LITERALLY) {
        return Err(TopicError::Literally);
    }
    let mut behind_percent = text.split('%').skip(1).map(str::as_bytes);
    if behind_percent.any(|rest| {
        matches!(rest, [b'u' | b'c', rest @ ..]
            if !rest.first().is_some_and(u8::is_ascii_alphanumeric))
    }) {
        return Err(TopicError::MosquittoPattern);
    }
    Ok(())
}

fn begins_with_wildcard(filter: &str) -> bool {
    filter.starts_with(['+', '#'])
}

checked_text! {
    /// The exact topic of a binding: a topic name outside the broker's `$` name space.
    TopicName, check_topic_of_binding, TopicError
}

checked_text! {
    /// The topic filter of a grant.
    TopicFilter, check_filter_of_grant, TopicError
}

fn check_topic_of_binding(text: &str) -> Result<(), TopicError> {
    check_topic_name(text)?;
    if text.starts_with('$') {
        return Err(TopicError::Dollar);
    }
    check_patterns(text)
}

fn check_filter_of_grant(text: &str) -> Result<(), TopicError> {
    check_topic_filter(text)?;
    if says_how_to_subscribe(text) {
        return Err(TopicError::SubscriptionPrefix);
    }
    if text.starts_with(DELAYED_PREFIX) {
        return Err(TopicError::Delayed);
    }
    check_patterns(text)
}

impl TopicFilter {
    /// Everything below a topic that Fleetgate makes of names. A name may look like one of mosquitto's patterns; here it stands
    /// for itself.
    ///
    /// # Errors
    /// [`TopicError`] where that is no topic filter.
    pub fn below(topic: &str) -> Result<Self, TopicError> {
        let filter = format!("{topic}/#");
        check_topic_filter(&filter)?;
        Ok(Self(filter.into()))
    }

    /// Whether EMQX decides exactly as [`grant_covers`] does when it is sent this filter as a
    /// subscribe rule.
    ///
    /// EMQX lets a rule's `+` match a subscription's `#` (docs/EMQX.md), which widens a filter whose
    /// end is `+`, and by the same logic one that ends in `+/#`. A wildcard at the root is left to
    /// Fleetgate as well, so that `$` topics stay out of it. White space around it is too, and `%c` and
    /// `%u` (as in `100%cpu`): what becomes of them in EMQX was never observed.
    #[must_use]
    pub fn is_exact_in_emqx(&self) -> bool {
        let stem = self.0.strip_suffix("/#").unwrap_or(&self.0);
        let padded = self.0.trim().len() != self.0.len();
        let pattern = ["%c", "%u"].iter().any(|pattern| self.0.contains(pattern));
        !begins_with_wildcard(&self.0) && !stem.ends_with('+') && !padded && !pattern
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(text: &str) -> Result<(), TopicError> {
        text.parse::<TopicFilter>().map(drop)
    }

    /// Of all filters and topics of up to three levels: two filters overlap where a topic matches both.
    #[test]
    fn filters_overlap_where_a_topic_matches_both() {
        let paths = |levels: &[&str]| -> Vec<String> {
            let one = levels.iter().map(|level| (*level).to_owned());
            let longer = |paths: &[String]| -> Vec<String> {
                let with = |path: &String| {
                    levels.iter().map(move |level| format!("{path}/{level}")).collect::<Vec<_>>()
                };
                paths.iter().flat_map(with).collect()
            };
            let one: Vec<String> = one.collect();
            let two = longer(&one);
            let three = longer(&two);
            [one, two, three].concat()
        };
        let topics = [paths(&["a", "b", "$a"]), vec!["a/a/a/a".to_owned(), "$a/a/a/a".to_owned()]];
        let topics = topics.concat();
        let filters: Vec<String> = paths(&["a", "b", "$a", "+", "#"]);
        let filters: Vec<&String> =
            filters.iter().filter(|filter| check_topic_filter(filter).is_ok()).collect();
        for one in &filters {
            for other in &filters {
                let both =
                    |topic: &&String| filter_matches(one, topic) && filter_matches(other, topic);
                let expected = topics.iter().any(|topic| both(&topic));
                assert_eq!(filters_overlap(one, other), expected, "{one} {other}");
            }
        }
    }

    #[test]
    fn patterns_of_brokers_are_no_topics() {
        for text in
            ["%u", "%c/state", "lab/%u", "lab/%c/#", "a-%c", "%u-b/c", "%%u", "a/%cß", "%c%u"]
        {
            assert_eq!(grant(text), Err(TopicError::MosquittoPattern), "{text}");
            let binding = text.trim_end_matches("/#").parse::<TopicName>();
            assert_eq!(binding, Err(TopicError::MosquittoPattern), "{text}");
        }
        for text in
            ["100%", "100%cpu", "load/%used", "%C", "%d/u", "a%3c", "%c3%a9", "u/c", "equal/a"]
        {
            assert_eq!(grant(text), Ok(()), "{text}");
            assert!(text.parse::<TopicName>().is_ok(), "{text}");
        }
        for text in ["eq lab/#", "eq ", "eq eq a"] {
            assert_eq!(grant(text), Err(TopicError::Literally), "{text}");
        }
        assert_eq!("eq lab".parse::<TopicName>(), Err(TopicError::Literally));
        assert_eq!(grant("lab/${clientid}/#"), Err(TopicError::Placeholder));
        assert_eq!(grant("$delayed/5/a"), Err(TopicError::Delayed));
        assert_eq!(grant("lab/eq a"), Ok(()), "only in front it means something");
    }
}
