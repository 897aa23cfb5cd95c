//! What a core lets the operator's backend know: rooms that fill and empty, users that come and go.
//!
//! Notices of one room or user come from one core, its home, and in order: of each kind one, then
//! the other. What a turn has is one channel send ([`NoticeSender`]). A core never waits: what does
//! not fit is dropped and counted, and whoever reads the channel hears that something is missing even
//! where nothing comes after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::address::RoomKey;
use crate::protocol::UserId;

/// Something that happened on a core, with the wall clock's time of it in milliseconds.
#[derive(Clone, Debug)]
pub struct Notice {
    /// When.
    pub unix_ms: u64,
    /// What.
    pub what: Noticed,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Noticed {
    /// The first user is in a room. Said by the room's home.
    RoomOccupied(RoomKey),
    /// The last user has left a room. Said by the room's home.
    RoomVacated(RoomKey),
    /// A user has a first connection. Said by the user's home.
    UserConnected(UserId),
    /// A user has no connection any more. Said by the user's home.
    UserDisconnected(UserId),
}

/// A channel for the notices of all cores, of which so many may wait.
pub fn notice_channel(waiting_max: usize) -> (NoticeSender, NoticeReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        waiting_max,
        waiting: AtomicUsize::new(0),
        dropped: AtomicU64::new(0),
        lost_some: Notify::new(),
    });
    let reader = NoticeReceiver {
        receiver,
        shared: Arc::clone(&shared),
        dropped_known: 0,
    };
    (NoticeSender { sender, shared }, reader)
}

#[derive(Debug)]
struct Shared {
    waiting_max: usize,
    /// Notices in the channel.
    waiting: AtomicUsize,
    /// Notices that did not fit, since the start.
    dropped: AtomicU64,
    lost_some: Notify,
}

/// Where cores put their notices.
#[derive(Clone, Debug)]
pub struct NoticeSender {
    sender: UnboundedSender<Vec<Notice>>,
    shared: Arc<Shared>,
}

impl NoticeSender {
    /// Gives away what a turn brought. Where not all of it fits, the newest is dropped and counted.
    pub fn send(&self, mut notices: Vec<Notice>) {
        let count = notices.len();
        let before = self.shared.waiting.fetch_add(count, Ordering::Relaxed);
        let fitting = self.shared.waiting_max.saturating_sub(before).min(count);
        notices.truncate(fitting);
        // Where nobody reads any more, nothing of it is told.
        let sent = if fitting == 0 || self.sender.send(notices).is_err() {
            0
        } else {
            fitting
        };
        let lost = count - sent;
        if lost > 0 {
            self.shared.waiting.fetch_sub(lost, Ordering::Relaxed);
            self.shared
                .dropped
                .fetch_add(lost as u64, Ordering::Relaxed);
            self.shared.lost_some.notify_one();
        }
    }
}

/// What whoever reads the channel hears.
#[derive(Debug)]
pub enum Heard {
    /// What a turn of a core brought.
    Notices(Vec<Notice>),
    /// So many did not fit since this was last said.
    Lost(u64),
}

/// Where notices come out.
#[derive(Debug)]
pub struct NoticeReceiver {
    receiver: UnboundedReceiver<Vec<Notice>>,
    shared: Arc<Shared>,
    dropped_known: u64,
}

impl NoticeReceiver {
    /// The next of them; none once all cores have gone. May be dropped while it waits.
    pub async fn receive(&mut self) -> Option<Heard> {
        loop {
            let dropped = self.shared.dropped.load(Ordering::Relaxed);
            if dropped > self.dropped_known {
                let lost = dropped - self.dropped_known;
                self.dropped_known = dropped;
                return Some(Heard::Lost(lost));
            }
            tokio::select! {
                notices = self.receiver.recv() => {
                    let notices = notices?;
                    self.shared.waiting.fetch_sub(notices.len(), Ordering::Relaxed);
                    return Some(Heard::Notices(notices));
                }
                () = self.shared.lost_some.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ClientId;

    fn notices(users: std::ops::Range<u64>) -> Vec<Notice> {
        let notice = |n| Notice {
            unix_ms: n,
            what: Noticed::UserConnected(UserId::Anonymous(ClientId(n))),
        };
        users.map(notice).collect()
    }

    #[tokio::test]
    async fn what_does_not_fit_is_counted_and_told_though_nothing_follows() {
        let (sender, mut receiver) = notice_channel(10);
        sender.send(notices(0..4));
        sender.send(notices(4..12));
        sender.send(notices(12..15));
        let Some(Heard::Lost(lost)) = receiver.receive().await else {
            panic!("a loss is told first")
        };
        assert_eq!(lost, 5);
        let mut seen = Vec::new();
        for _ in 0..2 {
            let Some(Heard::Notices(notices)) = receiver.receive().await else {
                panic!("the rest comes through")
            };
            seen.extend(notices.iter().map(|notice| notice.unix_ms));
        }
        assert_eq!(seen, (0..10).collect::<Vec<_>>());

        // The channel is empty, and its reader sleeps.
        let reading = tokio::spawn(async move { receiver.receive().await });
        tokio::task::yield_now().await;
        sender.send(notices(0..11));
        assert!(reading.await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_was_read_makes_room() {
        let (sender, mut receiver) = notice_channel(4);
        for _ in 0..100 {
            sender.send(notices(0..4));
            let heard = receiver.receive().await;
            assert!(matches!(heard, Some(Heard::Notices(all)) if all.len() == 4));
        }
        drop(sender);
        assert!(receiver.receive().await.is_none());
    }
}
