//! Who goes too fast: what is held against the limits, and what follows.
//!
//! | too much of | follows |
//! |---|---|
//! | connections from an address | HTTP 429 with `Retry-After`, before any upgrade; in a flood, nothing |
//! | messages, joins and leaves | error 4004, and the command is not obeyed; closed when that goes on |
//! | pings and pongs | closed with 4004 |
//! | bytes | the connection is not read for a while |
//!
//! What a connection's limits have to remember is its [`Guard`], which it has only where a limit is
//! set that needs one, and where it has met one.

use std::sync::Arc;
use std::time::Duration;

use crate::address::PeerAddress;
use crate::codec::http::{Head, Response, encode_response};
use crate::gate::meters::{Crowded, Place, UserMeter};
use crate::gate::rate::{Bucket, Rate};
use crate::gate::{Authentication, Excess, Limits, Policy, client_address};
use crate::metrics::{Limited, Reject};
use crate::protocol::{Code, Command, UserId};
use crate::session::Budget;
use crate::shard::Shard;
use crate::shard::connection::{Connection, Phase, Timer};
use crate::shard::memory::Memory;
use crate::time::Now;
use crate::wheel::TimerId;

/// What a client is asked to wait whose address has as many connections as it may have.
const WAIT_FOR_A_PLACE: Duration = Duration::from_secs(5);

/// Connections of a core that may be on their way out with a 429. Each holds its place until its peer
/// has taken that, or `--close-timeout`; an address that connects without end must not have more.
const CROWDED_MAX: u32 = 64;

/// What limits remember of one connection.
#[derive(Default)]
pub(super) struct Guard {
    /// Where the peer is, or the proxy before it as long as its word is awaited.
    address: Option<PeerAddress>,
    /// The connection counts among those of its address.
    place: Option<Place>,
    messages: Bucket,
    bytes: Bucket,
    user: Option<Arc<UserMeter>>,
    /// Refusals in the running minute.
    excess: Budget,
    /// It is on its way out because its address has too many.
    is_crowded: bool,
    /// It is not read until this timer: it sent too many bytes.
    pub throttle: Option<TimerId>,
}

impl Shard {
    /// Whether the word of this peer is taken for where its client is.
    pub fn trusts(&self, address: PeerAddress) -> bool {
        self.config.policy.limits.trusts(address)
    }

    /// Tells where the peer of a connection is that was just accepted, or where a proxy says it is.
    ///
    /// Is it a trusted proxy, its request's head will say more; otherwise the limits on addresses
    /// apply now. A connection for which this is not called has no address, and no limits by it.
    pub fn handle_address(&mut self, now: Now, index: u32, address: PeerAddress) {
        self.set_now(now);
        let Policy {
            limits,
            authentication,
            ..
        } = &*self.config.policy;
        let is_counted = limits.meter_addresses();
        // The operator's backend is told, too.
        if !is_counted && !matches!(authentication, Authentication::Webhook(_)) {
            return;
        }
        let is_proxy = limits.trusts(address);
        let waits = |connection: &&mut Connection| connection.phase == Phase::Head;
        let Some(connection) = self.connections.get_mut(index).filter(waits) else {
            return;
        };
        connection.guard(&mut self.memory).address = Some(address);
        if is_counted
            && !is_proxy
            && let Err((crowded, bytes)) = self.take_place(index, address)
        {
            self.count_crowded(crowded);
            self.turn_away_crowded(index, &bytes);
        }
    }

    /// Answers that an address has too many connections; where many are being answered, hangs up
    /// instead.
    fn turn_away_crowded(&mut self, index: u32, response: &[u8]) {
        if self.crowded >= CROWDED_MAX {
            return self.drop_connection(index, 1006);
        }
        if let Some(connection) = self.connections.get_mut(index) {
            connection.guard(&mut self.memory).is_crowded = true;
            self.crowded += 1;
        }
        self.begin_close_with(index, 1000, response);
    }

    /// A connection is gone.
    pub(super) fn forget_crowded(&mut self, connection: &Connection) {
        if connection.guard.as_ref().is_some_and(|g| g.is_crowded) {
            self.crowded -= 1;
        }
    }

    /// The head has come: where the client is that a trusted proxy speaks for. Where it may not come
    /// in, answers the response.
    pub(super) fn meet_client(&mut self, index: u32, head: &Head<'_>) -> Result<(), Vec<u8>> {
        let limits = &self.config.policy.limits;
        let guard = self.connections.get(index).and_then(|c| c.guard.as_deref());
        let Some(peer) = guard.and_then(|guard| guard.address) else {
            return Ok(());
        };
        if !limits.trusts(peer) {
            return Ok(());
        }
        let client = client_address(head, peer, limits).map_err(|bad| {
            self.metrics.connections.rejected.count(Reject::Proxy);
            refusal(400, &bad.to_string(), None)
        })?;
        // A proxy that speaks for itself, as health checks do, is not counted.
        if self.config.policy.limits.trusts(client) {
            return Ok(());
        }
        if !self.config.policy.limits.meter_addresses() {
            if let Some(connection) = self.connections.get_mut(index) {
                connection.guard(&mut self.memory).address = Some(client);
            }
            return Ok(());
        }
        self.take_place(index, client).map_err(|(crowded, bytes)| {
            self.count_crowded(crowded);
            bytes
        })
    }

    /// Where the client of a connection is, as far as that is known.
    pub(super) fn address_of(&self, index: u32) -> Option<PeerAddress> {
        self.connections.get(index)?.guard.as_deref()?.address
    }

    /// Counts a connection among those of an address; where it may not come in, says why, and the
    /// response.
    fn take_place(&mut self, index: u32, client: PeerAddress) -> Result<(), (Crowded, Vec<u8>)> {
        let limits = &self.config.policy.limits;
        let (place, forgotten) = self.config.meters.enter(client, limits, self.now.mono);
        self.metrics.limits.meters_forgotten += forgotten;
        let place = place.map_err(|crowded| (crowded, crowded_response(crowded, limits)))?;
        if let Some(connection) = self.connections.get_mut(index) {
            let guard = connection.guard(&mut self.memory);
            guard.address = Some(client);
            guard.place = Some(place);
        }
        Ok(())
    }

    fn count_crowded(&mut self, crowded: Crowded) {
        self.metrics.connections.rejected.count(Reject::Rate);
        self.metrics.limits.met.count(match crowded {
            Crowded::Rate(_) => Limited::AddressConnects,
            Crowded::Connections | Crowded::Meters => Limited::AddressConnections,
        });
    }

    /// A command has come: whether it is too much, counting it. One that is no command is none.
    pub(super) fn excess(&mut self, index: u32, command: Option<&Command<'_>>) -> Option<Excess> {
        if matches!(
            command,
            Some(Command::JoinRoom { .. } | Command::LeaveRoom { .. })
        ) {
            let rate = self.config.policy.limits.connection_joins;
            let now = self.now.mono;
            let connection = self.connections.get_mut(index)?;
            if let Some(rate) = rate
                && !connection.joins.take(rate, now)
            {
                return Some(Excess::ConnectionJoins(rate));
            }
        }
        if self.config.policy.limits.meter_messages() {
            return self.message_excess(index);
        }
        None
    }

    fn message_excess(&mut self, index: u32) -> Option<Excess> {
        let Limits {
            connection_messages,
            user_messages,
            ..
        } = self.config.policy.limits;
        let now = self.now.mono;
        let Shard {
            connections,
            config,
            memory,
            metrics,
            ..
        } = self;
        let Connection { user, guard, .. } = connections.get_mut(index)?;
        let guard = guard_in(guard, memory);
        if let Some(rate) = connection_messages
            && let Err(wait) = guard.messages.take(rate, 1, now)
        {
            return Some(Excess::ConnectionMessages(rate, wait));
        }
        let rate = user_messages?;
        let meter = guard.user.get_or_insert_with(|| {
            let (meter, forgotten) = config.meters.user(user, now);
            metrics.limits.meters_forgotten += forgotten;
            meter
        });
        let wait = meter.messages.take(rate, 1, now).err()?;
        Some(Excess::UserMessages(rate, wait))
    }

    /// Answers what was too much with an error; closes where that goes on.
    pub(super) fn refuse_excess(
        &mut self,
        index: u32,
        excess: Excess,
        room: Option<&str>,
        correlation_id: Option<&str>,
    ) {
        self.metrics.limits.met.count(match excess {
            Excess::ConnectionMessages(..) => Limited::ConnectionMessages,
            Excess::ConnectionJoins(..) => Limited::ConnectionJoins,
            Excess::UserMessages(..) => Limited::UserMessages,
            Excess::UserRooms(..) => Limited::UserRooms,
            Excess::Refreshes(..) => Limited::Refreshes,
        });
        let code = Code::RateLimitExceeded;
        self.refuse(index, code, &excess.to_string(), room, correlation_id);
        let (now, max) = (self.now.mono, self.config.policy.limits.rate_errors_max);
        if let Some(connection) = self.connections.get_mut(index)
            && !connection.guard(&mut self.memory).excess.spend(now, max)
        {
            self.close_with(index, code);
        }
    }

    /// At a room's home: whether a user's message may make the room, counting it.
    pub(super) fn room_excess(&mut self, user: &UserId) -> Option<Excess> {
        let rate = self.config.policy.limits.user_rooms?;
        let now = self.now.mono;
        let (meter, forgotten) = self.config.meters.user_everywhere(user, now);
        self.metrics.limits.meters_forgotten += forgotten;
        let wait = meter.rooms.take(rate, 1, now).err()?;
        self.metrics.limits.met.count(Limited::UserRooms);
        Some(Excess::UserRooms(rate, wait))
    }

    /// A ping or pong has come. Says whether there may be so many; where not, the connection closes.
    pub(super) fn admit_control(&mut self, index: u32) -> bool {
        let (rate, now) = (self.config.policy.limits.connection_control, self.now.mono);
        let Some(connection) = self.connections.get_mut(index) else {
            return false;
        };
        if rate.is_none_or(|rate| connection.control.take(rate, now)) {
            return true;
        }
        self.metrics.limits.met.count(Limited::ConnectionControl);
        self.close_with(index, Code::RateLimitExceeded);
        false
    }

    /// Bytes have come: where they were too many, the connection is not read until their time has
    /// passed.
    pub(super) fn throttle(&mut self, index: u32, bytes: usize) {
        let Some(rate) = self.config.policy.limits.connection_bytes else {
            return;
        };
        let now = self.now.mono;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        // A closing one is read to its end, or its close frame would not arrive.
        if matches!(connection.phase, Phase::Closing | Phase::Lingering) {
            return;
        }
        let guard = connection.guard(&mut self.memory);
        let debt = guard.charge(rate, bytes, now);
        if debt.is_zero() || guard.throttle.is_some() {
            return;
        }
        guard.throttle = Some(self.wheel.insert(now + debt, Timer::Throttle(index)));
        connection.paused = true;
        self.metrics.limits.met.count(Limited::ConnectionBytes);
    }

    /// The time of the bytes that were too many has passed.
    pub(super) fn end_throttle(&mut self, index: u32) {
        let connection = self.connections.get_mut(index);
        if let Some(guard) = connection.and_then(|c| c.guard.as_deref_mut()) {
            guard.throttle = None;
        }
        self.resume_if_paused(index);
    }
}

impl Guard {
    fn charge(&mut self, rate: Rate, bytes: usize, now: crate::time::Instant) -> Duration {
        self.bytes
            .charge(rate, u32::try_from(bytes).unwrap_or(u32::MAX), now)
    }
}

impl Connection {
    fn guard(&mut self, memory: &mut Memory) -> &mut Guard {
        guard_in(&mut self.guard, memory)
    }

    /// Whether it is not read because it sent too many bytes.
    pub(super) fn is_throttled(&self) -> bool {
        self.guard.as_ref().is_some_and(|g| g.throttle.is_some())
    }
}

/// A connection's guard, made and counted where there is none.
fn guard_in<'a>(place: &'a mut Option<Box<Guard>>, memory: &mut Memory) -> &'a mut Guard {
    place.get_or_insert_with(|| {
        memory.note_standing(0, size_of::<Guard>());
        Box::default()
    })
}

/// The room that a command is about.
pub(super) fn room_of<'a>(command: &Command<'a>) -> Option<&'a str> {
    match command {
        Command::JoinRoom { room, .. }
        | Command::LeaveRoom { room }
        | Command::Message { room, .. }
        | Command::TypingStart { room }
        | Command::TypingStop { room }
        | Command::ReadReceipt { room, .. }
        | Command::PresenceQuery { room }
        | Command::HistoryQuery { room, .. } => Some(room),
        Command::Auth { .. } | Command::DirectMessage { .. } | Command::Ping { .. } => None,
    }
}

fn crowded_response(crowded: Crowded, limits: &Limits) -> Vec<u8> {
    let (message, wait) = match (crowded, limits.address_connects) {
        (Crowded::Rate(wait), Some(rate)) => (
            format!("your address connects more often than {rate} (--limit-address-connects)"),
            wait,
        ),
        (Crowded::Connections, _) => (
            format!(
                "your address has as many connections as it may have (--max-connections-per-address: {})",
                limits.connections_per_address_max.unwrap_or_default()
            ),
            WAIT_FOR_A_PLACE,
        ),
        (Crowded::Meters | Crowded::Rate(_), _) => (
            "this server cannot count any more addresses".to_owned(),
            WAIT_FOR_A_PLACE,
        ),
    };
    refusal(429, &format!("{message}; try again later"), Some(wait))
}

fn refusal(status: u16, message: &str, retry_after: Option<Duration>) -> Vec<u8> {
    // RFC 9110 §10.2.3: whole seconds; never so few that the same would happen again.
    let seconds = retry_after.map(|wait| wait.as_millis().div_ceil(1_000).max(1).to_string());
    let headers = seconds.as_deref().map(|seconds| ("Retry-After", seconds));
    let mut body = message.to_owned().into_bytes();
    body.push(b'\n');
    let response = Response {
        status,
        content_type: "text/plain; charset=utf-8",
        headers: headers.as_slice(),
        body: &body,
    };
    let mut bytes = Vec::new();
    encode_response(&response, false, &mut bytes);
    bytes
}
