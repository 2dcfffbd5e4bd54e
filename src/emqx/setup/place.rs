//! Where EMQX takes Fleetgate to be.

use super::{Resource, Setup, SetupError, Target};
use crate::emqx::EmqxApi;
use crate::secret::Secret;

/// Where Fleetgate is in `docker/compose.yaml`.
pub const USUAL_URL: &str = "http://fleetgate:8080";

/// Where EMQX takes Fleetgate to be; `None`: nothing in it leads there.
///
/// The authenticator says it, for it is the first that `emqx apply` changes: of a run that broke off it has the new
/// place. Without one of Fleetgate's, the source or the connector does.
///
/// # Errors
/// When EMQX cannot be asked.
pub async fn fleetgate_url(api: &EmqxApi) -> Result<Option<String>, SetupError> {
    // Only where to look counts of it.
    let target = Target::new(USUAL_URL, Secret::generate());
    let setup = Setup::new(api, &target, false);
    for resource in [target.authenticator(), target.source(), target.connector()] {
        let is = setup.current(&resource).await?;
        let url = is.as_ref().and_then(|is| is.get("url")?.as_str());
        if let Some(base) = url.and_then(|url| resource.base(url)) {
            return Ok(Some(base.to_owned()));
        }
    }
    Ok(None)
}

impl Resource {
    /// Fleetgate's own URL where this one leads there; `None`: it leads elsewhere.
    fn base<'a>(&self, url: &'a str) -> Option<&'a str> {
        url.strip_suffix(self.asks_at)
    }

    /// Where it asks, if that is not Fleetgate. What may be a secret in a URL is left out.
    pub(super) fn others(&self, url: Option<&str>) -> Option<String> {
        let url = url.unwrap_or_default();
        // What has no such path has Fleetgate's name instead.
        (!self.asks_at.is_empty() && self.base(url).is_none()).then(|| without_secrets(url))
    }
}

/// A URL without user name, password and query, for people.
#[must_use]
pub fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.find('/').unwrap_or(rest.len());
    let user = rest.get(..host).and_then(|host| host.rfind('@')).map_or(0, |at| at + 1);
    let rest = rest.get(user..).unwrap_or_default();
    if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_to_fleetgate_is_told_from_what_leads_elsewhere() {
        let target = Target::new(USUAL_URL, Secret::generate());
        let (authenticator, connector) = (target.authenticator(), target.connector());
        assert_eq!(
            authenticator.base("http://10.0.0.7:8080/emqx/authn"),
            Some("http://10.0.0.7:8080")
        );
        assert_eq!(authenticator.others(Some("http://10.0.0.7:8080/emqx/authn")), None);
        for url in ["http://legacy:9000/auth", "http://10.0.0.7:8080/emqx/authz"] {
            assert_eq!(authenticator.others(Some(url)).as_deref(), Some(url));
        }
        assert_eq!(target.source().others(Some("http://f/emqx/authz")), None);
        assert_eq!(connector.base("http://10.0.0.7:8080"), Some("http://10.0.0.7:8080"));
        assert_eq!(connector.others(Some("http://elsewhere")), None, "its name is ours");
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_secret() {
        for (url, shown) in [
            ("http://legacy:9000/auth", "http://legacy:9000/auth"),
            ("https://u:p@ss@legacy/a@b?key=k#f", "https://legacy/a@b"),
            ("u:p@legacy", "legacy"),
            ("", ""),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}
