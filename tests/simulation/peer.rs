//! A connection from its client's end: what it has to send, what it has read, how it behaves.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;
use serde_json::Value;
use tidewheel::codec::websocket::client::{ServerFrame, encode_fragment, encode_masked};
use tidewheel::codec::websocket::{Control, Data, OpCode};

use crate::plan::Temper;
use crate::session::Session;
use crate::wire::{Socket, Stage};

pub struct Peer {
    pub client: usize,
    pub core: usize,
    /// Its index on its core, while it has one.
    pub index: Option<u32>,
    pub accepted: bool,
    pub temper: Temper,
    pub stalled: bool,
    /// Stalls until the server gives it up.
    pub for_good: bool,
    pub socket: Socket,
    pub session: Session,
    /// Bytes on their way to the server.
    pub out: VecDeque<u8>,
    /// It sends nothing more: it has sent a close frame, or broken a rule that ends everything.
    pub silent: bool,
    /// Its end follows on what is on its way.
    pub leaving: bool,
    /// The server knows of its end.
    pub ended: bool,
    /// From which rest of the world on its user's home knows it.
    pub known_since: Option<u64>,
    /// Up to where it has read each room, for the next connection of the client.
    pub read: BTreeMap<String, (String, u64)>,
    /// Takes close frames in an orderly way.
    polite: bool,
}

impl Peer {
    pub fn new(
        client: usize,
        core: usize,
        temper: Temper,
        session: Session,
        rng: &mut Rng,
    ) -> Peer {
        let room = match temper {
            Temper::Good => usize::MAX / 2,
            _ => [40, 200, 1_000, 20_000][rng.usize(..4)],
        };
        Peer {
            client,
            core,
            index: None,
            accepted: false,
            temper,
            stalled: false,
            for_good: false,
            socket: Socket::new(room, temper == Temper::Good || rng.u8(..3) == 0),
            session,
            out: VecDeque::new(),
            silent: false,
            leaving: false,
            ended: false,
            known_since: None,
            read: BTreeMap::new(),
            polite: temper != Temper::Bad || rng.bool(),
        }
    }

    /// It keeps reading and answering.
    pub fn is_prompt(&self) -> bool {
        !self.stalled
    }

    /// The server still holds it and it has not broken off.
    pub fn is_here(&self) -> bool {
        self.index.is_some() && !self.ended && !self.socket.broken
    }

    /// It has nothing to do now, or stalls.
    pub fn is_settled(&self) -> bool {
        let nothing_to_send = self.out.is_empty() && !self.leaving;
        let nothing_to_read = self.socket.held == 0 && !self.socket.is_writable();
        let rests = nothing_to_send && nothing_to_read && !self.socket.broken;
        self.accepted && (self.index.is_none() || !self.is_prompt() || rests)
    }

    /// Upgraded, not closing from either side.
    pub fn is_open(&self) -> bool {
        self.is_here()
            && !self.silent
            && !self.leaving
            && self.session.closed.is_none()
            && matches!(self.socket.stage, Stage::Frames(_))
    }

    /// Puts a frame on the way, in one piece.
    pub fn send(&mut self, opcode: OpCode, payload: &[u8], rng: &mut Rng) {
        let mut bytes = Vec::new();
        encode_masked(opcode, rng.u32(..).to_be_bytes(), payload, &mut bytes);
        self.out.extend(bytes);
    }

    /// Puts a text on the way, in one piece or in several with a ping between them.
    pub fn send_text(&mut self, text: &str, fragments: usize, rng: &mut Rng) {
        if fragments < 2 {
            return self.send(OpCode::Data(Data::Text), text.as_bytes(), rng);
        }
        let mut rest = text.as_bytes();
        for i in 0..fragments {
            let is_final = i + 1 == fragments;
            let len = if is_final {
                rest.len()
            } else {
                rng.usize(..=rest.len())
            };
            let (now, later) = rest.split_at(len);
            rest = later;
            let data = if i == 0 { Data::Text } else { Data::Continue };
            let mut bytes = Vec::new();
            let mask = rng.u32(..).to_be_bytes();
            encode_fragment(OpCode::Data(data), is_final, mask, now, &mut bytes);
            self.out.extend(bytes);
            if rng.u8(..4) == 0 && !is_final {
                self.ping(rng);
            }
        }
    }

    /// Sends a WebSocket ping, whose pong is awaited.
    pub fn ping(&mut self, rng: &mut Rng) {
        let payload = vec![rng.u8(..); rng.usize(..=125)];
        self.send(OpCode::Control(Control::Ping), &payload, rng);
        self.session.pings.push(payload);
    }

    /// Sends a close frame with a code, or with none.
    pub fn close(&mut self, code: u16, rng: &mut Rng) {
        self.session.allowed.insert(code);
        let payload = match code {
            1005 => Vec::new(),
            code => code.to_be_bytes().to_vec(),
        };
        self.send(OpCode::Control(Control::Close), &payload, rng);
        self.silent = true;
    }

    /// Reads what the kernel holds for it, up to `count` bytes, and reacts.
    pub fn drain(&mut self, count: usize, rng: &mut Rng) {
        for frame in self.socket.drain(count) {
            self.react(&frame, rng);
        }
        // The server's end, or a response that is no upgrade.
        if self.socket.shut && self.socket.held == 0 && self.polite {
            self.leaving = true;
        }
    }

    fn react(&mut self, frame: &ServerFrame, rng: &mut Rng) {
        match frame.opcode {
            OpCode::Control(Control::Ping) if !self.silent => {
                self.send(OpCode::Control(Control::Pong), &frame.payload, rng);
            }
            OpCode::Control(Control::Close) => {
                if !self.silent && self.polite {
                    self.send(OpCode::Control(Control::Close), &frame.payload, rng);
                }
                self.silent = true;
            }
            OpCode::Data(Data::Text) => {
                if let Ok(event) = serde_json::from_slice::<Value>(&frame.payload) {
                    self.remember(&event);
                }
            }
            _ => {}
        }
    }

    fn remember(&mut self, event: &Value) {
        let Some(room) = event["room"].as_str() else {
            return;
        };
        let payload = &event["payload"];
        match event["type"].as_str() {
            Some("room_joined") => {
                let epoch = payload["epoch"].as_str().unwrap_or_default().to_owned();
                let offset = payload["offset"].as_u64().unwrap_or_default();
                self.read.insert(room.to_owned(), (epoch, offset));
            }
            Some("message") => {
                if let (Some(place), Some(offset)) =
                    (self.read.get_mut(room), event["offset"].as_u64())
                {
                    place.1 = offset;
                }
            }
            _ => {}
        }
    }
}
