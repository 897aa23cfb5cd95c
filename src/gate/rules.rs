//! Rooms by rule: what an operator decided for the rooms that a pattern means.
//!
//! ```text
//!   a room's name ──► Rules::find ──► a RoomRule, by the first pattern that means it
//!                                     none: the flags hold, or with --rooms explicit no such room
//!   RoomRule, Grant, defaults ──► Asked::permits(Wish) ──► yes, or Denied: which code, and why
//! ```
//!
//! A rule is whole: what the operator left out has the flag's value. Matching is proportional to
//! the number of rules, so whoever asks often keeps the answer.

use std::time::Duration;

use crate::gate::grant::Actions;
use crate::gate::pattern::Glob;

/// What happens to a member of a room whose lag passes a bound.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub enum Overflow {
    /// The connection is closed with 4101 or 4102.
    #[default]
    Evict,
    /// The cursor jumps to the newest, and the connection is told what it missed.
    Skip,
    /// Like skip, but the newest message is kept.
    Latest,
}

/// Bounds of one room's history. Whichever is reached first lets the oldest message go.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct HistoryLimits {
    /// Messages.
    pub messages_max: usize,
    /// Bytes of serialised frames.
    pub bytes_max: usize,
    /// Age; none keeps messages until the other bounds are reached.
    pub ttl: Option<Duration>,
}

/// Bounds of a room.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct RoomLimits {
    /// What is kept for those that come later.
    pub history: HistoryLimits,
    /// How long a room without members keeps its position and history.
    pub idle_ttl: Duration,
    /// How long a repeated publish is recognised.
    pub idempotency_window: Duration,
    /// How many accepted publishes are remembered for that; 0: none, every publish is new.
    pub idempotency_keys_max: usize,
}

impl RoomLimits {
    /// The bounds of a room that keeps nothing, and goes with its last member.
    pub const EPHEMERAL: RoomLimits = RoomLimits {
        history: HistoryLimits {
            messages_max: 0,
            bytes_max: 0,
            ttl: None,
        },
        idle_ttl: Duration::ZERO,
        idempotency_window: Duration::ZERO,
        idempotency_keys_max: 0,
    };
}

/// Who may publish to a room over a connection, of those whom it is allowed otherwise.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub enum Publishers {
    /// All of them.
    #[default]
    Anyone,
    /// Those whose connection is a member.
    Members,
    /// None: messages come from the server's own API.
    Server,
    /// Those whose token itself grants `publish` there.
    Granted,
}

impl Publishers {
    /// All of them, with their names in files.
    pub const ALL: [(Publishers, &'static str); 4] = [
        (Publishers::Anyone, "anyone"),
        (Publishers::Members, "members"),
        (Publishers::Server, "server"),
        (Publishers::Granted, "granted"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        let named = Publishers::ALL.iter().find(|(known, _)| *known == self);
        named.map_or("", |(_, name)| name)
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Publishers> {
        let named = Publishers::ALL.iter().find(|(_, known)| *known == name);
        named.map(|(publishers, _)| *publishers)
    }
}

/// What holds for the rooms that a pattern means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomRule {
    /// Which rooms. It names no user: a room has one rule, whoever asks.
    pub pattern: Glob,
    /// What is kept, and for how long.
    pub limits: RoomLimits,
    /// Whether members may know of each other.
    pub presence: bool,
    /// Users above which presence is told in summaries.
    pub presence_limit: u64,
    /// What happens to a laggard.
    pub overflow: Overflow,
    /// Who may publish.
    pub publish: Publishers,
    /// What users may do whose token says nothing of rooms; none: [`Rules::default_allow`].
    pub allow: Option<Actions>,
    /// Users at most; none: no bound.
    pub members_max: Option<u64>,
    /// Payload of a message, in bytes; none: the bound of the whole message alone.
    pub message_bytes_max: Option<usize>,
    /// Whether typing passes on.
    pub typing: bool,
    /// Whether read receipts pass on.
    pub receipts: bool,
}

/// The rules of all rooms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// In the operator's order: the first whose pattern means a room governs it.
    pub list: Box<[RoomRule]>,
    /// Whether only those rooms exist that a pattern means.
    pub is_explicit: bool,
    /// What users may do in rooms, where neither their token nor the room's rule says.
    pub default_allow: Actions,
}

impl Default for Rules {
    /// No rule: every room exists, the flags hold in it, and everything is allowed.
    fn default() -> Rules {
        Rules {
            list: Box::default(),
            is_explicit: false,
            default_allow: Actions::ALL,
        }
    }
}

impl Rules {
    /// The place of the rule that governs a room, for [`Rules::get`].
    pub fn find(&self, room: &str) -> Option<usize> {
        self.list
            .iter()
            .position(|rule| rule.pattern.matches(room, ""))
    }

    /// The rule at a place.
    pub fn get(&self, place: usize) -> Option<&RoomRule> {
        self.list.get(place)
    }

    /// The rule that governs a room.
    pub fn of(&self, room: &str) -> Option<&RoomRule> {
        self.find(room).and_then(|place| self.get(place))
    }

    /// Whether nothing depends on a room's name, and nothing is refused to anyone without a token.
    pub fn are_trivial(&self) -> bool {
        self.list.is_empty() && !self.is_explicit && self.default_allow == Actions::ALL
    }

    /// Rules that can never govern a room because an earlier one means all of their names: the
    /// places of the later and the earlier one. Finds repeats, single names that the earlier pattern
    /// means, and what stands behind a `**` in the place of its own ending.
    pub fn shadowed(&self) -> Vec<(usize, usize)> {
        let shadows = |earlier: &Glob, later: &Glob| {
            let text = later.as_str();
            let before = earlier.as_str().strip_suffix("**");
            earlier == later
                || (!text.contains('*') && earlier.matches(text, ""))
                || before.is_some_and(|b| !b.contains('*') && text.starts_with(b))
        };
        let mut found = Vec::new();
        for (at, rule) in self.list.iter().enumerate() {
            let mut before = self.list.iter().take(at);
            if let Some(by) = before.position(|b| shadows(&b.pattern, &rule.pattern)) {
                found.push((at, by));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(patterns: &[&str]) -> Rules {
        let rule = |pattern: &&str| RoomRule {
            pattern: Glob::new(pattern).unwrap(),
            limits: RoomLimits::EPHEMERAL,
            presence: true,
            presence_limit: 200,
            overflow: Overflow::Evict,
            publish: Publishers::Anyone,
            allow: None,
            members_max: None,
            message_bytes_max: None,
            typing: true,
            receipts: true,
        };
        Rules {
            list: patterns.iter().map(rule).collect(),
            ..Rules::default()
        }
    }

    #[test]
    fn the_first_pattern_that_means_a_room_governs_it() {
        let rules = rules(&["chat:vip:*", "chat:*", "chat:**"]);
        let table = [
            ("chat:1", Some("chat:*")),
            ("chat:vip:1", Some("chat:vip:*")),
            ("chat:a:b", Some("chat:**")),
            ("news", None),
        ];
        for (room, pattern) in table {
            let found = rules.of(room).map(|rule| rule.pattern.as_str());
            assert_eq!(found, pattern, "{room}");
        }
    }

    #[test]
    fn no_rules_are_trivial_and_others_are_not() {
        assert!(Rules::default().are_trivial());
        assert!(!rules(&["a"]).are_trivial());
        let explicit = Rules {
            is_explicit: true,
            ..Rules::default()
        };
        assert!(!explicit.are_trivial());
        let reserved = Rules {
            default_allow: Actions::NONE,
            ..Rules::default()
        };
        assert!(!reserved.are_trivial());
    }

    #[test]
    fn a_rule_behind_a_wider_one_is_found() {
        type Case<'a> = (&'a [&'a str], &'a [(usize, usize)]);
        let table: &[Case<'_>] = &[
            (&["chat:*", "chat:**"], &[]),
            (&["chat:*", "chat:x", "chat:x:y"], &[(1, 0)]),
            (&["chat:**", "chat:*"], &[(1, 0)]),
            (&["a", "b", "a"], &[(2, 0)]),
            (&["x", "**", "y:**"], &[(2, 1)]),
            (&["a*:**", "a1:b", "a1:*"], &[(1, 0)]),
        ];
        for (patterns, expected) in table {
            assert_eq!(rules(patterns).shadowed(), *expected, "{patterns:?}");
        }
    }

    #[test]
    fn publishers_have_names() {
        for (publishers, name) in Publishers::ALL {
            assert_eq!(Publishers::from_name(name), Some(publishers));
            assert_eq!(publishers.name(), name);
        }
        assert_eq!(Publishers::from_name("nobody"), None);
    }
}
