//! What an operator orders of the cores about one user.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::protocol::UserId;

/// An order. It goes to every core: all know who is banned, and the user's home knows the user's
/// connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// The user's connections are closed with 4009, and so is each new one.
    Ban {
        /// Who.
        user: UserId,
        /// For how long; for as long as the process runs where not given.
        lasts: Option<Duration>,
    },
    /// The user may come again.
    Unban {
        /// Who.
        user: UserId,
    },
    /// The user's connections are closed; the user may come again.
    Disconnect {
        /// Who.
        user: UserId,
        /// The close code: 1000, or 4000–4999.
        code: u16,
        /// The reason in the close frame: at most 123 bytes arrive.
        reason: Arc<str>,
    },
}

/// Why an order was not carried out.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Error)]
pub enum OrderFault {
    /// The list of bans is full.
    #[error("as many users are banned as may be, {max}; lift bans, or ban for a time")]
    TooManyBans {
        /// How many may be.
        max: usize,
    },
    /// A code that no server may close with for reasons of its own.
    #[error("{0} is no code to close with; use 1000, or 4000 to 4999")]
    BadCode(u16),
}

/// What became of an order on one core: how many connections are told to close. The user's home says
/// so, all others say none.
pub type Obeyed = Result<usize, OrderFault>;

/// Where a core sends what became of an order, once. One that is dropped says at once that nothing
/// will come.
pub struct OrderReply(Box<dyn FnOnce(Obeyed) + Send>);

impl OrderReply {
    /// A reply that hands it to `deliver`, on the core's thread: it must not block.
    pub fn new(deliver: impl FnOnce(Obeyed) + Send + 'static) -> OrderReply {
        OrderReply(Box::new(deliver))
    }

    /// Answers.
    pub fn answer(self, obeyed: Obeyed) {
        (self.0)(obeyed);
    }
}

impl std::fmt::Debug for OrderReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OrderReply")
    }
}
