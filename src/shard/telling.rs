//! What a home tells: answers to one connection, signals to everyone in a room.

use smallvec::SmallVec;

use crate::address::{ConnectionRef, CoreId};
use crate::bus::{BusMessage, Lane, Signal};
use crate::frame::{Frame, Note};
use crate::protocol::json::encode;
use crate::protocol::{Event, PresenceChange, UserId};
use crate::room::home::Summary;
use crate::shard::connection::Timer;
use crate::shard::{Home, Shard};

/// How often a room above the presence limit tells of joins and leaves.
const SUMMARY_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

impl Shard {
    pub(super) fn tell_typing(&mut self, home: u32, user: &UserId, start: bool) {
        let Some(key) = self.homes.key(home).cloned() else {
            return;
        };
        let event = Event::Typing {
            room: key.name(),
            start,
            user_id: user,
        };
        self.tell(home, Lane::Messages, &event, Note::Passing, user);
    }

    /// Tells those who asked for presence that a user came or went; in a large room later, with
    /// others.
    pub(super) fn tell_presence(
        &mut self,
        home: u32,
        user: &UserId,
        came: bool,
        info: Option<&[u8]>,
    ) {
        let ruling = self.home_ruling(home);
        let Some(limit) = self.config.presence_limit(ruling) else {
            return;
        };
        let Some(key) = self.homes.key(home).cloned() else {
            return;
        };
        let Some(Home { room, summary, .. }) = self.homes.get_mut(home) else {
            return;
        };
        if room.shares().iter().all(|share| share.presence == 0) {
            return;
        }
        let count = room.user_count();
        if count > limit || summary.is_some() {
            let Summary { joined, left } = &mut room.summary;
            *(if came { joined } else { left }) += 1;
            if summary.is_none() {
                let due = self.now.mono + SUMMARY_INTERVAL;
                *summary = Some(self.wheel.insert(due, Timer::Summary(home)));
            }
            return;
        }
        let (change, note) = if came {
            (
                PresenceChange::Join {
                    user_id: user,
                    info,
                },
                Note::Joined,
            )
        } else {
            (
                PresenceChange::Leave {
                    user_id: user,
                    info,
                },
                Note::Left,
            )
        };
        let event = Event::PresenceUpdate {
            room: key.name(),
            change,
            count,
        };
        self.tell(home, Lane::Presence, &event, note, user);
    }

    /// A second of joins and leaves in a large room is over.
    pub(super) fn tell_summary(&mut self, home: u32) {
        let ruling = self.home_ruling(home);
        let Some(key) = self.homes.key(home).cloned() else {
            return;
        };
        let Some(Home { room, summary, .. }) = self.homes.get_mut(home) else {
            return;
        };
        *summary = None;
        let Summary { joined, left } = std::mem::take(&mut room.summary);
        let is_told = self.config.presence_limit(ruling).is_some();
        if (joined, left) == (0, 0) || !is_told {
            return;
        }
        let count = room.user_count();
        let change = PresenceChange::Summary {
            joined: u64::from(joined),
            left: u64::from(left),
        };
        let event = Event::PresenceUpdate {
            room: key.name(),
            change,
            count,
        };
        let note = Note::Summary { joined, left };
        self.tell_except(home, Lane::Presence, &event, note, SmallVec::new());
    }

    /// Sends a passing event to everyone in a lane but a user's own connections.
    pub(super) fn tell(
        &mut self,
        home: u32,
        lane: Lane,
        event: &Event<'_>,
        note: Note,
        about: &UserId,
    ) {
        let except = self
            .homes
            .get(home)
            .map(|h| h.room.connections_of(about))
            .unwrap_or_default();
        self.tell_except(home, lane, event, note, except);
    }

    pub(super) fn tell_except(
        &mut self,
        home: u32,
        lane: Lane,
        event: &Event<'_>,
        note: Note,
        except: SmallVec<[ConnectionRef; 1]>,
    ) {
        let Some(room) = self.homes.key(home).cloned() else {
            return;
        };
        let user_count = self.homes.get(home).map_or(0, |h| h.room.user_count());
        self.scratch.clear();
        encode(event, None, &mut self.scratch);
        let frame = Frame::new(&self.scratch);
        let at = self.now.mono;
        for share in self.shares(home) {
            if lane == Lane::Presence && share.presence == 0 {
                continue;
            }
            let signal = Signal {
                room: room.clone(),
                lane,
                frame: frame.clone(),
                note,
                user_count,
                at,
                except: except
                    .iter()
                    .copied()
                    .filter(|c| c.core == share.core)
                    .collect(),
            };
            self.deliver_or_send(share.core, BusMessage::Signal(Box::new(signal)));
        }
    }

    /// Answers a connection of this core or of another, and gives it back its credits.
    pub(super) fn reply(
        &mut self,
        connection: ConnectionRef,
        event: &Event<'_>,
        correlation_id: Option<&str>,
        credits: u16,
    ) {
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        encode(event, correlation_id, &mut frame);
        self.reply_with(connection, &frame, credits);
        self.scratch = frame;
    }

    pub(super) fn reply_with(&mut self, connection: ConnectionRef, frame: &[u8], credits: u16) {
        if connection.core == self.config.core {
            if let Some(index) = self.resolve(connection) {
                self.answer_with(index, frame);
            }
        } else {
            self.send(connection.core, |batch| BusMessage::Reply {
                connection,
                frame: batch.keep(frame),
                credits,
            });
        }
    }

    /// Gives a message to the part of this shard that it is for, or to another core.
    pub(super) fn deliver_or_send(&mut self, core: CoreId, message: BusMessage) {
        if core == self.config.core {
            self.deliver(message, &[]);
        } else {
            self.send(core, |_| message);
        }
    }
}
