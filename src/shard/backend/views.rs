//! What the backend wants to know of rooms.

use crate::address::RoomKey;
use crate::bus::{ApiAnswer, Crowd, MemberFacts, Past, Refused, RoomFacts};
use crate::room::HomeRoom;
use crate::shard::Shard;

/// Messages of history in one answer. Whoever wants more asks again, with the last one's offset.
pub const HISTORY_LISTED_MAX: u32 = 10_000;

/// Rooms in one answer.
pub const ROOMS_LISTED_MAX: u32 = 1_000;

/// Places in a table that one query looks at: some of them, or all, may be empty.
pub const PLACES_MAX: u32 = 4_096;

impl Shard {
    /// Messages of the past of a room.
    pub(super) fn tell_past(
        &mut self,
        room: &RoomKey,
        since: Option<u64>,
        limit: Option<u32>,
    ) -> Result<ApiAnswer, Refused> {
        self.expect_home(room)?;
        let Some(room) = self.room_at_home(room) else {
            return Ok(ApiAnswer::History(None));
        };
        let limit = limit.unwrap_or(u32::MAX).min(HISTORY_LISTED_MAX);
        let (frames, complete) = room.query(since, Some(limit));
        Ok(ApiAnswer::History(Some(Past {
            epoch: room.epoch(),
            offset: room.offset(),
            messages: frames.into_iter().cloned().collect(),
            complete,
        })))
    }

    /// Who is in a room.
    pub(super) fn tell_members(&mut self, room: &RoomKey) -> Result<ApiAnswer, Refused> {
        self.expect_home(room)?;
        let Some(room) = self.room_at_home(room) else {
            return Ok(ApiAnswer::Members(None));
        };
        let members = room.members().into_iter().map(|member| MemberFacts {
            user: member.user_id.clone(),
            connections: member.connections,
            read: member.read.map_or(0, |read| read.0),
            info: room.info_of(member.user_id),
        });
        Ok(ApiAnswer::Members(Some(Crowd {
            count: room.user_count(),
            members: members.collect(),
        })))
    }

    /// What is known of a room.
    pub(super) fn tell_room(&mut self, room: &RoomKey) -> Result<ApiAnswer, Refused> {
        self.expect_home(room)?;
        let facts = self.room_at_home(room).map(|home| facts_of(room, home));
        Ok(ApiAnswer::Room(facts))
    }

    /// Rooms at home here, by their places in the table. One that is there all the while is told of
    /// once, whatever comes and goes meanwhile.
    pub(super) fn tell_rooms(&self, from: u32, limit: u32) -> ApiAnswer {
        let limit = limit.clamp(1, ROOMS_LISTED_MAX);
        let (homes, mut next) = self.homes.stretch(from, PLACES_MAX);
        let mut rooms = Vec::new();
        for (place, key, home) in homes {
            if rooms.len() as u32 == limit {
                next = Some(place);
                break;
            }
            rooms.push(facts_of(key, &home.room));
        }
        ApiAnswer::Rooms { rooms, next }
    }

    /// A room at home here, as the rules of this moment leave it.
    fn room_at_home(&mut self, room: &RoomKey) -> Option<&HomeRoom> {
        let home = self.homes.find(room.hash(), room.name())?;
        self.home_ruling(home);
        self.homes.get(home).map(|home| &home.room)
    }
}

pub(super) fn facts_of(key: &RoomKey, room: &HomeRoom) -> RoomFacts {
    RoomFacts {
        room: key.clone(),
        members: room.user_count(),
        connections: room.connection_count(),
        offset: room.offset(),
        epoch: room.epoch(),
    }
}
