//! Makes an over-long JSON text small while it arrives: strings longer than a
//! limit become [`CUT`], everything else stays. Memory is bounded by what stays, whatever comes.
//!
//! This is not a parser: a text that is not JSON becomes another text that is not JSON.

/// What replaces a string that was too long. It is not valid base64, and not a time, id, topic or
/// name of EMQX's; U+E000 and U+E001 are for private use.
pub const CUT: &str = "\u{e000}cut\u{e001}";

/// See the module documentation.
pub struct Shortener {
    longest: usize,
    most: usize,
    kept: Vec<u8>,
    /// Inside a string: where in `kept` it began, and how long it is so far.
    string: Option<(usize, usize)>,
    /// The byte before was a backslash that escapes this one.
    escaped: bool,
    full: bool,
}

impl Shortener {
    /// Keeps strings of up to `longest` bytes (between their quotes, as written), and `most` bytes in
    /// all.
    #[must_use]
    pub fn new(longest: usize, most: usize) -> Self {
        Self { longest, most, kept: Vec::new(), string: None, escaped: false, full: false }
    }

    /// Takes the next piece of the text.
    pub fn take(&mut self, piece: &[u8]) {
        for byte in piece {
            self.byte(*byte);
        }
    }

    /// The text that is left; `None` if that is still too large.
    #[must_use]
    pub fn finish(self) -> Option<Vec<u8>> {
        (!self.full).then_some(self.kept)
    }

    fn byte(&mut self, byte: u8) {
        let Some((began, length)) = self.string else {
            if byte == b'"' {
                self.string = Some((self.kept.len() + 1, 0));
            }
            return self.keep(byte);
        };
        let ends = byte == b'"' && !self.escaped;
        self.escaped = byte == b'\\' && !self.escaped;
        if ends {
            if length > self.longest {
                self.kept.truncate(began);
                self.kept.extend_from_slice(CUT.as_bytes());
            }
            self.string = None;
            return self.keep(byte);
        }
        self.string = Some((began, length + 1));
        if length < self.longest {
            self.keep(byte);
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.kept.len() < self.most {
            self.kept.push(byte);
        } else {
            self.full = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn shortened(text: &str, longest: usize, most: usize, piece: usize) -> Option<String> {
        let mut shortener = Shortener::new(longest, most);
        text.as_bytes().chunks(piece).for_each(|piece| shortener.take(piece));
        shortener.finish().map(|kept| String::from_utf8(kept).unwrap())
    }

    #[test]
    fn long_strings_go_and_the_rest_stays() {
        let text = r#"{"a":"12345","b":"123456","c\\":["\"\\\"","\\\\\\\\"],"d":1}"#;
        let expected = format!(r#"{{"a":"12345","b":"{CUT}","c\\":["\"\\\"","{CUT}"],"d":1}}"#);
        for piece in [1, 2, 7, 100] {
            assert_eq!(shortened(text, 6, 1000, piece).unwrap().replace("123456", CUT), expected);
        }
        assert_eq!(shortened(text, 5, 1000, 3).unwrap(), expected.replace(r#"\"\\\""#, CUT));
    }

    #[test]
    fn what_stays_is_bounded() {
        let many = format!("[{}1]", "1,".repeat(100_000));
        assert_eq!(shortened(&many, 10, 1000, 100), None);
        let long = format!("[\"{}\"]", "x".repeat(1_000_000));
        assert_eq!(shortened(&long, 1000, 2000, 100), Some(format!("[\"{CUT}\"]")));
    }

    proptest! {
        #[test]
        fn it_stays_json_with_the_same_short_strings(strings in proptest::collection::vec(any::<String>(), 0..8), piece in 1_usize..9) {
            let text = json!(strings).to_string();
            let read = shortened(&text, 20, 10_000, piece).unwrap();
            let read: Vec<String> = serde_json::from_str(&read).unwrap();
            for (string, read) in strings.iter().zip(&read) {
                let written = Value::from(string.as_str()).to_string().len() - 2;
                prop_assert_eq!(read, if written > 20 { CUT } else { string });
            }
            prop_assert_eq!(strings.len(), read.len());
        }
    }
}
