//! What jsonb refuses of a text that is JSON.

use std::borrow::Cow;

use super::{AsText, MAX_DEPTH};

/// Most digits before the point that PostgreSQL's numeric holds.
const MAX_WHOLE_DIGITS: i64 = 131_072;
/// Most digits after the point that PostgreSQL's numeric holds.
const MAX_DECIMALS: i64 = 16_383;
/// Most digits that the exponents of one document may become when they are written out: a payload of
/// 64 KiB could ask for a gigabyte.
const MAX_WRITTEN_OUT: i64 = 1024 * 1024;
/// What serde_json's names for its own purposes begin with: an object whose first property has such a
/// name would be read as something else.
const RESERVED: &str = "$serde_json::private::";

/// What was found in a text.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// How deep arrays and objects are nested.
    pub(super) depth: usize,
    /// Whether a string begins as [`RESERVED`] does.
    pub(super) reserved: bool,
    nul: bool,
    huge: bool,
    written_out: i64,
    /// Where escapes stand that are half of a surrogate pair.
    halves: Vec<usize>,
}

impl Scan {
    /// Why jsonb does not take the text.
    pub(super) fn as_text(&self) -> Option<AsText> {
        let reasons = [
            (self.nul, AsText::Nul),
            (!self.halves.is_empty(), AsText::Surrogate),
            (self.huge, AsText::Number),
            (self.depth > MAX_DEPTH, AsText::Depth),
            (self.written_out > MAX_WRITTEN_OUT, AsText::WrittenOut),
            (self.reserved, AsText::Reserved),
        ];
        reasons.into_iter().find_map(|(applies, why)| applies.then_some(why))
    }

    /// Digits that the exponents of numbers become.
    pub(super) fn written_out(&self) -> usize {
        usize::try_from(self.written_out).unwrap_or(usize::MAX)
    }

    fn number(&mut self, number: &str) {
        let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let length = |digits: &str| i64::try_from(digits.len()).unwrap_or(i64::MAX);
        let whole = length(whole.trim_start_matches('-'));
        // A text of exponents beyond i32 is beyond numeric too.
        let Ok(exponent) = exponent.parse::<i32>() else {
            self.huge = true;
            return;
        };
        let (before, after) = (whole + i64::from(exponent), length(decimals) - i64::from(exponent));
        self.huge |= before > MAX_WHOLE_DIGITS || after > MAX_DECIMALS;
        if exponent != 0 {
            self.written_out += before.max(1) + after.max(0);
        }
    }
}

/// Looks through a text that is JSON, once and without recursion.
pub(super) fn scan(text: &str) -> Scan {
    let (mut scan, bytes) = (Scan::default(), text.as_bytes());
    let (mut at, mut depth) = (0_usize, 0_usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string(text, at + 1, &mut scan);
                continue;
            }
            b'[' | b'{' => {
                depth += 1;
                scan.depth = scan.depth.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'-' | b'0'..=b'9' => {
                let rest = text.get(at..).unwrap_or_default();
                let end = rest.find(|c: char| !is_in_number(c)).unwrap_or(rest.len());
                scan.number(rest.get(..end).unwrap_or_default());
                at += end.max(1);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    scan
}

fn is_in_number(c: char) -> bool {
    c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E')
}

/// Looks through a string whose first byte is at `start`; where the text goes on behind it.
fn string(text: &str, start: usize, scan: &mut Scan) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut escapes) = (start, false);
    loop {
        let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(is_mark)) else {
            return bytes.len();
        };
        at += found;
        if bytes.get(at) == Some(&b'"') {
            scan.reserved |= is_reserved(text.get(start..at).unwrap_or_default(), escapes);
            return at + 1;
        }
        escapes = true;
        at += escape(bytes, at, scan);
    }
}

fn is_mark(byte: &u8) -> bool {
    matches!(byte, b'"' | b'\\')
}

/// Notes what an escape at `at` is; how many bytes it has, both halves of a pair together.
fn escape(bytes: &[u8], at: usize, scan: &mut Scan) -> usize {
    match unit(bytes, at) {
        None => return 2,
        Some(0) => scan.nul = true,
        Some(0xd800..0xdc00) => {
            if matches!(unit(bytes, at + 6), Some(0xdc00..0xe000)) {
                return 12;
            }
            scan.halves.push(at);
        }
        Some(0xdc00..0xe000) => scan.halves.push(at),
        Some(_) => {}
    }
    6
}

/// The UTF-16 unit that an escape `\uXXXX` at `at` stands for.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn is_reserved(inside: &str, escapes: bool) -> bool {
    if !escapes {
        return inside.starts_with(RESERVED);
    }
    // Only a name that could still become one is worth reading: each of its bytes has six at most.
    let Some(first) = inside.as_bytes().first() else { return false };
    matches!(first, b'$' | b'\\')
        && serde_json::from_str::<String>(&format!("\"{inside}\""))
            .is_ok_and(|text| text.starts_with(RESERVED))
}

/// The text with U+FFFD for each half of a surrogate pair: a `String` cannot hold those, and to a schema
/// each is just one character.
pub(super) fn with_whole_surrogates<'a>(text: &'a str, scan: &Scan) -> Cow<'a, str> {
    if scan.halves.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut whole = text.to_owned();
    for at in &scan.halves {
        whole.replace_range(*at..at + 6, "\\ufffd");
    }
    Cow::Owned(whole)
}
