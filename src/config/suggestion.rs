//! "Did you mean …?"

use strsim::levenshtein;

use super::raw::LONGEST;

/// The known name nearest to a wrong one, if one is near enough to be what was meant.
///
/// A name whose last part (after `.`) is right is nearly right: the section is what people get wrong.
pub(crate) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // No known name is half as long, and comparing takes the product of both lengths.
    if wrong.chars().nth(LONGEST).is_some() {
        return None;
    }
    let near_enough = 2.max(wrong.chars().count() / 4);
    let last_part = |key: &str| key.rsplit('.').next().map(str::to_owned);
    let distance = |name: &str| {
        let same_last_part = name.contains('.') && last_part(wrong) == last_part(name);
        let distance = levenshtein(wrong, name);
        if same_last_part { distance.min(1) } else { distance }
    };
    let near = known.map(|name| (distance(name), name)).filter(|(far, _)| *far <= near_enough);
    near.min().map(|(_, name)| name)
}
