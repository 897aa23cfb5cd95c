//! What a credential gives its bearer.

use std::fmt;
use std::sync::Arc;

use crate::gate::pattern::Glob;
use crate::protocol::UserId;

/// Something that a user may be allowed to do. All but `Direct` are done in a room.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Action {
    /// To become a member: `join_room`.
    Join,
    /// To publish: `message`; and typing, which tells others of it.
    Publish,
    /// To know who is there: `presence_query`, and `presence: true` of a join.
    Presence,
    /// To read the past: `history_query`, and `history` and `recover` of a join.
    History,
    /// To write to one user: `direct_message`. It concerns no room: whatever grants it anywhere
    /// grants it.
    Direct,
}

impl Action {
    /// All of them, with their names in tokens, flags and files.
    pub const ALL: [(Action, &'static str); 5] = [
        (Action::Join, "join"),
        (Action::Publish, "publish"),
        (Action::Presence, "presence"),
        (Action::History, "history"),
        (Action::Direct, "direct"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        let named = Action::ALL.iter().find(|(action, _)| *action == self);
        named.map_or("", |(_, name)| name)
    }

    /// The action with this name.
    pub fn from_name(name: &str) -> Option<Action> {
        let named = Action::ALL.iter().find(|(_, known)| *known == name);
        named.map(|(action, _)| *action)
    }
}

/// A set of actions.
#[derive(Copy, Clone, Default, PartialEq, Eq)]
pub struct Actions(u8);

impl Actions {
    /// Nothing.
    pub const NONE: Actions = Actions(0);
    /// Everything.
    pub const ALL: Actions = Actions(0b1_1111);

    /// With one more.
    #[must_use]
    pub const fn with(self, action: Action) -> Actions {
        Actions(self.0 | (1 << action as u8))
    }

    /// Whether it is among them.
    pub const fn contains(self, action: Action) -> bool {
        self.0 & (1 << action as u8) != 0
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Actions {
        actions.into_iter().fold(Actions::NONE, Actions::with)
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let contained =
            |(action, name): &(Action, &'static str)| self.contains(*action).then_some(*name);
        f.debug_list()
            .entries(Action::ALL.iter().filter_map(contained))
            .finish()
    }
}

/// What a credential allows in the rooms that a pattern means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomGrant {
    /// The rooms.
    pub pattern: Glob,
    /// What may be done there.
    pub allow: Actions,
}

/// What a credential gives its bearer, for as long as it is good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Who the bearer is: `sub` of a token.
    pub user: UserId,
    /// What others are told about the user in presence: one JSON value, as it was written.
    pub info: Option<Arc<[u8]>>,
    /// When it ends, in milliseconds since 1970; never where not given.
    pub expires_at_unix_ms: Option<u64>,
    /// What it allows, where it says so itself; the server's defaults hold where it does not.
    ///
    /// A room that several patterns mean allows what any of them does.
    pub rooms: Option<Box<[RoomGrant]>>,
}

impl Grant {
    /// Bytes of memory that it takes, roughly, itself included, but for the user's name.
    pub fn heap_bytes(&self) -> usize {
        let info = self.info.as_ref().map_or(0, |info| info.len());
        let rooms = self.rooms.as_deref().unwrap_or_default();
        let patterns = rooms.iter().map(|room| room.pattern.heap_bytes());
        size_of::<Self>() + info + size_of_val(rooms) + patterns.sum::<usize>()
    }

    /// What the credential itself allows in a room; none where it leaves that to the defaults.
    pub fn actions_in(&self, room: &str) -> Option<Actions> {
        let rooms = self.rooms.as_deref()?;
        let anonymous;
        // Asked for each message: only a user without a name has to be written out.
        let user = match &self.user {
            UserId::Named(name) => name,
            UserId::Anonymous(_) => {
                anonymous = self.user.to_string();
                anonymous.as_str()
            }
        };
        let meant = rooms
            .iter()
            .filter(|grant| grant.pattern.matches(room, user));
        Some(meant.fold(Actions::NONE, |all, grant| Actions(all.0 | grant.allow.0)))
    }

    /// Whether the credential itself allows messages to single users; none where it leaves that to
    /// the defaults.
    pub fn allows_direct(&self) -> Option<bool> {
        let rooms = self.rooms.as_deref()?;
        Some(
            rooms
                .iter()
                .any(|grant| grant.allow.contains(Action::Direct)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(rooms: &[(&str, &[Action])]) -> Grant {
        let room = |(pattern, allow): &(&str, &[Action])| RoomGrant {
            pattern: Glob::new(pattern).unwrap(),
            allow: allow.iter().copied().collect(),
        };
        Grant {
            user: UserId::from_name("ada"),
            info: None,
            expires_at_unix_ms: None,
            rooms: Some(rooms.iter().map(room).collect()),
        }
    }

    #[test]
    fn a_room_allows_what_any_pattern_that_means_it_does() {
        use Action::{Direct, History, Join, Publish};
        let grant = grant(&[
            ("chat:*", &[Join, History]),
            ("**:{user_id}", &[Publish, Direct]),
        ]);
        let table = [
            ("chat:1", vec![Join, History]),
            ("chat:ada", vec![Join, History, Publish, Direct]),
            ("news:ada", vec![Publish, Direct]),
            ("news:bob", vec![]),
        ];
        for (room, allowed) in table {
            assert_eq!(
                grant.actions_in(room),
                Some(allowed.into_iter().collect()),
                "{room}"
            );
        }
        assert_eq!(grant.allows_direct(), Some(true));
    }

    #[test]
    fn a_grant_that_names_no_rooms_leaves_them_to_the_defaults() {
        let grant = Grant {
            rooms: None,
            ..grant(&[])
        };
        assert_eq!((grant.actions_in("a"), grant.allows_direct()), (None, None));
        let nothing = self::grant(&[]);
        assert_eq!(nothing.actions_in("a"), Some(Actions::NONE));
    }

    #[test]
    fn actions_have_names() {
        for (action, name) in Action::ALL {
            assert_eq!(Action::from_name(name), Some(action));
            assert_eq!(action.name(), name);
            assert!(Actions::ALL.contains(action) && !Actions::NONE.contains(action));
        }
        assert_eq!(Action::from_name("Join"), None);
        let two: Actions = [Action::Join, Action::Direct].into_iter().collect();
        assert_eq!(format!("{two:?}"), r#"["join", "direct"]"#);
    }
}
