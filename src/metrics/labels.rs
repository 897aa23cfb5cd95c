//! The label values of the metrics, and counters in tables over them.
//!
//! Every label has a fixed, small set of values: what a peer sends never becomes a label, so it
//! cannot make the tables or the text grow.

use std::fmt;
use std::marker::PhantomData;

/// Cells of a table: no label has more values.
const CELLS: usize = 20;

/// A label with a fixed set of values.
pub trait Label: Copy + 'static {
    /// The values, in the order of `index`.
    const ALL: &'static [Self];

    /// The position in `ALL`.
    fn index(self) -> usize;

    /// The value as it stands in the text.
    fn text(self) -> &'static str;
}

macro_rules! label {
    ($(#[$meta:meta])* $name:ident { $($(#[$value:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Copy, Clone, PartialEq, Eq, Debug)]
        pub enum $name {
            $($(#[$value])* $variant,)+
        }

        impl Label for $name {
            const ALL: &'static [$name] = &[$($name::$variant),+];

            fn index(self) -> usize {
                self as usize
            }

            fn text(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }

        const _: () = assert!($name::ALL.len() <= CELLS);
    };
}

label! {
    /// What a connection speaks.
    Dialect {
        /// `tidewheel.v1.json` over WebSocket.
        Native = "native",
        /// Socket.IO over Engine.IO.
        SocketIo = "socketio",
        /// An event stream over HTTP.
        Sse = "sse",
        /// Nothing yet: the request head is still to come.
        Unknown = "unknown",
    }
}

label! {
    /// Where a connection is in its life.
    State {
        /// Accepted; TLS or the HTTP request is under way.
        Handshake = "handshake",
        /// Upgraded, without a user so far.
        Unauthenticated = "unauthenticated",
        /// Has a user.
        Established = "established",
        /// The close is under way.
        Closing = "closing",
    }
}

label! {
    /// Why a connection was turned away before it was one.
    Reject {
        /// Not a request that this listener answers: malformed, not an upgrade, a bad name.
        BadRequest = "bad_request",
        /// The path leads nowhere.
        NotFound = "not_found",
        /// None of the offered subprotocols is spoken here.
        Subprotocol = "subprotocol",
        /// Credentials in a place where they are not allowed.
        Credentials = "credentials",
        /// No room for another connection: HTTP 503.
        Capacity = "capacity",
        /// No memory for another connection (`--memory-budget`): HTTP 503.
        Memory = "memory",
        /// Too many connections from one place or in one second.
        Rate = "rate",
        /// The handshake took too long.
        Timeout = "timeout",
        /// What stands before the handshake was no good PROXY header, or came from no trusted proxy.
        Proxy = "proxy",
        /// The TLS handshake failed.
        Tls = "tls",
        /// The peer went away, or the socket failed.
        Io = "io",
    }
}

label! {
    /// How a credential came.
    AuthWay {
        /// In the `Authorization` header.
        Header = "header",
        /// In a subprotocol entry.
        Subprotocol = "subprotocol",
        /// In the query, where that is allowed.
        Url = "url",
        /// In header fields that the operator's backend judges.
        Fields = "fields",
        /// In the first message.
        Message = "message",
        /// In a later one.
        Refresh = "refresh",
    }
}

label! {
    /// Why nobody was let in.
    AuthRefusal {
        /// There was no credential in time, or another message came first.
        Missing = "missing",
        /// A token that is longer than is looked at.
        TooLong = "too_long",
        /// Not a token at all.
        Malformed = "malformed",
        /// A token that says it is not signed.
        Unsigned = "unsigned",
        /// Signed in a way that is not taken.
        Algorithm = "algorithm",
        /// A header that must be understood, and is not.
        CriticalHeader = "critical_header",
        /// Signed by a key that is not known.
        UnknownKey = "unknown_key",
        /// Not signed by the key that it names.
        Signature = "signature",
        /// A claim is missing, or cannot be used.
        Claim = "claim",
        /// Over its time.
        Expired = "expired",
        /// Not good yet.
        NotYetValid = "not_yet_valid",
        /// From somebody else.
        Issuer = "issuer",
        /// For somebody else.
        Audience = "audience",
        /// A list of rooms that cannot be used.
        Rooms = "rooms",
        /// The operator's backend said no.
        Denied = "denied",
        /// The operator's backend gave no answer that could be used.
        Unavailable = "unavailable",
        /// A refresh in the name of another user.
        OtherUser = "other_user",
        /// The page behind it is not on the list.
        Origin = "origin",
    }
}

impl AuthRefusal {
    /// The reason with this text; `malformed` for one that has none.
    pub fn from_text(text: &str) -> AuthRefusal {
        let known = AuthRefusal::ALL.iter().find(|known| known.text() == text);
        known.copied().unwrap_or(AuthRefusal::Malformed)
    }
}

label! {
    /// Which limit somebody met.
    Limited {
        /// `--limit-connection-messages`: answered with error 4004.
        ConnectionMessages = "connection_messages",
        /// `--limit-connection-bytes`: read more slowly for a while.
        ConnectionBytes = "connection_bytes",
        /// `--limit-connection-joins`: answered with error 4004.
        ConnectionJoins = "connection_joins",
        /// `--limit-connection-control`: closed with 4004.
        ConnectionControl = "connection_control",
        /// `--limit-user-messages`: answered with error 4004.
        UserMessages = "user_messages",
        /// `--limit-user-rooms`: answered with error 4004.
        UserRooms = "user_rooms",
        /// Credentials shown again too often: answered with error 4004.
        Refreshes = "refreshes",
        /// `--limit-address-connects`: answered with HTTP 429.
        AddressConnects = "address_connects",
        /// `--max-connections-per-address`: answered with HTTP 429.
        AddressConnections = "address_connections",
        /// `--max-connections-per-user`: closed with 4100.
        UserConnections = "user_connections",
        /// `--one-connection-per-user`: the older one was closed with 4011.
        Replaced = "replaced",
        /// A ban: closed with 4009.
        Banned = "banned",
    }
}

label! {
    /// What a TLS handshake agreed on.
    TlsVersion {
        /// TLS 1.2.
        V12 = "1.2",
        /// TLS 1.3.
        V13 = "1.3",
    }
}

label! {
    /// Why a TLS stream failed.
    TlsFault {
        /// The peer speaks plain HTTP: answered with 400.
        Http = "http",
        /// The first byte is not that of a TLS handshake.
        NotTls = "not_tls",
        /// No version, cipher suite, group or protocol in common.
        Incompatible = "incompatible",
        /// The peer's certificate is missing or not accepted.
        Certificate = "certificate",
        /// The peer ended the handshake by an alert: it does not like our certificate, most likely.
        Alert = "alert",
        /// The peer does not keep to the protocol.
        Protocol = "protocol",
        /// A message of the handshake is longer than is kept.
        TooLarge = "too_large",
        /// The peer went away, or its time was over, in the middle of the handshake.
        Abandoned = "abandoned",
        /// After the handshake: a record that is forged or too long, too many empty ones, too many
        /// key updates.
        Record = "record",
    }
}

label! {
    /// What a peer asked for.
    CommandType {
        /// `auth`.
        Auth = "auth",
        /// `join_room`.
        JoinRoom = "join_room",
        /// `leave_room`.
        LeaveRoom = "leave_room",
        /// `message`.
        Message = "message",
        /// `direct_message`.
        DirectMessage = "direct_message",
        /// `typing_start`.
        TypingStart = "typing_start",
        /// `typing_stop`.
        TypingStop = "typing_stop",
        /// `read_receipt`.
        ReadReceipt = "read_receipt",
        /// `presence_query`.
        PresenceQuery = "presence_query",
        /// `history_query`.
        HistoryQuery = "history_query",
        /// `ping`.
        Ping = "ping",
        /// Not a command: answered with an error.
        Invalid = "invalid",
    }
}

label! {
    /// What the operator's backend asked of a core.
    AskType {
        /// To publish messages.
        Publish = "publish",
        /// For messages of the past.
        History = "history",
        /// Who is in a room.
        Members = "members",
        /// What is known of a room.
        Room = "room",
        /// Which rooms there are.
        Rooms = "rooms",
        /// To tell everyone something.
        Broadcast = "broadcast",
        /// To tell one user something.
        Direct = "direct",
        /// To put a user into a room.
        Join = "join",
        /// To take a user out of a room.
        Leave = "leave",
        /// How many connections a user has.
        User = "user",
        /// For the largest rooms, the slowest connections, the last evictions.
        Look = "look",
        /// For the metrics.
        Metrics = "metrics",
    }
}

label! {
    /// Which bound a slow consumer passed.
    Eviction {
        /// `--max-lag-bytes`.
        LagBytes = "lag_bytes",
        /// `--max-lag-age`.
        LagAge = "lag_age",
        /// `--memory-budget`: it held the most.
        Memory = "memory",
    }
}

label! {
    /// What memory is held for.
    MemoryKind {
        /// Connections and their places in rooms: a fixed cost for each, and what credentials and
        /// limits remember of them.
        Connections = "connections",
        /// Rooms and who is in them: a fixed cost for each, and what is told about users.
        Rooms = "rooms",
        /// Logs: messages on their way to members.
        Logs = "logs",
        /// Messages that rooms keep.
        History = "history",
        /// Accepted publishes, to recognise a repeat.
        Keys = "keys",
        /// What waits for one connection alone: answers, direct messages; and broadcasts.
        Queues = "queues",
        /// Heads, messages that arrived in part, input of connections that are not read, and what
        /// waits for the verdict of the operator's backend.
        Input = "input",
        /// Messages between cores.
        Bus = "bus",
        /// What waits for the store to be on disk.
        Store = "store",
        /// TLS.
        Tls = "tls",
        /// Kept for the next turn; given back first.
        Spare = "spare",
    }
}

label! {
    /// What a frame is that was offered to a connection.
    Kind {
        /// A message of a room.
        Message = "message",
        /// What a room tells and does not keep: typing, receipts, presence.
        Signal = "signal",
        /// A direct message or a broadcast.
        Direct = "direct",
        /// An answer to one peer, errors included.
        Reply = "reply",
    }
}

label! {
    /// What a core's loop does: the phases of a turn, and the wait for the next.
    Phase {
        /// Nothing: it waits for something to happen, or looks whether something has.
        Wait = "wait",
        /// Reads sockets, TLS handshakes among it, and obeys what is in them.
        Read = "read",
        /// Takes what other cores and the control plane sent.
        Mail = "mail",
        /// Timers, and sends other cores what they are to know.
        Timers = "timers",
        /// Writes to sockets.
        Flush = "flush",
        /// Holds memory against the budget, closes sockets, sends what that led to.
        Act = "act",
        /// Accepts connections.
        Accept = "accept",
    }
}

label! {
    /// Who published.
    Origin {
        /// A client's connection.
        Connection = "connection",
        /// The operator's backend.
        Backend = "backend",
    }
}

/// A counter, or a gauge, for each value of a label.
pub struct Counts<L> {
    cells: [u64; CELLS],
    label: PhantomData<fn(L)>,
}

impl<L: Label> Counts<L> {
    /// The count of one value.
    pub fn of(&self, value: L) -> u64 {
        self.cells[value.index()]
    }

    /// The count of all values.
    pub fn total(&self) -> u64 {
        self.cells.iter().sum()
    }

    /// Counts one more.
    pub fn count(&mut self, value: L) {
        self.add(value, 1);
    }

    /// Counts `n` more.
    pub fn add(&mut self, value: L, n: u64) {
        self.cells[value.index()] += n;
    }

    /// Counts `n` less, where this is a gauge.
    pub fn sub(&mut self, value: L, n: u64) {
        let cell = &mut self.cells[value.index()];
        debug_assert!(*cell >= n, "{} would be below zero", value.text());
        *cell = cell.saturating_sub(n);
    }

    /// Adds another core's counts.
    pub fn merge(&mut self, other: &Counts<L>) {
        for (cell, more) in self.cells.iter_mut().zip(other.cells) {
            *cell += more;
        }
    }

    /// Every value with its count, zeros too.
    pub fn iter(&self) -> impl Iterator<Item = (L, u64)> {
        L::ALL.iter().map(|value| (*value, self.of(*value)))
    }
}

impl<L> Default for Counts<L> {
    fn default() -> Counts<L> {
        Counts {
            cells: [0; CELLS],
            label: PhantomData,
        }
    }
}

impl<L> Clone for Counts<L> {
    fn clone(&self) -> Counts<L> {
        Counts {
            cells: self.cells,
            label: PhantomData,
        }
    }
}

impl<L: Label> fmt::Debug for Counts<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(value, n)| (value.text(), n)))
            .finish()
    }
}

/// The codes that have a cell of their own: the first, and how many. The others share one.
///
/// RFC 6455 §7.4.1 has 1000–1015; the rest are PROTOCOL's, with space for later ones.
const CODES: [(u16, u16); 4] = [(1000, 16), (4000, 32), (4100, 16), (4200, 8)];
const CODE_CELLS: usize = 73;

/// A counter for each code of a close or an error.
#[derive(Clone, Debug)]
pub struct CodeCounts {
    cells: [u64; CODE_CELLS],
}

impl CodeCounts {
    /// The count of `code`, or of all codes without a cell where it has none.
    pub fn of(&self, code: u16) -> u64 {
        self.cells[cell_of(code)]
    }

    /// The count of all codes.
    pub fn total(&self) -> u64 {
        self.cells.iter().sum()
    }

    /// Counts one more.
    pub fn count(&mut self, code: u16) {
        self.add(code, 1);
    }

    /// Counts `n` more.
    pub fn add(&mut self, code: u16, n: u64) {
        self.cells[cell_of(code)] += n;
    }

    /// Adds another core's counts.
    pub fn merge(&mut self, other: &CodeCounts) {
        for (cell, more) in self.cells.iter_mut().zip(other.cells) {
            *cell += more;
        }
    }

    /// The codes that were counted, in order; `None` stands for those without a cell, and is last.
    pub fn iter(&self) -> impl Iterator<Item = (Option<u16>, u64)> {
        let codes = CODES
            .iter()
            .flat_map(|(first, count)| *first..first + count);
        let names = codes.map(Some).chain([None]);
        names.zip(self.cells).filter(|(_, n)| *n > 0)
    }
}

impl Default for CodeCounts {
    fn default() -> CodeCounts {
        CodeCounts {
            cells: [0; CODE_CELLS],
        }
    }
}

fn cell_of(code: u16) -> usize {
    let mut cells_before = 0;
    for (first, count) in CODES {
        if (first..first + count).contains(&code) {
            return usize::from(cells_before + (code - first));
        }
        cells_before += count;
    }
    CODE_CELLS - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_table_has_a_cell_of_its_own() {
        let mut counts = CodeCounts::default();
        let mut expected = Vec::new();
        for (n, code) in CODES
            .iter()
            .flat_map(|(first, len)| *first..first + len)
            .enumerate()
        {
            counts.add(code, n as u64 + 1);
            expected.push((Some(code), n as u64 + 1));
        }
        assert_eq!(expected.len(), CODE_CELLS - 1);
        for code in [0, 999, 1016, 3999, 4032, 4116, 4999, u16::MAX] {
            counts.count(code);
        }
        expected.push((None, 8));
        assert_eq!(counts.iter().collect::<Vec<_>>(), expected);
        assert_eq!(counts.of(4999), 8);
    }

    #[test]
    fn a_label_counts_where_its_name_says() {
        let mut counts = Counts::<CommandType>::default();
        for (n, command) in CommandType::ALL.iter().enumerate() {
            assert_eq!(command.index(), n);
            counts.add(*command, n as u64);
        }
        counts.sub(CommandType::Ping, 3);
        counts.count(CommandType::Auth);
        assert_eq!(counts.of(CommandType::Ping), 7);
        assert_eq!(counts.total(), 66 - 3 + 1);
        assert!(format!("{counts:?}").contains("\"history_query\": 9"));
    }
}
