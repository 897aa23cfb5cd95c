//! Which rule governs a room, and what it permits.
//!
//! A room's name is held against the rules when the room comes to be known here, and again when it
//! is next looked at after the rules have changed: a change visits no room. A command about a room
//! that this core knows from nowhere is matched by itself.

use crate::bus::Refused;
use crate::gate::{Asked, Denied, Overflow, RoomLimits, RoomRule, Wish};
use crate::shard::connection::{NONE, Timer};
use crate::shard::{Shard, ShardConfig};

/// The rule that governs a room, as the room remembers it.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Ruling {
    /// Which version of the rules was asked; 0: none so far.
    version: u32,
    /// The rule's place among them, from 1; 0: none governs the room, and the flags hold.
    place: u32,
}

impl ShardConfig {
    fn rule(&self, ruling: Ruling) -> Option<&RoomRule> {
        let place = ruling.place.checked_sub(1)?;
        self.policy.rules.get(place as usize)
    }

    /// What a room keeps, and for how long.
    pub(super) fn limits(&self, ruling: Ruling) -> &RoomLimits {
        self.rule(ruling).map_or(&self.room, |rule| &rule.limits)
    }

    /// What happens to a room's laggards.
    pub(super) fn overflow(&self, ruling: Ruling) -> Overflow {
        self.rule(ruling)
            .map_or(self.overflow, |rule| rule.overflow)
    }

    /// Users above which a room's presence is told in summaries; none where it is not told.
    pub(super) fn presence_limit(&self, ruling: Ruling) -> Option<u64> {
        match self.rule(ruling) {
            Some(rule) => rule.presence.then_some(rule.presence_limit),
            None => Some(self.presence_limit),
        }
    }

    /// Users that a room takes.
    pub(super) fn members_max(&self, ruling: Ruling) -> Option<u64> {
        self.rule(ruling)?.members_max
    }
}

impl Shard {
    /// The rule for a room of this name, as the rules are now.
    pub(super) fn ruling_by_name(&self, room: &str) -> Ruling {
        let place = self.config.policy.rules.find(room);
        Ruling {
            version: self.rules_version,
            place: place.map_or(0, |place| place as u32 + 1),
        }
    }

    /// The rule of a room with members here.
    pub(super) fn local_ruling(&mut self, local: u32) -> Ruling {
        let known = self
            .locals
            .get(local)
            .map_or(Ruling::default(), |l| l.ruling);
        if known.version == self.rules_version {
            return known;
        }
        let Some(key) = self.locals.key(local).cloned() else {
            return known;
        };
        let ruling = self.ruling_by_name(key.name());
        if let Some(room) = self.locals.get_mut(local) {
            room.ruling = ruling;
        }
        ruling
    }

    /// The rule of a room at home here. Where it is another than before, the room lets go of what
    /// is over the new bounds, and its clock is set anew.
    pub(super) fn home_ruling(&mut self, home: u32) -> Ruling {
        let known = self.homes.get(home).map_or(Ruling::default(), |h| h.ruling);
        if known.version == self.rules_version {
            return known;
        }
        let ruling = self.follow_rules(home);
        // Not at once, because whoever asks is about to use the room, which may be over its time.
        let now = self.now.mono;
        if let Some(home_room) = self.homes.get_mut(home) {
            let timer = self.wheel.insert(now, Timer::Upkeep(home));
            if let Some((before, _)) = home_room.upkeep.replace((timer, now)) {
                self.wheel.cancel(before);
            }
        }
        ruling
    }

    /// The same for the clock itself, which the caller sets.
    pub(super) fn follow_rules(&mut self, home: u32) -> Ruling {
        let known = self.homes.get(home).map_or(Ruling::default(), |h| h.ruling);
        if known.version == self.rules_version {
            return known;
        }
        let Some(key) = self.homes.key(home).cloned() else {
            return known;
        };
        let ruling = self.ruling_by_name(key.name());
        let kept_since = self.kept_since(home);
        let Shard {
            homes,
            config,
            memory,
            now,
            ..
        } = self;
        if let Some(home) = homes.get_mut(home) {
            home.ruling = ruling;
            let before = home.room.held();
            home.room.follow(now.mono, config.limits(ruling));
            memory.note_home(before, home.room.held());
        }
        self.record_trimmed(home, kept_since);
        ruling
    }

    /// The rule of any room, as cheaply as it is to be had.
    fn ruling_of(&mut self, hash: u64, room: &str) -> Ruling {
        if let Some(local) = self.locals.find(hash, room) {
            self.local_ruling(local)
        } else if let Some(home) = self.homes.find(hash, room) {
            self.home_ruling(home)
        } else {
            self.ruling_by_name(room)
        }
    }

    /// The rule of a room that the backend is about to use or to make.
    ///
    /// # Errors
    /// Where rooms are explicit, and no rule means this one.
    pub(super) fn rule_for_backend(
        &mut self,
        (hash, room): (u64, &str),
    ) -> Result<Option<&RoomRule>, Refused> {
        if !self.rules_matter {
            return Ok(None);
        }
        let ruling = self.ruling_of(hash, room);
        let rule = self.config.rule(ruling);
        if rule.is_none() && self.config.policy.rules.is_explicit {
            let denied = Denied::NoSuchRoom;
            let (code, message) = (denied.code(), denied.to_string().into());
            return Err(Refused { code, message });
        }
        Ok(rule)
    }

    /// Whether a connection may have what it wants in a room, asked for the server's own purposes.
    pub(super) fn permits(&mut self, index: u32, place: (u64, &str), wish: Wish) -> bool {
        self.weigh(index, place, wish).is_ok()
    }

    /// Whether a connection may have what it wants in a room; where it may not, it is told why.
    #[inline]
    pub(super) fn permits_or_refuses(
        &mut self,
        index: u32,
        place: (u64, &str),
        wish: Wish,
        correlation_id: Option<&str>,
    ) -> bool {
        let has_own = self.grant(index).is_some_and(|grant| grant.rooms.is_some());
        if !self.rules_matter && !has_own {
            return true;
        }
        let Err(denied) = self.weigh(index, place, wish) else {
            return true;
        };
        let (message, room) = (denied.to_string(), Some(place.1));
        self.refuse(index, denied.code(), &message, room, correlation_id);
        false
    }

    /// This is where the room's rule and the connection's grant meet.
    #[inline(never)]
    fn weigh(&mut self, index: u32, (hash, room): (u64, &str), wish: Wish) -> Result<(), Denied> {
        let ruling = self.ruling_of(hash, room);
        let asked = Asked {
            rules: &self.config.policy.rules,
            room,
            rule: self.config.rule(ruling),
            grant: self.grant(index),
            is_member: self.is_member(index, hash, room),
        };
        asked.permits(wish)
    }

    /// Whether the room's home has let the connection in.
    fn is_member(&self, index: u32, hash: u64, room: &str) -> bool {
        let local = self.locals.find(hash, room);
        let connection = self.connections.get(index);
        let mut places = connection.into_iter().flat_map(|c| &c.subscriptions);
        local.is_some_and(|local| places.any(|s| s.room == local && s.member != NONE))
    }
}
