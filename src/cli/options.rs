//! The one list of everything an operator can set.
//!
//! A field here is a flag, an environment variable, a key of the configuration file and a row of
//! `docs/flags.md`, all at once: the doc comment is the help text, the field's name gives the
//! other names (`max_lag_bytes`: `--max-lag-bytes`, `TIDEWHEEL_MAX_LAG_BYTES`, `max-lag-bytes`).
//! Adding a flag is adding a field; what it has to do with other flags goes into
//! [`super::validate`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::lists::{
    HeaderNames, HookEvents, HostNames, actions, header_names, hook_events, host_names, node_name,
    origins, webhook_url,
};
use super::logging::log_filter;
use super::policy::{KeySource, Secret, key_source};
use super::rates::{Networks, RateLimit, networks, rate, rate_of_bytes, slow_rate};
use super::rooms::RoomTable;
use super::units::{
    Count, DURATION_MAX, GIB, KIB, MIB, address, bytes, bytes_or_auto, count, count_or_auto,
    duration,
};
use crate::gate::{Actions, Origins};

/// How the server is to run. `Options::default()` is a server without any flag.
#[derive(Args, Clone, PartialEq, Debug)]
#[group(skip)]
pub struct Options {
    /// Where to listen.
    #[command(flatten)]
    pub listeners: Listeners,
    /// Who may use the admin listener, and how much.
    #[command(flatten)]
    pub admin: Admin,
    /// Certificates.
    #[command(flatten)]
    pub tls: Tls,
    /// How many connections, and how they open and close.
    #[command(flatten)]
    pub connections: Connections,
    /// What one connection may send.
    #[command(flatten)]
    pub messages: Messages,
    /// What rooms keep, and for how long.
    #[command(flatten)]
    pub rooms: Rooms,
    /// What becomes of a connection that reads too slowly.
    #[command(flatten)]
    pub slow_consumers: SlowConsumers,
    /// How much memory there is for all of it.
    #[command(flatten)]
    pub memory: Memory,
    /// How dead connections are found.
    #[command(flatten)]
    pub heartbeat: Heartbeat,
    /// Who may enter.
    #[command(flatten)]
    pub authentication: Authentication,
    /// How much peers may do.
    #[command(flatten)]
    pub limits: Limits,
    /// What your backend is told.
    #[command(flatten)]
    pub hooks: Hooks,
    /// What survives a restart.
    #[command(flatten)]
    pub store: Store,
    /// How the server takes its leave.
    #[command(flatten)]
    pub shutdown: Shutdown,
    /// What is logged, and how.
    #[command(flatten)]
    pub logging: Logging,
    /// Budgets of the event loop.
    #[command(flatten)]
    pub tuning: Tuning,
}

/// Where to listen.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Listeners")]
#[group(skip)]
pub struct Listeners {
    /// Address of the public listener: WebSocket clients
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen: SocketAddr,

    /// Address of the admin listener; a loopback one without --api-key-file or --tls-client-ca
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090", value_parser = address)]
    pub admin_listen: SocketAddr,

    /// Open /echo, which sends every message back: for tests and measurements
    #[arg(long, value_name = "BOOL", default_value_t = false)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, hide_possible_values = true)]
    pub echo: bool,

    /// Connections that the kernel holds for each core until it accepts them
    #[arg(long, value_name = "COUNT", default_value = "4096", value_parser = count(1..=65_535))]
    pub backlog: usize,
}

/// Who may use the admin listener, and how much.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Admin API")]
#[group(skip)]
pub struct Admin {
    /// Keys that callers of the admin API have to show, one a line: NAME SCOPES KEY
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Names, besides addresses and localhost, by which an admin listener without keys may be called
    #[arg(long, value_name = "LIST", value_parser = host_names)]
    pub admin_allow_host: Option<HostNames>,

    /// Connections to the admin listener at a time; further ones wait
    #[arg(long, value_name = "COUNT", default_value = "256", value_parser = count(1..=65_535))]
    pub admin_connections: usize,

    /// Size of a request's body, above which it is answered with 413
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = bytes(KIB..=64 * MIB))]
    pub api_body_bytes: usize,

    /// Messages of one batch, above which it is answered with 400
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = count(1..=1_000))]
    pub api_batch_messages: usize,

    /// Answer /metrics without a key where all else needs one
    #[arg(long, value_name = "BOOL", default_value_t = false)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, hide_possible_values = true)]
    pub metrics_open: bool,
}

/// Certificates of the listeners.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "TLS")]
#[group(skip)]
pub struct Tls {
    /// Certificate chain of the public listener, PEM; several: by the name that a client asks for
    #[arg(long, value_name = "FILE", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub tls_cert: Vec<PathBuf>,

    /// Private key of the --tls-cert at the same place in the list, PEM
    #[arg(long, value_name = "FILE", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub tls_key: Vec<PathBuf>,

    /// Make a certificate for localhost and the listen address at each start: for development
    #[arg(long, value_name = "BOOL", default_value_t = false)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, hide_possible_values = true)]
    pub tls_self_signed: bool,

    /// Oldest version of TLS that is spoken: 1.2, 1.3
    #[arg(long, value_name = "VERSION", value_enum, default_value_t = TlsVersion::V12)]
    #[arg(hide_possible_values = true)]
    pub tls_min_version: TlsVersion,

    /// Time that a core spends on TLS handshakes in a turn before open connections have theirs
    #[arg(long, value_name = "DURATION", default_value = "2ms")]
    #[arg(value_parser = duration(Duration::from_micros(1)..=Duration::from_secs(1)))]
    pub tls_handshake_budget: Duration,

    /// TLS on the admin listener with the public listener's certificates
    #[arg(long, value_name = "BOOL", default_value_t = false)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, hide_possible_values = true)]
    pub admin_tls: bool,

    /// Certificate chain of the admin listener, PEM
    #[arg(long, value_name = "FILE")]
    pub admin_tls_cert: Option<PathBuf>,

    /// Private key of --admin-tls-cert, PEM
    #[arg(long, value_name = "FILE")]
    pub admin_tls_key: Option<PathBuf>,

    /// Who signs clients' certificates, PEM: the admin listener demands one, and may be reachable
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
}

impl Tls {
    /// Whether the public listener speaks TLS.
    pub fn is_on(&self) -> bool {
        self.tls_self_signed || !self.tls_cert.is_empty()
    }

    /// Whether the admin listener does.
    pub fn is_on_for_admin(&self) -> bool {
        self.admin_tls || self.admin_tls_cert.is_some()
    }

    /// The files that it is made of.
    pub fn files(&self) -> Vec<&Path> {
        let public = self.tls_cert.iter().chain(&self.tls_key);
        let admin = self.admin_tls_cert.iter().chain(&self.admin_tls_key);
        let all = public.chain(admin).chain(&self.tls_client_ca);
        all.map(PathBuf::as_path).collect()
    }
}

/// How many connections, and how they open and close.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Connections")]
#[group(skip)]
pub struct Connections {
    /// Threads that serve connections; auto: one for each core this process may use
    #[arg(long, value_name = "COUNT", default_value = "auto", value_parser = count_or_auto(1..=1_024))]
    pub shards: Count,

    /// Connections open at once on this node; auto: what the descriptor limit allows
    #[arg(long, value_name = "COUNT", default_value = "auto")]
    #[arg(value_parser = count_or_auto(1..=100_000_000))]
    pub max_connections: Count,

    /// Time a new connection has to complete its upgrade request
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = duration(Duration::from_millis(100)..=Duration::from_secs(3_600)))]
    pub handshake_timeout: Duration,

    /// Size of a request's head, above which it is answered with 431
    #[arg(long, value_name = "BYTES", default_value = "8KiB", value_parser = bytes(512..=MIB))]
    pub max_head_bytes: usize,

    /// Time the peer has to answer a close before the connection is cut
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    #[arg(value_parser = duration(Duration::from_millis(10)..=Duration::from_secs(3_600)))]
    pub close_timeout: Duration,

    /// Wait that refused clients are asked to keep, in Retry-After
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    #[arg(value_parser = duration(Duration::ZERO..=Duration::from_secs(86_400)))]
    pub retry_after: Duration,
}

/// What one connection may send.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Messages")]
#[group(skip)]
pub struct Messages {
    /// Size of a message, above which its connection is closed with 1009
    #[arg(long, value_name = "BYTES", default_value = "64KiB", value_parser = bytes(128..=16 * MIB))]
    pub max_message_bytes: usize,

    /// Fragments of a message, above which its connection is closed
    #[arg(long, value_name = "COUNT", default_value = "1024", value_parser = count(1..=1_000_000))]
    pub max_fragments: usize,

    /// Errors in the protocol within a minute, above which the connection is closed with 4006
    #[arg(long, value_name = "COUNT", default_value = "10", value_parser = count(0..=1_000_000))]
    pub max_protocol_errors: usize,
}

/// What rooms keep, and for how long.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Rooms")]
#[group(skip)]
pub struct Rooms {
    /// Which rooms exist: open (every name), explicit (those that a rule of the file means)
    #[arg(long, value_name = "NAMES", value_enum, default_value_t = RoomNames::Open)]
    #[arg(hide_possible_values = true)]
    pub rooms: RoomNames,

    /// Messages that each room keeps for history and recovery; 0: none
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = count(0..=1_000_000))]
    pub history: usize,

    /// Bytes of messages that each room keeps
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = bytes(0..=GIB))]
    pub history_bytes: usize,

    /// Age at which a kept message is dropped; 0: keep
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    #[arg(value_parser = duration(Duration::ZERO..=DURATION_MAX))]
    pub history_ttl: Duration,

    /// Time for which a room without members keeps its position and history
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    #[arg(value_parser = duration(Duration::ZERO..=DURATION_MAX))]
    pub room_idle_ttl: Duration,

    /// Rooms on this node
    #[arg(long, value_name = "COUNT", default_value = "1000000", value_parser = count(1..=1_000_000_000))]
    pub max_rooms: usize,

    /// Rooms of one connection, above which a join is answered with 4013
    #[arg(long, value_name = "COUNT", default_value = "256", value_parser = count(1..=1_000_000))]
    pub max_rooms_per_connection: usize,

    /// Users in a room, above which presence is told as a summary once a second
    #[arg(long, value_name = "COUNT", default_value = "200", value_parser = count(0..=1_000_000))]
    pub presence_limit: usize,

    /// Time within which a repeated message_id is accepted once; 0: off
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    #[arg(value_parser = duration(Duration::ZERO..=Duration::from_secs(86_400)))]
    pub idempotency_window: Duration,

    /// Values of message_id that each room remembers; the oldest make room
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = count(0..=10_000_000))]
    pub idempotency_keys: usize,

    /// The `[[rooms]]` tables of the file, in its order: no flag.
    #[arg(skip)]
    pub tables: Vec<RoomTable>,
}

/// What becomes of a connection that reads too slowly.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Slow consumers")]
#[group(skip)]
pub struct SlowConsumers {
    /// At the bound: evict (close), skip (jump ahead, gap told), latest (newest only, gap told)
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Overflow::Evict)]
    #[arg(hide_possible_values = true)]
    pub overflow: Overflow,

    /// Bytes that a connection may be behind
    #[arg(long, value_name = "BYTES", default_value = "1MiB", value_parser = bytes(128..=GIB))]
    pub max_lag_bytes: usize,

    /// Time for which a connection may be behind
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = duration(Duration::from_millis(100)..=Duration::from_secs(86_400)))]
    pub max_lag_age: Duration,

    /// Time for which messages gather before they are written together; 0: one turn of the loop
    #[arg(long, value_name = "DURATION", default_value = "0")]
    #[arg(value_parser = duration(Duration::ZERO..=Duration::from_secs(1)))]
    pub coalesce: Duration,

    /// Bytes that the kernel keeps unsent for a connection before it counts as full; 0: its default
    #[arg(long, value_name = "BYTES", default_value = "64KiB", value_parser = bytes(0..=GIB))]
    pub max_unsent_bytes: usize,
}

/// How much memory there is for all of it.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Memory")]
#[group(skip)]
pub struct Memory {
    /// Memory for rooms and connections; auto: three quarters of what is here; 0: no budget
    #[arg(long, value_name = "BYTES", default_value = "auto")]
    #[arg(value_parser = bytes_or_auto(16 * MIB..=usize::MAX / 2))]
    pub memory_budget: Count,
}

/// How dead connections are found.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Heartbeat")]
#[group(skip)]
pub struct Heartbeat {
    /// Time between pings to a connection, spread by some jitter
    #[arg(long, value_name = "DURATION", default_value = "25s")]
    #[arg(value_parser = duration(Duration::from_secs(1)..=Duration::from_secs(86_400)))]
    pub heartbeat_interval: Duration,

    /// Silence after a ping, above which the connection is closed with 4103
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = duration(Duration::from_millis(100)..=Duration::from_secs(86_400)))]
    pub heartbeat_timeout: Duration,
}

/// Who may enter.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Authentication")]
#[group(skip)]
pub struct Authentication {
    /// How users prove who they are: none (they do not), jwt (tokens), webhook (your backend decides)
    #[arg(long, value_name = "METHOD", value_enum, default_value_t = AuthMethod::None)]
    #[arg(hide_possible_values = true)]
    pub auth: AuthMethod,

    /// Accept --auth none on an address that other machines can reach
    #[arg(long, value_name = "BOOL", default_value_t = false)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, hide_possible_values = true)]
    pub insecure_allow_anonymous: bool,

    /// Key for tokens: PEM public key, JWKS, or a file with a secret for HS256; may be repeated
    #[arg(long, value_name = "[KID=]FILE", action = clap::ArgAction::Append)]
    #[arg(value_parser = key_source)]
    pub jwt_key_file: Vec<KeySource>,

    /// The iss that tokens must have, one of them where repeated; without it any
    #[arg(long, value_name = "ISSUER", action = clap::ArgAction::Append)]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub jwt_issuer: Vec<String>,

    /// The aud that tokens must have, one of them where repeated; without it tokens must have none
    #[arg(long, value_name = "AUDIENCE", action = clap::ArgAction::Append)]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub jwt_audience: Vec<String>,

    /// Difference between the clocks of backend and server for which tokens are still taken
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = duration(Duration::ZERO..=Duration::from_secs(3_600)))]
    pub jwt_leeway: Duration,

    /// Refuse tokens without exp, which hold for ever
    #[arg(long, value_name = "BOOL", default_value_t = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, hide_possible_values = true)]
    pub jwt_require_exp: bool,

    /// Size of a token, above which it is refused unread
    #[arg(long, value_name = "BYTES", default_value = "8KiB", value_parser = bytes(256..=64 * KIB))]
    pub max_token_bytes: usize,

    /// The secret of TIDEWHEEL_JWT_SECRET, which is no flag.
    #[arg(skip)]
    pub jwt_secret: Option<Secret>,
    /// Time an upgraded connection has to authenticate before it is closed with 4001
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = duration(Duration::from_millis(100)..=Duration::from_secs(3_600)))]
    pub auth_timeout: Duration,

    /// Time before the end of a token at which its bearer is told; 0: not at all
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    #[arg(value_parser = duration(Duration::ZERO..=Duration::from_secs(86_400)))]
    pub token_expiring_notice: Duration,

    /// Age, give or take a tenth, at which a connection is closed with 4105; 0: off
    #[arg(long, value_name = "DURATION", default_value = "0")]
    #[arg(value_parser = duration(Duration::ZERO..=DURATION_MAX))]
    pub max_connection_lifetime: Duration,

    /// Take a token from ?token= in the URL too, where proxies may log it
    #[arg(long, value_name = "BOOL", default_value_t = false)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, hide_possible_values = true)]
    pub allow_token_in_url: bool,

    /// Origins of pages that may connect, by commas: https://a.example, *.a.example, null, *; none: pages of the server's own host
    #[arg(long, value_name = "LIST", value_parser = origins)]
    pub allow_origin: Option<Origins>,

    /// Actions in any room for those whose credential names no rooms, by commas; none: nothing
    #[arg(
        long,
        value_name = "LIST",
        default_value = "join,publish,presence,history,direct"
    )]
    #[arg(value_parser = actions)]
    pub default_allow: Actions,

    /// URL of your backend that --auth webhook asks about each credential
    #[arg(long, value_name = "URL", value_parser = webhook_url)]
    pub auth_webhook_url: Option<String>,

    /// Time the webhook has to answer before nobody is let in
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    #[arg(value_parser = duration(Duration::from_millis(10)..=Duration::from_secs(60)))]
    pub auth_webhook_timeout: Duration,

    /// Questions that the webhook is asked at the same time; sixteen times as many may wait
    #[arg(long, value_name = "COUNT", default_value = "64", value_parser = count(1..=4_096))]
    pub auth_webhook_in_flight: usize,

    /// Time for which an answer of the webhook holds for the same question; 0: not at all
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = duration(Duration::ZERO..=Duration::from_secs(3_600)))]
    pub auth_webhook_cache: Duration,

    /// Headers of a request that the webhook is shown besides Origin and User-Agent, by commas
    #[arg(long, value_name = "LIST", value_parser = header_names)]
    pub auth_webhook_header: Option<HeaderNames>,

    /// File with the secret that signs questions to the webhook
    #[arg(long, value_name = "FILE")]
    pub auth_webhook_secret_file: Option<PathBuf>,

    /// File of certificates (PEM) that an https webhook may be signed by, in place of the system's
    #[arg(long, value_name = "FILE")]
    pub auth_webhook_ca_file: Option<PathBuf>,
}

/// How much peers may do.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Limits")]
#[group(skip)]
pub struct Limits {
    /// Messages from one connection; above, they are answered with error 4004
    #[arg(long, value_name = "RATE", default_value = "off", value_parser = rate)]
    pub limit_connection_messages: RateLimit,

    /// Bytes from one connection; above, it is read no faster: 64KiB/s, 1MiB/s:4MiB
    #[arg(long, value_name = "RATE", default_value = "off", value_parser = rate_of_bytes)]
    pub limit_connection_bytes: RateLimit,

    /// Joins and leaves of one connection; above, they are answered with error 4004
    #[arg(long, value_name = "RATE", default_value = "1000/s:10000", value_parser = slow_rate)]
    pub limit_connection_joins: RateLimit,

    /// WebSocket pings and pongs from one connection, above which it is closed with 4004
    #[arg(long, value_name = "RATE", default_value = "1000/s:10000", value_parser = slow_rate)]
    pub limit_connection_control: RateLimit,

    /// Messages from all connections of a user together; above, they are answered with error 4004
    #[arg(long, value_name = "RATE", default_value = "off", value_parser = rate)]
    pub limit_user_messages: RateLimit,

    /// Rooms that a user's messages make; above, the messages are answered with error 4004
    #[arg(long, value_name = "RATE", default_value = "off", value_parser = rate)]
    pub limit_user_rooms: RateLimit,

    /// Errors 4004 within a minute, above which the connection is closed with 4004
    #[arg(long, value_name = "COUNT", default_value = "50", value_parser = count(0..=1_000_000))]
    pub max_rate_errors: usize,

    /// New connections from one address (IPv6: from one /64); above, they are answered with 429
    #[arg(long, value_name = "RATE", default_value = "off", value_parser = rate)]
    pub limit_address_connects: RateLimit,

    /// Connections from one address (IPv6: from one /64), above which 429 is the answer; 0: no limit
    #[arg(long, value_name = "COUNT", default_value = "0", value_parser = count(0..=100_000_000))]
    pub max_connections_per_address: usize,

    /// Connections of one user, above which a new one is closed with 4100; 0: no limit
    #[arg(long, value_name = "COUNT", default_value = "0", value_parser = count(0..=100_000_000))]
    pub max_connections_per_user: usize,

    /// Close a user's older connection with 4011 when a newer one comes
    #[arg(long, value_name = "BOOL", default_value_t = false)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, hide_possible_values = true)]
    pub one_connection_per_user: bool,

    /// Proxies whose word is taken for where clients are: addresses and networks, by commas; or none
    #[arg(long, value_name = "NETWORKS", default_value = "none", value_parser = networks)]
    pub trusted_proxies: Networks,

    /// Whether a PROXY header (version 1 or 2) begins each connection: off, required
    #[arg(long, value_name = "WHETHER", value_enum, default_value_t = ProxyProtocol::Off)]
    #[arg(hide_possible_values = true)]
    pub proxy_protocol: ProxyProtocol,
}

/// What the operator's backend is told.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Webhook for events")]
#[group(skip)]
pub struct Hooks {
    /// URL of your backend that is told of rooms and users that come and go
    #[arg(long, value_name = "URL", value_parser = webhook_url)]
    pub webhook: Option<String>,

    /// File with the secret that signs events
    #[arg(long, value_name = "FILE")]
    pub webhook_secret_file: Option<PathBuf>,

    /// What --webhook is told of, by commas: rooms, users; both where not given
    #[arg(long, value_name = "LIST", value_parser = hook_events)]
    pub webhook_events: Option<HookEvents>,

    /// Time after which --webhook is told of who left: one that is back before then was never away
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    #[arg(value_parser = duration(Duration::ZERO..=Duration::from_secs(3_600)))]
    pub webhook_delay: Duration,

    /// Time after which --webhook is told of who came: one that is gone before then was never there
    #[arg(long, value_name = "DURATION", default_value = "0")]
    #[arg(value_parser = duration(Duration::ZERO..=Duration::from_secs(3_600)))]
    pub webhook_arrival_delay: Duration,

    /// Events in one request to --webhook
    #[arg(long, value_name = "COUNT", default_value = "500", value_parser = count(1..=10_000))]
    pub webhook_batch: usize,

    /// Events that may wait for --webhook before the oldest is dropped, which it is told
    #[arg(long, value_name = "COUNT", default_value = "100000", value_parser = count(1..=10_000_000))]
    pub webhook_queue: usize,

    /// Time that --webhook has to take a request with events before it is sent again
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = duration(Duration::from_millis(10)..=Duration::from_secs(60)))]
    pub webhook_timeout: Duration,

    /// File of certificates (PEM) that an https --webhook may be signed by, in place of the system's
    #[arg(long, value_name = "FILE")]
    pub webhook_ca_file: Option<PathBuf>,

    /// Name of this node in what it tells your backend; without it the machine's
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub node_name: Option<String>,
}

/// What survives a restart.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "History on disk")]
#[group(skip)]
pub struct Store {
    /// Directory for history that survives a restart; made where it is not there; without it none does
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// When a publish is answered: async (at once; the newest may be lost), fsync (once it is on disk)
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = DurabilityMode::Async)]
    #[arg(hide_possible_values = true)]
    pub durability: DurabilityMode,

    /// With async: time for which messages gather before they are written: as much is at risk
    #[arg(long, value_name = "DURATION", default_value = "100ms")]
    #[arg(value_parser = duration(Duration::from_millis(1)..=Duration::from_secs(60)))]
    pub flush_interval: Duration,
}

/// When a publish is answered.
#[derive(ValueEnum, Copy, Clone, PartialEq, Eq, Debug)]
pub enum DurabilityMode {
    /// At once.
    Async,
    /// Once it is on disk.
    Fsync,
}

/// How the server takes its leave.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Shutdown")]
#[group(skip)]
pub struct Shutdown {
    /// Time over which a drain spreads the closing of connections
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = duration(Duration::ZERO..=Duration::from_secs(86_400)))]
    pub drain_window: Duration,
}

/// What is logged, and how.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Logging")]
#[group(skip)]
pub struct Logging {
    /// What is logged: a level, or target=level, separated by commas
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub log_level: String,

    /// How a line is written: pretty (for people), json (one object a line)
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Pretty)]
    #[arg(hide_possible_values = true)]
    pub log_format: LogFormat,
}

/// Budgets of the event loop. The defaults are measured; most servers never touch them.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(next_help_heading = "Tuning")]
#[group(skip)]
pub struct Tuning {
    /// Keep each core's thread on a processor of its own, and prefer connections that arrive there
    #[arg(long, value_name = "BOOL", default_value_t = false)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, hide_possible_values = true)]
    pub pin_cores: bool,

    /// Time a core goes on looking for work before it sleeps: less latency for more CPU; 0: none
    #[arg(long, value_name = "DURATION", default_value = "0")]
    #[arg(value_parser = duration(Duration::ZERO..=Duration::from_millis(10)))]
    pub spin: Duration,

    /// Send buffer of a connection in the kernel (SO_SNDBUF); 0: the kernel sizes it
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = bytes(0..=GIB))]
    pub sndbuf: usize,

    /// Receive buffer of a connection in the kernel (SO_RCVBUF); 0: the kernel sizes it
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = bytes(0..=GIB))]
    pub rcvbuf: usize,

    /// Read buffer of each core
    #[arg(long, value_name = "BYTES", default_value = "256KiB", value_parser = bytes(4 * KIB..=64 * MIB))]
    pub read_buffer_bytes: usize,

    /// Bytes read from one connection in a turn before the others have theirs
    #[arg(long, value_name = "BYTES", default_value = "256KiB", value_parser = bytes(1..=GIB))]
    pub read_budget: usize,

    /// Writes of a flush before the loop looks at its sockets again
    #[arg(long, value_name = "COUNT", default_value = "8192", value_parser = count(1..=100_000_000))]
    pub flush_budget: usize,

    /// Connections accepted in a turn
    #[arg(long, value_name = "COUNT", default_value = "256", value_parser = count(1..=65_535))]
    pub accept_batch: usize,

    /// Bytes that may wait for one core before publishers to it pause
    #[arg(long, value_name = "BYTES", default_value = "8MiB", value_parser = bytes(128..=GIB))]
    pub bus_backlog_bytes: usize,

    /// Bytes of replies that may wait on a connection before it is no longer read
    #[arg(long, value_name = "BYTES", default_value = "256KiB", value_parser = bytes(128..=GIB))]
    pub max_reply_bytes: usize,
}

/// What happens to a connection that is further behind than it may be.
#[derive(ValueEnum, Copy, Clone, PartialEq, Eq, Debug)]
pub enum Overflow {
    /// It is closed: 4101 for bytes, 4102 for age.
    Evict,
    /// Its cursor jumps ahead, and it is told the offsets it missed.
    Skip,
    /// It gets the newest message alone, and is told the offsets it missed.
    Latest,
}

/// Which rooms exist.
#[derive(ValueEnum, Copy, Clone, PartialEq, Eq, Debug)]
pub enum RoomNames {
    /// Every name is a room's.
    Open,
    /// Those names that the pattern of a rule means; others are answered with 4007.
    Explicit,
}

/// Whether a PROXY header begins each connection.
#[derive(ValueEnum, Copy, Clone, PartialEq, Eq, Debug)]
pub enum ProxyProtocol {
    /// None does, and one that is sent is no HTTP.
    Off,
    /// Each does, and comes from a trusted proxy.
    Required,
}

/// The oldest version of TLS that is spoken.
#[derive(ValueEnum, Copy, Clone, PartialEq, Eq, Debug)]
pub enum TlsVersion {
    /// TLS 1.2, with forward secrecy and authenticated ciphers only.
    #[value(name = "1.2")]
    V12,
    /// TLS 1.3.
    #[value(name = "1.3")]
    V13,
}

/// How users prove who they are.
#[derive(ValueEnum, Copy, Clone, PartialEq, Eq, Debug)]
pub enum AuthMethod {
    /// They do not: everyone is let in under the name they give.
    None,
    /// By a JSON Web Token that the operator's backend signed.
    Jwt,
    /// The operator's backend is asked.
    Webhook,
}

/// How a line of the log is written.
#[derive(ValueEnum, Copy, Clone, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people at a terminal.
    Pretty,
    /// One JSON object a line, for collectors.
    Json,
}

impl Default for Options {
    #[allow(
        clippy::expect_used,
        reason = "the defaults are constants, and a test parses them"
    )]
    fn default() -> Options {
        super::sources::options_from(std::iter::empty()).expect("the defaults parse")
    }
}
