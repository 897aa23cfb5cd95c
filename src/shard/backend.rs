//! What the operator's backend asks, and what it is told.
//!
//! ```text
//!   handle_query ─┬─ posts      at rooms' homes: messages to publish
//!                 ├─ views      at rooms' homes: history, members, rooms; metrics
//!                 ├─ users      at users' homes: a message, into a room, out of a room
//!                 ├─ broadcast  on all cores: a message to everyone
//!                 └─ sight      on all cores: the largest rooms, the slowest connections, evictions
//!   poll_answers ◄── one answer for each query: in the same turn, but for posts that wait for the disk
//! ```
//!
//! The backend is trusted: what rooms' rules say of publishers and members does not bind it. What
//! bounds the node does: sizes, numbers of rooms, memory. Each query is a bounded amount of work, so
//! that whoever asks for much asks again, and connections have their turns between.

mod broadcast;
mod posts;
mod sight;
mod users;
mod views;

pub(super) use broadcast::Broadcasts;
pub use broadcast::{BROADCAST_STEP, BROADCASTS_MAX};
pub(super) use posts::Posts;
pub use posts::{POSTS_MAX, POSTS_WAITING_MAX};
pub(super) use sight::Evictions;
pub use sight::{EVICTIONS_MAX, TOP_MAX};
pub use views::{HISTORY_LISTED_MAX, PLACES_MAX, ROOMS_LISTED_MAX};

use crate::address::RoomKey;
use crate::bus::{Answer, ApiAnswer, ApiAsk, Query, Refused, Ticket};
use crate::metrics::AskType;
use crate::protocol::Code;
use crate::protocol::ids::{NAME_BYTES_MAX, is_room_name};
use crate::shard::Shard;
use crate::time::Now;

impl Shard {
    /// A question of the control plane. It is answered once, by [`Shard::poll_answers`].
    pub fn handle_query(&mut self, now: Now, query: Query) {
        self.set_now(now);
        let Query { ticket, ask } = query;
        self.metrics.api.asks.count(ask_type(&ask));
        let answer = match ask {
            ApiAsk::Publish(posts) => match self.take_posts(ticket, &posts) {
                Ok(()) => return,
                Err(refused) => Err(refused),
            },
            ApiAsk::History { room, since, limit } => self.tell_past(&room, since, limit),
            ApiAsk::Members(room) => self.tell_members(&room),
            ApiAsk::Room(room) => self.tell_room(&room),
            ApiAsk::Rooms { from, limit } => Ok(self.tell_rooms(from, limit)),
            ApiAsk::Metrics => Ok(ApiAnswer::Metrics(Box::new(self.metrics().clone()))),
            ApiAsk::Direct { user, data } => self.tell_user(&user, &data),
            ApiAsk::Join { user, room } => self.enlist_user(&user, &room),
            ApiAsk::Leave { user, room } => self.expel_user(&user, &room),
            ApiAsk::User(user) => self.user_facts(&user),
            ApiAsk::Broadcast(payload) => self.begin_broadcast(&payload),
            ApiAsk::Look {
                rooms_from,
                connections_from,
                top,
            } => {
                let sight = self.tell_sight(rooms_from, connections_from, top);
                Ok(ApiAnswer::Sight(Box::new(sight)))
            }
        };
        let answer = answer.unwrap_or_else(|refused| {
            self.metrics.api.refused.count(refused.code as u16);
            ApiAnswer::Refused(refused)
        });
        self.answer_query(ticket, answer);
    }

    /// What is to be sent to the control plane: answers to its questions.
    pub fn poll_answers(&mut self) -> Option<Vec<Answer>> {
        (!self.answers.is_empty()).then(|| std::mem::take(&mut self.answers))
    }

    fn answer_query(&mut self, ticket: Ticket, answer: ApiAnswer) {
        self.answers.push(Answer { ticket, answer });
    }

    /// Whether a room's home is here.
    ///
    /// # Errors
    /// Where it is elsewhere: only its home knows it.
    fn expect_home(&self, room: &RoomKey) -> Result<(), Refused> {
        let home = self.home_of(room.hash());
        if home == self.config.core {
            return Ok(());
        }
        let message = format!("this is at home on core {}; ask there", home.0);
        Err(refused(Code::UnknownError, message))
    }

    /// Whether a room may be called so.
    ///
    /// # Errors
    /// Where it may not.
    fn expect_room_name(&self, name: &str) -> Result<(), Refused> {
        if is_room_name(name) {
            return Ok(());
        }
        let message = format!(
            "{:?} is no room name; it takes 1–{NAME_BYTES_MAX} bytes without control characters",
            name.chars().take(NAME_BYTES_MAX).collect::<String>()
        );
        Err(refused(Code::InvalidMessageFormat, message))
    }

    /// Whether application data is no longer than a message may be.
    ///
    /// # Errors
    /// Where it is longer.
    fn expect_size(&self, bytes: usize) -> Result<(), Refused> {
        let max = self.config.message_bytes_max;
        if bytes <= max {
            return Ok(());
        }
        let message = format!(
            "a payload of {bytes} bytes is too long; --max-message-bytes allows {max}: send less, \
             or send where it is to be found"
        );
        Err(refused(Code::MessageTooLarge, message))
    }
}

fn refused(code: Code, message: impl Into<Box<str>>) -> Refused {
    let message = message.into();
    Refused { code, message }
}

fn ask_type(ask: &ApiAsk) -> AskType {
    match ask {
        ApiAsk::Publish(_) => AskType::Publish,
        ApiAsk::History { .. } => AskType::History,
        ApiAsk::Members(_) => AskType::Members,
        ApiAsk::Room(_) => AskType::Room,
        ApiAsk::Rooms { .. } => AskType::Rooms,
        ApiAsk::Broadcast(_) => AskType::Broadcast,
        ApiAsk::Direct { .. } => AskType::Direct,
        ApiAsk::Join { .. } => AskType::Join,
        ApiAsk::Leave { .. } => AskType::Leave,
        ApiAsk::User(_) => AskType::User,
        ApiAsk::Look { .. } => AskType::Look,
        ApiAsk::Metrics => AskType::Metrics,
    }
}
