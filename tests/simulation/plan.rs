//! What a seed decides before the first step: cores, bounds, rooms, clients.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tidewheel::address::CoreId;
use tidewheel::bus::Durability;
use tidewheel::gate::rate::Per;
use tidewheel::gate::{Authentication, FixedTokens, Grant, Limits, Policy, Rate};
use tidewheel::protocol::UserId;
use tidewheel::room::history::HistoryLimits;
use tidewheel::room::home::RoomLimits;
use tidewheel::shard::{Overflow, ShardConfig};

use crate::law::{self, Law};
use crate::truth::BASE_UNIX_MS;

/// How a client treats its socket.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Temper {
    /// Takes everything at once, answers pings, breaks no rule: nothing may happen to it.
    Good,
    /// Takes a few bytes at a time, but keeps at it.
    Choppy,
    /// Stalls, breaks rules, vanishes.
    Bad,
}

/// A simulated day.
pub struct Plan {
    /// The shards' configuration, but for `core`.
    pub shard: ShardConfig,
    /// What holds in which room.
    pub law: Law,
    /// Writes of a flush.
    pub flush_budget: usize,
    /// Steps before the day ends.
    pub steps: usize,
    /// Names of rooms.
    pub rooms: Vec<String>,
    /// A name and a temper for each client.
    pub clients: Vec<(Option<String>, Temper)>,
    /// The clock's first nanosecond.
    pub starts_at: u64,
    /// Whether an operator bans and disconnects users.
    pub orders: bool,
    /// Whether the operator's backend asks for things.
    pub backend: bool,
    /// Whether rates are so low that anyone may meet them.
    pub is_limited: bool,
    /// Rarely: so much is published at once that a log has more segments than a write has slices.
    pub floods: bool,
    /// Tokens are asked for.
    pub is_guarded: bool,
    /// When those tokens end that do, in milliseconds since 1970.
    pub tokens_end_ms: u64,
}

fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}

fn ms(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.u64(from..=to))
}

impl Plan {
    /// The plan of a seed.
    pub fn new(rng: &mut Rng) -> Plan {
        let floods = rng.u8(..) == 0;
        let cores = pick(rng, &[1u16, 2, 2, 3, 4]);
        let mut shard = config(rng, cores);
        let mut steps = rng.usize(150..1_500);
        let mut clients = if rng.u8(..10) == 0 {
            rng.usize(20..40)
        } else {
            rng.usize(2..12)
        };
        if floods {
            (steps, clients) = (60, 3);
            shard.message_bytes_max = 80_000;
        }
        if !floods && rng.u8(..6) == 0 {
            // From less than the rooms themselves take to more than is ever held.
            shard.memory_budget_bytes = 1 << rng.u32(11..19);
        }
        let orders = rng.u8(..4) == 0;
        let backend = rng.u8(..3) == 0 && !floods;
        let is_limited = rng.u8(..8) == 0 && !floods;
        let limits = limits(rng, is_limited);
        let names = ["ann", "bob", "cy", "dee", "eve"];
        let rooms = ["lobby", "games", "a/b", "räume", "x", "news"];
        let rooms = rooms[..rng.usize(1..=rooms.len())].iter();
        let client = |rng: &mut Rng| {
            let name = (rng.u8(..5) > 0).then(|| pick(rng, &names).to_owned());
            let temper = pick(
                rng,
                &[
                    Temper::Good,
                    Temper::Good,
                    Temper::Choppy,
                    Temper::Bad,
                    Temper::Bad,
                ],
            );
            (name, temper)
        };
        // Near the end of the shard's 32 bits of milliseconds, or at some odd nanosecond.
        let wrap = (u64::from(u32::MAX) - rng.u64(..60_000)) * 1_000_000;
        let starts_at = if rng.u8(..8) == 0 {
            wrap
        } else {
            rng.u64(..1 << 40)
        };
        let mut clients: Vec<_> = (0..clients).map(|_| client(rng)).collect();
        let is_guarded = rng.u8(..3) == 0;
        let tokens_end_ms = BASE_UNIX_MS + rng.u64(1_000..300_000);
        if is_guarded {
            for (name, _) in &mut clients {
                name.get_or_insert("guest".to_owned());
            }
        }
        let policy = policy(rng, is_guarded.then_some(tokens_end_ms));
        shard.policy = Arc::new(Policy {
            rules: law::rules(shard.seed, &shard.room),
            limits,
            ..policy
        });
        Plan {
            law: Law::new(&shard, is_limited),
            flush_budget: pick(rng, &[1, 2, 3, 8, 64, 4096]),
            steps,
            rooms: rooms.map(|r| (*r).to_owned()).collect(),
            clients,
            is_guarded,
            tokens_end_ms,
            starts_at,
            floods,
            orders,
            backend,
            is_limited,
            shard,
        }
    }

    /// How long a client that means well may be left without a turn.
    pub fn patience(&self) -> Duration {
        let ShardConfig {
            heartbeat_timeout,
            lag_age_max,
            handshake_timeout,
            close_timeout,
            ..
        } = self.shard;
        let least = heartbeat_timeout.min(lag_age_max);
        let least = least.min(self.shard.policy.auth_timeout);
        least.min(handshake_timeout).min(close_timeout) / 2
    }

    /// Whether memory may be short: what is kept may be gone before its time then.
    pub fn is_short_of_memory(&self) -> bool {
        self.shard.memory_budget_bytes > 0
    }
}

/// Either what nobody here comes near, or what anyone may meet.
fn limits(rng: &mut Rng, is_low: bool) -> Limits {
    let mut rate = |low: u32, high: u32| {
        let (count, burst) = if is_low {
            (low, low)
        } else {
            (high, 10 * high)
        };
        let rate = Rate::new(count, Per::Second, burst).unwrap();
        (rng.bool()).then_some(rate)
    };
    let mut limits = Limits {
        connection_messages: rate(5, 100_000),
        connection_joins: rate(3, 10_000),
        connection_control: rate(3, 10_000),
        user_messages: rate(6, 100_000),
        user_rooms: rate(1, 10_000),
        ..Limits::default()
    };
    limits.rate_errors_max = rng.u32(0..20);
    match rng.u8(..5) {
        0 => limits.one_connection_per_user = true,
        1 => limits.connections_per_user_max = Some(rng.u32(1..4)),
        _ => {}
    }
    limits
}

/// Tokens by the names of users: `good-ann` never ends, `ends-ann` does at `tokens_end_ms`.
fn policy(rng: &mut Rng, tokens_end_ms: Option<u64>) -> Policy {
    let lifetime = (rng.u8(..6) == 0).then(|| ms(rng, 1_000, 300_000));
    let mut policy = Policy {
        auth_timeout: ms(rng, 1_000, 10_000),
        token_expiring_notice: ms(rng, 0, 60_000),
        connection_lifetime: lifetime,
        ..Policy::default()
    };
    if tokens_end_ms.is_some() {
        let mut tokens = FixedTokens::default();
        for name in ["ann", "bob", "cy", "dee", "eve", "guest"] {
            for (kind, expires_at_unix_ms) in [("good", None), ("ends", tokens_end_ms)] {
                let grant = Grant {
                    user: UserId::from_name(name),
                    info: Some(Arc::from(format!("{{\"kind\":\"{kind}\"}}").as_bytes())),
                    expires_at_unix_ms,
                    rooms: None,
                };
                tokens.0.insert(format!("{kind}-{name}"), grant);
            }
        }
        policy.authentication = Authentication::Fixed(Arc::new(tokens));
    }
    policy
}

fn room_limits(rng: &mut Rng) -> RoomLimits {
    let ttl = (rng.u8(..10) < 3).then(|| ms(rng, 500, 20_000));
    let bytes_max = if rng.u8(..8) == 0 {
        rng.usize(300..3_000)
    } else {
        1 << 26
    };
    RoomLimits {
        history: HistoryLimits {
            messages_max: pick(rng, &[0, 1, 3, 20, 20]),
            bytes_max,
            ttl,
        },
        idle_ttl: ms(rng, 500, 60_000),
        idempotency_window: ms(rng, 500, 30_000),
        idempotency_keys_max: pick(rng, &[1, 10_000, 10_000, 10_000]),
    }
}

fn config(rng: &mut Rng, cores: u16) -> ShardConfig {
    let presence_limit = if rng.u8(..4) == 0 {
        rng.u64(1..4)
    } else {
        1_000
    };
    ShardConfig {
        durability: Durability::Off,
        gives_notice: true,
        core: CoreId(0),
        cores,
        seed: rng.u64(..),
        echo: rng.bool(),
        page: b"page",
        policy: Default::default(),
        meters: Default::default(),
        handshake_timeout: ms(rng, 1_000, 10_000),
        head_bytes_max: 8_192,
        close_timeout: ms(rng, 300, 3_000),
        message_bytes_max: rng.usize(400..4_096),
        fragments_max: rng.u32(4..16),
        protocol_errors_max: rng.u32(1..8),
        rooms_per_connection_max: pick(rng, &[1, 2, 64, 64]),
        rooms_max: pick(rng, &[1, 10_000, 10_000, 10_000, 10_000, 10_000, 10_000]),
        room: room_limits(rng),
        presence_limit,
        overflow: pick(rng, &[Overflow::Evict, Overflow::Skip, Overflow::Latest]),
        lag_bytes_max: pick(rng, &[200, 1_000, 5_000, 1 << 20]),
        lag_age_max: ms(rng, 500, 10_000),
        coalesce: if rng.u8(..4) == 0 {
            ms(rng, 1, 50)
        } else {
            Duration::ZERO
        },
        answer_bytes_max: pick(rng, &[100, 1_000, 10_000, 1 << 20]),
        memory_budget_bytes: 0,
        heartbeat_interval: ms(rng, 1_000, 30_000),
        heartbeat_timeout: ms(rng, 500, 10_000),
    }
}
