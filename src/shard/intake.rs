//! What peers send: HTTP heads, frames, commands.

use std::borrow::Cow;
use std::time::Duration;

use crate::bus::{Ask, CREDITS, Peer};
use crate::codec::http::{HeadFault, HeadLimits, Response, encode_response, parse_head};
use crate::codec::websocket::{
    CloseFrame, Control, Data, Item, Limits, OpCode, encode_close, encode_frame, encode_upgrade,
};
use crate::gate::{Entry, Refusal, Route, route};
use crate::metrics::{CommandType, Reject};
use crate::protocol::{ClientId, Code, Command, Event, Malformed, Request, UserId};
use crate::session::Class;
use crate::shard::config::{ECHO_FRAGMENTS_MAX, ECHO_MESSAGE_BYTES_MAX};
use crate::shard::connection::{Connection, Held, NONE, Phase, Subscription, Timer};
use crate::shard::{Shard, mix};
use crate::time::Now;

/// Header fields of an HTTP head at most.
const HEADERS_MAX: usize = 100;

/// What the demo page may do: its own inline code, and nothing from elsewhere.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
     img-src data:; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// What a complete head leads to, owning what it holds.
enum Decision {
    Answer {
        response: Vec<u8>,
        reject: Option<Reject>,
    },
    Native {
        response: Vec<u8>,
        room: Option<String>,
        user: Option<String>,
    },
    Echo {
        response: Vec<u8>,
    },
}

impl Shard {
    /// A socket was accepted: its index from now on.
    pub fn handle_accept(&mut self, now: Now) -> u32 {
        self.set_now(now);
        let client_id = self.name_client();
        let now_ms = self.now_ms();
        let place = self.connections.next_index() as usize;
        if self.generations.len() <= place {
            self.generations.resize(place + 1, 0);
        }
        let generation = self.generations.get(place).copied().unwrap_or_default();
        let mut connection = Connection::new(generation, client_id, now_ms);
        let due = self.now.mono + self.config.handshake_timeout;
        connection.deadline = Some(self.wheel.insert(due, Timer::Handshake(place as u32)));
        let index = self.connections.insert(connection);
        self.metrics.connections.accepted += 1;
        let (dialect, state) = super::gauge(Phase::Head);
        self.metrics.connections.enter(dialect, state);
        index
    }

    /// A socket was accepted that there is no room for: it is told so.
    pub fn handle_refused(&mut self, now: Now, retry_after: Duration) -> u32 {
        let index = self.handle_accept(now);
        self.metrics.connections.rejected.count(Reject::Capacity);
        self.begin_close_with(index, 1000, &Shard::refusal(retry_after));
        index
    }

    /// What a peer is told that there is no room for.
    pub fn refusal(retry_after: Duration) -> Vec<u8> {
        let seconds = retry_after.as_secs_f64().ceil().to_string();
        let refusal = Response {
            status: 503,
            content_type: "text/plain; charset=utf-8",
            headers: &[("Retry-After", &seconds)],
            body: b"this server has as many connections as it may have; try again later\n",
        };
        let mut response = Vec::new();
        encode_response(&refusal, false, &mut response);
        response
    }

    /// Ids that nobody can guess the next of by looking at one, and that never repeat on a node.
    fn name_client(&mut self) -> ClientId {
        let number =
            self.clients_named * u64::from(self.config.cores) + u64::from(self.config.core.0);
        self.clients_named += 1;
        ClientId(mix(self.config.seed.wrapping_add(number)))
    }

    /// Bytes arrived on a connection. They are changed in place.
    pub fn handle_bytes(&mut self, now: Now, index: u32, input: &mut [u8]) {
        self.set_now(now);
        self.metrics.traffic.bytes_in += input.len() as u64;
        self.note_alive(index);
        self.take_in(index, input);
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
        let Some(held) = connection.held.as_mut() else {
            return;
        };
        let mut unread = std::mem::take(&mut held.unread);
        if held.head.is_empty() {
            connection.held = None;
        }
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
                let held = connection.held.get_or_insert_with(Box::<Held>::default);
                held.unread.extend_from_slice(input);
                return;
            }
            let taken = match connection.phase {
                Phase::Head => self.take_head(index, input),
                Phase::Native | Phase::Echo => self.take_frame(index, input),
                // Thrown away, so that the last bytes of ours arrive.
                Phase::Closing | Phase::Lingering => return,
            };
            input = input.get_mut(taken..).unwrap_or_default();
        }
    }

    fn take_head(&mut self, index: u32, bytes: &[u8]) -> usize {
        let limits = HeadLimits {
            bytes_max: self.config.head_bytes_max,
            headers_max: HEADERS_MAX,
        };
        let Some(connection) = self.connections.get_mut(index) else {
            return bytes.len();
        };
        let mut held = connection.held.take();
        let before = held.as_ref().map_or(0, |held| held.head.len());
        let read = match &mut held {
            // Nearly every head comes in one piece, and is read where it lies.
            None => parse_head(bytes, &limits),
            Some(held) => {
                held.head.extend_from_slice(bytes);
                held.reader.read(&held.head, &limits)
            }
        };
        let (decision, taken) = match read {
            Ok(Some((head, len))) => {
                let decision = decide(route(&head, self.config.echo), self.config.page);
                (decision, len.saturating_sub(before))
            }
            Ok(None) => {
                connection.held = held.or_else(|| Some(Box::new(Held::of_head(bytes))));
                return bytes.len();
            }
            Err(fault) => (refuse_head(fault), bytes.len()),
        };
        self.act_on(index, decision);
        taken
    }

    fn act_on(&mut self, index: u32, decision: Decision) {
        match decision {
            Decision::Answer { response, reject } => {
                if let Some(reject) = reject {
                    self.metrics.connections.rejected.count(reject);
                }
                self.begin_close_with(index, 1000, &response);
            }
            Decision::Echo { response } => {
                self.open(index, Phase::Echo, &response);
            }
            Decision::Native {
                response,
                room,
                user,
            } => {
                self.open(index, Phase::Native, &response);
                if let Some(name) = user
                    && let Some(connection) = self.connections.get_mut(index)
                {
                    connection.user = UserId::from_name(&name);
                }
                self.establish(index);
                if let Some(room) = room {
                    self.join(
                        index,
                        &room,
                        Ask::Join {
                            history: 0,
                            recover: None,
                            presence: None,
                        },
                        None,
                    );
                }
            }
        }
    }

    fn open(&mut self, index: u32, phase: Phase, response: &[u8]) {
        self.set_phase(index, phase);
        let now = self.now.mono;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if let Some(timer) = connection.deadline.take() {
            self.wheel.cancel(timer);
        }
        connection
            .queue
            .get_or_insert_with(Default::default)
            .push(response, 0, Class::Raw, now);
        self.queue_connection(index);
    }

    fn establish(&mut self, index: u32) {
        let interval = self.config.heartbeat_interval;
        let jitter = self.rng.f64();
        let due = self.now.mono + interval.mul_f64(jitter);
        let timer = self.wheel.insert(due, Timer::Heartbeat(index));
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        connection.heartbeat = Some(timer);
        let (client_id, user) = (connection.client_id, connection.user.clone());
        self.arrive(index);
        let event = Event::ConnectionEstablished {
            client_id,
            user_id: &user,
            server_time_unix_ms: self.now.unix_ms,
            heartbeat_interval_ms: interval.as_millis() as u64,
            max_message_bytes: self.config.message_bytes_max as u64,
        };
        self.answer(index, &event, None);
    }

    fn take_frame(&mut self, index: u32, input: &mut [u8]) -> usize {
        let all = input.len();
        let Some(connection) = self.connections.get_mut(index) else {
            return all;
        };
        let echo = connection.phase == Phase::Echo;
        let limits = if echo {
            Limits {
                message_bytes_max: ECHO_MESSAGE_BYTES_MAX,
                fragments_max: ECHO_FRAGMENTS_MAX,
            }
        } else {
            let Shard { config, .. } = self;
            Limits {
                message_bytes_max: config.message_bytes_max,
                fragments_max: config.fragments_max,
            }
        };
        let decoded = match connection.decoder.decode(input, &limits) {
            Ok(decoded) => decoded,
            Err(fault) => {
                self.begin_close(index, fault.close_code(), &fault.to_string());
                return all;
            }
        };
        let taken = decoded.consumed;
        match decoded.item {
            None => {}
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
            Some(Item::Text(text)) => match simdutf8::basic::from_utf8(&text) {
                Ok(text) => self.take_text(index, text),
                Err(_) => self.close_with(index, Code::InvalidPayload),
            },
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
                .queue
                .get_or_insert_with(Default::default)
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
        if answers > self.config.answer_bytes_max || connection.credits_held >= CREDITS {
            connection.paused = true;
        }
    }

    /// Reads a connection again whose answers have been given and taken.
    pub(super) fn resume_if_paused(&mut self, index: u32) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let answers = connection.queue.as_ref().map_or(0, |q| q.answer_bytes());
        let free = answers <= self.config.answer_bytes_max && connection.credits_held < CREDITS;
        if connection.paused && free {
            connection.paused = false;
            self.resumed.push(index);
        }
    }

    fn take_text(&mut self, index: u32, text: &str) {
        let mut parser = self.parser.take().unwrap_or_default();
        match parser.parse(text) {
            Ok(request) => {
                self.metrics
                    .traffic
                    .commands
                    .count(command_type(&request.command));
                self.obey(index, &request);
            }
            Err(malformed) => {
                self.metrics.traffic.commands.count(CommandType::Invalid);
                self.scold(index, &malformed);
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
            Command::Auth { .. } => {
                let user = self.connections.get(index).map(|c| c.user.clone());
                if let Some(user) = user {
                    let event = Event::AuthResponse {
                        user_id: &user,
                        expires_at_unix_ms: None,
                    };
                    self.answer(index, &event, id);
                }
            }
            Command::JoinRoom {
                room,
                history,
                recover,
                presence,
            } => {
                let history = history.unwrap_or(0);
                self.join(
                    index,
                    room,
                    Ask::Join {
                        history,
                        recover,
                        presence,
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
                let ask = Ask::Publish {
                    payload: Cow::Borrowed(payload),
                    message_id: request.message_id.map(Cow::Borrowed),
                    echo: request.echo,
                };
                self.ask(index, room, ask, id);
            }
            Command::DirectMessage { user_id, data } => {
                self.send_direct(index, user_id, data, request.message_id, id);
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
            Command::PresenceQuery { room } => self.ask(index, room, Ask::Members, id),
            Command::HistoryQuery { room, since, limit } => {
                self.ask(index, room, Ask::History { since, limit }, id);
            }
            Command::Ping { payload } => self.answer(index, &Event::Pong { payload }, id),
        }
    }

    fn is_subscribed(&mut self, index: u32, room: &str) -> bool {
        let Some(local) = self.locals.find(self.placement.hash_one(room), room) else {
            return false;
        };
        let connection = self.connections.get_mut(index);
        connection.is_some_and(|c| c.subscription(local).is_some())
    }

    fn join(&mut self, index: u32, room: &str, ask: Ask<'_>, correlation_id: Option<&str>) {
        let hash = self.placement.hash_one(room);
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
                let pending = Subscription {
                    room: local,
                    member: NONE,
                    watcher: NONE,
                };
                connection.subscriptions.push(pending);
            }
        }
        self.ask(index, room, ask, correlation_id);
    }

    /// Typing and receipts pass between members only.
    fn signal(&mut self, index: u32, room: &str, ask: Ask<'_>, correlation_id: Option<&str>) {
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

    /// Puts a question to a room's home: a call where that is this core, else a message.
    fn ask(&mut self, index: u32, room: &str, ask: Ask<'_>, correlation_id: Option<&str>) {
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

fn decide(route: Route<'_>, page: &[u8]) -> Decision {
    let mut response = Vec::new();
    match route {
        Route::Page { head_only } => {
            let headers = &[
                ("Content-Security-Policy", PAGE_POLICY),
                ("Referrer-Policy", "no-referrer"),
            ];
            let content_type = "text/html; charset=utf-8";
            let page = Response {
                status: 200,
                content_type,
                headers,
                body: page,
            };
            encode_response(&page, head_only, &mut response);
            Decision::Answer {
                response,
                reject: None,
            }
        }
        Route::Refused(refusal) => refuse(&refusal),
        Route::Echo { key } => {
            encode_upgrade(key, None, &mut response);
            Decision::Echo { response }
        }
        Route::Native(Entry {
            key,
            subprotocol,
            room,
            user,
        }) => {
            encode_upgrade(key, subprotocol, &mut response);
            Decision::Native {
                response,
                room,
                user,
            }
        }
    }
}

fn refuse(refusal: &Refusal) -> Decision {
    let reject = match refusal.status {
        404 => Reject::NotFound,
        _ => Reject::BadRequest,
    };
    let mut body = refusal.message.clone().into_bytes();
    body.push(b'\n');
    let response = Response {
        status: refusal.status,
        content_type: "text/plain; charset=utf-8",
        headers: refusal.headers,
        body: &body,
    };
    let mut bytes = Vec::new();
    encode_response(&response, false, &mut bytes);
    Decision::Answer {
        response: bytes,
        reject: Some(reject),
    }
}

fn refuse_head(fault: HeadFault) -> Decision {
    let message = fault.to_string();
    refuse(&Refusal {
        status: fault.status(),
        headers: &[],
        message,
    })
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
