//! Messages that the backend publishes: many in one query, answered together.
//!
//! A message is settled at once, or, where its room is to have it on disk first, when the disk has
//! it. A query is answered when the last of its messages is settled.

use std::collections::HashMap;

use crate::bus::{ApiAnswer, Position, Post, Refused, Ticket};
use crate::gate::Denied;
use crate::protocol::Code;
use crate::protocol::ids::{KEY_BYTES_MAX, is_key};
use crate::shard::Shard;
use crate::shard::backend::refused;
use crate::shard::homes::{Publication, Publisher};

/// Messages in one query: some milliseconds of a core's time.
pub const POSTS_MAX: usize = 1_024;

/// Messages of the backend that may wait for the disk, on each core.
pub const POSTS_WAITING_MAX: usize = 64 * 1024;

/// What became of a message; none while it waits.
type Outcome = Option<Result<Position, Refused>>;

/// A query that has messages which are not settled.
struct Unsettled {
    outcomes: Vec<Outcome>,
    left: usize,
}

impl Unsettled {
    fn new(count: usize) -> Unsettled {
        Unsettled {
            outcomes: vec![None; count],
            left: count,
        }
    }

    fn settle(&mut self, place: u32, outcome: Result<Position, Refused>) {
        let known = self.outcomes.get_mut(place as usize);
        debug_assert!(known.as_ref().is_some_and(|known| known.is_none()));
        if let Some(known @ None) = known {
            *known = Some(outcome);
            self.left -= 1;
        }
    }

    fn into_answer(self) -> ApiAnswer {
        ApiAnswer::Published(self.outcomes.into_iter().flatten().collect())
    }
}

/// The queries whose messages are not all settled.
pub(in crate::shard) struct Posts {
    /// The one that is being taken in: what is settled at once meets no table.
    taken_in: Option<(Ticket, Unsettled)>,
    waiting: HashMap<Ticket, Unsettled, ahash::RandomState>,
    /// Messages in `waiting`, settled or not.
    count: usize,
}

impl Posts {
    pub(in crate::shard) fn new(hasher: ahash::RandomState) -> Posts {
        Posts {
            taken_in: None,
            waiting: HashMap::with_hasher(hasher),
            count: 0,
        }
    }

    /// What those that wait take, in bytes.
    pub(in crate::shard) fn heap_bytes(&self) -> usize {
        bytes_of(self.waiting.len(), self.count)
    }

    /// The same, added up anew.
    pub(in crate::shard) fn recounted_bytes(&self) -> usize {
        let count = self.waiting.values().map(|query| query.outcomes.len());
        bytes_of(self.waiting.len(), count.sum())
    }
}

fn bytes_of(queries: usize, posts: usize) -> usize {
    // A table is at least half full, but for the smallest ones.
    2 * queries * size_of::<(Ticket, Unsettled)>() + posts * size_of::<Outcome>()
}

impl Shard {
    /// Publishes what a query brings, in order.
    ///
    /// # Errors
    /// Where nothing of it is taken.
    pub(super) fn take_posts(&mut self, ticket: Ticket, posts: &[Post]) -> Result<(), Refused> {
        if posts.len() > POSTS_MAX {
            let message = format!(
                "{} messages are too many for one query; publish at most {POSTS_MAX} at a time",
                posts.len()
            );
            return Err(refused(Code::InvalidMessageFormat, message));
        }
        if self.posts.count + posts.len() > POSTS_WAITING_MAX {
            let message = format!(
                "{} messages wait for the disk, and {POSTS_WAITING_MAX} are the most; try again \
                 when some are answered",
                self.posts.count
            );
            return Err(refused(Code::OverCapacity, message));
        }
        self.posts.taken_in = Some((ticket, Unsettled::new(posts.len())));
        for (place, post) in posts.iter().enumerate() {
            let place = place as u32;
            if let Err(refused) = self.expect_post(post) {
                self.answer_post(ticket, place, Err(refused));
                continue;
            }
            let publication = Publication {
                payload: &post.payload,
                message_id: post.message_id.as_deref(),
                echo: true,
            };
            let publisher = Publisher::Backend(ticket, place);
            let (hash, name) = (post.room.hash(), post.room.name());
            self.home_publish(hash, name, publisher, publication);
        }
        if let Some((ticket, query)) = self.posts.taken_in.take() {
            if query.left == 0 {
                self.answer_query(ticket, query.into_answer());
            } else {
                self.posts.count += query.outcomes.len();
                self.posts.waiting.insert(ticket, query);
            }
        }
        Ok(())
    }

    /// Whether a message may be published: what its room's rule says of publishers does not matter,
    /// what it says of messages does.
    fn expect_post(&mut self, post: &Post) -> Result<(), Refused> {
        let (name, bytes) = (post.room.name(), post.payload.len());
        self.expect_room_name(name)?;
        if let Some(id) = post.message_id.as_deref().filter(|id| !is_key(id)) {
            let message = format!(
                "a message_id of {} bytes; it takes 1–{KEY_BYTES_MAX}",
                id.len()
            );
            return Err(refused(Code::InvalidMessageFormat, message));
        }
        self.expect_home(&post.room)?;
        self.expect_size(bytes)?;
        let max = self
            .rule_for_backend((post.room.hash(), name))?
            .and_then(|rule| rule.message_bytes_max);
        match max.filter(|max| bytes > *max) {
            Some(max) => {
                let denied = Denied::TooLarge { bytes, max };
                Err(refused(denied.code(), denied.to_string()))
            }
            None => Ok(()),
        }
    }

    /// What became of one of the messages that a query wants published. Each is told of once.
    pub(in crate::shard) fn answer_post(
        &mut self,
        ticket: Ticket,
        place: u32,
        outcome: Result<Position, Refused>,
    ) {
        match &outcome {
            Ok(_) => self.metrics.api.messages += 1,
            Err(refused) => self.metrics.api.refused.count(refused.code as u16),
        }
        let posts = &mut self.posts;
        if let Some((taken_in, query)) = &mut posts.taken_in
            && *taken_in == ticket
        {
            return query.settle(place, outcome);
        }
        let Some(query) = posts.waiting.get_mut(&ticket) else {
            return;
        };
        query.settle(place, outcome);
        if query.left == 0
            && let Some(query) = posts.waiting.remove(&ticket)
        {
            posts.count -= query.outcomes.len();
            if posts.waiting.is_empty() {
                posts.waiting.shrink_to_fit();
            }
            self.answer_query(ticket, query.into_answer());
        }
    }
}
