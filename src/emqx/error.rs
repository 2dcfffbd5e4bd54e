//! What can go wrong between Fleetgate and EMQX's REST API.

use reqwest::StatusCode;
use serde::Deserialize;
use thiserror::Error;

use crate::causes::causes;
use crate::emqx::is_server_error;

/// Why EMQX did not do what it was asked. None of the texts holds the key's secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EmqxError {
    /// A setting cannot be used; the text names it.
    #[error("{0}")]
    Settings(String),
    /// No connection, no answer, or an answer that broke off.
    #[error("EMQX cannot be reached ({0}); check that it runs and that emqx.api_url is right")]
    Away(String),
    /// 401 or 403.
    #[error(
        "EMQX refuses the API key ({code}); check emqx.api_key and emqx.api_secret, and that the key is enabled and may administrate"
    )]
    Unauthorized {
        /// EMQX's word for it.
        code: String,
    },
    /// 404: EMQX does not have what the call is about, or not the call.
    #[error(
        "EMQX does not know what was asked for ({code}); check that emqx.api_url leads to the REST API of EMQX 5"
    )]
    NotFound {
        /// EMQX's word for it.
        code: String,
    },
    /// 5xx or 429.
    #[error("EMQX cannot answer at present (status {status} {code})")]
    ServerError {
        /// The status.
        status: u16,
        /// EMQX's word for it.
        code: String,
    },
    /// 400 or 409: EMQX has something against what it was asked to do.
    #[error("EMQX does not accept it (status {status} {code}): {message}")]
    Rejected {
        /// The status.
        status: u16,
        /// EMQX's word for it.
        code: String,
        /// EMQX's explanation; may repeat what was sent.
        message: String,
    },
    /// Another status than docs/EMQX.md tells.
    #[error("EMQX answered with status {status} {code}; check that emqx.api_url leads to EMQX 5")]
    Unexpected {
        /// The status.
        status: u16,
        /// EMQX's word for it.
        code: String,
    },
    /// An answer that no call has.
    #[error("EMQX's answer is larger than any it should give; check emqx.api_url")]
    TooLarge,
    /// An answer of another shape.
    #[error("EMQX's answer cannot be read: {0}")]
    Unreadable(String),
    /// A part of the configuration of another shape.
    #[error("EMQX's configuration cannot be read ({0}); check that emqx.api_url leads to EMQX 5")]
    UnreadableConfiguration(String),
}

/// Longest explanation that is shown, in characters.
const MAX_MESSAGE: usize = 500;

/// How EMQX says no.
#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: serde_json::Value,
}

impl EmqxError {
    pub(super) fn away(error: &reqwest::Error) -> Self {
        let what = if error.is_timeout() { "it took too long" } else { "no answer" };
        let why = std::error::Error::source(error).map(|cause| format!(": {}", causes(cause)));
        Self::Away(format!("{what}{}", why.unwrap_or_default()))
    }

    pub(super) fn refusal(status: StatusCode, body: &[u8]) -> Self {
        let refusal = serde_json::from_slice::<Refusal>(body).unwrap_or_default();
        let code = shortened(&refusal.code, 64);
        match status {
            StatusCode::BAD_REQUEST | StatusCode::CONFLICT => {
                let message = match refusal.message {
                    serde_json::Value::String(text) => shortened(&text, MAX_MESSAGE),
                    other => shortened(&other.to_string(), MAX_MESSAGE),
                };
                Self::Rejected { status: status.as_u16(), code, message }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Unauthorized { code },
            StatusCode::NOT_FOUND => Self::NotFound { code },
            _ if is_server_error(status) => Self::ServerError { status: status.as_u16(), code },
            _ => Self::Unexpected { status: status.as_u16(), code },
        }
    }

    /// Whether any other call would fail as well.
    #[must_use]
    pub fn is_emqx_unfit(&self) -> bool {
        self.is_away() || matches!(self, Self::Unauthorized { .. })
    }

    /// Whether EMQX gave no answer, as while it starts: the same call may do better in a moment.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away(_) | Self::ServerError { .. })
    }

    /// Whether this may be the answer of something else than EMQX, as of a proxy in front of it while EMQX restarts: EMQX's own refusals
    /// have a code, but for paths that it does not have.
    #[must_use]
    pub fn may_be_anothers(&self) -> bool {
        match self {
            Self::NotFound { code } | Self::Unexpected { code, .. } => code.is_empty(),
            Self::TooLarge | Self::Unreadable(_) => true,
            Self::Settings(_)
            | Self::Away(_)
            | Self::Unauthorized { .. }
            | Self::ServerError { .. }
            | Self::Rejected { .. }
            | Self::UnreadableConfiguration(_) => false,
        }
    }

    /// Whether EMQX itself answered, about what was asked.
    #[must_use]
    pub fn is_about_the_call(&self) -> bool {
        !self.is_emqx_unfit() && !self.may_be_anothers()
    }

    /// One word for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Settings(_) => "settings",
            Self::Away(_) => "away",
            Self::Unauthorized { .. } => "unauthorized",
            Self::NotFound { .. } => "not_found",
            Self::ServerError { .. } => "server_error",
            Self::Rejected { .. } => "rejected",
            Self::Unexpected { .. } => "unexpected",
            Self::TooLarge => "too_large",
            Self::Unreadable(_) | Self::UnreadableConfiguration(_) => "unreadable",
        }
    }
}

fn shortened(text: &str, characters: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(characters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_key_names_the_settings() {
        let recorded =
            br#"{"code": "BAD_API_KEY_OR_SECRET", "message": "Check api_key/api_secret"}"#;
        let text = EmqxError::refusal(StatusCode::UNAUTHORIZED, recorded).to_string();
        for part in ["BAD_API_KEY_OR_SECRET", "emqx.api_key", "emqx.api_secret"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_refusal_may_be_any_text() {
        let page = b"<html><head><title>404 - NOT FOUND</title></head></html>";
        let refusal = EmqxError::refusal(StatusCode::NOT_FOUND, page);
        assert_eq!(refusal, EmqxError::NotFound { code: String::new() });
        assert!(!refusal.is_emqx_unfit() && refusal.may_be_anothers());
        let recorded = br#"{"code": "CLIENTID_NOT_FOUND", "message": "Client ID not found"}"#;
        assert!(!EmqxError::refusal(StatusCode::NOT_FOUND, recorded).may_be_anothers());
    }
}
