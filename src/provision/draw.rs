//! New secrets.

use crate::secret::{Secret, random_hex};

/// Draws a secret of 192 random bits in lower-case hex.
///
/// Not [`Secret::generate`], whose alphabet has a dash: an Erlang cookie or a password that begins
/// with one would be read as an option. 48 characters, for EMQX takes no dashboard password of more
/// than 64.
pub(super) fn secret() -> Secret {
    Secret::new(random_hex::<24>())
}
