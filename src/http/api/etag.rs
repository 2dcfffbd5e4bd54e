//! Versions of a device, and requests that hold only for one of them (RFC 9110, section 13).

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};

use super::Problem;
use crate::domain::name::DeviceName;
use crate::fleet::devices::DeviceVersion;
use crate::fleet::error::{Rule, Thing};

/// The entity tag of a version.
pub(super) fn etag(version: DeviceVersion) -> String {
    format!("\"{}-{}\"", version.id.0, version.number)
}

/// What `If-Match` and `If-None-Match` say.
#[derive(Default)]
pub(super) struct Conditions {
    matches: Option<String>,
    none_matches: Option<String>,
}

impl Conditions {
    pub(super) fn of(request: &HttpRequest) -> Self {
        let header = |name: HeaderName| {
            let values = request.headers().get_all(name);
            let values: Vec<_> =
                values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            (!values.is_empty()).then(|| values.join(","))
        };
        Self { matches: header(IF_MATCH), none_matches: header(IF_NONE_MATCH) }
    }

    /// What a request says of the device when it changes something that belongs to it: `If-None-Match` is about that.
    pub(super) fn of_device(request: &HttpRequest) -> Self {
        Self { none_matches: None, ..Self::of(request) }
    }

    /// Whether nothing that is there may be changed.
    pub(super) fn only_new(&self) -> bool {
        self.none_matches.as_ref().is_some_and(|list| list.split(',').any(|tag| tag.trim() == "*"))
    }

    /// Refuses to change what is there already, where nothing that is there may be changed.
    ///
    /// # Errors
    /// 412.
    pub(super) fn refuse_another(&self, thing: Thing, rule: Rule) -> Result<(), Problem> {
        match self.only_new() {
            false => Ok(()),
            true => {
                let why = "it exists, which If-None-Match rules out";
                Err(Problem::precondition(why).refusing(thing, rule))
            }
        }
    }

    /// Holds them against the present version; `None`: there is no such device.
    ///
    /// # Errors
    /// 412.
    pub(super) fn hold(
        &self,
        present: Option<DeviceVersion>,
        device: &DeviceName,
    ) -> Result<(), Problem> {
        let present = present.map(etag);
        let names = |list: &String, weak: bool| {
            list.split(',').map(str::trim).any(|tag| match &present {
                Some(_) if tag == "*" => true,
                Some(present) => {
                    present == tag || (weak && tag.strip_prefix("W/") == Some(present))
                }
                None => false,
            })
        };
        if self.matches.as_ref().is_some_and(|list| !names(list, false)) {
            let why = "the device is not in the version that If-Match names; read it again";
            return Err(Problem::precondition(why));
        }
        if self.none_matches.as_ref().is_some_and(|list| names(list, true)) {
            let why = "the device exists, which If-None-Match rules out";
            let device = Thing::Device(device.clone());
            return Err(Problem::precondition(why).refusing(device, Rule::NameTaken));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;
    use crate::domain::device::DeviceId;

    #[test]
    fn conditions_hold_for_the_version_that_they_name() {
        let hold = |name: &'static str, value: &'static str, present: Option<i64>| {
            let request = TestRequest::default().insert_header((name, value)).to_http_request();
            let version = present.map(|number| DeviceVersion { id: DeviceId(7), number });
            Conditions::of(&request).hold(version, &"lamp".parse().unwrap()).is_ok()
        };
        assert!(hold("if-match", "\"7-2\"", Some(2)));
        assert!(hold("if-match", "\"x\", \"7-2\"", Some(2)));
        assert!(hold("if-match", "*", Some(2)));
        for (value, present) in
            [("\"7-2\"", Some(3)), ("W/\"7-2\"", Some(2)), ("*", None), ("", Some(2))]
        {
            assert!(!hold("if-match", value, present), "{value}");
        }
        assert!(hold("if-none-match", "*", None));
        assert!(!hold("if-none-match", "*", Some(1)));
        assert!(!hold("if-none-match", "W/\"7-1\"", Some(1)));
        assert!(hold("if-none-match", "\"7-1\"", Some(2)));
    }
}
