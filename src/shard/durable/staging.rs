//! Messages that wait for the disk (`--durability fsync`).
//!
//! A staged message has its offset, its key and its bytes, and nobody sees it: it is not in the
//! history, no member has it, its publisher has no answer. When its batch is on disk all that
//! happens at once; when the batch failed, everything is as if it had never come, and the next
//! message takes its offset.
//!
//! Invariant: the staged messages of a room have the offsets after its newest, without hole. A room
//! with a staged message is not forgotten.

use std::collections::{HashMap, VecDeque};

use crate::address::{ConnectionRef, RoomKey};
use crate::bus::{PUBLISH_CREDITS, Peer, Record, Refused, Ticket};
use crate::frame::Frame;
use crate::protocol::{Code, Event};
use crate::room::home::Published;
use crate::shard::durable::{Durable, record_key};
use crate::shard::homes::{Publication, Publisher};
use crate::shard::ruling::Ruling;
use crate::shard::{Home, Shard};
use crate::time::Instant;

/// What a publisher is told whose message is not on disk.
const NOT_STORED: &str = "the disk did not take this message, so it was not accepted and nobody got it; publish it again";

/// What a publisher is told whose message would only wait.
const NOT_TAKEN: &str =
    "the disk has not kept up for 5 s, so this message was not accepted; publish it again later";

/// Who waits for an answer.
enum Waiter {
    /// A connection; what stands in the answer's metadata.
    Peer(Peer, Option<Box<str>>),
    /// The operator's backend.
    Backend(Ticket, u32),
}

impl Waiter {
    fn new(publisher: Publisher<'_>) -> Waiter {
        match publisher {
            Publisher::Peer(peer, id) => Waiter::Peer(peer.clone(), id.map(Box::from)),
            Publisher::Backend(ticket, place) => Waiter::Backend(ticket, place),
        }
    }

    fn publisher(&self) -> Publisher<'_> {
        match self {
            Waiter::Peer(peer, id) => Publisher::Peer(peer, id.as_deref()),
            Waiter::Backend(ticket, place) => Publisher::Backend(*ticket, *place),
        }
    }
}

/// A publish that waits.
struct Staged {
    /// The batch that has to be on disk.
    seq: u64,
    home: u32,
    offset: u64,
    /// The message; none for a repeat of one that waits itself.
    message: Option<Message>,
    waiter: Waiter,
    message_id: Option<Box<str>>,
}

struct Message {
    frame: Frame,
    /// The publishing connection, where it does not want its own.
    except: Option<ConnectionRef>,
    at: Instant,
}

impl Staged {
    /// Bytes of memory, without the frame: the record has that one, too.
    fn held_bytes(&self) -> usize {
        let correlation_id = match &self.waiter {
            Waiter::Peer(_, id) => id.as_ref().map_or(0, |id| id.len()),
            Waiter::Backend(..) => 0,
        };
        let message_id = self.message_id.as_ref().map_or(0, |id| id.len());
        size_of::<Staged>() + correlation_id + message_id
    }
}

/// A room with staged messages.
#[derive(Copy, Clone, Default)]
struct Ahead {
    /// How many there are.
    messages: u64,
    /// What the room keeps once they are in its history: messages after this offset.
    kept_since: u64,
}

/// All that waits, in the order in which it came.
pub(super) struct Staging {
    waiting: VecDeque<Staged>,
    bytes: usize,
    rooms: HashMap<u32, Ahead, ahash::RandomState>,
}

impl Staging {
    pub(super) fn new(hasher: ahash::RandomState) -> Staging {
        Staging {
            waiting: VecDeque::new(),
            bytes: 0,
            rooms: HashMap::with_hasher(hasher),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn recounted_bytes(&self) -> usize {
        self.waiting.iter().map(Staged::held_bytes).sum()
    }

    fn push(&mut self, staged: Staged) {
        self.bytes += staged.held_bytes();
        self.waiting.push_back(staged);
    }

    /// The oldest, where its batch is one of those up to `through`.
    fn pop(&mut self, through: u64) -> Option<Staged> {
        self.waiting.front().filter(|it| it.seq <= through)?;
        let staged = self.waiting.pop_front()?;
        self.bytes -= staged.held_bytes();
        if staged.message.is_some()
            && let Some(ahead) = self.rooms.get_mut(&staged.home)
        {
            ahead.messages -= 1;
            if ahead.messages == 0 {
                self.rooms.remove(&staged.home);
            }
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to(1024);
        }
        Some(staged)
    }
}

impl Durable {
    /// Whether a room has messages that wait.
    fn is_staged(&self, home: u32) -> bool {
        self.staging.rooms.contains_key(&home)
    }

    /// Whether a publish is refused rather than staged.
    fn refuses(&self, now: Instant) -> bool {
        self.waits && (self.is_stalled(now) || self.is_full(now))
    }
}

impl Shard {
    /// Whether a message has to be on disk before anybody sees it.
    #[inline]
    pub(in crate::shard) fn stages(&self) -> bool {
        self.durable.as_ref().is_some_and(|durable| durable.waits)
    }

    /// Whether a room has messages that wait for the disk.
    pub(in crate::shard) fn is_staged(&self, home: u32) -> bool {
        let durable = self.durable.as_ref();
        durable.is_some_and(|durable| durable.is_staged(home))
    }

    /// Refuses a message where the disk does not keep up, unless it repeats one that was taken: that is
    /// answered as the first is. Says whether it did.
    #[inline]
    pub(in crate::shard) fn refuses_for_store(
        &mut self,
        (hash, room): (u64, &str),
        publisher: Publisher<'_>,
        message_id: Option<&str>,
    ) -> bool {
        let now = self.now.mono;
        let durable = self.durable.as_ref();
        if !durable.is_some_and(|durable| durable.refuses(now)) {
            return false;
        }
        let home = self.homes.find(hash, room);
        let home = home.and_then(|home| self.homes.get(home));
        let user = publisher.sender().map(|sender| sender.user_id);
        let is_repeat = |id| home.is_some_and(|home| home.room.has_accepted(user, id));
        if message_id.is_some_and(is_repeat) {
            return false;
        }
        self.refuse_unstored(room, publisher, NOT_TAKEN);
        true
    }

    /// Accepts a message, and lets it wait for the disk.
    pub(in crate::shard) fn stage(
        &mut self,
        (home, key): (u32, &RoomKey),
        ruling: Ruling,
        publisher: Publisher<'_>,
        publication: Publication<'_>,
    ) {
        let Publication {
            payload,
            message_id,
            echo,
        } = publication;
        let Shard {
            homes,
            scratch,
            hasher,
            frames,
            config,
            memory,
            now,
            durable,
            ..
        } = self;
        let (Some(Home { room, .. }), Some(durable)) = (homes.get_mut(home), durable.as_mut())
        else {
            return;
        };
        let limits = config.limits(ruling);
        let mut ahead = durable
            .staging
            .rooms
            .get(&home)
            .copied()
            .unwrap_or_default();
        let before = room.held();
        let sender = publisher.sender();
        let accepted = room.accept(
            key.name(),
            sender,
            (payload, message_id),
            *now,
            limits,
            ahead.messages,
            (hasher, scratch),
        );
        room.note_life(now.mono);
        memory.note_home(before, room.held());
        let (offset, seq, message) = match accepted {
            Published::Repeat { offset } if offset <= room.offset() => {
                self.metrics.traffic.repeated += 1;
                return self.answer_publisher(home, key, publisher, offset, message_id);
            }
            // Behind the first one, so whatever is last is no earlier than that.
            Published::Repeat { offset } => (offset, durable.seq + 1, None),
            Published::Accepted { offset } => {
                let frame = frames.frame(scratch);
                let history = &limits.history;
                let is_kept = history.messages_max > 0 && frame.len() <= history.bytes_max;
                // What goes by bytes is told with a later message: the store may have some more.
                ahead.kept_since = if is_kept {
                    let by_count = offset.saturating_sub(history.messages_max as u64);
                    ahead.kept_since.max(by_count).max(room.complete_since())
                } else {
                    offset
                };
                ahead.messages += 1;
                durable.staging.rooms.insert(home, ahead);
                let id = message_id.filter(|_| limits.idempotency_keys_max > 0);
                durable.note(Record::Message {
                    room: key.clone(),
                    epoch: room.epoch(),
                    offset,
                    frame: frame.clone(),
                    unix_ms: now.unix_ms,
                    key: record_key(sender.map(|s| s.user_id), id),
                    kept_since: ahead.kept_since,
                });
                let except = publisher.connection().filter(|_| !echo);
                let at = now.mono;
                let message = Message { frame, except, at };
                (offset, durable.seq + 1, Some(message))
            }
        };
        let last = durable.staging.waiting.back();
        durable.staging.push(Staged {
            seq: match message {
                Some(_) => seq,
                None => last.map_or(seq, |last| last.seq),
            },
            home,
            offset,
            message,
            waiter: Waiter::new(publisher),
            message_id: message_id.map(Box::from),
        });
        self.metrics.store.staged += 1;
        self.hold_credit(publisher);
    }

    /// A publisher of this core waits as those of other cores do: so many of its messages, and it is
    /// read no more.
    fn hold_credit(&mut self, publisher: Publisher<'_>) {
        let connection = publisher.connection().and_then(|it| self.resolve(it));
        if let Some(connection) = connection.and_then(|index| self.connections.get_mut(index)) {
            connection.credits_held += PUBLISH_CREDITS;
        }
    }

    /// Gives that back: one of another core gets it with its answer.
    fn release_credit(&mut self, waiter: &Waiter) {
        if let Waiter::Peer(peer, _) = waiter
            && let Some(index) = self.resolve(peer.connection)
        {
            self.give_back(index, PUBLISH_CREDITS);
        }
    }

    /// What is in batches up to `through` is on disk: now it has happened.
    pub(super) fn release_staged(&mut self, through: u64) {
        while let Some(staged) = self.pop_staged(through) {
            let home = staged.home;
            let Some(key) = self.homes.key(home).cloned() else {
                continue;
            };
            let is_new = staged.message.is_some();
            let ruling = self.home_ruling(home);
            let origin = staged.waiter.publisher().origin();
            let traffic = &mut self.metrics.traffic;
            match is_new {
                true => traffic.published.count(origin),
                false => traffic.repeated += 1,
            }
            if let Some(message) = staged.message {
                self.release(home, &key, ruling, staged.offset, message);
            }
            let id = staged.message_id.as_deref();
            let publisher = staged.waiter.publisher();
            self.answer_publisher(home, &key, publisher, staged.offset, id);
            self.release_credit(&staged.waiter);
            if is_new {
                self.arm_upkeep_of_message(home, ruling, id.is_some());
            }
        }
    }

    fn pop_staged(&mut self, through: u64) -> Option<Staged> {
        self.durable.as_mut()?.staging.pop(through)
    }

    fn release(&mut self, home: u32, key: &RoomKey, ruling: Ruling, offset: u64, message: Message) {
        let Message { frame, except, at } = message;
        let Shard {
            homes,
            frames,
            config,
            memory,
            now,
            ..
        } = self;
        let Some(Home { room, .. }) = homes.get_mut(home) else {
            return;
        };
        let before = room.held();
        room.keep(frame.clone(), at, config.limits(ruling), frames);
        room.note_life(now.mono);
        debug_assert_eq!(room.offset(), offset, "staged messages follow on");
        memory.note_home(before, room.held());
        self.fan_out(home, key, &frame, offset, except);
    }

    /// The store has failed: nothing that waits has happened.
    pub(super) fn give_up_staged(&mut self) {
        let Some(durable) = self.durable.as_mut() else {
            return;
        };
        // What was not handed over yet follows on what has failed.
        let is_other = |record: &Record| !matches!(record, Record::Message { .. });
        durable.records.retain(is_other);
        durable.weight = durable.records.iter().map(super::weight_of).sum();
        let rooms: Vec<u32> = durable.staging.rooms.keys().copied().collect();
        for home in rooms {
            self.change_home(home, |room| room.roll_back());
        }
        while let Some(staged) = self.pop_staged(u64::MAX) {
            if let Some(key) = self.homes.key(staged.home).cloned() {
                self.refuse_unstored(key.name(), staged.waiter.publisher(), NOT_STORED);
            }
            self.release_credit(&staged.waiter);
        }
    }

    /// Tells a publisher that its message was not accepted because of the disk.
    fn refuse_unstored(&mut self, room: &str, publisher: Publisher<'_>, message: &'static str) {
        let code = Code::BrokerUnavailable;
        self.metrics.store.refused += 1;
        match publisher {
            Publisher::Peer(peer, correlation_id) => {
                self.metrics.traffic.errors.count(code as u16);
                let room = Some(room);
                let event = Event::Error {
                    code,
                    message,
                    room,
                };
                self.reply(peer.connection, &event, correlation_id, PUBLISH_CREDITS);
            }
            Publisher::Backend(ticket, place) => {
                let message = Box::from(message);
                self.answer_post(ticket, place, Err(Refused { code, message }));
            }
        }
    }
}
