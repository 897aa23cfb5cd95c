//! What the operator's backend asks, and what it is told.

use crate::bus::{Answer, ApiAnswer, ApiAsk, Notice, Position, Query, Refused, Ticket};
use crate::protocol::Code;
use crate::shard::Shard;
use crate::shard::homes::{Publication, Publisher};
use crate::time::Now;

impl Shard {
    /// A question of the control plane. It is answered once, by [`Shard::poll_answers`].
    pub fn handle_query(&mut self, now: Now, query: Query) {
        self.set_now(now);
        let Query { ticket, ask } = query;
        if let ApiAsk::Publish(posts) = ask {
            for (place, post) in posts.iter().enumerate() {
                let publication = Publication {
                    payload: &post.payload,
                    message_id: post.message_id.as_deref(),
                    echo: true,
                };
                let publisher = Publisher::Backend(ticket, place as u32);
                let (hash, name) = (post.room.hash(), post.room.name());
                self.home_publish(hash, name, publisher, publication);
            }
            return;
        }
        let message = Box::from("this node does not answer such questions yet");
        let refused = Refused {
            code: Code::UnknownError,
            message,
        };
        self.answer_query(ticket, ApiAnswer::Refused(refused));
    }

    /// What is to be sent to the control plane: answers to its questions.
    pub fn poll_answers(&mut self) -> Option<Vec<Answer>> {
        (!self.answers.is_empty()).then(|| std::mem::take(&mut self.answers))
    }

    /// What the operator's backend is to know.
    pub fn poll_notices(&mut self) -> Option<Vec<Notice>> {
        (!self.notices.is_empty()).then(|| std::mem::take(&mut self.notices))
    }

    pub(super) fn answer_query(&mut self, ticket: Ticket, answer: ApiAnswer) {
        self.answers.push(Answer { ticket, answer });
    }

    /// What became of one of the messages that a query wants published.
    pub(super) fn answer_post(
        &mut self,
        ticket: Ticket,
        _place: u32,
        outcome: Result<Position, Refused>,
    ) {
        self.answer_query(ticket, ApiAnswer::Published(vec![outcome]));
    }
}
