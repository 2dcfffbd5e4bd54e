//! The list of clients, a page at a time.
//!
//! `clients_v2` goes on from a cursor and is what EMQX offers for large fleets. A broker that does not
//! have it (404) is asked for numbered pages instead; those shift when clients come and go meanwhile,
//! so that a client may be on none of them.

use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde::Deserialize;

use crate::emqx::{EmqxApi, EmqxError};

/// Clients of one page.
const PAGE: usize = 1000;

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At the first client.
    Start,
    /// Where `clients_v2` left off.
    Cursor(String),
    /// At a numbered page of a broker without `clients_v2`; they count from 1.
    Number(u32),
}

/// Some of EMQX's clients.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientPage {
    /// Those that are connected at the moment.
    pub connected: Vec<ConnectedClient>,
    /// Where the next page begins; `None`: this is the last one.
    pub next: Option<Place>,
    /// Whether pages are numbered, so that a client may be on none.
    pub numbered: bool,
}

/// A client that is connected.
#[derive(Debug, PartialEq, Eq)]
pub struct ConnectedClient {
    /// Its client id, which may be any text.
    pub client_id: String,
    /// Its user name; empty when it has none.
    pub user_name: String,
    /// When its session began, in whole milliseconds, by the broker's clock.
    pub connected_at: Timestamp,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Client>,
    meta: Meta,
}

#[derive(Deserialize)]
struct Client {
    clientid: String,
    #[serde(default)]
    username: Option<String>,
    connected: bool,
    #[serde(default)]
    connected_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    hasnext: Option<bool>,
}

impl EmqxApi {
    /// The page of clients that begins at a place.
    ///
    /// # Errors
    /// When EMQX does not answer, or not with a list of clients.
    pub async fn clients(&self, place: &Place) -> Result<ClientPage, EmqxError> {
        match place {
            Place::Number(page) => self.numbered_page(*page).await,
            Place::Cursor(cursor) => self.page_at_cursor(Some(cursor)).await,
            Place::Start => match self.page_at_cursor(None).await {
                Err(EmqxError::NotFound { .. }) => self.numbered_page(1).await,
                outcome => outcome,
            },
        }
    }

    async fn page_at_cursor(&self, cursor: Option<&str>) -> Result<ClientPage, EmqxError> {
        let mut path = format!("clients_v2?limit={PAGE}");
        if let Some(cursor) = cursor {
            path += &format!("&cursor={}", utf8_percent_encode(cursor, NON_ALPHANUMERIC));
        }
        let answer = self.list(&path).await?;
        let next = answer.next_cursor();
        if next.is_some() && next.as_deref() == cursor {
            return Err(EmqxError::Unreadable(
                "the cursor of the list of clients does not move".to_owned(),
            ));
        }
        answer.page(next.map(Place::Cursor), false)
    }

    async fn numbered_page(&self, page: u32) -> Result<ClientPage, EmqxError> {
        let fields = "clientid,username,connected,connected_at";
        let path = format!("clients?limit={PAGE}&page={page}&fields={fields}");
        let answer = self.list(&path).await?;
        let next = (answer.meta.hasnext == Some(true)).then(|| page.saturating_add(1));
        answer.page(next.map(Place::Number), true)
    }

    async fn list(&self, path: &str) -> Result<Answer, EmqxError> {
        let body = self.call_again("list_clients", || self.request(Method::GET, path)).await?;
        serde_json::from_slice(&body)
            .map_err(|error| EmqxError::Unreadable(format!("of the list of clients: {error}")))
    }
}

impl Answer {
    fn next_cursor(&self) -> Option<String> {
        let more = self.meta.hasnext != Some(false);
        self.meta.cursor.clone().filter(|cursor| more && !cursor.is_empty())
    }

    fn page(self, next: Option<Place>, numbered: bool) -> Result<ClientPage, EmqxError> {
        let connected = self.data.into_iter().filter(|client| client.connected);
        let connected = connected.map(ConnectedClient::try_from).collect::<Result<_, _>>()?;
        Ok(ClientPage { connected, next, numbered })
    }
}

impl TryFrom<Client> for ConnectedClient {
    type Error = EmqxError;

    fn try_from(client: Client) -> Result<Self, EmqxError> {
        let connected_at = client.connected_at.ok_or_else(|| {
            EmqxError::Unreadable("a connected client has no connected_at".to_owned())
        })?;
        Ok(Self {
            client_id: client.clientid,
            // What EMQX writes where there is none.
            user_name: client.username.filter(|name| name != "undefined").unwrap_or_default(),
            connected_at: in_whole_ms(connected_at),
        })
    }
}

/// Events name a session by milliseconds.
fn in_whole_ms(timestamp: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(timestamp.as_millisecond()).unwrap_or(timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Result<Answer, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn a_page_as_the_contract_shows_it_is_read() {
        let page = answer(
            r#"{"data":[
                {"clientid":"a","username":"a","connected":true,"node":"emqx@127.0.0.1",
                 "connected_at":"2026-11-22T14:03:58.379+00:00"},
                {"clientid":"b","username":"b","connected":false,
                 "connected_at":"2026-11-22T14:03:58.379+00:00"},
                {"clientid":"c","username":"undefined","connected":true,
                 "connected_at":"2026-11-22T15:03:58.379+01:00"}],
               "meta":{"hasnext":true,"limit":1,"page":1,"count":2}}"#,
        );
        let page = page.unwrap().page(None, false).unwrap();
        let client = |client_id: &str, user_name: &str| ConnectedClient {
            client_id: client_id.to_owned(),
            user_name: user_name.to_owned(),
            connected_at: Timestamp::from_millisecond(1_795_356_238_379).unwrap(),
        };
        assert_eq!(page.connected, [client("a", "a"), client("c", "")]);
    }

    #[test]
    fn the_last_page_is_known() {
        let cursor =
            |meta: &str| answer(&format!(r#"{{"data":[],"meta":{meta}}}"#)).unwrap().next_cursor();
        assert_eq!(cursor(r#"{"cursor":"x","hasnext":true}"#), Some("x".to_owned()));
        assert_eq!(cursor(r#"{"cursor":"x"}"#), Some("x".to_owned()));
        assert_eq!(cursor(r#"{"count":0}"#), None);
        assert_eq!(cursor(r#"{"cursor":""}"#), None);
        assert_eq!(cursor(r#"{"cursor":"x","hasnext":false}"#), None);
    }

    #[test]
    fn what_presence_cannot_be_told_from_is_refused() {
        assert!(answer(r#"{"data":[{"clientid":"a"}],"meta":{}}"#).is_err());
        let timeless = answer(r#"{"data":[{"clientid":"a","connected":true}],"meta":{}}"#);
        assert!(timeless.unwrap().page(None, false).is_err());
        assert!(answer("[]").is_err());
    }
}
