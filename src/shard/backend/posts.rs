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

    /// A query with so many messages is taken in.
    fn begin(&mut self, ticket: Ticket, count: usize) {
        self.taken_in = Some((ticket, Unsettled::new(count)));
    }

    /// All of its messages were looked at. Answers the query where all are settled.
    fn end(&mut self) -> Option<(Ticket, ApiAnswer)> {
        let (ticket, query) = self.taken_in.take()?;
        if query.left == 0 {
            return Some((ticket, query.into_answer()));
        }
        self.count += query.outcomes.len();
        self.waiting.insert(ticket, query);
        None
    }

    /// A message is settled. Answers its query where that waited, and for this one alone.
    fn settle(
        &mut self,
        ticket: Ticket,
        place: u32,
        outcome: Result<Position, Refused>,
    ) -> Option<ApiAnswer> {
        if let Some((taken_in, query)) = &mut self.taken_in
            && *taken_in == ticket
        {
            query.settle(place, outcome);
            return None;
        }
        let query = self.waiting.get_mut(&ticket)?;
        query.settle(place, outcome);
        if query.left > 0 {
            return None;
        }
        let query = self.waiting.remove(&ticket)?;
        self.count -= query.outcomes.len();
        if self.waiting.is_empty() {
            self.waiting.shrink_to_fit();
        }
        Some(query.into_answer())
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
        self.posts.begin(ticket, posts.len());
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
        if let Some((ticket, answer)) = self.posts.end() {
            self.answer_query(ticket, answer);
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
        if let Some(answer) = self.posts.settle(ticket, place, outcome) {
            self.answer_query(ticket, answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Epoch;

    fn at(offset: u64) -> Result<Position, Refused> {
        let epoch = Epoch(1);
        Ok(Position { epoch, offset })
    }

    fn results(answer: ApiAnswer) -> Vec<Result<Position, Refused>> {
        match answer {
            ApiAnswer::Published(results) => results,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_query_is_answered_with_the_last_of_its_messages() {
        let mut posts = Posts::new(ahash::RandomState::with_seeds(1, 2, 3, 4));
        let (one, other) = (Ticket(1), Ticket(2));
        posts.begin(one, 3);
        let no = || Err(refused(Code::MessageTooLarge, "too large"));
        assert!(posts.settle(one, 1, no()).is_none());
        assert!(posts.end().is_none(), "two wait");
        posts.begin(other, 1);
        assert!(posts.settle(one, 2, at(7)).is_none());
        assert!(posts.settle(other, 0, at(8)).is_none());
        let (ticket, answer) = posts.end().unwrap();
        assert_eq!((ticket, results(answer)), (other, vec![at(8)]));
        assert_eq!(posts.heap_bytes(), posts.recounted_bytes());
        assert_eq!(posts.count, 3);
        let answer = posts.settle(one, 0, at(9)).unwrap();
        assert_eq!(results(answer), [at(9), no(), at(7)], "in their order");
        assert!(posts.settle(one, 0, at(9)).is_none(), "nobody asked");
        assert_eq!((posts.count, posts.heap_bytes()), (0, 0));
    }
}
