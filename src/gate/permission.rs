//! What a connection may do in a room: the room's rule, its bearer's grant and the defaults, held
//! against what it wants.
//!
//! A token that says something of rooms is the last word on them, for its bearer; for all others
//! the rule's `allow` holds, and where the rule has none the server's defaults do. What a rule
//! switches off is off for everyone.

use thiserror::Error;

use crate::gate::grant::{Action, Actions, Grant};
use crate::gate::rules::{Publishers, RoomRule, Rules};
use crate::protocol::Code;

/// What a connection wants in a room.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Wish {
    /// `join_room`.
    Join {
        /// With `history` or `recover`.
        history: bool,
        /// With `presence: true`.
        presence: bool,
    },
    /// `message`.
    Publish {
        /// The length of its payload.
        bytes: usize,
    },
    /// `typing_start`, `typing_stop`.
    Typing,
    /// `read_receipt`.
    Receipt,
    /// `presence_query`.
    Members,
    /// `history_query`.
    History,
}

/// Why something is not done. The text says what to do instead; it repeats nothing of a token.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Error)]
pub enum Denied {
    /// Rooms are explicit, and no rule means this one.
    #[error("no such room: this server has only rooms that its rules name; check the spelling")]
    NoSuchRoom,
    /// Neither the token, nor the rule, nor the defaults allow it.
    #[error("`{}` is not allowed to you in this room; ask for a token that grants it", .0.name())]
    NotAllowed(Action),
    /// The rule has no presence.
    #[error("this room tells nobody who is in it; ask without presence")]
    PresenceOff,
    /// The rule has no typing.
    #[error("this room passes on no typing; do not send it")]
    TypingOff,
    /// The rule has no receipts.
    #[error("this room passes on no read receipts; do not send them")]
    ReceiptsOff,
    /// Only members publish.
    #[error("only members publish to this room; join it, and wait for room_joined")]
    MembersOnly,
    /// Nobody publishes over a connection.
    #[error("only the server's own API publishes to this room")]
    ServerOnly,
    /// Only tokens that say so publish.
    #[error("only a token whose own `rooms` list publish for this room may publish to it")]
    GrantedOnly,
    /// The payload is too long.
    #[error("a payload of {bytes} bytes is too long for this room; at most {max} are taken")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The rule's bound.
        max: usize,
    },
}

impl Denied {
    /// The code that the peer is told.
    pub fn code(self) -> Code {
        match self {
            Denied::NoSuchRoom => Code::RoomNotFound,
            Denied::TooLarge { .. } => Code::MessageTooLarge,
            _ => Code::PermissionDenied,
        }
    }
}

/// Whether an action in a room is allowed to the bearer of a grant, as far as grant, rule and
/// defaults go. `defaults` are the server's.
///
/// # Errors
/// [`Denied`] where it is not.
pub fn may(
    action: Action,
    room: &str,
    rule: Option<&RoomRule>,
    grant: Option<&Grant>,
    defaults: Actions,
) -> Result<(), Denied> {
    let granted = grant.and_then(|grant| grant.actions_in(room));
    let publishers = rule.map_or(Publishers::Anyone, |rule| rule.publish);
    if action == Action::Publish {
        match publishers {
            Publishers::Server => return Err(Denied::ServerOnly),
            Publishers::Granted if granted.is_none() => return Err(Denied::GrantedOnly),
            _ => {}
        }
    }
    let by_rule = || rule.and_then(|rule| rule.allow).unwrap_or(defaults);
    if granted.unwrap_or_else(by_rule).contains(action) {
        Ok(())
    } else if action == Action::Publish && publishers == Publishers::Granted {
        Err(Denied::GrantedOnly)
    } else {
        Err(Denied::NotAllowed(action))
    }
}

/// Who asks, and where.
#[derive(Copy, Clone, Debug)]
pub struct Asked<'a> {
    /// All rules.
    pub rules: &'a Rules,
    /// The room's name.
    pub room: &'a str,
    /// The rule that governs it.
    pub rule: Option<&'a RoomRule>,
    /// What the connection's credential gives; none without one.
    pub grant: Option<&'a Grant>,
    /// Whether the connection is a member: let in, not only waiting for it.
    pub is_member: bool,
}

impl Asked<'_> {
    /// Whether the wish is to be fulfilled.
    ///
    /// # Errors
    /// [`Denied`] where it is not.
    pub fn permits(&self, wish: Wish) -> Result<(), Denied> {
        if self.rule.is_none() && self.rules.is_explicit {
            return Err(Denied::NoSuchRoom);
        }
        match wish {
            Wish::Join { history, presence } => {
                self.may(Action::Join)?;
                if history {
                    self.may(Action::History)?;
                }
                if presence {
                    self.presence()?;
                }
                Ok(())
            }
            Wish::Publish { bytes } => self.publish(bytes),
            Wish::Typing if self.rule.is_some_and(|rule| !rule.typing) => Err(Denied::TypingOff),
            Wish::Typing => self.may(Action::Publish),
            Wish::Receipt if self.rule.is_some_and(|rule| !rule.receipts) => {
                Err(Denied::ReceiptsOff)
            }
            Wish::Receipt => Ok(()),
            Wish::Members => self.presence(),
            Wish::History => self.may(Action::History),
        }
    }

    fn may(&self, action: Action) -> Result<(), Denied> {
        let defaults = self.rules.default_allow;
        may(action, self.room, self.rule, self.grant, defaults)
    }

    fn presence(&self) -> Result<(), Denied> {
        if self.rule.is_some_and(|rule| !rule.presence) {
            return Err(Denied::PresenceOff);
        }
        self.may(Action::Presence)
    }

    fn publish(&self, bytes: usize) -> Result<(), Denied> {
        self.may(Action::Publish)?;
        let Some(rule) = self.rule else { return Ok(()) };
        if rule.publish == Publishers::Members && !self.is_member {
            return Err(Denied::MembersOnly);
        }
        match rule.message_bytes_max {
            Some(max) if bytes > max => Err(Denied::TooLarge { bytes, max }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Glob, Overflow, RoomGrant, RoomLimits};
    use crate::protocol::UserId;

    const ROOM: &str = "chat:1";

    fn rule(change: impl FnOnce(&mut RoomRule)) -> RoomRule {
        let mut rule = RoomRule {
            pattern: Glob::new("chat:*").unwrap(),
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
        change(&mut rule);
        rule
    }

    fn grant(allow: Option<&[Action]>) -> Grant {
        let of = |allow: &[Action]| RoomGrant {
            pattern: Glob::new("chat:*").unwrap(),
            allow: allow.iter().copied().collect(),
        };
        Grant {
            user: UserId::from_name("ada"),
            info: None,
            expires_at_unix_ms: None,
            rooms: allow.map(|allow| Box::from([of(allow)])),
        }
    }

    #[test]
    fn the_token_decides_then_the_rule_then_the_defaults() {
        use Action::{Join, Publish};
        let only = |action: Action| Some(Actions::NONE.with(action));
        let (silent, join) = (grant(None), grant(Some(&[Join])));
        // The rule's allow, the grant, the defaults; whether joining and publishing are allowed.
        type Case<'a> = (Option<Actions>, Option<&'a Grant>, Actions, bool, bool);
        let table: [Case<'_>; 8] = [
            (None, None, Actions::ALL, true, true),
            (None, None, Actions::NONE, false, false),
            (only(Join), None, Actions::ALL, true, false),
            (only(Publish), None, Actions::NONE, false, true),
            (only(Publish), Some(&silent), Actions::NONE, false, true),
            (None, Some(&silent), Actions::ALL, true, true),
            (only(Publish), Some(&join), Actions::ALL, true, false),
            (None, Some(&join), Actions::NONE, true, false),
        ];
        for (allow, grant, defaults, joins, publishes) in table {
            let rule = rule(|r| r.allow = allow);
            let is = |action| may(action, ROOM, Some(&rule), grant, defaults).is_ok();
            let case = format!("{allow:?} {grant:?} {defaults:?}");
            assert_eq!((is(Join), is(Publish)), (joins, publishes), "{case}");
        }
        let elsewhere = may(Join, "news", None, Some(&join), Actions::ALL);
        assert_eq!(elsewhere, Err(Denied::NotAllowed(Join)));
    }

    #[test]
    fn publishers_are_those_whom_the_rule_names() {
        use Publishers::{Anyone, Granted, Members, Server};
        let (silent, publish) = (grant(None), grant(Some(&[Action::Publish])));
        let join = grant(Some(&[Action::Join]));
        let table = [
            (Anyone, None, false, Ok(())),
            (
                Anyone,
                Some(&join),
                true,
                Err(Denied::NotAllowed(Action::Publish)),
            ),
            (Members, None, false, Err(Denied::MembersOnly)),
            (Members, None, true, Ok(())),
            (Members, Some(&publish), false, Err(Denied::MembersOnly)),
            (Server, Some(&publish), true, Err(Denied::ServerOnly)),
            (Granted, None, true, Err(Denied::GrantedOnly)),
            (Granted, Some(&silent), true, Err(Denied::GrantedOnly)),
            (Granted, Some(&join), true, Err(Denied::GrantedOnly)),
            (Granted, Some(&publish), false, Ok(())),
        ];
        for (publishers, grant, is_member, expected) in table {
            let rule = rule(|r| r.publish = publishers);
            let asked = Asked {
                rules: &Rules::default(),
                room: ROOM,
                rule: Some(&rule),
                grant,
                is_member,
            };
            let got = asked.permits(Wish::Publish { bytes: 1 });
            assert_eq!(got, expected, "{publishers:?} {grant:?} {is_member}");
        }
    }

    #[test]
    fn what_a_rule_switches_off_is_off() {
        let rule = rule(|r| {
            (r.presence, r.typing, r.receipts) = (false, false, false);
            r.message_bytes_max = Some(4);
            r.allow = Some(Actions::NONE.with(Action::Join).with(Action::Publish));
        });
        let rules = Rules::default();
        let asked = Asked {
            rules: &rules,
            room: ROOM,
            rule: Some(&rule),
            grant: None,
            is_member: true,
        };
        let join = |history, presence| Wish::Join { history, presence };
        let table = [
            (join(false, false), Ok(())),
            (join(true, false), Err(Denied::NotAllowed(Action::History))),
            (join(false, true), Err(Denied::PresenceOff)),
            (Wish::Members, Err(Denied::PresenceOff)),
            (Wish::Typing, Err(Denied::TypingOff)),
            (Wish::Receipt, Err(Denied::ReceiptsOff)),
            (Wish::History, Err(Denied::NotAllowed(Action::History))),
            (Wish::Publish { bytes: 4 }, Ok(())),
            (
                Wish::Publish { bytes: 5 },
                Err(Denied::TooLarge { bytes: 5, max: 4 }),
            ),
        ];
        for (wish, expected) in table {
            assert_eq!(asked.permits(wish), expected, "{wish:?}");
        }
    }

    #[test]
    fn an_explicit_server_has_no_room_without_a_rule() {
        let rules = Rules {
            is_explicit: true,
            ..Rules::default()
        };
        let asked = Asked {
            rules: &rules,
            room: "nowhere",
            rule: None,
            grant: None,
            is_member: true,
        };
        for wish in [Wish::Typing, Wish::Receipt, Wish::Members, Wish::History] {
            let denied = asked.permits(wish).unwrap_err();
            assert_eq!(denied.code(), Code::RoomNotFound, "{wish:?}");
        }
        let open = Rules::default();
        let asked = Asked {
            rules: &open,
            ..asked
        };
        assert_eq!(asked.permits(Wish::History), Ok(()));
    }
}
