//! "Did you mean …?"

/// The known name nearest to a wrong one, if one is near enough to be what was meant.
///
/// A name whose last part (after `.`) is right counts as nearly right: the section is what people
/// get wrong.
pub(crate) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near_enough = 2.max(wrong.chars().count() / 4);
    known
        .map(|name| (distance_of_keys(wrong, name), name))
        .filter(|(distance, _)| *distance <= near_enough)
        .min()
        .map(|(_, name)| name)
}

fn distance_of_keys(wrong: &str, name: &str) -> usize {
    let last = |key: &str| key.rsplit('.').next().map(str::to_owned);
    let same_last_part = name.contains('.') && last(wrong) == last(name);
    let distance = distance(wrong, name);
    if same_last_part { distance.min(1) } else { distance }
}

/// Levenshtein's distance: insertions, deletions and replacements of characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (index, from) in a.chars().enumerate() {
        row = next_row(&row, index + 1, from, &b);
    }
    row.last().copied().unwrap_or(0)
}

fn next_row(above: &[usize], first: usize, from: char, b: &[char]) -> Vec<usize> {
    let mut row = Vec::with_capacity(above.len());
    let mut left = first;
    row.push(left);
    for (pair, to) in above.windows(2).zip(b) {
        let &[diagonal, up] = pair else { break };
        left = (diagonal + usize::from(from != *to)).min(up + 1).min(left + 1);
        row.push(left);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn the_nearest_key_is_found_and_a_far_one_is_not() {
        let known = ["http.listen", "http.workers", "database.query_timeout"];
        let find = |wrong| nearest(wrong, known.into_iter());
        assert_eq!(find("http.listn"), Some("http.listen"));
        assert_eq!(find("http.query_timeout"), Some("database.query_timeout"));
        assert_eq!(find("listen"), Some("http.listen"));
        assert_eq!(find("mqtt.broker"), None);
    }
}
