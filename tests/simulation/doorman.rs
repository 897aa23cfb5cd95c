//! What the operator's backend hears: rooms that fill and empty, users that come and go, held against
//! who is there.

use std::collections::{BTreeMap, BTreeSet};

use tidewheel::bus::{Notice, Noticed};

use crate::Check;
use crate::world::World;

/// What somebody believes who hears every notice.
#[derive(Default)]
pub struct Doorman {
    occupied: BTreeSet<String>,
    connected: BTreeSet<String>,
    /// Which core speaks of whom.
    homes: BTreeMap<(bool, String), usize>,
}

impl Doorman {
    /// Of one room or user, one core says in turn that there is somebody, and that there is nobody.
    fn hear(&mut self, core: usize, notice: &Notice) -> Check {
        let (is_room, name, is_there) = match &notice.what {
            Noticed::RoomOccupied(room) => (true, room.name().to_owned(), true),
            Noticed::RoomVacated(room) => (true, room.name().to_owned(), false),
            Noticed::UserConnected(user) => (false, user.to_string(), true),
            Noticed::UserDisconnected(user) => (false, user.to_string(), false),
        };
        let known = if is_room {
            &mut self.occupied
        } else {
            &mut self.connected
        };
        let is_news = if is_there {
            known.insert(name.clone())
        } else {
            known.remove(&name)
        };
        let home = *self.homes.entry((is_room, name)).or_insert(core);
        if is_news && home == core {
            return Ok(());
        }
        Err(format!(
            "core {core} says {:?}, which is no news, or core {home}'s to say",
            notice.what
        ))
    }
}

impl World {
    /// Takes what a core has to say.
    pub fn take_notices(&mut self, core: usize) -> Check {
        let notices = self.cores[core].shard.poll_notices();
        for notice in notices.unwrap_or_default() {
            self.trace.note(|| format!("  core {core}: {notice:?}"));
            if notice.unix_ms > self.now().unix_ms {
                return Err(format!("{notice:?} is of the future"));
            }
            let what = match notice.what {
                Noticed::RoomOccupied(_) => "room occupied",
                Noticed::RoomVacated(_) => "room vacated",
                Noticed::UserConnected(_) => "user connected",
                Noticed::UserDisconnected(_) => "user disconnected",
            };
            self.truth.count(what.to_owned());
            self.doorman.hear(core, &notice)?;
        }
        Ok(())
    }

    /// When everything has come to rest: as many users are believed to be there as homes know.
    pub fn notices_count_users(&self) -> Check {
        let known = |c: &crate::world::Core| c.shard.footprint().users;
        let known: usize = self.cores.iter().map(known).sum();
        let told = self.doorman.connected.len();
        if known == told {
            return Ok(());
        }
        Err(format!("homes know {known} users, and {told} were told of"))
    }

    /// Whoever heard every notice knows who is there, by name.
    pub fn notices_agree(&self) -> Check {
        let open = self.peers.iter().filter(|p| p.is_open());
        let users = open.filter(|p| p.session.echoes.is_none());
        let users: BTreeSet<String> = users.filter_map(|p| p.session.user.clone()).collect();
        if users != self.doorman.connected {
            let told = &self.doorman.connected;
            return Err(format!("{users:?} are here, and {told:?} were told of"));
        }
        let is_occupied = |room: &&String| !self.listing(room).is_empty();
        let rooms = self.plan.rooms.iter().filter(is_occupied);
        let rooms: BTreeSet<String> = rooms.cloned().collect();
        if rooms != self.doorman.occupied {
            let told = &self.doorman.occupied;
            return Err(format!("{rooms:?} are occupied, and {told:?} were told of"));
        }
        Ok(())
    }

    /// Once everyone has gone, that was told.
    pub fn notices_are_over(&self) -> Check {
        let Doorman {
            occupied,
            connected,
            ..
        } = &self.doorman;
        if occupied.is_empty() && connected.is_empty() {
            return Ok(());
        }
        Err(format!(
            "nobody was told that {connected:?} are gone and {occupied:?} vacant"
        ))
    }
}
