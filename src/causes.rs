//! Why something failed, in one line.

use std::error::Error;

/// An error and all its causes: libraries often say no more themselves than "db error".
#[must_use]
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
