//! What cores say to each other.
//!
//! A message between cores is either a call to a room's home, an answer or an order from a home to
//! a core with members, or a call to a user's home. Between two given cores messages arrive in the
//! order in which they were sent; joining, leaving and the position of a room rely on that, and on
//! nothing else.
//!
//! ```text
//!   member's core ── Publish, Call(join, …) ──► room's home
//!   member's core ◄── Joined, Full, Left, Append, Signal, Reply ── room's home
//!   any core ── Arrived, Departed, Direct ──► user's home ── Deliver, Enlist, Reply ──► any core
//! ```
//!
//! What a turn has for another core is one [`Batch`]. [`Mailbox`] is the channel: crossbeam, one flag
//! beside it so that a batch wakes its reader once, and a count of the bytes that wait, by which
//! publishers are paused. Nothing here blocks.

mod batch;
mod notice;
mod order;
mod query;
mod record;

pub use batch::{Batch, Batches, Bytes};
pub use notice::{Heard, Notice, NoticeReceiver, NoticeSender, Noticed, notice_channel};
pub use order::{Obeyed, Order, OrderFault, OrderReply};
pub use query::{
    Answer, ApiAnswer, ApiAsk, Crowd, Evicted, Laggard, MemberFacts, Past, Position, Post, Query,
    Refused, RoomFacts, Sight, Ticket, UserFacts,
};
pub use record::{
    Durability, Record, RecordKey, Records, StoreFault, Stored, StoredBan, StoredKey,
    StoredMessage, StoredRoom,
};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender as ChannelSender};
use smallvec::SmallVec;

use crate::address::{ConnectionRef, RoomKey};
use crate::frame::{Frame, Note};
use crate::protocol::{ClientId, Code, Epoch, Recover, UserId};
use crate::time::Instant;

/// The connection on whose behalf something is asked.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where answers go.
    pub connection: ConnectionRef,
    /// Its id.
    pub client_id: ClientId,
    /// Its user.
    pub user: UserId,
}

/// What a connection asks of a room's home, beside publishing.
#[derive(Clone, Debug)]
pub enum Ask {
    /// To be let in.
    Join {
        /// How many messages to replay where nothing can be recovered.
        history: u32,
        /// The position from which to recover.
        recover: Option<Recover>,
        /// Whether presence updates are wanted; unchanged where not said.
        presence: Option<bool>,
        /// What others are told about the user: JSON.
        info: Option<Arc<[u8]>>,
    },
    /// To be let out. A connection that is gone asks it for no answer.
    Leave {
        /// Whether `room_left` is expected.
        answer: bool,
    },
    /// The backend wants the connection to be let in.
    Enlist {
        /// What others are told about the user: JSON.
        info: Option<Arc<[u8]>>,
    },
    /// The backend wants the connection to be let out.
    Expel,
    /// To pass on that the user started or stopped typing.
    Typing {
        /// Start or stop.
        start: bool,
    },
    /// To note and pass on how far the user has read.
    Read {
        /// The offset.
        offset: u64,
    },
    /// Who is in the room.
    Members,
    /// Messages of the past.
    History {
        /// Those after this offset; the newest where not given.
        since: Option<u64>,
        /// How many at most.
        limit: Option<u32>,
    },
}

impl Ask {
    /// How many credits of a connection the question holds until it is answered. A history may be
    /// as long as `--history-bytes`, so one is asked for at a time.
    pub fn credits(&self) -> u16 {
        match self {
            Ask::History { .. } => CREDITS,
            Ask::Join { .. } | Ask::Members => CREDITS / 16,
            Ask::Leave { answer: true } => 1,
            Ask::Leave { answer: false } | Ask::Typing { .. } | Ask::Read { .. } => 0,
            // The connection did not ask, so nothing has to keep it from asking more.
            Ask::Enlist { .. } | Ask::Expel => 0,
        }
    }
}

/// How many credits a connection has for questions to other cores that are not answered yet. One
/// that has used them up is not read until answers have come.
pub const CREDITS: u16 = 1024;

/// A question to a room's home on another core.
#[derive(Debug)]
pub struct Call {
    /// The room.
    pub room: RoomKey,
    /// Who asks.
    pub peer: Peer,
    /// What stands in the answer's metadata.
    pub correlation_id: Option<Box<str>>,
    /// What is asked.
    pub ask: Ask,
}

/// A home's answer to a join.
#[derive(Debug)]
pub struct Welcome {
    /// The room.
    pub room: RoomKey,
    /// Who was let in.
    pub connection: ConnectionRef,
    /// Its user.
    pub user: UserId,
    /// What stands in the answer's metadata.
    pub correlation_id: Option<Box<str>>,
    /// The room's newest offset.
    pub offset: u64,
    /// The epoch of it.
    pub epoch: Epoch,
    /// Everything after the asked position is in `replay`.
    pub recovered: bool,
    /// Users in the room.
    pub members: u64,
    /// Whether presence updates are wanted.
    pub presence: bool,
    /// It was in already.
    pub again: bool,
    /// What to send before the live messages.
    pub replay: Vec<Frame>,
    /// The credits that come back with it.
    pub credits: u16,
    /// The backend wanted it.
    pub is_enlisted: bool,
}

/// Why a home refuses a join, and the connection stays.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Unwelcome {
    /// The room has as many users as it takes: so many.
    RoomFull(u64),
    /// The room is not there, and cannot be made: why.
    NoMoreRooms(&'static str),
}

/// A home's answer to a join that it refuses.
#[derive(Debug)]
pub struct Full {
    /// The room.
    pub room: RoomKey,
    /// Who was not let in.
    pub connection: ConnectionRef,
    /// What stands in the answer's metadata.
    pub correlation_id: Option<Box<str>>,
    /// Why.
    pub why: Unwelcome,
    /// The credits that come back with it.
    pub credits: u16,
}

/// A message to publish, on its way to the room's home.
#[derive(Debug)]
pub struct Publish {
    /// The room.
    pub room: RoomKey,
    /// Who publishes.
    pub peer: Peer,
    /// What stands in the answer's metadata: a text.
    pub correlation_id: Option<Bytes>,
    /// The application's JSON.
    pub payload: Bytes,
    /// The publisher's idempotency key: a text.
    pub message_id: Option<Bytes>,
    /// Whether the publishing connection gets its own message.
    pub echo: bool,
}

/// The credits that a publish holds.
pub const PUBLISH_CREDITS: u16 = 1;

/// A message to everyone's connections in a room on one core.
#[derive(Debug)]
pub struct Append {
    /// The room.
    pub room: RoomKey,
    /// The message: one whole frame.
    pub frame: Bytes,
    /// Its offset.
    pub offset: u64,
    /// When the home accepted it.
    pub at: Instant,
    /// The publishing connection, where it does not want its own.
    pub except: Option<ConnectionRef>,
}

/// Which of a room's feeds a signal goes to.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Lane {
    /// All members.
    Messages,
    /// Members that asked for presence.
    Presence,
}

/// Something that passes between the users of a room and is not stored.
#[derive(Debug)]
pub struct Signal {
    /// The room.
    pub room: RoomKey,
    /// Who gets it.
    pub lane: Lane,
    /// The frame.
    pub frame: Frame,
    /// What a reader that skips it has to know.
    pub note: Note,
    /// Users in the room.
    pub user_count: u64,
    /// When it happened.
    pub at: Instant,
    /// The connections of the user that it is about.
    pub except: SmallVec<[ConnectionRef; 1]>,
}

/// A direct message on its way to a user's home.
#[derive(Debug)]
pub struct Direct {
    /// To whom.
    pub to: UserId,
    /// From whom.
    pub peer: Peer,
    /// The application's JSON.
    pub data: Box<[u8]>,
    /// The id that the sender gave, or was given.
    pub message_id: Box<str>,
    /// What stands in the answer's metadata.
    pub correlation_id: Option<Box<str>>,
}

/// One thing that one core says to another.
#[derive(Debug)]
pub enum BusMessage {
    /// To a room's home.
    Publish(Publish),
    /// To a room's home.
    Call(Box<Call>),
    /// To a joining connection's core.
    Joined(Box<Welcome>),
    /// To a joining connection's core.
    Full(Box<Full>),
    /// To a leaving connection's core.
    Left {
        /// The room.
        room: RoomKey,
        /// Who was let out.
        connection: ConnectionRef,
        /// What stands in the answer's metadata.
        correlation_id: Option<Box<str>>,
        /// The credits that come back with it.
        credits: u16,
    },
    /// To a core with members.
    Append(Append),
    /// To a core with members.
    Signal(Box<Signal>),
    /// An answer that is ready to be sent to a connection.
    Reply {
        /// Whose answer it is.
        connection: ConnectionRef,
        /// One whole frame.
        frame: Bytes,
        /// The credits that come back with it.
        credits: u16,
    },
    /// An order to close a connection.
    Close {
        /// Which one.
        connection: ConnectionRef,
        /// Why.
        code: Code,
    },
    /// The same, with whatever code and reason an operator gave.
    Dismiss {
        /// Which one.
        connection: ConnectionRef,
        /// The close code.
        code: u16,
        /// The reason.
        reason: Arc<str>,
    },
    /// The backend puts a connection into a room.
    Enlist {
        /// Which one.
        connection: ConnectionRef,
        /// Where.
        room: RoomKey,
    },
    /// The backend takes a connection out of a room.
    Expel {
        /// Which one.
        connection: ConnectionRef,
        /// Where.
        room: RoomKey,
    },
    /// To a user's home: a connection of the user was established.
    Arrived {
        /// The user.
        user: UserId,
        /// Its connection.
        connection: ConnectionRef,
    },
    /// To a user's home: a connection of the user is gone.
    Departed {
        /// The user.
        user: UserId,
        /// Its connection.
        connection: ConnectionRef,
    },
    /// To a user's home.
    Direct(Box<Direct>),
    /// A direct message to one connection of a user.
    Deliver {
        /// Which one.
        connection: ConnectionRef,
        /// The message.
        frame: Frame,
        /// When it was accepted.
        at: Instant,
    },
}

impl BusMessage {
    /// Bytes that the message keeps alive while it waits, roughly, without those in its batch.
    pub fn weight(&self) -> usize {
        const BOOKKEEPING: usize = 160;
        let apart = |bytes: &Bytes| match bytes {
            Bytes::Here { .. } => 0,
            Bytes::Apart(bytes) => bytes.len(),
        };
        BOOKKEEPING
            + match self {
                BusMessage::Publish(publish) => apart(&publish.payload),
                BusMessage::Joined(welcome) => welcome.replay.len() * size_of::<Frame>(),
                BusMessage::Append(append) => apart(&append.frame),
                BusMessage::Signal(signal) => signal.frame.len(),
                BusMessage::Reply { frame, .. } => apart(frame),
                BusMessage::Direct(direct) => direct.data.len(),
                BusMessage::Deliver { frame, .. } => frame.len(),
                BusMessage::Call(call) => match &call.ask {
                    Ask::Join { info, .. } | Ask::Enlist { info } => {
                        info.as_ref().map_or(0, |info| info.len())
                    }
                    _ => 0,
                },
                BusMessage::Full(_)
                | BusMessage::Left { .. }
                | BusMessage::Close { .. }
                | BusMessage::Dismiss { .. }
                | BusMessage::Enlist { .. }
                | BusMessage::Expel { .. }
                | BusMessage::Arrived { .. }
                | BusMessage::Departed { .. } => 0,
            }
    }
}

/// Wakes the thread that reads a mailbox. The reactor's is mio's waker.
pub trait Wake: Send + Sync {
    /// Makes the sleeping reader look.
    fn wake(&self);
}

struct State {
    /// Set by the first writer since the reader last looked: that one wakes, the others need not.
    signalled: AtomicBool,
    /// Bytes sent and not received yet.
    backlog_bytes: AtomicUsize,
    /// The reader cannot let go of what it has received.
    is_full: AtomicBool,
}

/// The sending side of one core's mailbox. Clones send to the same core.
pub struct Outlet<T> {
    channel: ChannelSender<(T, usize)>,
    state: Arc<State>,
    wake: Arc<dyn Wake>,
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Self {
        Outlet {
            channel: self.channel.clone(),
            state: Arc::clone(&self.state),
            wake: Arc::clone(&self.wake),
        }
    }
}

impl<T> Outlet<T> {
    /// Sends without waiting; wakes the reader unless somebody did since it last looked. False
    /// where the reader is gone.
    pub fn send(&self, item: T, weight_bytes: usize) -> bool {
        self.state
            .backlog_bytes
            .fetch_add(weight_bytes, Ordering::Relaxed);
        if self.channel.send((item, weight_bytes)).is_err() {
            return false;
        }
        // The swap pairs with the one in `Mailbox::begin`: either the reader sees the item after
        // it, or this sees `false` and wakes the reader.
        if !self.state.signalled.swap(true, Ordering::AcqRel) {
            self.wake.wake();
        }
        true
    }

    /// Bytes that wait for this core.
    pub fn backlog_bytes(&self) -> usize {
        self.state.backlog_bytes.load(Ordering::Relaxed)
    }

    /// Whether the reader wants nothing more for a while, because it cannot let go of what it has
    /// received.
    pub fn is_full(&self) -> bool {
        self.state.is_full.load(Ordering::Relaxed)
    }

    /// The reader itself says whether that is so.
    pub fn set_full(&self, is_full: bool) {
        if self.is_full() != is_full {
            self.state.is_full.store(is_full, Ordering::Relaxed);
        }
    }
}

/// The receiving side: what was sent to one core.
pub struct Mailbox<T> {
    channel: Receiver<(T, usize)>,
    state: Arc<State>,
}

impl<T> Mailbox<T> {
    /// A mailbox and its outlet. The channel has no bound of its own: see [`Outlet::backlog_bytes`].
    pub fn new(wake: Arc<dyn Wake>) -> (Outlet<T>, Mailbox<T>) {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let state = Arc::new(State {
            signalled: AtomicBool::new(false),
            backlog_bytes: AtomicUsize::new(0),
            is_full: AtomicBool::new(false),
        });
        let outlet = Outlet {
            channel: sender,
            state: Arc::clone(&state),
            wake,
        };
        (
            outlet,
            Mailbox {
                channel: receiver,
                state,
            },
        )
    }

    /// To be called before a round of [`Mailbox::receive`]: what is sent from here on wakes again.
    pub fn begin(&self) {
        self.state.signalled.swap(false, Ordering::AcqRel);
    }

    /// The next item, if there is one.
    pub fn receive(&self) -> Option<T> {
        let (item, weight) = self.channel.try_recv().ok()?;
        self.state
            .backlog_bytes
            .fetch_sub(weight, Ordering::Relaxed);
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_batch_wakes_its_reader_once() {
        let wakes = Arc::new(Count::default());
        let (outlet, mailbox) = Mailbox::new(Arc::clone(&wakes) as Arc<dyn Wake>);
        for i in 0..5 {
            assert!(outlet.send(i, 10));
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(outlet.backlog_bytes(), 50);
        mailbox.begin();
        assert_eq!(
            std::iter::from_fn(|| mailbox.receive()).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4]
        );
        assert_eq!(outlet.backlog_bytes(), 0);
        outlet.send(5, 10);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn no_wake_is_lost_between_two_threads() {
        let wakes = Arc::new(Count::default());
        let (outlet, mailbox) = Mailbox::new(Arc::clone(&wakes) as Arc<dyn Wake>);
        let writer = std::thread::spawn(move || {
            for i in 0..100_000u32 {
                outlet.send(i, 1);
            }
        });
        let mut seen = 0;
        let mut looked_at = 0;
        while seen < 100_000 {
            // Sleeps, as it were, until somebody woke it since it last looked.
            let wakes = wakes.0.load(Ordering::Acquire);
            if wakes == looked_at {
                std::hint::spin_loop();
                continue;
            }
            looked_at = wakes;
            mailbox.begin();
            while mailbox.receive().is_some() {
                seen += 1;
            }
        }
        writer.join().unwrap();
    }
}
