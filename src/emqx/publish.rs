//! Commands: publishing a message, and whether a device has subscribed. Both are called once: the work queue
//! repeats them.

use std::time::Duration;

use percent_encoding::utf8_percent_encode;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::emqx::{EmqxApi, EmqxError};
use crate::http_client::UNRESERVED;

/// The reason code of a message that nobody gets (MQTT 5 §2.4).
const NO_MATCHING_SUBSCRIBERS: u8 = 16;

/// A command on its way to a device.
pub struct CommandPublish<'a> {
    /// The device's command topic.
    pub topic: &'a str,
    /// JSON.
    pub payload: &'a str,
    /// How long EMQX may keep it. Only whole seconds count, and at least one is needed.
    pub expiry: Duration,
    /// The id of its delivery or deliveries: what EMQX tells of the message has it, and the device gets it.
    pub id: &'a str,
}

/// What EMQX did with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// Somebody has subscribed to its topic, connected or with a session that is kept.
    ToSubscribers,
    /// Nobody has: it is gone.
    NoSubscribers,
}

/// A subscription of a connected client.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Subscription {
    /// The topic filter, as it was subscribed to.
    #[serde(rename = "topic")]
    pub filter: String,
    /// The QoS that was granted.
    pub qos: u8,
}

impl EmqxApi {
    /// Publishes a command with QoS 1, never retained.
    ///
    /// # Errors
    /// When EMQX did not say whether it has a subscriber: it may have sent the message then, unless the error is
    /// [`EmqxError::Rejected`].
    pub async fn publish(&self, message: &CommandPublish<'_>) -> Result<Published, EmqxError> {
        let properties = json!({
            "message_expiry_interval": message.expiry.as_secs(),
            "correlation_data": message.id,
            "content_type": "application/json",
            "user_properties": {"delivery": message.id},
        });
        let answer = self.publish_with(message.topic, message.payload, &properties).await?;
        // 202 has no id: `{"message":"no_matching_subscribers","reason_code":16}`.
        #[derive(Deserialize)]
        struct Answer {
            id: Option<String>,
            reason_code: Option<u8>,
        }
        let unreadable = |why: String| EmqxError::Unreadable(format!("of a publish: {why}"));
        match serde_json::from_slice(&answer).map_err(|error| unreadable(error.to_string()))? {
            Answer { id: Some(_), .. } => Ok(Published::ToSubscribers),
            Answer { reason_code: Some(NO_MATCHING_SUBSCRIBERS), .. } => {
                Ok(Published::NoSubscribers)
            }
            Answer { .. } => Err(unreadable("it has neither an id nor a reason".to_owned())),
        }
    }

    /// Publishes a result with QoS 1, never retained, whether somebody has subscribed to it or not.
    ///
    /// # Errors
    /// When EMQX did not take it, or it is not known whether it did.
    pub async fn publish_result(
        &self,
        topic: &str,
        payload: &str,
        expiry: Duration,
    ) -> Result<(), EmqxError> {
        let properties = json!({
            "message_expiry_interval": expiry.as_secs(),
            "content_type": "application/json",
        });
        self.publish_with(topic, payload, &properties).await.map(drop)
    }

    async fn publish_with(
        &self,
        topic: &str,
        payload: &str,
        properties: &Value,
    ) -> Result<Vec<u8>, EmqxError> {
        let body = json!({
            "topic": topic, "payload": payload, "qos": 1, "retain": false, "properties": properties,
        });
        self.call("publish", self.request(Method::POST, "publish").json(&body)).await
    }

    /// The subscriptions of a client; `None` when it is not connected.
    ///
    /// # Errors
    /// When EMQX does not tell them.
    pub async fn subscriptions(
        &self,
        client_id: &str,
    ) -> Result<Option<Vec<Subscription>>, EmqxError> {
        // As path segments these two mean directories, however they are encoded.
        if matches!(client_id, "." | "..") {
            return Ok(None);
        }
        let path = format!("clients/{}/subscriptions", utf8_percent_encode(client_id, UNRESERVED));
        match self.call("subscriptions", self.request(Method::GET, &path)).await {
            Ok(body) => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|error| EmqxError::Unreadable(format!("of subscriptions: {error}"))),
            Err(EmqxError::NotFound { code }) if code == "CLIENTID_NOT_FOUND" => Ok(None),
            Err(error) => Err(error),
        }
    }
}
