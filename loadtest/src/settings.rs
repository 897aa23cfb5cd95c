//! Everything a run can be told: the only list of flags and of keys of a scenario's file.
//!
//! A field is a flag, a key of `scenarios/NAME.toml` (its name with dashes) and an entry of the
//! outcome's settings, all at once. A number that is zero leaves its part of the engine out.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use serde::{Serialize, Serializer};

use crate::message::PAYLOAD_BYTES_MIN;

/// The largest payload: servers take less, and every worker holds some of it.
const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// What speaks at the other end, and by which rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Tidewheel's own protocol: rooms, offsets, answers to publishes, a ledger
    Tidewheel,
    /// Any WebSocket server that sends each text message it gets to every client: no rooms; the
    /// harness numbers the messages itself and audits by those numbers
    Broadcast,
    /// Any WebSocket server that sends each text message back to its sender
    Echo,
    /// Our own loop of send(): what the kernel alone costs
    BareLoop,
}

/// How a connection gets into its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinBy {
    /// `GET /ws`, then a `join_room` message
    Message,
    /// `GET /ws/{room}`
    Path,
}

/// What a run is told.
#[derive(Clone, Debug, Args, Serialize)]
#[command(args_override_self = true)]
#[serde(rename_all = "kebab-case")]
#[group(skip)]
pub struct Settings {
    /// A server that runs already; the path counts where the target is not tidewheel
    #[arg(help_heading = "Server", long, value_name = "URL")]
    #[arg(default_value = "ws://127.0.0.1:8080")]
    pub url: String,
    /// Speak TLS with a server of https or wss, whatever certificate it shows
    #[arg(help_heading = "Server", long, value_name = "BOOL", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value_t = false)]
    pub tls_insecure: bool,
    /// Resume TLS sessions: all handshakes but the first are short ones
    #[arg(help_heading = "Server", long, value_name = "BOOL", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value_t = true)]
    pub tls_resume: bool,
    /// Its admin listener, for the ledger
    #[arg(help_heading = "Server", long, value_name = "URL")]
    #[arg(default_value = "http://127.0.0.1:9090")]
    pub admin_url: String,
    /// Its process, for CPU and memory
    #[arg(help_heading = "Server", long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Start this server instead, and kill it afterwards
    #[arg(help_heading = "Server", long, value_name = "PATH")]
    #[arg(conflicts_with = "server_pid")]
    pub server_bin: Option<PathBuf>,
    /// Flags for it, separated by spaces
    #[arg(
        help_heading = "Server",
        long,
        value_name = "ARGS",
        allow_hyphen_values = true
    )]
    #[arg(default_value = "--listen 127.0.0.1:0 --admin-listen 127.0.0.1:0")]
    pub server_args: String,
    /// File for what it logs
    #[arg(
        help_heading = "Server",
        long,
        value_name = "FILE",
        requires = "server_bin"
    )]
    pub server_log: Option<PathBuf>,
    /// What speaks at the other end
    #[arg(help_heading = "Server", long, value_enum, default_value = "tidewheel")]
    pub target: Profile,
    /// Hold the deliveries against the server's own ledger (nobody else may use the server then)
    #[arg(help_heading = "Server", long, value_name = "BOOL", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value_t = true)]
    pub ledger: bool,

    /// Clients that join and read
    #[arg(
        help_heading = "Clients",
        long,
        value_name = "N",
        default_value_t = 1000
    )]
    #[arg(visible_aliases = ["connections", "receivers", "live"])]
    pub clients: usize,
    /// Rooms, which they take in turn
    #[arg(help_heading = "Clients", long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = at_least_one)]
    pub rooms: usize,
    /// Rooms that each of them is in
    #[arg(help_heading = "Clients", long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = at_least_one)]
    pub rooms_per_client: usize,
    /// Name of the room, or the beginning of the names
    #[arg(
        help_heading = "Clients",
        long,
        value_name = "NAME",
        default_value = "load"
    )]
    #[arg(value_parser = room)]
    pub room: String,
    /// How to join
    #[arg(help_heading = "Clients", long, value_enum, default_value = "message")]
    pub join: JoinBy,

    /// Connections begun a second, latency from the intended time; 0: as fast as they go
    #[arg(
        help_heading = "Arrival",
        long,
        value_name = "R",
        default_value_t = 0.0
    )]
    #[arg(value_parser = rate)]
    pub connect_rate: f64,
    /// Handshakes and joins under way at once
    #[arg(
        help_heading = "Arrival",
        long,
        value_name = "N",
        default_value_t = 512
    )]
    #[arg(value_parser = at_least_one)]
    pub connect_concurrency: usize,
    /// Time for everyone to connect and join
    #[arg(
        help_heading = "Arrival",
        long,
        value_name = "TIME",
        default_value = "60s"
    )]
    #[arg(value_parser = duration)]
    #[serde(serialize_with = "as_text")]
    pub connect_timeout: Duration,
    /// Threads that receive [default: as many as the descriptor limit asks for]
    #[arg(help_heading = "Arrival", long, value_name = "N")]
    pub threads: Option<usize>,
    /// Addresses to connect from, 127.0.0.2 and up [default: as many as the ports ask for]
    #[arg(help_heading = "Arrival", long, value_name = "N")]
    pub source_addrs: Option<u8>,

    /// Connections that only publish, to all rooms; 0: the clients publish themselves
    #[arg(
        help_heading = "Publishing",
        long,
        value_name = "N",
        default_value_t = 1
    )]
    pub publishers: usize,
    /// Publishes in flight: in each room, until every client has them; or, where the clients
    /// publish themselves, of each client, until they are answered
    #[arg(
        help_heading = "Publishing",
        long,
        value_name = "K",
        overrides_with = "rate"
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub in_flight: Option<u64>,
    /// Publishes a second instead, over all rooms; latency counts from the intended time
    #[arg(
        help_heading = "Publishing",
        long,
        value_name = "R",
        overrides_with = "in_flight"
    )]
    #[arg(value_parser = rate)]
    pub rate: Option<f64>,
    /// Bytes of payload in a message
    #[arg(
        help_heading = "Publishing",
        long,
        value_name = "BYTES",
        default_value = "128"
    )]
    #[arg(visible_alias = "payload-bytes", value_parser = payload)]
    pub payload: usize,
    /// Publish one message to everyone at the end, and time its way to the first and the last
    #[arg(help_heading = "Publishing", long, value_name = "BOOL", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value_t = false)]
    pub publish: bool,

    /// Clients in one large room beside the others
    #[arg(
        help_heading = "A large room",
        long,
        value_name = "N",
        default_value_t = 0
    )]
    pub hall: usize,
    /// Publishes a second to it, by a connection that only publishes
    #[arg(
        help_heading = "A large room",
        long,
        value_name = "R",
        default_value_t = 0.0
    )]
    #[arg(value_parser = rate)]
    pub hall_rate: f64,

    /// Clients that join and stop reading
    #[arg(
        help_heading = "Slow readers",
        long,
        value_name = "N",
        default_value_t = 0
    )]
    pub stalled: usize,
    /// Clients that read a few bytes at a time
    #[arg(
        help_heading = "Slow readers",
        long,
        value_name = "N",
        default_value_t = 0
    )]
    pub trickling: usize,
    /// Clients that stop reading for good midway
    #[arg(
        help_heading = "Slow readers",
        long,
        value_name = "N",
        default_value_t = 0
    )]
    pub stopping: usize,
    /// Receive buffer of slow readers, in bytes
    #[arg(
        help_heading = "Slow readers",
        long,
        value_name = "BYTES",
        default_value = "4096"
    )]
    #[arg(value_parser = size)]
    pub stalled_buffer: usize,
    /// Bytes that a trickling client reads at once
    #[arg(
        help_heading = "Slow readers",
        long,
        value_name = "BYTES",
        default_value = "64"
    )]
    #[arg(value_parser = some_bytes)]
    pub trickle_bytes: usize,
    /// Time between two such reads of one client
    #[arg(
        help_heading = "Slow readers",
        long,
        value_name = "TIME",
        default_value = "100ms"
    )]
    #[arg(value_parser = duration)]
    #[serde(serialize_with = "as_text")]
    pub trickle_interval: Duration,
    /// Measure the others alone first, then beside the slow ones
    #[arg(help_heading = "Slow readers", long, value_name = "BOOL", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value_t = false)]
    pub alone: bool,

    /// Clients that drop a second, by turns with a close frame and with a reset
    #[arg(help_heading = "Churn", long, value_name = "R", default_value_t = 0.0)]
    #[arg(value_parser = rate)]
    pub churn_rate: f64,
    /// How long they stay away before they come back and ask for what they missed
    #[arg(
        help_heading = "Churn",
        long,
        value_name = "TIME",
        default_value = "1s"
    )]
    #[arg(value_parser = duration)]
    #[serde(serialize_with = "as_text")]
    pub away: Duration,

    /// Clients that watch who comes and goes
    #[arg(help_heading = "Presence", long, value_name = "N", default_value_t = 0)]
    pub watchers: usize,
    /// Clients that come and go
    #[arg(help_heading = "Presence", long, value_name = "N", default_value_t = 0)]
    pub visitors: usize,
    /// Rooms in which they do
    #[arg(help_heading = "Presence", long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = at_least_one)]
    pub presence_rooms: usize,
    /// Joins and leaves a second, over all these rooms
    #[arg(
        help_heading = "Presence",
        long,
        value_name = "R",
        default_value_t = 0.0
    )]
    #[arg(value_parser = rate)]
    pub presence_rate: f64,

    /// How long to load before the measurement
    #[arg(help_heading = "Run", long, value_name = "TIME", default_value = "2s")]
    #[arg(value_parser = duration)]
    #[serde(serialize_with = "as_text")]
    pub warmup: Duration,
    /// How long to measure, in each phase
    #[arg(help_heading = "Run", long, value_name = "TIME", default_value = "10s")]
    #[arg(visible_alias = "hold", value_parser = duration)]
    #[serde(serialize_with = "as_text")]
    pub duration: Duration,
    /// Time after the last publish for everyone to get it
    #[arg(help_heading = "Run", long, value_name = "TIME", default_value = "10s")]
    #[arg(value_parser = duration)]
    #[serde(serialize_with = "as_text")]
    pub grace: Duration,
    /// How often to measure; medians are reported
    #[arg(help_heading = "Run", long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Measure the bare send() loop too, by turns, with frames of the same length
    #[arg(help_heading = "Run", long, value_name = "BOOL", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value_t = false)]
    pub against_baseline: bool,
    /// Bare loops send in batches through io_uring; with --against-baseline that is measured too
    #[arg(help_heading = "Run", long, value_name = "BOOL", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value_t = false)]
    pub uring: bool,
    /// Bytes of a message's frame from the bare loop [default: by the protocol's shape]
    #[arg(help_heading = "Run", long, value_name = "BYTES", value_parser = size)]
    pub frame_bytes: Option<usize>,
    /// Write the outcome as JSON too
    #[arg(help_heading = "Run", long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with charts, to be read by someone who was not there
    #[arg(help_heading = "Run", long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Show nothing while it runs
    #[arg(help_heading = "Run", long, value_name = "BOOL", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value_t = false)]
    pub quiet: bool,
}

/// How publishes are paced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many in flight: the next leaves when one of them is through.
    InFlight(u64),
    /// So many a second, whatever the server does; stamped with the time at which each should
    /// have left, so that a late one counts as slow.
    PerSecond(f64),
}

impl Settings {
    /// A frame of the bare loop where nothing else is said.
    pub const FRAME_BYTES: usize = 384;

    /// How the main rooms are published to; nothing where nobody does.
    pub fn pace(&self) -> Option<Pace> {
        match (self.rate, self.in_flight) {
            (Some(rate), _) if rate > 0.0 => Some(Pace::PerSecond(rate)),
            (None, Some(count)) if count > 0 => Some(Pace::InFlight(count)),
            _ => None,
        }
    }

    /// True where the clients publish themselves.
    pub fn clients_speak(&self) -> bool {
        self.pace().is_some() && (self.publishers == 0 || self.target == Profile::Echo)
    }

    /// Slow readers of all kinds.
    pub fn slow(&self) -> usize {
        self.stalled + self.trickling + self.stopping
    }

    /// Connections in all, without those that only publish.
    pub fn connections(&self) -> usize {
        self.clients + self.hall + self.slow() + self.watchers + self.visitors
    }
}

/// Reads `10s`, `1.5s`, `500ms` or `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    const ALLOWED: &str = "a time like 10s, 500ms, 2m or 1h";
    let at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(ALLOWED.into()),
    };
    let number: f64 = number.parse().map_err(|_| ALLOWED)?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

/// Reads `128`, `4k` or `1m`, in bytes, and the server's `4KiB` and `1MiB`, which are as much.
fn size(text: &str) -> Result<usize, String> {
    let short = text.strip_suffix("iB");
    let text = short.filter(|it| it.ends_with(['K', 'M'])).unwrap_or(text);
    let (number, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (text.get(..text.len() - 1), 1024),
        Some(b'm' | b'M') => (text.get(..text.len() - 1), 1024 * 1024),
        _ => (Some(text), 1),
    };
    let number: Option<usize> = number.and_then(|number| number.parse().ok());
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or("a size like 128, 4k (4,096) or 1m".into())
}

fn payload(text: &str) -> Result<usize, String> {
    match size(text)? {
        bytes if bytes < PAYLOAD_BYTES_MIN => Err(format!(
            "at least {PAYLOAD_BYTES_MIN}: the publish time stands in it"
        )),
        bytes if bytes > PAYLOAD_BYTES_MAX => Err(format!(
            "at most {}m: each connection's messages are held in memory",
            PAYLOAD_BYTES_MAX >> 20
        )),
        bytes => Ok(bytes),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("a number from 0 to 10,000,000".into()),
    }
}

/// How many of something there may be: for each there is memory before the run begins.
const COUNT_MAX: usize = 10_000_000;

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=COUNT_MAX) => Ok(number),
        _ => Err("a whole number from 1 to 10,000,000".into()),
    }
}

/// A size that is not nothing: who reads nothing at a time never gets on.
fn some_bytes(text: &str) -> Result<usize, String> {
    match size(text)? {
        0 => Err("a size of 1 or more".into()),
        bytes => Ok(bytes),
    }
}

/// A room name that needs no escape in JSON or in a path.
fn room(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
    if (1..=200).contains(&text.len()) && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("1 to 200 letters, digits and - _ . ~".into())
    }
}

fn as_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{duration:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_they_are_written() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(
            (size("128"), size("4k"), size("1m")),
            (Ok(128), Ok(4096), Ok(1 << 20))
        );
        for wrong in ["", "s", "10", "-1s", "1x"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!((size("1KiB"), size("2MiB")), (Ok(1024), Ok(2 << 20)));
        for wrong in ["", "k", "-1", "1g", "4iB", "1kB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn payloads_rates_and_rooms_have_bounds() {
        assert!(payload("21").is_err() && payload("22").is_ok());
        assert!(payload("16m").is_ok() && payload("17m").is_err());
        assert!(at_least_one("0").is_err() && at_least_one("4294967295").is_err());
        assert!(some_bytes("0").is_err() && some_bytes("1").is_ok());
        assert!(rate("-1").is_err() && rate("nan").is_err() && rate("0.5").is_ok());
        assert!(room("a b").is_err() && room("").is_err() && room("load-1").is_ok());
    }
}
