//! What the operator's backend asks of cores, on shards that are driven by hand.

#![allow(clippy::unwrap_used)] // a node that cannot be set up is a failure

mod broadcast;
#[allow(dead_code)] // it is that of another test, which needs more of it
#[path = "../abuse/node.rs"]
mod node;
mod posts;
mod sight;
mod users;
mod views;

use std::sync::Arc;

use node::{Node, Peer};
use tidewheel::address::{Placement, RoomKey};
use tidewheel::bus::{ApiAnswer, ApiAsk, Position, Post, Query, Refused, Ticket};
use tidewheel::cli::policy::policy;
use tidewheel::cli::sources::options_from_text;

/// The seed of `Node`.
const SEED: u64 = 7;

/// A node, and what the control plane knows of it.
struct Backend {
    node: Node,
    placement: Placement,
    tickets: u64,
}

impl Backend {
    fn new(node: Node) -> Backend {
        Backend {
            placement: Placement::new(SEED, node.shards.len() as u16),
            tickets: 0,
            node,
        }
    }

    /// A plain node of three cores.
    fn plain() -> Backend {
        Backend::new(Node::new(3, |_, _| {}))
    }

    /// Has this configuration file's rules from now on.
    fn with_rules(mut self, file: &str) -> Backend {
        let (options, _) = options_from_text(file).unwrap();
        let policy = Arc::new(policy(&options).unwrap());
        for shard in &mut self.node.shards {
            shard.handle_policy(self.node.now, Arc::clone(&policy));
        }
        self
    }

    fn room(&self, name: &str) -> RoomKey {
        self.placement.room(name)
    }

    fn home_of(&self, room: &RoomKey) -> usize {
        self.placement.home_of(room.hash()).index()
    }

    /// Asks a core. What comes of it has not reached anyone else.
    fn ask_unsettled(&mut self, core: usize, ask: ApiAsk) -> ApiAnswer {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let shard = &mut self.node.shards[core];
        shard.handle_query(self.node.now, Query { ticket, ask });
        let mut answers = shard.poll_answers().unwrap();
        assert_eq!(answers.len(), 1);
        let answer = answers.remove(0);
        assert_eq!(answer.ticket, ticket);
        answer.answer
    }

    fn ask(&mut self, core: usize, ask: ApiAsk) -> ApiAnswer {
        let answer = self.ask_unsettled(core, ask);
        self.node.settle();
        answer
    }

    /// Publishes to rooms of one home.
    fn publish(&mut self, posts: &[(&str, &str, Option<&str>)]) -> Vec<Result<Position, Refused>> {
        let home = self.home_of(&self.room(posts[0].0));
        let posts = posts.iter().map(|(room, payload, id)| Post {
            room: self.room(room),
            payload: payload.as_bytes().into(),
            message_id: id.map(Box::from),
        });
        let ask = ApiAsk::Publish(posts.collect());
        match self.ask(home, ask) {
            ApiAnswer::Published(results) => results,
            other => panic!("{other:?}"),
        }
    }

    /// Asks a room's home about it.
    fn ask_home(&mut self, room: &str, ask: impl FnOnce(RoomKey) -> ApiAsk) -> ApiAnswer {
        let room = self.room(room);
        self.ask(self.home_of(&room), ask(room))
    }

    fn join(&mut self, core: usize, user: &str, room: &str) -> Peer {
        let target = format!("/ws/{room}?user_id={user}");
        self.node.upgrade(core, &target)
    }
}

/// The number of the code with which nothing was done.
fn code(answer: ApiAnswer) -> u16 {
    match answer {
        ApiAnswer::Refused(refused) => refused.code as u16,
        other => panic!("{other:?}"),
    }
}
