//! The names under which the bus is reached over TLS.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use rustls::pki_types::DnsName;

/// The names that the certificates of EMQX and of the HTTP API carry unless others are asked for.
pub const DEFAULT_NAMES: &str = "localhost,emqx,127.0.0.1";

/// Host names (`*.` in front allowed) and addresses, each once, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsNames(BTreeSet<String>);

impl TlsNames {
    /// The names.
    #[must_use]
    pub fn as_set(&self) -> &BTreeSet<String> {
        &self.0
    }
}

/// Parses names with commas between them. An empty text means [`DEFAULT_NAMES`]: a compose file can't
/// leave a variable out, only empty.
impl FromStr for TlsNames {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = if text.trim().is_empty() { DEFAULT_NAMES } else { text };
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let names = names.map(name).collect::<Result<BTreeSet<_>, _>>()?;
        if names.is_empty() { Err("holds no name".to_owned()) } else { Ok(Self(names)) }
    }
}

fn name(text: &str) -> Result<String, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let lower = text.to_ascii_lowercase();
    match DnsName::try_from(lower.strip_prefix("*.").unwrap_or(&lower)) {
        Ok(_) => Ok(lower),
        Err(_) => Err(format!(
            "{text:?} is neither a host name nor an address; write them as bus.example.org,192.0.2.7"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        text.parse::<TlsNames>().unwrap().as_set().iter().cloned().collect()
    }

    #[test]
    fn names_are_taken_once_and_in_one_spelling() {
        assert_eq!(
            parsed("Bus.example.org, ,bus.example.org,::0:1,*.lab"),
            ["*.lab", "::1", "bus.example.org"]
        );
        assert_eq!(parsed(""), parsed(DEFAULT_NAMES));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [",", "https://bus", "bus:8883", "two words", "*", "*.*.lab"] {
            assert!(text.parse::<TlsNames>().is_err(), "{text}");
        }
    }
}
