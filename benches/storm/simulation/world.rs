//! What a storm is like: who comes, through what, and what each step costs.

use std::time::Duration;

/// A storm and the bus that it comes over.
#[derive(Clone, Debug)]
pub(crate) struct Storm {
    /// Clients, each of which comes until it is in.
    pub(crate) clients: u32,
    /// The first of these have chosen passwords, the others generated secrets.
    pub(crate) chosen: u32,
    /// First attempts are spread over this time, at random.
    pub(crate) window: Duration,
    /// What a refused client does; `None`: it stays away.
    pub(crate) retry: Option<Retry>,
    /// EMQX nodes; clients are spread over them evenly.
    pub(crate) nodes: u32,
    /// Connections of each node's authenticator (`pool_size`).
    pub(crate) pool: u32,
    /// `request_timeout` of the authenticator.
    pub(crate) timeout: Duration,
    /// Replicas of Fleetgate; each takes its share of the connections.
    pub(crate) replicas: u32,
    pub(crate) replica: Replica,
    /// Whether the devices are in each replica's memory when the storm begins.
    pub(crate) warm: bool,
    pub(crate) machines: Machines,
    pub(crate) costs: Costs,
    /// Everything that is drawn comes from here.
    pub(crate) seed: u64,
}

/// Settings of Fleetgate that bound what it does at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replica {
    /// `http.workers`
    pub(crate) workers: u32,
    /// Threads that gather names and make records (`src/app.rs`).
    pub(crate) registry: u32,
    /// `hashing.threads`
    pub(crate) hash_threads: u32,
    /// `hashing.queue`
    pub(crate) hash_queue: usize,
}

impl Replica {
    /// The defaults of a machine with so many cores.
    pub(crate) fn with_cores(cores: u32) -> Self {
        let (registry, hash_threads) = ((cores / 2).clamp(1, 2), (cores / 2).max(1));
        Self { workers: cores, registry, hash_threads, hash_queue: 64 }
    }
}

/// Where the processes run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Machines {
    /// Each EMQX node, each replica and PostgreSQL have a machine with so many cores.
    Apart { node: u32, replica: u32, database: u32 },
    /// All on one machine, and what stands for EMQX is a single thread: the real run of this benchmark.
    Shared { cores: u32 },
}

/// How long a refused client waits: twice as long each time, and up to half of it more or less.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

/// Processor time of each step, the way between two processes, and what of a processor can be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    /// EMQX, for one login in all.
    pub(crate) broker: Duration,
    /// Fleetgate, for one login whose device is in memory.
    pub(crate) decision: Duration,
    /// Fleetgate, further, for a device that has to be loaded: making the record.
    pub(crate) record: Duration,
    /// Fleetgate, further, for a generated secret of a device that was not in memory.
    pub(crate) secret: Duration,
    /// PostgreSQL, for a load whatever it loads.
    pub(crate) query: Duration,
    /// PostgreSQL, further, for each device that it loads.
    pub(crate) row: Duration,
    /// Fleetgate's hash thread, for one chosen password.
    pub(crate) hash: Duration,
    /// Further, for each thread that has to wake up for its part. Under load threads seldom sleep.
    pub(crate) wake: Duration,
    /// One way from a process to another.
    pub(crate) way: Duration,
    /// Share of the processors' time that is used when there is more to do than can be done. The rest is
    /// lost where a thread waits for one processor while another has nothing to do.
    pub(crate) used: f64,
}

impl Costs {
    /// How long each step takes: its processor time and what is lost beside it. Hashes, each on a thread
    /// that does nothing else, lose nothing.
    pub(super) fn on_the_clock(&self) -> Self {
        let lasts = |time: Duration| time.div_f64(self.used);
        Self {
            broker: lasts(self.broker),
            decision: lasts(self.decision),
            record: lasts(self.record),
            secret: lasts(self.secret),
            query: lasts(self.query),
            row: lasts(self.row),
            wake: lasts(self.wake),
            ..*self
        }
    }
}

/// What a number is drawn for.
#[derive(Clone, Copy)]
enum Draw {
    Arrival = 1,
    Connection = 2,
    Wait = 3,
}

/// A number that depends on nothing but these (SplitMix64's mixing function, Steele and others 2014).
/// So a client makes the same choices whatever happens to others, and two storms compare fairly.
fn draw(seed: u64, what: Draw, client: u32, attempt: u32) -> u64 {
    let purpose = (what as u64) << 56;
    let who = purpose ^ (u64::from(attempt) << 32) ^ u64::from(client);
    mix(mix(seed.wrapping_add(0x9E37_79B9_7F4A_7C15)) ^ who)
}

fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A drawn number as a fraction of one.
fn fraction(drawn: u64) -> f64 {
    (drawn >> 11) as f64 / (1_u64 << 53) as f64
}

/// When a client comes first.
pub(crate) fn arrival(storm: &Storm, client: u32) -> Duration {
    storm.window.mul_f64(fraction(draw(storm.seed, Draw::Arrival, client, 0)))
}

/// Which of its node's connections takes a client's attempt.
pub(crate) fn choice(storm: &Storm, client: u32, attempt: u32) -> u32 {
    let drawn = draw(storm.seed, Draw::Connection, client, attempt) % u64::from(storm.pool);
    u32::try_from(drawn).unwrap_or_default()
}

/// How long a client waits after its attempt failed.
pub(super) fn back_off(storm: &Storm, retry: Retry, client: u32, attempt: u32) -> Duration {
    let doubled = retry.first.saturating_mul(1 << attempt.min(16)).min(retry.longest);
    doubled.mul_f64(0.5 + fraction(draw(storm.seed, Draw::Wait, client, attempt)))
}
