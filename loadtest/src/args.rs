//! The command line: the only list of flags.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::message::PAYLOAD_BYTES_MIN;
use crate::receiver::JoinBy;

/// Load harness for Tidewheel: verifies every delivery while it measures.
///
/// Exits with 1 where a message was lost, repeated or reordered without an explanation, with 2
/// where the run could not be done.
#[derive(Debug, Parser)]
#[command(name = "tidewheel-load", version, max_term_width = 100)]
pub struct Arguments {
    /// What to measure
    #[command(subcommand)]
    pub scenario: Scenario,
}

/// The scenarios.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// One message to many receivers: deliveries per second, CPU per delivery, latency
    FanOut(FanOut),
    /// The same receivers, fed by a bare loop of send(): what the kernel alone costs
    Baseline(Baseline),
    /// fan-out and baseline by turns: medians and their ratio
    CompareBaseline(FanOut),
    /// Latency of live receivers, without and then with receivers that stopped reading
    Stall(Stall),
    /// Many connections that do nothing: how fast they join, and what each takes
    Idle(Idle),
    /// The bare loop itself, started by the others
    #[command(hide = true)]
    ServeBaseline(ServeBaseline),
}

/// Which server to load.
#[derive(Clone, Debug, Args)]
pub struct Server {
    /// A server that runs already
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:8080")]
    pub url: String,
    /// Its admin listener, for the scenarios that read metrics
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    pub admin_url: String,
    /// Its process, for CPU and memory
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Start this server instead, and kill it afterwards
    #[arg(long, value_name = "PATH", conflicts_with_all = ["url", "admin_url", "server_pid"])]
    pub server_bin: Option<PathBuf>,
    /// Flags for it, separated by spaces
    #[arg(
        long,
        value_name = "ARGS",
        requires = "server_bin",
        allow_hyphen_values = true,
        default_value = "--listen 127.0.0.1:0 --admin-listen 127.0.0.1:0"
    )]
    pub server_args: String,
    /// File for what it logs
    #[arg(long, value_name = "FILE", requires = "server_bin")]
    pub server_log: Option<PathBuf>,
}

/// How connections are made.
#[derive(Clone, Debug, Args)]
pub struct Connections {
    /// Threads that receive [default: as many as the descriptor limit asks for]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Addresses to connect from, 127.0.0.2 and up [default: as many as the ports ask for]
    #[arg(long, value_name = "N")]
    pub source_addrs: Option<u8>,
    /// Handshakes and joins under way at once
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub connect_concurrency: usize,
    /// How to join
    #[arg(long, value_enum, default_value = "message")]
    pub join: JoinBy,
    /// Time for everyone to connect and join
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s")]
    pub connect_timeout: Duration,
    /// Time after the last publish for everyone to get it
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub grace: Duration,
}

/// Where the report goes besides the terminal.
#[derive(Clone, Debug, Args)]
pub struct Output {
    /// Write the report as JSON too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What is published and for how long.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Publishes in flight in each room: the next leaves when every receiver has the one that
    /// many before it
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub in_flight: u64,
    /// Publishes a second instead, over all rooms; latency counts from the intended time
    #[arg(long, value_name = "R", value_parser = rate, conflicts_with = "in_flight")]
    pub rate: Option<f64>,
    /// How long to measure
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub duration: Duration,
    /// How long to load before that
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2s")]
    pub warmup: Duration,
}

/// `fan-out`
#[derive(Clone, Debug, Args)]
pub struct FanOut {
    #[command(flatten)]
    pub server: Server,
    #[command(flatten)]
    pub connections: Connections,
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub output: Output,
    /// Receivers, over all rooms
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub receivers: usize,
    /// Rooms, which the receivers take in turn
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub rooms: usize,
    /// Name of the room, or the beginning of the names
    #[arg(long, value_name = "NAME", value_parser = room, default_value = "load")]
    pub room: String,
    /// Bytes of payload in a message
    #[arg(long, value_name = "BYTES", value_parser = payload, default_value = "128")]
    pub payload: usize,
    /// Measure the bare send() loop too, by turns, with frames of the same length
    #[arg(long)]
    pub against_baseline: bool,
    /// How often to measure; medians are reported
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
}

/// `baseline`
#[derive(Clone, Debug, Args)]
pub struct Baseline {
    #[command(flatten)]
    pub connections: Connections,
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub output: Output,
    /// Receivers
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub receivers: usize,
    /// Bytes of payload in a message [default: 128, or what --frame-bytes leaves]
    #[arg(long, visible_alias = "payload-bytes", value_name = "BYTES", value_parser = payload)]
    pub payload: Option<usize>,
    /// Bytes of a message's frame [default: by the protocol's shape, around the payload]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub frame_bytes: Option<usize>,
    /// How often to measure; medians are reported
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
}

/// `stall`
#[derive(Clone, Debug, Args)]
pub struct Stall {
    #[command(flatten)]
    pub server: Server,
    #[command(flatten)]
    pub connections: Connections,
    #[command(flatten)]
    pub output: Output,
    /// Receivers that read
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub live: usize,
    /// Receivers that join and stop reading
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub stalled: usize,
    /// Receive buffer of those, in bytes
    #[arg(long, value_name = "BYTES", value_parser = size, default_value = "4096")]
    pub stalled_buffer: usize,
    /// Publishes a second
    #[arg(long, value_name = "R", value_parser = rate, default_value = "20")]
    pub rate: f64,
    /// How long to measure, once without and once with the stalled ones
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "20s")]
    pub duration: Duration,
    /// How long to load before the first measurement
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2s")]
    pub warmup: Duration,
    /// Name of the room
    #[arg(long, value_name = "NAME", value_parser = room, default_value = "load")]
    pub room: String,
    /// Bytes of payload in a message
    #[arg(long, value_name = "BYTES", value_parser = payload, default_value = "128")]
    pub payload: usize,
}

/// `idle`
#[derive(Clone, Debug, Args)]
pub struct Idle {
    #[command(flatten)]
    pub server: Server,
    #[command(flatten)]
    pub connections: Connections,
    #[command(flatten)]
    pub output: Output,
    /// How many connections
    #[arg(long = "connections", value_name = "N", default_value_t = 10_000)]
    pub count: usize,
    /// Name of the room, or the beginning of the names
    #[arg(long, value_name = "NAME", value_parser = room, default_value = "load")]
    pub room: String,
    /// Rooms, which the connections take in turn
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub rooms: usize,
    /// How long to stay once everyone is there
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0s")]
    pub hold: Duration,
    /// Publish one message to everyone at the end, and time it
    #[arg(long)]
    pub publish: bool,
    /// Connect to the bare loop instead of a server
    #[arg(long, conflicts_with_all = ["url", "server_bin"])]
    pub baseline: bool,
}

/// `serve-baseline`
#[derive(Clone, Debug, Args)]
pub struct ServeBaseline {
    /// Bytes of a message's frame
    #[arg(long)]
    pub frame_bytes: usize,
}

/// Reads `10s`, `1.5s`, `500ms` or `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time like 10s, 500ms or 2m".into()),
    };
    let number: f64 = number.parse().map_err(|_| "a time like 10s, 500ms or 2m")?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

/// Reads `128`, `4k` or `1m`, in bytes.
fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (text.get(..text.len() - 1), 1024),
        Some(b'm' | b'M') => (text.get(..text.len() - 1), 1024 * 1024),
        _ => (Some(text), 1),
    };
    let number: Option<usize> = number.and_then(|number| number.parse().ok());
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or("a size like 128, 4k or 1m".into())
}

fn payload(text: &str) -> Result<usize, String> {
    match size(text)? {
        bytes if bytes < PAYLOAD_BYTES_MIN => Err(format!(
            "at least {PAYLOAD_BYTES_MIN}: the publish time stands in it"
        )),
        bytes => Ok(bytes),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 10_000_000.0 => Ok(rate),
        _ => Err("a number above 0 and up to 10,000,000".into()),
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

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
        for wrong in ["", "k", "-1", "1g"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn payloads_rates_and_rooms_have_bounds() {
        assert!(payload("21").is_err() && payload("22").is_ok());
        assert!(rate("0").is_err() && rate("nan").is_err() && rate("0.5").is_ok());
        assert!(room("a b").is_err() && room("").is_err() && room("load-1").is_ok());
    }
}
