//! How much a connection, a user and an address may do, and whose word about addresses is taken.

use std::sync::Arc;
use std::time::Duration;

use crate::address::{Network, PeerAddress};
use crate::gate::rate::Rate;

/// The limits on peers that an operator sets. Where one is not given there is none.
#[derive(Clone, Default, Debug)]
pub struct Limits {
    /// Messages from one connection.
    pub connection_messages: Option<Rate>,
    /// Bytes from one connection: above, it is read more slowly.
    pub connection_bytes: Option<Rate>,
    /// Joins and leaves of one connection.
    pub connection_joins: Option<Rate>,
    /// WebSocket pings and pongs from one connection: above, it is closed.
    pub connection_control: Option<Rate>,
    /// Messages from all connections of one user on this node.
    pub user_messages: Option<Rate>,
    /// Rooms that messages of one user make.
    pub user_rooms: Option<Rate>,
    /// New connections from one address.
    pub address_connects: Option<Rate>,
    /// Connections from one address at a time.
    pub connections_per_address_max: Option<u32>,
    /// Connections of one user at a time.
    pub connections_per_user_max: Option<u32>,
    /// A user's newer connection takes the place of the older one.
    pub one_connection_per_user: bool,
    /// Refusals of what was too fast within a minute; one more closes the connection.
    pub rate_errors_max: u32,
    /// Whose word is taken for where a client is.
    pub trusted_proxies: Arc<[Network]>,
}

impl Limits {
    /// Whether what an address does is counted.
    pub fn meter_addresses(&self) -> bool {
        self.address_connects.is_some() || self.connections_per_address_max.is_some()
    }

    /// Whether how many messages come is counted.
    pub fn meter_messages(&self) -> bool {
        self.connection_messages.is_some() || self.user_messages.is_some()
    }

    /// Whether an address is that of a proxy whose word is taken.
    pub fn trusts(&self, address: PeerAddress) -> bool {
        self.trusted_proxies
            .iter()
            .any(|network| network.contains(address))
    }
}

/// What passed which of its bounds, and what to do about it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Excess {
    /// Too many messages from a connection.
    ConnectionMessages(Rate, Duration),
    /// Too many joins and leaves from a connection.
    ConnectionJoins(Rate),
    /// Too many messages from a user.
    UserMessages(Rate, Duration),
    /// Too many rooms made by a user's messages.
    UserRooms(Rate, Duration),
    /// Credentials shown again and again.
    Refreshes(Rate, Duration),
}

impl std::fmt::Display for Excess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Rounded up, and never nothing: who comes back at once is refused again.
        let ms = |wait: &Duration| wait.as_micros().div_ceil(1_000).max(1);
        match self {
            Excess::ConnectionMessages(rate, wait) => write!(
                f,
                "this connection sends more than its {rate} messages (--limit-connection-messages); \
                 this one was not obeyed, try again in {} ms",
                ms(wait)
            ),
            Excess::ConnectionJoins(rate) => write!(
                f,
                "this connection joins and leaves more often than {rate} (--limit-connection-joins); \
                 this was not done, try again later"
            ),
            Excess::UserMessages(rate, wait) => write!(
                f,
                "this user's connections send more than their {rate} messages together \
                 (--limit-user-messages); this one was not obeyed, try again in {} ms",
                ms(wait)
            ),
            Excess::UserRooms(rate, wait) => write!(
                f,
                "this user's messages make more new rooms than {rate} (--limit-user-rooms); this one \
                 was not accepted, try again in {} ms",
                ms(wait)
            ),
            Excess::Refreshes(rate, wait) => write!(
                f,
                "this connection shows credentials more often than {rate}; this one was not looked \
                 at, try again in {} ms",
                ms(wait)
            ),
        }
    }
}
