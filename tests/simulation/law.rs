//! What holds in which room, as the plan has it: what an answer may be, and what it may not.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tidewheel::gate::{
    Action, Actions, Asked, Glob, HistoryLimits, Overflow, Policy, Publishers, RoomLimits,
    RoomRule, Rules, Wish,
};
use tidewheel::shard::ShardConfig;

/// Whether a client was a member of a room when it asked for something there.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    Outside,
    /// A join or a leave is under way.
    Unknown,
    Member,
}

impl Standing {
    fn possible(self) -> &'static [bool] {
        match self {
            Standing::Outside => &[false],
            Standing::Unknown => &[false, true],
            Standing::Member => &[true],
        }
    }
}

/// The rules of a day, and the flags beside them.
#[derive(Clone)]
pub struct Law {
    policy: Arc<Policy>,
    room: RoomLimits,
    overflow: Overflow,
    presence_limit: u64,
    pub rooms_per_connection_max: usize,
    /// Rates are so low that anyone may meet them.
    pub is_limited: bool,
    /// A room may not be made because there are too many, or memory is short.
    pub may_be_full: bool,
}

impl Law {
    pub fn new(shard: &ShardConfig, is_limited: bool) -> Law {
        Law {
            policy: Arc::clone(&shard.policy),
            room: shard.room,
            overflow: shard.overflow,
            presence_limit: shard.presence_limit,
            rooms_per_connection_max: shard.rooms_per_connection_max,
            is_limited,
            may_be_full: shard.rooms_max < 10 || shard.memory_budget_bytes > 0,
        }
    }

    /// Whether users may write to each other: no token here says so.
    pub fn allows_direct(&self) -> bool {
        self.policy.rules.default_allow.contains(Action::Direct)
    }

    pub fn rule(&self, room: &str) -> Option<&RoomRule> {
        self.policy.rules.of(room)
    }

    pub fn limits(&self, room: &str) -> &RoomLimits {
        self.rule(room).map_or(&self.room, |rule| &rule.limits)
    }

    /// The limits of every rule, and those without one.
    pub fn all_limits(&self) -> impl Iterator<Item = &RoomLimits> {
        let list = self.policy.rules.list.iter().map(|rule| &rule.limits);
        list.chain([&self.room])
    }

    pub fn overflow(&self, room: &str) -> Overflow {
        self.rule(room).map_or(self.overflow, |rule| rule.overflow)
    }

    /// Whether the policy is that of any room.
    pub fn has_overflow(&self, overflow: Overflow) -> bool {
        let mut list = self.policy.rules.list.iter();
        self.overflow == overflow || list.any(|rule| rule.overflow == overflow)
    }

    /// Whether there are rules for some rooms at least.
    pub fn has_rules(&self) -> bool {
        !self.policy.rules.list.is_empty()
    }

    /// Whether presence is told one by one, whatever happens.
    pub fn presence_is_exact(&self, room: &str) -> bool {
        let limit = self.rule(room).map(|rule| rule.presence_limit);
        limit.unwrap_or(self.presence_limit) >= 1_000 && self.overflow(room) == Overflow::Evict
    }

    pub fn members_max(&self, room: &str) -> Option<u64> {
        self.rule(room)?.members_max
    }

    /// Whether there cannot be such a room.
    pub fn is_unknown(&self, room: &str) -> bool {
        self.policy.rules.is_explicit && self.rule(room).is_none()
    }

    /// With which code a wish is refused, for a member or for others.
    fn refusal(&self, room: &str, wish: Wish, is_member: bool) -> Option<u64> {
        let asked = Asked {
            rules: &self.policy.rules,
            room,
            rule: self.rule(room),
            grant: None,
            is_member,
        };
        asked.permits(wish).err().map(|denied| denied.code() as u64)
    }

    /// Whether the rules let this be refused with the code.
    pub fn may_refuse(&self, room: &str, wish: Wish, standing: Standing, code: u64) -> bool {
        let mut possible = standing.possible().iter();
        possible.any(|is_member| self.refusal(room, wish, *is_member) == Some(code))
    }

    /// Whether the rules let this be answered.
    pub fn may_answer(&self, room: &str, wish: Wish, standing: Standing) -> bool {
        let mut possible = standing.possible().iter();
        possible.any(|is_member| self.refusal(room, wish, *is_member).is_none())
    }
}

fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}

/// Rules for some days; none on the others.
pub fn rules(seed: u64, room: &RoomLimits) -> Rules {
    // Of its own, so that days without rules are what they would be anyway.
    let rng = &mut Rng::with_seed(seed ^ 0x7275_6c65);
    if rng.u8(..5) < 3 {
        return Rules::default();
    }
    let patterns = [
        "lobby", "games", "a/b", "räume", "x", "news", "*", "**", "l*", "?", "*a*", "g*s",
    ];
    let count = rng.usize(1..5);
    let list = (0..count).map(|_| {
        let pattern = pick(rng, &patterns);
        rule(rng, pattern, room)
    });
    Rules {
        list: list.collect(),
        is_explicit: rng.u8(..3) == 0,
        default_allow: if rng.u8(..8) == 0 {
            some_actions(rng)
        } else {
            Actions::ALL
        },
    }
}

fn some_actions(rng: &mut Rng) -> Actions {
    let all = Action::ALL.iter().map(|(action, _)| *action);
    all.filter(|_| rng.u8(..4) > 0).collect()
}

fn rule(rng: &mut Rng, pattern: &str, room: &RoomLimits) -> RoomRule {
    let limits = RoomLimits {
        history: HistoryLimits {
            messages_max: pick(rng, &[0, 1, 3, 20, 40]),
            bytes_max: pick(rng, &[2_000, 1 << 26]),
            ttl: (rng.u8(..4) == 0).then(|| Duration::from_millis(rng.u64(500..20_000))),
        },
        idle_ttl: Duration::from_millis(pick(rng, &[0, 700, 30_000])),
        ..*room
    };
    let mostly = |rng: &mut Rng| rng.u8(..5) > 0;
    RoomRule {
        pattern: Glob::new(pattern).unwrap(),
        limits: if rng.u8(..5) == 0 {
            RoomLimits::EPHEMERAL
        } else {
            limits
        },
        presence: mostly(rng),
        presence_limit: pick(rng, &[1, 3, 1_000, 1_000]),
        overflow: pick(rng, &[Overflow::Evict, Overflow::Skip, Overflow::Latest]),
        publish: match rng.u8(..8) {
            0 => Publishers::Server,
            1 => Publishers::Granted,
            2 | 3 => Publishers::Members,
            _ => Publishers::Anyone,
        },
        allow: (!mostly(rng)).then(|| some_actions(rng)),
        members_max: pick(rng, &[None, None, Some(1), Some(2)]),
        message_bytes_max: pick(rng, &[None, None, None, Some(60), Some(200)]),
        typing: mostly(rng),
        receipts: mostly(rng),
    }
}
