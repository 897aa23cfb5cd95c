//! What was kept comes back at a start.
//!
//! Seeds are new for each start, and there may be more or fewer cores: who brings the rooms has asked
//! the placement of this start where they are at home. Times were kept by the wall clock, which may
//! have been set since: what seems to come from the future is taken for new, and so lives no longer
//! than anything new.

use std::time::Duration;

use crate::bus::{StoredBan, StoredKey, StoredMessage, StoredRoom};
use crate::codec::websocket::{Data, OpCode, encode_frame};
use crate::room::HomeRoom;
use crate::room::home::{Held, RoomLimits};
use crate::shard::{Home, Shard};
use crate::time::{Instant, Now};

/// How long nobody's absence counts after a start: clients need some time to come back.
const RETURN: Duration = Duration::from_secs(30);

impl Shard {
    /// Takes in what was kept of the rooms that are at home here, and of all bans. To be called
    /// before anything else. What is over its time, or over bounds that are narrower now, is let go
    /// of, and the store is told so in the first turn.
    pub fn restore(&mut self, now: Now, rooms: Vec<StoredRoom>, bans: &[StoredBan]) {
        self.set_now(now);
        for room in rooms {
            self.restore_room(room);
        }
        for ban in bans {
            self.restore_ban(ban);
        }
    }

    fn restore_room(&mut self, stored: StoredRoom) {
        let StoredRoom {
            name,
            epoch,
            offset,
            messages,
            keys,
            reads,
        } = stored;
        let key = self.placement.room(&name);
        debug_assert_eq!(self.home_of(key.hash()), self.config.core, "its home");
        if self.homes.find(key.hash(), &name).is_some() {
            return;
        }
        let ruling = self.ruling_by_name(&name);
        let limits = *self.config.limits(ruling);
        let now = self.now;
        let kept_since = offset.saturating_sub(messages.len() as u64);
        let mut room = HomeRoom::restored(epoch, kept_since, now.mono + RETURN, &self.hasher);
        self.restore_messages(&mut room, messages, &limits);
        for kept in keys {
            restore_key(&mut room, kept, &limits, now, &self.hasher);
        }
        for (user, offset) in reads {
            room.restore_read(&user, offset);
        }
        self.memory.note_home(Held::default(), room.held());
        let home = self.homes.insert(
            key,
            Home {
                room,
                upkeep: None,
                summary: None,
                ruling,
            },
        );
        self.upkeep(home);
        self.record_trimmed(home, kept_since);
    }

    fn restore_messages(
        &mut self,
        room: &mut HomeRoom,
        messages: Vec<StoredMessage>,
        limits: &RoomLimits,
    ) {
        let mut frame = Vec::new();
        let mut last = Instant::ORIGIN;
        for message in messages {
            frame.clear();
            encode_frame(OpCode::Data(Data::Text), &message.body, &mut frame);
            // In the order of their offsets, whatever the clock did between them.
            last = last.max(moment(self.now, message.unix_ms));
            let frame = self.frames.frame(&frame);
            room.keep(frame, last, limits, &mut self.frames);
        }
    }
}

fn restore_key(
    room: &mut HomeRoom,
    kept: StoredKey,
    limits: &RoomLimits,
    now: Now,
    hasher: &ahash::RandomState,
) {
    let StoredKey {
        key,
        offset,
        unix_ms,
    } = kept;
    let age = Duration::from_millis(now.unix_ms.saturating_sub(unix_ms));
    if age < limits.idempotency_window && offset <= room.offset() {
        let at = moment(now, unix_ms);
        room.remember((key.user.as_ref(), &key.id), offset, at, limits, hasher);
    }
}

/// A moment of the wall clock's past on the shard's clock. One that lies ahead is now.
pub(in crate::shard) fn moment(now: Now, unix_ms: u64) -> Instant {
    let age = Duration::from_millis(now.unix_ms.saturating_sub(unix_ms));
    let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
    Instant::from_nanos(now.mono.as_nanos().saturating_sub(age))
}
