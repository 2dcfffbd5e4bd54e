//! EMQX's REST API as docs/EMQX.md and `rest.jsonl` show it, with the faults of a real network.
//!
//! HTTP by hand: what arrives is kept byte for byte, and an answer can be withheld or cut.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fleetgate::config::EmqxApi;
use fleetgate::domain::topic::filter_matches;
use fleetgate::secret::Secret;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::fake_emqx_config::Broker;

const KEY: &str = "fleetgate";
const SECRET: &str = "0123456789abcdef";
/// `fleetgate:0123456789abcdef`
const BASIC: &str = "Basic ZmxlZXRnYXRlOjAxMjM0NTY3ODlhYmNkZWY=";

/// What it answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mood {
    Well,
    /// Connections are closed without an answer.
    Closing,
    /// No answer comes.
    Silent,
    /// 500 to everything.
    ServerError,
    /// 500 to every page but the first.
    FailingPages,
    /// Pages after the first break off in the middle.
    BrokenPages,
}

/// A client in EMQX's list.
#[derive(Debug, Clone)]
pub(crate) struct FakeClient {
    pub(crate) user_name: String,
    pub(crate) connected: bool,
    pub(crate) connected_at_ms: i64,
}

/// A message that was published over REST.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PublishedMessage {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: u64,
    pub(crate) retain: bool,
    pub(crate) expiry: u64,
    pub(crate) correlation: String,
}

struct State {
    mood: Mood,
    clients: BTreeMap<String, FakeClient>,
    /// Topic filters by client id, with their QoS.
    subscriptions: BTreeMap<String, Vec<(String, u8)>>,
    published: Vec<PublishedMessage>,
    /// Paths of DELETE as they came, and when.
    deletes: Vec<(String, Instant)>,
    bulks: Vec<Vec<String>>,
    /// A client id that it will not hear of.
    refused: Option<String>,
    /// A topic that nothing is published to.
    refused_topic: Option<String>,
    has_clients_v2: bool,
    page_size: usize,
    broker: Broker,
}

/// A running fake. Dropping it stops it.
pub(crate) struct FakeEmqx {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    serving: Mutex<CancellationToken>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    deleted: Notify,
    published: Notify,
    held_publish: Mutex<Option<Arc<Hold>>>,
    held_subscriptions: Mutex<Option<Arc<Hold>>>,
    pages: AtomicUsize,
    /// Lists that are being read at the moment, and the most that ever were.
    lists: AtomicUsize,
    most_lists: AtomicUsize,
    held: Mutex<Option<Arc<Hold>>>,
    held_delete: Mutex<Option<Arc<Hold>>>,
}

/// Stops the fake in front of a page.
pub(crate) struct Hold {
    page: usize,
    reached: Semaphore,
    released: Semaphore,
}

impl Hold {
    fn before(page: usize) -> Self {
        Self { page, reached: Semaphore::new(0), released: Semaphore::new(0) }
    }

    async fn stop(&self) {
        self.reached.add_permits(1);
        self.released.acquire().await.unwrap().forget();
    }

    /// Waits until the page is asked for.
    pub(crate) async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    pub(crate) fn release(&self) {
        self.released.add_permits(1);
    }
}

impl FakeEmqx {
    pub(crate) async fn start() -> Self {
        let state = State {
            mood: Mood::Well,
            clients: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            published: Vec::new(),
            deletes: Vec::new(),
            bulks: Vec::new(),
            refused: None,
            refused_topic: None,
            has_clients_v2: true,
            page_size: 1000,
            broker: Broker::default(),
        };
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            state: Arc::new(Mutex::new(state)),
            address: socket.local_addr().unwrap(),
            serving: Mutex::default(),
            shared: Arc::default(),
        };
        fake.serve(socket);
        fake
    }

    fn serve(&self, socket: TcpListener) {
        let serving = CancellationToken::new();
        *self.serving.lock().unwrap() = serving.clone();
        let (state, shared) = (self.state.clone(), self.shared.clone());
        tokio::spawn(async move {
            let accept = async {
                loop {
                    let (stream, _) = socket.accept().await.unwrap();
                    let (state, shared) = (state.clone(), shared.clone());
                    let ended = serving.clone();
                    tokio::spawn(async move {
                        let talk = talk(stream, &state, &shared);
                        let _over = ended.run_until_cancelled(talk).await;
                    });
                }
            };
            serving.run_until_cancelled(accept).await
        });
    }

    /// Goes away: connections are cut and refused.
    pub(crate) fn go_away(&self) {
        self.serving.lock().unwrap().cancel();
    }

    /// Comes back on the same port.
    pub(crate) async fn come_back(&self) {
        loop {
            if let Ok(socket) = TcpListener::bind(self.address).await {
                return self.serve(socket);
            }
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn settings(&self) -> EmqxApi {
        EmqxApi {
            url: format!("http://{}", self.address),
            key: KEY.to_owned(),
            secret: Secret::new(SECRET.to_owned()),
            ca_file: None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// Looks at the configuration, or changes it behind everybody's back.
    pub(crate) fn broker<T>(&self, look: impl FnOnce(&mut Broker) -> T) -> T {
        look(&mut self.state().broker)
    }

    pub(crate) fn without_clients_v2(&self) {
        self.state().has_clients_v2 = false;
    }

    pub(crate) fn page_size(&self, clients: usize) {
        self.state().page_size = clients;
    }

    pub(crate) fn connect(&self, client_id: &str, user_name: &str, connected_at_ms: i64) {
        let client =
            FakeClient { user_name: user_name.to_owned(), connected: true, connected_at_ms };
        self.state().clients.insert(client_id.to_owned(), client);
    }

    /// A client, which is connected, subscribes.
    pub(crate) fn subscribe(&self, client_id: &str, filter: &str, qos: u8) {
        let mut state = self.state();
        state.subscriptions.entry(client_id.to_owned()).or_default().push((filter.to_owned(), qos));
    }

    /// What was published so far, in order.
    pub(crate) fn all_published(&self) -> Vec<PublishedMessage> {
        self.state().published.clone()
    }

    /// The message that is published as number `number`, counted from 1; waits for it.
    pub(crate) async fn published(&self, number: usize) -> PublishedMessage {
        let wait = async {
            loop {
                let next = self.shared.published.notified();
                let found = self.state().published.get(number - 1).cloned();
                if let Some(message) = found {
                    return message;
                }
                next.await;
            }
        };
        let within = tokio::time::timeout(Duration::from_secs(60), wait).await;
        within.unwrap_or_else(|_| panic!("message {number} was never published"))
    }

    /// Stops before it tells the next client's subscriptions.
    pub(crate) fn hold_subscriptions(&self) -> Arc<Hold> {
        let hold = Arc::new(Hold::before(0));
        *self.shared.held_subscriptions.lock().unwrap() = Some(hold.clone());
        hold
    }

    /// Stops before the answer to the next publish, when its message has gone out.
    pub(crate) fn hold_publish(&self) -> Arc<Hold> {
        let hold = Arc::new(Hold::before(0));
        *self.shared.held_publish.lock().unwrap() = Some(hold.clone());
        hold
    }

    /// The client is gone, its session stays.
    pub(crate) fn detach(&self, client_id: &str) {
        self.state().clients.get_mut(client_id).unwrap().connected = false;
    }

    pub(crate) fn disconnect(&self, client_id: &str) {
        self.state().clients.remove(client_id);
        self.state().subscriptions.remove(client_id);
    }

    /// Client ids as they stood in the path, in order.
    pub(crate) fn deletes(&self) -> Vec<String> {
        self.state().deletes.iter().map(|(client_id, _)| client_id.clone()).collect()
    }

    pub(crate) fn bulks(&self) -> Vec<Vec<String>> {
        self.state().bulks.clone()
    }

    pub(crate) fn forget_deletes(&self) {
        self.state().deletes.clear();
    }

    /// When the first DELETE of a client id came; waits for it.
    pub(crate) async fn deleted(&self, client_id: &str) -> Instant {
        let wait = async {
            loop {
                let next = self.shared.deleted.notified();
                let found = self.state().deletes.iter().find(|(id, _)| id == client_id).cloned();
                if let Some((_, at)) = found {
                    return at;
                }
                next.await;
            }
        };
        let within = tokio::time::timeout(Duration::from_secs(60), wait).await;
        within.unwrap_or_else(|_| panic!("{client_id:?} was never kicked out"))
    }

    /// Lets calls about one client id fail as that call's own fault, or none any more.
    pub(crate) fn refuse(&self, client_id: Option<&str>) {
        self.state().refused = client_id.map(str::to_owned);
    }

    /// Refuses to publish to a topic, with what it says of one with a wildcard (`rest-commands.jsonl`).
    pub(crate) fn refuse_topic(&self, topic: Option<&str>) {
        self.state().refused_topic = topic.map(str::to_owned);
    }

    /// Pages asked for so far.
    pub(crate) fn pages(&self) -> usize {
        self.shared.pages.load(Ordering::SeqCst)
    }

    pub(crate) fn most_lists_at_once(&self) -> usize {
        self.shared.most_lists.load(Ordering::SeqCst)
    }

    /// Stops in front of the page with this number, counted from 1 over everything asked from now on.
    pub(crate) fn hold_page(&self, page: usize) -> Arc<Hold> {
        let page = self.pages() + page;
        let hold = Arc::new(Hold::before(page));
        *self.shared.held.lock().unwrap() = Some(hold.clone());
        hold
    }

    /// Stops before the next DELETE is carried out.
    pub(crate) fn hold_delete(&self) -> Arc<Hold> {
        let hold = Arc::new(Hold::before(0));
        *self.shared.held_delete.lock().unwrap() = Some(hold.clone());
        hold
    }
}

impl Drop for FakeEmqx {
    fn drop(&mut self) {
        self.go_away();
    }
}

struct Request {
    method: String,
    target: String,
    authorization: String,
    body: Vec<u8>,
}

async fn talk(stream: TcpStream, state: &Mutex<State>, shared: &Shared) {
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::new(stream);
    while let Some(request) = receive(&mut stream).await {
        let mood = state.lock().unwrap().mood;
        match mood {
            Mood::Closing => return,
            Mood::Silent => std::future::pending().await,
            _ => {}
        }
        let Some((status, body)) = answer(&request, state, shared).await else { return };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        let cut = mood == Mood::BrokenPages && is_later_page(&request);
        let sent = if cut { &body[..length / 2] } else { &body[..] };
        let message = [head.as_bytes(), sent.as_bytes()].concat();
        if stream.write_all(&message).await.is_err() || cut {
            return;
        }
    }
}

async fn receive(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(name));
        line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned())
    };
    let length = header("content-length:").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let mut line = head.split(' ');
    Some(Request {
        method: line.next()?.to_owned(),
        target: line.next()?.to_owned(),
        authorization: header("authorization:").unwrap_or_default(),
        body,
    })
}

fn is_later_page(request: &Request) -> bool {
    request.target.contains("cursor=")
        || (request.target.contains("&page=") && !request.target.contains("&page=1&"))
}

async fn answer(request: &Request, state: &Mutex<State>, shared: &Shared) -> Option<(u16, String)> {
    if request.authorization != BASIC {
        return Some(refusal(401, "BAD_API_KEY_OR_SECRET", "Check api_key/api_secret"));
    }
    let mood = state.lock().unwrap().mood;
    if mood == Mood::ServerError || (mood == Mood::FailingPages && is_later_page(request)) {
        return Some(refusal(500, "INTERNAL_ERROR", "injected"));
    }
    let path = request.target.strip_prefix("/api/v5/").unwrap_or_default();
    let answer = match (request.method.as_str(), path) {
        ("GET", list) if list.starts_with("clients_v2?") || list.starts_with("clients?") => {
            page(list, state, shared).await
        }
        ("POST", "clients/kickout/bulk") => {
            let client_ids: Vec<String> = serde_json::from_slice(&request.body).unwrap();
            let mut state = state.lock().unwrap();
            state.clients.retain(|client_id, _| !client_ids.contains(client_id));
            state.bulks.push(client_ids);
            shared.deleted.notify_waiters();
            (204, String::new())
        }
        ("POST", "publish") => {
            let answer = publish(&request.body, state, shared);
            let hold = shared.held_publish.lock().unwrap().take();
            if let Some(hold) = hold {
                hold.stop().await;
            }
            answer
        }
        ("GET", path) if path.starts_with("clients/") && path.ends_with("/subscriptions") => {
            let hold = shared.held_subscriptions.lock().unwrap().take();
            if let Some(hold) = hold {
                hold.stop().await;
            }
            subscriptions(path, &state.lock().unwrap())
        }
        ("DELETE", path) if path.starts_with("clients/") => {
            let hold = shared.held_delete.lock().unwrap().take();
            if let Some(hold) = hold {
                hold.stop().await;
            }
            delete(path.strip_prefix("clients/").unwrap(), state, shared)
        }
        (method, path) => {
            let answer = state.lock().unwrap().broker.answer(method, path, &request.body);
            return answer.map(|(status, body)| (status, body_text(&body)));
        }
    };
    Some(answer)
}

/// JSON, nothing, or the text of a page.
fn body_text(body: &Value) -> String {
    match body {
        Value::Null => String::new(),
        Value::String(page) => page.clone(),
        json => json.to_string(),
    }
}

fn refusal(status: u16, code: &str, message: &str) -> (u16, String) {
    (status, json!({"code": code, "message": message}).to_string())
}

/// 200 with an id where somebody has subscribed, also a client that is away and whose session is kept; else 202
/// (`rest-commands.jsonl`).
fn publish(body: &[u8], state: &Mutex<State>, shared: &Shared) -> (u16, String) {
    let body: Value = serde_json::from_slice(body).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let message = PublishedMessage {
        topic: text(&body["topic"]),
        payload: text(&body["payload"]),
        qos: body["qos"].as_u64().unwrap(),
        retain: body["retain"].as_bool().unwrap(),
        expiry: body["properties"]["message_expiry_interval"].as_u64().unwrap(),
        correlation: text(&body["properties"]["correlation_data"]),
    };
    let mut state = state.lock().unwrap();
    if state.refused_topic.as_deref() == Some(message.topic.as_str()) {
        return (400, json!({"message": "topic_name_invalid", "reason_code": 144}).to_string());
    }
    let is_heard = state.subscriptions.iter().any(|(client_id, filters)| {
        state.clients.contains_key(client_id)
            && filters.iter().any(|(filter, _)| filter_matches(filter, &message.topic))
    });
    if !is_heard {
        let nobody = json!({"message": "no_matching_subscribers", "reason_code": 16});
        return (202, nobody.to_string());
    }
    let id = format!("0006612200{:022X}", state.published.len() + 1);
    state.published.push(message);
    shared.published.notify_waiters();
    (200, json!({ "id": id }).to_string())
}

fn subscriptions(path: &str, state: &State) -> (u16, String) {
    let segment = path.strip_prefix("clients/").unwrap().strip_suffix("/subscriptions").unwrap();
    let client_id = percent_encoding::percent_decode_str(segment).decode_utf8().unwrap();
    if !state.clients.get(client_id.as_ref()).is_some_and(|client| client.connected) {
        return refusal(404, "CLIENTID_NOT_FOUND", "Client ID not found");
    }
    let filters = state.subscriptions.get(client_id.as_ref());
    let list = filters.into_iter().flatten().map(|(filter, qos)| {
        json!({"node": "emqx@127.0.0.1", "nl": 0, "clientid": client_id, "durable": false,
               "topic": filter, "qos": qos, "rap": 0, "rh": 0})
    });
    (200, Value::Array(list.collect()).to_string())
}

fn delete(segment: &str, state: &Mutex<State>, shared: &Shared) -> (u16, String) {
    let mut state = state.lock().unwrap();
    state.deletes.push((segment.to_owned(), Instant::now()));
    shared.deleted.notify_waiters();
    let client_id = percent_encoding::percent_decode_str(segment).decode_utf8().unwrap();
    if state.refused.as_deref() == Some(client_id.as_ref()) {
        return refusal(400, "BAD_REQUEST", "injected");
    }
    match state.clients.remove(client_id.as_ref()) {
        Some(_) => (204, String::new()),
        None => refusal(404, "CLIENTID_NOT_FOUND", "Client ID not found"),
    }
}

/// A cursor is the last client id of the page before; a number counts whole pages, and so shifts when
/// clients come and go.
async fn page(list: &str, state: &Mutex<State>, shared: &Shared) -> (u16, String) {
    let query = |name: &str| {
        let pairs = list.split_once('?').unwrap().1.split('&');
        let found = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        found.map(|(_, value)| {
            percent_encoding::percent_decode_str(value).decode_utf8().unwrap().into_owned()
        })
    };
    let numbered = list.starts_with("clients?");
    let first =
        if numbered { query("page").as_deref() == Some("1") } else { query("cursor").is_none() };
    if first {
        let lists = shared.lists.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_lists.fetch_max(lists, Ordering::SeqCst);
    }
    let number = shared.pages.fetch_add(1, Ordering::SeqCst) + 1;
    let hold = shared.held.lock().unwrap().clone().filter(|hold| hold.page == number);
    if let Some(hold) = hold {
        hold.stop().await;
    }
    let state = state.lock().unwrap();
    if !numbered && !state.has_clients_v2 {
        shared.lists.fetch_sub(1, Ordering::SeqCst);
        return (404, "<html><head><title>404 - NOT FOUND</title></head></html>".to_owned());
    }
    let skip: usize = if numbered {
        (query("page").unwrap().parse::<usize>().unwrap() - 1) * state.page_size
    } else {
        0
    };
    let after = query("cursor").unwrap_or_default();
    let from = if after.is_empty() { Bound::Unbounded } else { Bound::Excluded(after) };
    let mut rest = state.clients.range((from, Bound::Unbounded)).skip(skip);
    let page: Vec<_> = rest.clone().take(state.page_size).collect();
    let more = rest.nth(state.page_size).is_some();
    if !more {
        shared.lists.fetch_sub(1, Ordering::SeqCst);
    }
    let data: Vec<Value> = page.iter().map(|(id, client)| in_list(id, client)).collect();
    let mut meta = json!({"count": state.clients.len(), "hasnext": more, "limit": state.page_size});
    if let (false, true, Some((last, _))) = (numbered, more, page.last()) {
        meta["cursor"] = json!(last);
    }
    (200, json!({"data": data, "meta": meta}).to_string())
}

fn in_list(client_id: &str, client: &FakeClient) -> Value {
    let connected_at = jiff::Timestamp::from_millisecond(client.connected_at_ms).unwrap();
    json!({
        "clientid": client_id, "username": client.user_name, "connected": client.connected,
        "connected_at": connected_at.strftime("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string(),
        "node": "emqx@127.0.0.1",
    })
}
