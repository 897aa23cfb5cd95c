//! From options to what the server is told: the one place where the two meet.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use super::Options;
use super::host::Host;
use super::options;
use super::units::Count;
use crate::address::CoreId;
use crate::bus::Durability;
use crate::control::{self, AccessSettings, HookSettings, WebhookSettings};
use crate::gate::meters::METERS_MAX;
use crate::gate::{Limits, Meters, Policy};
use crate::reactor::tls::{CertificateFiles, MinVersion, TlsSettings};
use crate::reactor::{SocketOptions, Tuning};
use crate::room::history::HistoryLimits;
use crate::room::home::RoomLimits;
use crate::server::{PAGE, Settings};
use crate::shard::{Overflow, ShardConfig};
use crate::store::{BACKLOG_BYTES_MAX, StoreSettings};

/// What the options come to on this machine, with the policy that was read from the files they name.
pub fn settings(options: &Options, host: &Host, policy: Arc<Policy>) -> Settings {
    let shards = options.connections.shards.unwrap_or(host.cores).max(1);
    let cores = u16::try_from(shards).unwrap_or(u16::MAX);
    Settings {
        listen: options.listeners.listen,
        admin_listen: options.listeners.admin_listen,
        tls: tls(options),
        admin_tls: admin_tls(options),
        access: access(options),
        control: control::Limits {
            connections_max: u32::try_from(options.admin.admin_connections).unwrap_or(u32::MAX),
            body_bytes_max: options.admin.api_body_bytes,
            batch_max: options.admin.api_batch_messages,
            ..control::Limits::default()
        },
        sockets: SocketOptions {
            backlog: options.listeners.backlog,
            unsent_bytes_max: options.slow_consumers.max_unsent_bytes,
            send_buffer_bytes: options.tuning.sndbuf,
            receive_buffer_bytes: options.tuning.rcvbuf,
        },
        pin_cores: options.tuning.pin_cores,
        shards,
        descriptors: host.descriptors,
        connections_max: match options.connections.max_connections {
            Count::Auto => None,
            Count::Exactly(count) => Some(count),
        },
        drain_window: options.shutdown.drain_window,
        webhook: webhook(&options.authentication),
        hooks: hooks(&options.hooks),
        store: store(options),
        shard: ShardConfig {
            policy,
            gives_notice: options.hooks.webhook.is_some(),
            memory_budget_bytes: memory_budget(options, host).unwrap_or(0),
            ..shard_config(options, CoreId(0), cores, random_seed())
        },
        collect: || {},
        tuning: Tuning {
            connections_max: 0,
            connections_everywhere_max: 0,
            refusals_max: 0,
            retry_after: options.connections.retry_after,
            read_buffer_bytes: options.tuning.read_buffer_bytes,
            read_budget_bytes: options.tuning.read_budget,
            flush_budget: options.tuning.flush_budget,
            accept_batch: options.tuning.accept_batch,
            proxy_headers: options.limits.proxy_protocol == options::ProxyProtocol::Required,
            handshake_budget: options.tls.tls_handshake_budget,
            spin: options.tuning.spin,
            bus_backlog_bytes: options.tuning.bus_backlog_bytes,
        },
    }
}

/// How history is kept on disk, where it is.
pub(super) fn store(options: &Options) -> Option<StoreSettings> {
    Some(StoreSettings {
        folder: options.store.data_dir.clone()?,
        durability: durability(options),
        flush_interval: options.store.flush_interval,
        key_window: options.rooms.idempotency_window,
        backlog_bytes_max: BACKLOG_BYTES_MAX,
        seed: random_seed(),
    })
}

fn durability(options: &Options) -> Durability {
    match (&options.store.data_dir, options.store.durability) {
        (None, _) => Durability::Off,
        (Some(_), options::DurabilityMode::Async) => Durability::Async,
        (Some(_), options::DurabilityMode::Fsync) => Durability::Fsync,
    }
}

/// How the operator's backend is asked, where it is.
pub(super) fn webhook(options: &options::Authentication) -> Option<WebhookSettings> {
    let url = options.auth_webhook_url.clone()?;
    Some(WebhookSettings {
        url,
        timeout: options.auth_webhook_timeout,
        in_flight_max: options.auth_webhook_in_flight,
        cache_ttl: options.auth_webhook_cache,
        secret_file: options.auth_webhook_secret_file.clone(),
        ca_file: options.auth_webhook_ca_file.clone(),
    })
}

/// Who may use the admin listener.
pub(super) fn access(options: &Options) -> AccessSettings {
    let hosts = options.admin.admin_allow_host.clone().unwrap_or_default();
    AccessSettings {
        key_file: options.admin.api_key_file.clone(),
        hosts: hosts.0.into_vec(),
        is_tls: options.tls.is_on_for_admin(),
        is_metrics_open: options.admin.metrics_open,
    }
}

/// What the operator's backend is told, where it is.
pub(super) fn hooks(options: &options::Hooks) -> Option<HookSettings> {
    let url = options.webhook.clone()?;
    let wanted = options.webhook_events.unwrap_or_default();
    Some(HookSettings {
        url,
        timeout: options.webhook_timeout,
        secret_file: options.webhook_secret_file.clone(),
        ca_file: options.webhook_ca_file.clone(),
        node: options.node_name.clone().unwrap_or_else(host_name),
        rooms: wanted.rooms,
        users: wanted.users,
        arrival_delay: options.webhook_arrival_delay,
        departure_delay: options.webhook_delay,
        batch_max: options.webhook_batch,
        queue_max: options.webhook_queue,
    })
}

/// What the machine is called.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.map(|name| name.trim().to_owned());
    let name = name.or_else(|| std::env::var("HOSTNAME").ok());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "tidewheel".to_owned())
}

/// How much peers may do, as the options have it.
pub(super) fn limits(options: &options::Limits) -> Limits {
    let at_most = |count: usize| (count > 0).then(|| u32::try_from(count).unwrap_or(u32::MAX));
    Limits {
        connection_messages: options.limit_connection_messages.0,
        connection_bytes: options.limit_connection_bytes.0,
        connection_joins: options.limit_connection_joins.0,
        connection_control: options.limit_connection_control.0,
        user_messages: options.limit_user_messages.0,
        user_rooms: options.limit_user_rooms.0,
        address_connects: options.limit_address_connects.0,
        connections_per_address_max: at_most(options.max_connections_per_address),
        connections_per_user_max: at_most(options.max_connections_per_user),
        one_connection_per_user: options.one_connection_per_user,
        rate_errors_max: u32::try_from(options.max_rate_errors).unwrap_or(u32::MAX),
        trusted_proxies: options.trusted_proxies.0.clone(),
    }
}

/// What the listeners show that speak TLS.
pub(super) fn certificates(options: &Options) -> impl Iterator<Item = TlsSettings> {
    tls(options).into_iter().chain(admin_tls(options))
}

/// What the public listener shows, where it speaks TLS.
fn tls(options: &Options) -> Option<TlsSettings> {
    let tls = &options.tls;
    let pairs = tls.tls_cert.iter().zip(&tls.tls_key);
    tls.is_on().then(|| TlsSettings {
        certificates: pairs
            .map(|(certificate, key)| CertificateFiles {
                certificate: certificate.clone(),
                key: key.clone(),
            })
            .collect(),
        self_signed: tls.tls_self_signed.then_some(options.listeners.listen.ip()),
        min_version: match tls.tls_min_version {
            options::TlsVersion::V12 => MinVersion::V12,
            options::TlsVersion::V13 => MinVersion::V13,
        },
        client_ca: None,
        resumes: true,
    })
}

/// What the admin listener shows, where it speaks TLS.
fn admin_tls(options: &Options) -> Option<TlsSettings> {
    let flags = &options.tls;
    let own = flags.admin_tls_cert.iter().zip(&flags.admin_tls_key);
    let own: Vec<CertificateFiles> = own
        .map(|(certificate, key)| CertificateFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        })
        .collect();
    let settings = TlsSettings {
        certificates: Vec::new(),
        self_signed: None,
        min_version: match flags.tls_min_version {
            options::TlsVersion::V12 => MinVersion::V12,
            options::TlsVersion::V13 => MinVersion::V13,
        },
        client_ca: flags.tls_client_ca.clone(),
        // Each connection shows its certificate anew.
        resumes: false,
    };
    if flags.admin_tls {
        let public = tls(options)?;
        return Some(TlsSettings {
            certificates: public.certificates,
            self_signed: public.self_signed,
            ..settings
        });
    }
    (!own.is_empty()).then_some(TlsSettings {
        certificates: own,
        ..settings
    })
}

/// `--memory-budget` in bytes; none where there is none, or nobody knows what is here.
pub fn memory_budget(options: &Options, host: &Host) -> Option<usize> {
    match options.memory.memory_budget {
        Count::Auto => host.memory.bytes().map(|bytes| bytes / 4 * 3),
        Count::Exactly(0) => None,
        Count::Exactly(bytes) => Some(bytes),
    }
}

/// A number that nobody outside can guess: the standard library's hasher is keyed by the system's
/// random source.
pub(super) fn random_seed() -> u64 {
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

/// The bounds of a room that no rule governs.
pub(super) fn room_limits(rooms: &options::Rooms) -> RoomLimits {
    RoomLimits {
        history: HistoryLimits {
            messages_max: rooms.history,
            bytes_max: rooms.history_bytes,
            ttl: (!rooms.history_ttl.is_zero()).then_some(rooms.history_ttl),
        },
        idle_ttl: rooms.room_idle_ttl,
        idempotency_window: rooms.idempotency_window,
        idempotency_keys_max: rooms.idempotency_keys,
    }
}

/// The policy for laggards of that name.
pub(super) fn overflow(policy: options::Overflow) -> Overflow {
    match policy {
        options::Overflow::Evict => Overflow::Evict,
        options::Overflow::Skip => Overflow::Skip,
        options::Overflow::Latest => Overflow::Latest,
    }
}

/// The bounds of one core's shard, as the options have them.
pub fn shard_config(options: &Options, core: CoreId, cores: u16, seed: u64) -> ShardConfig {
    let Options {
        connections,
        messages,
        rooms,
        slow_consumers,
        heartbeat,
        ..
    } = options;
    ShardConfig {
        core,
        cores,
        seed,
        echo: options.listeners.echo,
        page: PAGE,
        policy: Default::default(),
        meters: Arc::new(Meters::new(seed, METERS_MAX)),
        handshake_timeout: connections.handshake_timeout,
        head_bytes_max: connections.max_head_bytes,
        close_timeout: connections.close_timeout,
        message_bytes_max: messages.max_message_bytes,
        fragments_max: u32::try_from(messages.max_fragments).unwrap_or(u32::MAX),
        protocol_errors_max: u32::try_from(messages.max_protocol_errors).unwrap_or(u32::MAX),
        rooms_per_connection_max: rooms.max_rooms_per_connection,
        rooms_max: rooms.max_rooms.div_ceil(usize::from(cores.max(1))),
        room: room_limits(rooms),
        presence_limit: rooms.presence_limit as u64,
        overflow: overflow(slow_consumers.overflow),
        lag_bytes_max: slow_consumers.max_lag_bytes as u64,
        lag_age_max: slow_consumers.max_lag_age,
        coalesce: slow_consumers.coalesce,
        answer_bytes_max: options.tuning.max_reply_bytes,
        memory_budget_bytes: 0,
        durability: durability(options),
        gives_notice: false,
        heartbeat_interval: heartbeat.heartbeat_interval,
        heartbeat_timeout: heartbeat.heartbeat_timeout,
    }
}
