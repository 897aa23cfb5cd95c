//! An [`Event`] as the bytes of a whole WebSocket frame, built once and in place.

use super::write::Writer;
use crate::protocol::SUBPROTOCOL;
use crate::protocol::event::{Event, Member, PresenceChange, Sender};
use crate::protocol::ids::{Epoch, MessageId, Offset, UserId};

/// Appends to `out` one whole, unmasked text frame (RFC 6455 §5.2) that holds `event`.
///
/// `correlation_id` belongs to replies and errors: it is the one of the request.
///
/// The body is written straight behind the room for a header of the length that the event will
/// probably need. Only where that was wrong, or the body is shorter than 126 bytes, it moves.
pub fn encode(event: &Event<'_>, correlation_id: Option<&str>, out: &mut Vec<u8>) {
    let data_len = data_len(event);
    out.reserve(data_len + ENVELOPE_BYTES);
    let start = out.len();
    let guessed = header_len(data_len + ENVELOPE_BYTES);
    let body_at = start + guessed;
    out.resize(body_at, 0);
    encode_body(event, correlation_id, out);
    let body_len = out.len() - body_at;
    let needed = header_len(body_len);
    if needed < guessed {
        out.copy_within(body_at.., start + needed);
        out.truncate(start + needed + body_len);
    } else if needed > guessed {
        out.resize(start + needed + body_len, 0);
        out.copy_within(body_at..body_at + body_len, start + needed);
    }
    let (header, len) = header(body_len);
    for (place, byte) in out.iter_mut().skip(start).zip(header.iter().take(len)) {
        *place = *byte;
    }
}

/// The beginning of an object of some type, in one piece.
macro_rules! start {
    ($kind:literal) => {
        concat!("{\"type\":\"", $kind, "\"")
    };
}

/// What an envelope takes around its data, roughly: it may be more or less.
const ENVELOPE_BYTES: usize = 256;

/// The length of the application data within `event`, which may be large.
fn data_len(event: &Event<'_>) -> usize {
    match event {
        Event::Message { payload, .. } | Event::Broadcast { payload } => payload.len(),
        Event::DirectMessage { data, .. } => data.len(),
        Event::Pong { payload } => payload.map_or(0, <[u8]>::len),
        Event::History { messages, .. } => messages.iter().map(|message| message.len() + 1).sum(),
        _ => 0,
    }
}

/// RFC 6455 §5.2: the minimal number of bytes must be used to encode the length.
fn header_len(body_len: usize) -> usize {
    header(body_len).1
}

/// The header of a final text frame that is not masked, and how many of the bytes it has.
fn header(body_len: usize) -> ([u8; 10], usize) {
    const FIN_TEXT: u8 = 0x81;
    let mut header = [FIN_TEXT, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let len = body_len as u64;
    let [.., high, low] = len.to_be_bytes();
    if len < 126 {
        header[1] = low;
        (header, 2)
    } else if len <= u64::from(u16::MAX) {
        header[1..4].copy_from_slice(&[126, high, low]);
        (header, 4)
    } else {
        header[1] = 127;
        header[2..].copy_from_slice(&len.to_be_bytes());
        (header, 10)
    }
}

/// Appends to `out` the JSON object of `event` alone, for dialects with framing of their own.
pub fn encode_body(event: &Event<'_>, correlation_id: Option<&str>, out: &mut Vec<u8>) {
    let mut body = Writer { out };
    let metadata = body.event(event);
    body.metadata(&metadata, correlation_id);
    body.raw("}");
}

/// What `metadata` says, apart from the `correlation_id`.
enum Metadata<'a> {
    Nothing,
    User(&'a UserId),
    Publication {
        message_id: MessageId<'a>,
        unix_ms: u64,
        sender: Option<Sender<'a>>,
    },
}

impl Writer<'_> {
    /// Everything up to `metadata`.
    fn event<'a>(&mut self, event: &Event<'a>) -> Metadata<'a> {
        match *event {
            Event::Message {
                room,
                offset,
                payload,
                message_id,
                unix_ms,
                sender,
            } => {
                self.open(start!("message"), Some(room))
                    .raw(",\"offset\":")
                    .number(offset.0);
                self.raw(",\"payload\":").raw(payload);
                return Metadata::Publication {
                    message_id,
                    unix_ms,
                    sender,
                };
            }
            Event::DirectMessage {
                data,
                message_id,
                unix_ms,
                sender,
            } => {
                self.open(start!("direct_message"), None)
                    .raw(",\"payload\":{\"data\":")
                    .raw(data)
                    .raw("}");
                return Metadata::Publication {
                    message_id,
                    unix_ms,
                    sender,
                };
            }
            Event::Typing {
                room,
                start,
                user_id,
            } => {
                self.open(
                    if start {
                        start!("typing_start")
                    } else {
                        start!("typing_stop")
                    },
                    Some(room),
                );
                return Metadata::User(user_id);
            }
            Event::ReadReceipt {
                room,
                offset,
                user_id,
            } => {
                self.open(start!("read_receipt"), Some(room))
                    .raw(",\"payload\":{\"offset\":");
                self.number(offset.0).raw("}");
                return Metadata::User(user_id);
            }
            Event::ConnectionEstablished {
                client_id,
                user_id,
                server_time_unix_ms,
                heartbeat_interval_ms,
                max_message_bytes,
            } => {
                self.open(start!("connection_established"), None)
                    .raw(",\"payload\":{\"client_id\":\"");
                self.raw(client_id.text().as_bytes())
                    .raw("\",\"user_id\":")
                    .user_id(user_id);
                self.raw(",\"server_time\":").timestamp(server_time_unix_ms);
                self.raw(",\"protocol\":").string(SUBPROTOCOL);
                self.raw(",\"heartbeat_interval_ms\":")
                    .number(heartbeat_interval_ms);
                self.raw(",\"max_message_bytes\":")
                    .number(max_message_bytes)
                    .raw("}")
            }
            Event::AuthResponse {
                user_id,
                expires_at_unix_ms,
            } => {
                self.open(start!("auth_response"), None)
                    .raw(",\"payload\":{\"user_id\":")
                    .user_id(user_id);
                if let Some(unix_ms) = expires_at_unix_ms {
                    self.raw(",\"expires_at\":").timestamp(unix_ms);
                }
                self.raw("}")
            }
            Event::RoomJoined {
                room,
                offset,
                epoch,
                recovered,
                members,
            } => {
                self.open(start!("room_joined"), Some(room))
                    .raw(",\"payload\":{")
                    .position(epoch, offset);
                self.raw(",\"recovered\":").boolean(recovered);
                self.raw(",\"members\":").number(members).raw("}")
            }
            Event::RoomLeft { room } => self
                .open(start!("room_left"), Some(room))
                .raw(",\"payload\":{}"),
            Event::MessageSent {
                room,
                position,
                message_id,
            } => {
                self.open(start!("message_sent"), room)
                    .raw(",\"payload\":{");
                if let Some((epoch, offset)) = position {
                    self.position(epoch, offset).raw(",");
                }
                self.raw("\"message_id\":").message_id(message_id).raw("}")
            }
            Event::PresenceUpdate {
                room,
                change,
                count,
            } => {
                self.open(start!("presence_update"), Some(room))
                    .raw(",\"payload\":{\"event\":");
                self.presence_change(change)
                    .raw(",\"count\":")
                    .number(count)
                    .raw("}")
            }
            Event::MessagesMissed { room, from, to } => {
                self.open(start!("messages_missed"), Some(room))
                    .raw(",\"payload\":{\"from\":");
                self.number(from.0).raw(",\"to\":").number(to.0).raw("}")
            }
            Event::ServerShutdown { reconnect_after_ms } => {
                self.open(start!("server_shutdown"), None)
                    .raw(",\"payload\":{\"reconnect_after_ms\":");
                self.number(reconnect_after_ms).raw("}")
            }
            Event::TokenExpiring { expires_in_ms } => {
                self.open(start!("token_expiring"), None)
                    .raw(",\"payload\":{\"expires_in_ms\":");
                self.number(expires_in_ms).raw("}")
            }
            Event::RoomMembers {
                room,
                count,
                members,
            } => {
                self.open(start!("room_members"), Some(room))
                    .raw(",\"payload\":{\"count\":");
                self.number(count).raw(",\"members\":");
                self.list(members, Writer::member).raw("}")
            }
            Event::History {
                room,
                messages,
                offset,
                epoch,
                complete,
            } => {
                self.open(start!("history"), Some(room))
                    .raw(",\"payload\":{\"messages\":");
                self.list(messages, |body, message| {
                    body.raw(message);
                });
                self.raw(",").position(epoch, offset);
                self.raw(",\"complete\":").boolean(complete).raw("}")
            }
            Event::Error {
                code,
                message,
                room,
            } => {
                self.open(start!("error"), room)
                    .raw(",\"payload\":{\"code\":")
                    .number(code.number().into());
                self.raw(",\"message\":").string(message).raw("}")
            }
            Event::Pong { payload: None } => self.open(start!("pong"), None),
            Event::Pong {
                payload: Some(payload),
            } => self
                .open(start!("pong"), None)
                .raw(",\"payload\":")
                .raw(payload),
            Event::Broadcast { payload } => self
                .open(start!("broadcast"), None)
                .raw(",\"payload\":")
                .raw(payload),
        };
        Metadata::Nothing
    }

    /// Begins an object with its type, as [`start!`] writes it, and its room.
    fn open(&mut self, start: &'static str, room: Option<&str>) -> &mut Self {
        self.raw(start);
        if let Some(room) = room {
            self.raw(",\"room\":").string(room);
        }
        self
    }

    fn position(&mut self, epoch: Epoch, offset: Offset) -> &mut Self {
        self.raw("\"offset\":").number(offset.0);
        self.raw(",\"epoch\":\"")
            .raw(epoch.text().as_bytes())
            .raw("\"")
    }

    fn presence_change(&mut self, change: PresenceChange<'_>) -> &mut Self {
        match change {
            PresenceChange::Join { user_id, info } => self
                .raw("\"join\",\"user_id\":")
                .user_id(user_id)
                .info(info),
            PresenceChange::Leave { user_id, info } => self
                .raw("\"leave\",\"user_id\":")
                .user_id(user_id)
                .info(info),
            PresenceChange::Summary { joined, left } => self
                .raw("\"summary\",\"joined\":")
                .number(joined)
                .raw(",\"left\":")
                .number(left),
        }
    }

    fn member(&mut self, member: &Member<'_>) {
        self.raw("{\"user_id\":").user_id(member.user_id);
        self.raw(",\"connections\":").number(member.connections);
        if let Some(read) = member.read {
            self.raw(",\"read\":").number(read.0);
        }
        self.info(member.info).raw("}");
    }

    fn info(&mut self, info: Option<&[u8]>) -> &mut Self {
        match info {
            Some(info) => self.raw(",\"info\":").raw(info),
            None => self,
        }
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) -> &mut Self {
        self.raw("[");
        for (n, item) in items.iter().enumerate() {
            if n > 0 {
                self.raw(",");
            }
            write(self, item);
        }
        self.raw("]")
    }

    /// `metadata`, if there is anything to say.
    fn metadata(&mut self, metadata: &Metadata<'_>, correlation_id: Option<&str>) {
        let mut before = ",\"metadata\":{";
        if let Some(correlation_id) = correlation_id {
            self.raw(before)
                .raw("\"correlation_id\":")
                .string(correlation_id);
            before = ",";
        }
        match *metadata {
            Metadata::Nothing if correlation_id.is_none() => return,
            Metadata::Nothing => {}
            Metadata::User(user_id) => {
                self.raw(before).raw("\"user_id\":").user_id(user_id);
            }
            Metadata::Publication {
                message_id,
                unix_ms,
                sender,
            } => {
                self.raw(before)
                    .raw("\"message_id\":")
                    .message_id(message_id);
                self.raw(",\"timestamp\":").timestamp(unix_ms);
                if let Some(Sender { client_id, user_id }) = sender {
                    self.raw(",\"client_id\":\"")
                        .raw(client_id.text().as_bytes());
                    self.raw("\",\"user_id\":").user_id(user_id);
                }
            }
        }
        self.raw("}");
    }
}
