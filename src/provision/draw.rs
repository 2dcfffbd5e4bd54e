//! New secrets.

use std::fmt::Write;

use crate::secret::{Secret, random_bytes};

const BYTES: usize = 24;

/// Draws a secret of 192 random bits in lower-case hex.
///
/// Not [`Secret::generate`], whose alphabet has a dash: an Erlang cookie or a password that begins
/// with one would be read as an option. 48 characters, for EMQX takes no dashboard password of more
/// than 64.
pub(super) fn secret() -> Secret {
    let mut text = String::with_capacity(BYTES * 2);
    for byte in random_bytes::<BYTES>() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Secret::new(text)
}
