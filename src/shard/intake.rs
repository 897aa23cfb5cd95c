//! What peers send: bytes, frames, commands.

use std::sync::Arc;

use crate::bus::{Ask, BusMessage, CREDITS, PUBLISH_CREDITS, Peer, Publish};
use crate::codec::websocket::{
    CloseFrame, Control, Data, Item, Limits, OpCode, encode_close, encode_frame,
};
use crate::gate::Wish;
use crate::metrics::CommandType;
use crate::protocol::{Code, Command, Event, Malformed, Request};
use crate::session::Class;
use crate::shard::Shard;
use crate::shard::authentication::AUTH_MESSAGE_BYTES_MAX;
use crate::shard::config::{ECHO_FRAGMENTS_MAX, ECHO_MESSAGE_BYTES_MAX};
use crate::shard::connection::{Connection, Phase, Subscription};
use crate::shard::homes::{Publication, Publisher};
use crate::shard::limits::room_of;
use crate::shard::memory::held_bytes;
use crate::time::Now;

impl Shard {
    /// Bytes arrived on a connection. They are changed in place.
    pub fn handle_bytes(&mut self, now: Now, index: u32, input: &mut [u8]) {
        self.set_now(now);
        self.metrics.traffic.bytes_in += input.len() as u64;
        self.note_alive(index);
        let bytes = input.len();
        self.take_in(index, input);
        self.throttle(index, bytes);
    }

    /// What held a connection up is over: goes on with what had been read before.
    pub fn handle_resume(&mut self, now: Now, index: u32) {
        self.set_now(now);
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if connection.paused {
            return;
        }
        let Some(mut held) = connection.take_held() else {
            return;
        };
        let before = held_bytes(Some(&held));
        let mut unread = std::mem::take(&mut held.unread);
        if !held.head.is_empty() {
            connection.put_held(held);
        }
        self.memory
            .note_input(before, held_bytes(connection.known_held()));
        self.take_in(index, &mut unread);
    }

    /// The socket takes bytes again.
    pub fn handle_writable(&mut self, now: Now, index: u32) {
        self.set_now(now);
        if self
            .connections
            .get(index)
            .is_some_and(|connection| connection.blocked)
        {
            self.unblock(index);
            self.queue_connection(index);
        }
    }

    /// The peer has shut its sending side, or the socket is broken.
    pub fn handle_end(&mut self, now: Now, index: u32) {
        self.set_now(now);
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if connection.phase == Phase::Closing && !connection.ended {
            // It may have shut its sending side only, and still wait for its last bytes. If not,
            // the next write fails.
            connection.ended = true;
            return self.queue_connection(index);
        }
        // RFC 6455 §7.1.5: without a close frame the code is 1006.
        self.drop_connection(index, 1006);
    }

    pub(super) fn note_alive(&mut self, index: u32) {
        let now_ms = self.now_ms();
        if let Some(connection) = self.connections.get_mut(index) {
            connection.alive_at_ms = now_ms;
        }
    }

    fn take_in(&mut self, index: u32, mut input: &mut [u8]) {
        while !input.is_empty() {
            let Some(connection) = self.connections.get_mut(index) else {
                return;
            };
            if connection.paused {
                let before = held_bytes(connection.known_held());
                let held = connection.held();
                held.unread.extend_from_slice(input);
                self.memory.note_input(before, held_bytes(Some(held)));
                return;
            }
            let taken = match connection.phase {
                Phase::Head => self.take_head(index, input),
                Phase::Awaiting | Phase::Native | Phase::Echo => self.take_frame(index, input),
                // Thrown away, so that the last bytes of ours arrive.
                Phase::Closing | Phase::Lingering => return,
            };
            input = input.get_mut(taken..).unwrap_or_default();
        }
    }

    fn take_frame(&mut self, index: u32, input: &mut [u8]) -> usize {
        let all = input.len();
        let Some(connection) = self.connections.get_mut(index) else {
            return all;
        };
        let echo = connection.phase == Phase::Echo;
        let awaiting = connection.phase == Phase::Awaiting;
        let limits = if echo {
            Limits {
                message_bytes_max: ECHO_MESSAGE_BYTES_MAX,
                fragments_max: ECHO_FRAGMENTS_MAX,
            }
        } else {
            let Shard { config, .. } = self;
            let most = if awaiting {
                AUTH_MESSAGE_BYTES_MAX
            } else {
                usize::MAX
            };
            Limits {
                message_bytes_max: config.message_bytes_max.min(most),
                fragments_max: config.fragments_max,
            }
        };
        let before = connection.decoder.heap_bytes();
        let decoded = connection.decoder.decode(input, &limits);
        let after = connection.decoder.heap_bytes();
        self.memory.note_input(before, after);
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(fault) => {
                self.begin_close(index, fault.close_code(), &fault.to_string());
                return all;
            }
        };
        let taken = decoded.consumed;
        match decoded.item {
            None => {}
            Some(Item::Ping(_) | Item::Pong(_)) if !self.admit_control(index) => {}
            Some(Item::Ping(payload)) => {
                // RFC 6455 §5.5.3: the answer carries the same application data.
                self.push_raw(index, OpCode::Control(Control::Pong), &payload);
            }
            Some(Item::Pong(_)) => {}
            Some(Item::Close(frame)) => self.close_answering(index, frame),
            Some(Item::Text(text)) if echo => self.push_raw(index, OpCode::Data(Data::Text), &text),
            Some(Item::Binary(bytes)) if echo => {
                self.push_raw(index, OpCode::Data(Data::Binary), &bytes);
            }
            Some(Item::Binary(_)) => self.close_with(index, Code::UnsupportedData),
            Some(Item::Text(text)) => self.take_text(index, text.as_str()),
        }
        taken
    }

    /// RFC 6455 §5.5.1: the answer to a close frame is one with the same code.
    fn close_answering(&mut self, index: u32, frame: Option<CloseFrame>) {
        let mut answer = Vec::new();
        let code = match frame {
            Some(frame) => {
                encode_close(u16::from(frame.code), "", &mut answer);
                u16::from(frame.code)
            }
            None => {
                encode_frame(OpCode::Control(Control::Close), b"", &mut answer);
                // RFC 6455 §7.1.5: a close frame without a code counts as 1005.
                1005
            }
        };
        self.begin_close_with(index, code, &answer);
    }

    /// Queues a frame that is no message to anyone.
    pub(super) fn push_raw(&mut self, index: u32, opcode: OpCode, payload: &[u8]) {
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        encode_frame(opcode, payload, &mut frame);
        let now = self.now.mono;
        if let Some(connection) = self.connections.get_mut(index) {
            connection
                .queue_from(&mut self.queues)
                .push(&frame, 0, Class::Raw, now);
        }
        frame.shrink_to(64 * 1024);
        self.scratch = frame;
        self.queue_connection(index);
        self.pause_if_needed(index);
    }

    /// Stops reading a connection that asks for more than it takes.
    pub(super) fn pause_if_needed(&mut self, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        // A closing one is read to its end, or its close frame would not arrive.
        if matches!(connection.phase, Phase::Closing | Phase::Lingering) {
            return;
        }
        let answers = connection.queue.as_ref().map_or(0, |q| q.answer_bytes());
        if answers > self.relief.answer_bytes_max || connection.credits_held >= CREDITS {
            connection.paused = true;
        }
    }

    /// Reads a connection again whose answers have been given and taken.
    pub(super) fn resume_if_paused(&mut self, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let answers = connection.queue.as_ref().map_or(0, |q| q.answer_bytes());
        let free = answers <= self.relief.answer_bytes_max
            && connection.credits_held < CREDITS
            && !connection.is_throttled();
        if connection.paused && free {
            connection.paused = false;
            self.resumed.push(index);
        }
    }

    fn take_text(&mut self, index: u32, text: &str) {
        let mut parser = self.parser.take().unwrap_or_default();
        let is_first = self
            .connections
            .get(index)
            .is_some_and(|c| c.phase == Phase::Awaiting);
        match parser.parse(text) {
            first if is_first => {
                let kind = first.as_ref().map(|request| command_type(&request.command));
                let kind = kind.unwrap_or(CommandType::Invalid);
                self.metrics.traffic.commands.count(kind);
                self.take_first(index, &first);
            }
            Ok(request) => {
                self.metrics
                    .traffic
                    .commands
                    .count(command_type(&request.command));
                match self.excess(index, Some(&request.command)) {
                    None => self.obey(index, &request),
                    Some(excess) => {
                        let room = room_of(&request.command);
                        self.refuse_excess(index, excess, room, request.correlation_id);
                    }
                }
            }
            Err(malformed) => {
                self.metrics.traffic.commands.count(CommandType::Invalid);
                match self.excess(index, None) {
                    None => self.scold(index, &malformed),
                    Some(excess) => {
                        let id = malformed.correlation_id.as_deref();
                        self.refuse_excess(index, excess, malformed.room.as_deref(), id);
                    }
                }
            }
        }
        self.parser = Some(parser);
        self.pause_if_needed(index);
    }

    /// Answers a message that is none of the protocol's; closes when there were too many.
    fn scold(&mut self, index: u32, malformed: &Malformed) {
        let code = Code::InvalidMessageFormat;
        let room = malformed.room.as_deref();
        self.refuse(
            index,
            code,
            &malformed.message,
            room,
            malformed.correlation_id.as_deref(),
        );
        let (now, max) = (self.now.mono, self.config.protocol_errors_max);
        if let Some(connection) = self.connections.get_mut(index)
            && !connection.faults.spend(now, max)
        {
            self.close_with(index, code);
        }
    }

    /// Answers with an error.
    pub(super) fn refuse(
        &mut self,
        index: u32,
        code: Code,
        message: &str,
        room: Option<&str>,
        correlation_id: Option<&str>,
    ) {
        self.metrics.traffic.errors.count(code as u16);
        self.answer(
            index,
            &Event::Error {
                code,
                message,
                room,
            },
            correlation_id,
        );
    }

    /// Does what a peer asks. Sessions and rooms meet here.
    fn obey(&mut self, index: u32, request: &Request<'_>) {
        let id = request.correlation_id;
        match request.command {
            Command::Auth { token } => self.refresh(index, token, id),
            Command::JoinRoom {
                room,
                history,
                recover,
                presence,
            } => {
                let history = history.unwrap_or(0);
                let info = self.info_of(index);
                self.join(
                    index,
                    room,
                    Ask::Join {
                        history,
                        recover,
                        presence,
                        info,
                    },
                    id,
                );
            }
            Command::LeaveRoom { room } => {
                if self.is_subscribed(index, room) {
                    self.ask(index, room, Ask::Leave { answer: true }, id);
                } else {
                    self.answer(index, &Event::RoomLeft { room }, id);
                }
            }
            Command::Message { room, payload } => {
                let publication = Publication {
                    payload,
                    message_id: request.message_id,
                    echo: request.echo,
                };
                self.publish(index, room, publication, id);
            }
            Command::DirectMessage { user_id, data } => {
                if self.may_write_or_refuse(index, id) {
                    self.send_direct(index, user_id, data, request.message_id, id);
                }
            }
            Command::TypingStart { room } => {
                self.signal(index, room, Ask::Typing { start: true }, id);
            }
            Command::TypingStop { room } => {
                self.signal(index, room, Ask::Typing { start: false }, id);
            }
            Command::ReadReceipt { room, offset } => {
                self.signal(index, room, Ask::Read { offset }, id);
            }
            Command::PresenceQuery { room } => {
                let hash = self.placement.hash_one(room);
                if self.permits_or_refuses(index, (hash, room), Wish::Members, id) {
                    self.ask(index, room, Ask::Members, id);
                }
            }
            Command::HistoryQuery { room, since, limit } => {
                let hash = self.placement.hash_one(room);
                if self.permits_or_refuses(index, (hash, room), Wish::History, id) {
                    self.ask(index, room, Ask::History { since, limit }, id);
                }
            }
            Command::Ping { payload } => self.answer(index, &Event::Pong { payload }, id),
        }
    }

    pub(super) fn is_subscribed(&mut self, index: u32, room: &str) -> bool {
        let Some(local) = self.locals.find(self.placement.hash_one(room), room) else {
            return false;
        };
        let connection = self.connections.get_mut(index);
        connection.is_some_and(|c| c.subscription(local).is_some())
    }

    pub(super) fn join(&mut self, index: u32, room: &str, ask: Ask, correlation_id: Option<&str>) {
        // One that was turned away when it was established may still name a room in its URL.
        if !self.is_native(index) {
            return;
        }
        let wish = match ask {
            Ask::Join {
                history,
                recover,
                presence,
                ..
            } => Wish::Join {
                history: history > 0 || recover.is_some(),
                presence: presence == Some(true),
            },
            _ => return,
        };
        let hash = self.placement.hash_one(room);
        if self.permits_or_refuses(index, (hash, room), wish, correlation_id) {
            self.ask_to_join(index, (hash, room), ask, correlation_id);
        }
    }

    /// Asks a room's home to let a connection in that may be there, unless it is in as many as it may
    /// be.
    pub(super) fn ask_to_join(
        &mut self,
        index: u32,
        (hash, room): (u64, &str),
        ask: Ask,
        correlation_id: Option<&str>,
    ) {
        if !self.is_subscribed(index, room) {
            let max = self.config.rooms_per_connection_max;
            let Some(connection) = self.connections.get(index) else {
                return;
            };
            let count = connection.subscriptions.len();
            if count >= max {
                let message = format!(
                    "this connection is in {count} rooms, and {max} is the most; leave one first"
                );
                let code = Code::TooManyRooms;
                return self.refuse(index, code, &message, Some(room), correlation_id);
            }
            let local = self.hold_local(hash, room);
            if let Some(connection) = self.connections.get_mut(index) {
                connection.subscriptions.push(Subscription::pending(local));
            }
        }
        self.ask(index, room, ask, correlation_id);
    }

    /// Typing and receipts pass between members only.
    fn signal(&mut self, index: u32, room: &str, ask: Ask, correlation_id: Option<&str>) {
        let wish = match ask {
            Ask::Typing { .. } => Wish::Typing,
            _ => Wish::Receipt,
        };
        let hash = self.placement.hash_one(room);
        if !self.permits_or_refuses(index, (hash, room), wish, correlation_id) {
            return;
        }
        if self.is_subscribed(index, room) {
            return self.ask(index, room, ask, correlation_id);
        }
        let message = "typing and read receipts are for members of the room; join it first";
        self.refuse(
            index,
            Code::PermissionDenied,
            message,
            Some(room),
            correlation_id,
        );
    }

    /// What others are told about a connection's user in presence.
    pub(super) fn info_of(&self, index: u32) -> Option<Arc<[u8]>> {
        let pass = self.connections.get(index)?.pass()?;
        pass.grant.as_ref()?.info.clone()
    }

    /// Puts a question to a room's home: a call where that is this core, else a message.
    pub(super) fn ask(&mut self, index: u32, room: &str, ask: Ask, correlation_id: Option<&str>) {
        let Some(peer) = self.peer(index) else { return };
        let hash = self.placement.hash_one(room);
        let home = self.home_of(hash);
        if home == self.config.core {
            return self.home_call(hash, room, &peer, correlation_id, ask);
        }
        if let Some(connection) = self.connections.get_mut(index) {
            connection.credits_held += ask.credits();
        }
        self.send_call(home, self.key(hash, room), peer, correlation_id, ask);
    }

    /// Hands a message to a room's home: a call where that is this core, else a message.
    fn publish(
        &mut self,
        index: u32,
        room: &str,
        publication: Publication<'_>,
        correlation_id: Option<&str>,
    ) {
        let Some(peer) = self.peer(index) else { return };
        let hash = self.placement.hash_one(room);
        let wish = Wish::Publish {
            bytes: publication.payload.len(),
        };
        if !self.permits_or_refuses(index, (hash, room), wish, correlation_id) {
            return;
        }
        let home = self.home_of(hash);
        if home == self.config.core {
            return self.home_publish(
                hash,
                room,
                Publisher::Peer(&peer, correlation_id),
                publication,
            );
        }
        if let Some(connection) = self.connections.get_mut(index) {
            connection.credits_held += PUBLISH_CREDITS;
        }
        let room = self.key(hash, room);
        let Publication {
            payload,
            message_id,
            echo,
        } = publication;
        self.send(home, |batch| {
            BusMessage::Publish(Publish {
                room,
                peer,
                correlation_id: correlation_id.map(|id| batch.keep_text(id)),
                payload: batch.keep(payload),
                message_id: message_id.map(|id| batch.keep_text(id)),
                echo,
            })
        });
    }

    pub(super) fn peer(&self, index: u32) -> Option<Peer> {
        let connection = self.reference(index)?;
        let Connection {
            client_id, user, ..
        } = self.connections.get(index)?;
        Some(Peer {
            connection,
            client_id: *client_id,
            user: user.clone(),
        })
    }
}

fn command_type(command: &Command<'_>) -> CommandType {
    match command {
        Command::Auth { .. } => CommandType::Auth,
        Command::JoinRoom { .. } => CommandType::JoinRoom,
        Command::LeaveRoom { .. } => CommandType::LeaveRoom,
        Command::Message { .. } => CommandType::Message,
        Command::DirectMessage { .. } => CommandType::DirectMessage,
        Command::TypingStart { .. } => CommandType::TypingStart,
        Command::TypingStop { .. } => CommandType::TypingStop,
        Command::ReadReceipt { .. } => CommandType::ReadReceipt,
        Command::PresenceQuery { .. } => CommandType::PresenceQuery,
        Command::HistoryQuery { .. } => CommandType::HistoryQuery,
        Command::Ping { .. } => CommandType::Ping,
    }
}
