//! What clients do all day, by chance.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};
use tidewheel::codec::websocket::OpCode;

use crate::Check;
use crate::law::Standing;
use crate::peer::Peer;
use crate::plan::Temper;
use crate::session::{Pending, Question, Session};
use crate::truth::{Direct, Publication};
use crate::world::{Turn, World};

/// Messages of a flood, and their size: more than 64 segments of a log.
const FLOOD_MESSAGES: usize = 72;
const FLOOD_BYTES: usize = 66_000;

impl World {
    /// The whole day but its end.
    pub fn live(&mut self) -> Check {
        for step in 0..self.plan.steps {
            self.trace.note(|| format!("step {step}"));
            self.step()?;
        }
        if self.plan.floods {
            self.flood()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Check {
        match self.rng.u32(..1000) {
            0..420 => {
                let core = self.rng.usize(..self.cores.len());
                self.turn(core, Turn::Some)
            }
            420..800 => {
                let client = self.rng.usize(..self.clients.len());
                self.stir(client);
                Ok(())
            }
            800..900 => {
                self.someone_reads();
                Ok(())
            }
            900..970 => self.pass_up_to(Duration::from_millis(20)),
            970..984 if self.plan.backend => {
                self.ask_cores();
                Ok(())
            }
            970..988 => self.pass_up_to(Duration::from_secs(1)),
            988..992 if self.plan.orders => {
                self.order();
                Ok(())
            }
            988..992 => self.pass_up_to(Duration::from_secs(1)),
            992..996 => self.pass_up_to(Duration::from_secs(60)),
            _ => self.settle(),
        }
    }

    fn pass_up_to(&mut self, most: Duration) -> Check {
        let by = self.rng.u64(..most.as_nanos() as u64);
        self.advance(Duration::from_nanos(by))
    }

    fn someone_reads(&mut self) {
        let ids: Vec<usize> = (0..self.peers.len())
            .filter(|id| self.peers[*id].index.is_some() && !self.peers[*id].stalled)
            .collect();
        if let Some(id) = self.rng.choice(ids) {
            let count = match self.rng.u8(..4) {
                0 => self.rng.usize(..10),
                1 => self.rng.usize(..500),
                _ => usize::MAX,
            };
            self.peers[id].drain(count, &mut self.rng);
        }
    }

    /// A client does something, or connects.
    fn stir(&mut self, client: usize) {
        let Some(id) = self.clients[client].current else {
            if self.rng.u8(..3) == 0 {
                self.connect(client);
            }
            return;
        };
        let peer = &mut self.peers[id];
        if peer.for_good || peer.silent || peer.leaving || peer.socket.broken {
            return;
        }
        if peer.session.echoes.is_some() {
            return self.say_to_echo(id);
        }
        if peer.temper == Temper::Bad && self.rng.u8(..12) == 0 {
            return self.misbehave(id);
        }
        match self.rng.u8(..100) {
            0 => self.peers[id].close(1_000 + u16::from(self.rng.bool()) * 5, &mut self.rng),
            1 => self.peers[id].ping(&mut self.rng),
            2 => self.say_nonsense(id),
            _ => {
                let question = self.question(id);
                self.ask(id, question);
            }
        }
    }

    pub fn connect(&mut self, client: usize) {
        let id = self.peers.len();
        let core = self.rng.usize(..self.cores.len());
        let (name, temper) = (
            self.clients[client].name.clone(),
            self.clients[client].temper,
        );
        let mut session = Session::new(id, name.clone(), self.plan.law.clone());
        match temper {
            Temper::Good => {}
            Temper::Choppy => session.allowed.extend([4101]),
            Temper::Bad => session.allowed.extend([4101, 4102, 4103]),
        }
        if self.plan.shard.rooms_max < 10 || self.plan.is_short_of_memory() {
            session.allowed.insert(4100);
        }
        let limits = &self.plan.shard.policy.limits;
        if self.plan.is_limited {
            session.allowed.insert(4004);
        }
        if name.is_some() {
            let may = [
                (self.plan.orders, 4009),
                (self.plan.orders, 4012),
                (limits.one_connection_per_user, 4011),
                (limits.connections_per_user_max.is_some(), 4100),
            ];
            let may = may.iter().filter(|(may, _)| *may);
            session.allowed.extend(may.map(|(_, code)| code));
        }
        if self.plan.shard.policy.connection_lifetime.is_some() {
            session.allowed.insert(4105);
        }
        let mut peer = Peer::new(client, core, temper, session, &mut self.rng);
        if self.plan.floods {
            // Megabytes through 40 bytes take longer than they teach.
            peer.socket.room = peer.socket.room.max(20_000);
        }
        let mut target = "/ws".to_owned();
        match self.rng.u8(..20) {
            0 if self.plan.shard.echo => {
                target = "/echo".into();
                peer.session.echoes = Some(VecDeque::new());
            }
            1 if temper == Temper::Bad => {
                target = "/nowhere".into();
                peer.silent = true;
            }
            2..8 => {
                let room = self.rng.usize(..self.plan.rooms.len());
                let room = self.plan.rooms[room].clone();
                write!(target, "/{}", percent(&room)).unwrap();
                let question = Question::Join {
                    room,
                    history: 0,
                    recover: None,
                    presence: None,
                };
                let floor_ms = self.floor_ms();
                let pending = Pending {
                    question,
                    standing: Standing::Outside,
                    floor_ms,
                };
                peer.session.pending.insert("url".into(), pending);
            }
            _ => {}
        }
        let way = self.rng.u8(..3);
        let mut more = String::new();
        let mut token = None;
        if self.plan.is_guarded {
            // A name that nobody takes.
            target.push_str("?user_id=mallory");
            token = Some(self.token(&mut peer, name.as_deref().unwrap_or_default()));
        } else if let Some(name) = name {
            write!(target, "?user_id={}", percent(&name)).unwrap();
        }
        match (&token, way) {
            (Some(token), 0) => write!(more, "Authorization: Bearer {token}\r\n").unwrap(),
            (Some(token), 1) => {
                let protocols = format!("tidewheel.v1.json, tidewheel.bearer.{token}");
                write!(more, "Sec-WebSocket-Protocol: {protocols}\r\n").unwrap();
            }
            _ => {}
        }
        let says_so = way == 2 && !target.starts_with("/echo") && !target.starts_with("/nowhere");
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        peer.out.extend(head.as_bytes());
        self.trace
            .note(|| format!("client {client} connects to core {core} as peer {id}: {target}"));
        self.peers.push(peer);
        self.clients[client].current = Some(id);
        if let Some(token) = token.filter(|_| says_so) {
            let silent = std::mem::take(&mut self.peers[id].silent);
            if silent && self.rng.bool() {
                // Something else first, or nothing at all.
                if self.rng.bool() {
                    self.peers[id].send_text("{\"type\":\"ping\"}", 1, &mut self.rng);
                }
            } else {
                self.ask(id, Question::Auth(token));
            }
            self.peers[id].silent = silent;
        }
    }

    /// The token of a client that connects. Bad ones come with nonsense now and then.
    fn token(&mut self, peer: &mut Peer, name: &str) -> String {
        let ends = self.plan.tokens_end_ms;
        let rng = &mut self.rng;
        if peer.temper == Temper::Bad {
            // It may stall before it says who it is.
            peer.session.allowed.insert(4001);
            if rng.u8(..6) == 0 {
                peer.session.allowed.insert(4002);
                peer.silent = true;
                return "nonsense".to_owned();
            }
        }
        if self.now().unix_ms < ends && self.rng.bool() {
            // It may have ended when it arrives.
            peer.session.allowed.extend([4106, 4002]);
            return format!("ends-{name}");
        }
        format!("good-{name}")
    }

    /// What a client refreshes with.
    fn another_token(&mut self, id: usize) -> String {
        let peer = &mut self.peers[id];
        let name = self.clients[peer.client].name.as_deref();
        let name = name.unwrap_or_default();
        if peer.temper == Temper::Bad && self.plan.is_guarded && id.is_multiple_of(3) {
            peer.session.allowed.insert(4002);
            return "nonsense".to_owned();
        }
        let has_ending = peer.session.allowed.contains(&4106);
        let kind = if has_ending && id.is_multiple_of(2) {
            "ends"
        } else {
            "good"
        };
        format!("{kind}-{name}")
    }

    fn say_to_echo(&mut self, id: usize) {
        let text = "e".repeat(self.rng.usize(..300));
        let fragments = self.rng.usize(1..4);
        let peer = &mut self.peers[id];
        if self.rng.u8(..20) == 0 {
            return peer.close(1000, &mut self.rng);
        }
        if let Some(echoes) = &mut peer.session.echoes {
            echoes.push_back(text.clone().into_bytes());
        }
        peer.send_text(&text, fragments, &mut self.rng);
    }

    /// What only bad clients do.
    fn misbehave(&mut self, id: usize) {
        let kind = self.rng.u8(..12);
        self.trace.note(|| format!("peer {id} misbehaves, {kind}"));
        if kind == 8 {
            for _ in 0..=self.plan.shard.protocol_errors_max {
                self.say_nonsense(id);
            }
            return;
        }
        let max = self.plan.shard.message_bytes_max;
        let rng = &mut self.rng;
        let peer = &mut self.peers[id];
        let mut sin = |code: u16, opcode: u8, payload: &[u8]| {
            peer.session.allowed.insert(code);
            peer.send(OpCode::from(opcode), payload, rng);
            peer.silent = true;
        };
        match kind {
            0 => sin(1002, 3, b"reserved opcode"),
            1 => sin(1003, 2, b"binary"),
            2 => sin(1007, 1, b"\xff\xfe"),
            3 => sin(1009, 1, &vec![b' '; max + 1]),
            4 => sin(1002, 8, &[3, 237]),
            5 => peer.socket.broken = true,
            6 => peer.leaving = true,
            7 => (peer.stalled, peer.for_good) = (true, peer.session.echoes.is_none()),
            _ => peer.stalled = !peer.stalled,
        }
    }

    /// A message that is none; the good ones stop in time.
    fn say_nonsense(&mut self, id: usize) {
        let max = self.plan.shard.protocol_errors_max;
        let peer = &mut self.peers[id];
        if peer.session.malformed >= max {
            if peer.temper != Temper::Bad {
                return;
            }
            peer.session.allowed.insert(4006);
        }
        peer.session.malformed += 1;
        let nonsense = [
            "",
            "[]",
            "{\"type\":\"nope\"}",
            "{\"type\":\"join_room\"}",
            "{",
        ];
        let text = nonsense[self.rng.usize(..nonsense.len())];
        peer.send_text(text, 1, &mut self.rng);
    }

    fn question(&mut self, id: usize) -> Question {
        let rng = &mut self.rng;
        let mut room = self.plan.rooms[rng.usize(..self.plan.rooms.len())].clone();
        let own: Vec<&String> = self.peers[id].session.members.keys().collect();
        if let Some(own) = rng.choice(own)
            && rng.bool()
        {
            room.clone_from(own);
        }
        match rng.u8(..100) {
            0..45 => {
                let n = self.publication(id, room);
                Question::Publish(n)
            }
            45..63 => self.join(id, room),
            63..69 => Question::Leave { room },
            69..75 => {
                let n = self.direct(id);
                Question::Direct(n)
            }
            75..85 => Question::Signal { room },
            85..89 => Question::Members { room },
            89..95 => Question::History {
                room,
                since: rng.bool().then(|| rng.u64(..40)),
                limit: rng.bool().then(|| rng.u64(..25)),
            },
            95..99 => Question::Ping(rng.bool().then(|| "[1,{\"a\":\"b\"}]".to_owned())),
            _ => Question::Auth(self.another_token(id)),
        }
    }

    fn join(&mut self, id: usize, room: String) -> Question {
        let client = self.peers[id].client;
        let known = self.clients[client].read.get(&room).cloned();
        let known = known.or_else(|| self.peers[id].read.get(&room).cloned());
        let rng = &mut self.rng;
        let mut recover = known.filter(|_| rng.u8(..4) > 0);
        if let Some((epoch, offset)) = &mut recover {
            match rng.u8(..10) {
                0 => *epoch = "none".into(),
                1 => *offset += rng.u64(..5),
                2 => *offset = 0,
                _ => {}
            }
        }
        Question::Join {
            room,
            history: if rng.bool() { rng.u64(..30) } else { 0 },
            recover,
            presence: [None, Some(true), Some(true), Some(false)][rng.usize(..4)],
        }
    }

    /// Makes up a message; an id is sometimes one that was there before.
    fn publication(&mut self, id: usize, room: String) -> usize {
        let n = self.truth.publications.len();
        let floor_ms = self.floor_ms();
        let rng = &mut self.rng;
        let most = self.plan.shard.message_bytes_max.saturating_sub(250);
        let filler = match rng.u8(..10) {
            0 => rng.usize(..=most),
            _ => rng.usize(..60.min(most)),
        };
        let odd = [
            "1.50",
            "\"\\u00e9\\\"\"",
            "[1e3,-0.0]",
            "{\"ü\":null}",
            "10000000000000000000001",
        ];
        let odd = odd[rng.usize(..odd.len())];
        let raw = format!(
            "{{\"n\":{n},\"odd\":{odd},\"x\":\"{}\"}}",
            "x".repeat(filler)
        );
        let message_id = (rng.u8(..4) == 0).then(|| format!("id{}", rng.u8(..12)));
        let session = &self.peers[id].session;
        let user = session.user.clone();
        let user = user.or_else(|| self.clients[self.peers[id].client].name.clone());
        self.truth.publications.push(Publication {
            peer: id,
            room,
            raw,
            echo: rng.u8(..4) > 0,
            message_id,
            user,
            floor_ms,
            accepted: None,
            answered: None,
            refused: false,
        });
        n
    }

    fn direct(&mut self, id: usize) -> usize {
        let n = self.truth.directs.len();
        let names: Vec<String> = self
            .peers
            .iter()
            .filter_map(|p| p.session.user.clone())
            .collect();
        let to = self.rng.choice(names).filter(|_| self.rng.u8(..8) > 0);
        self.truth.directs.push(Direct {
            from: id,
            to: to.unwrap_or_else(|| "zed".to_owned()),
            raw: format!(
                "{{\"d\":{n},\"x\":\"{}\"}}",
                "d".repeat(self.rng.usize(..80))
            ),
            rests: self.rests,
            accepted: false,
            refused: false,
            not_taken: false,
            got: Default::default(),
        });
        n
    }

    /// Puts a question on its way.
    pub fn ask(&mut self, id: usize, question: Question) {
        self.questions += 1;
        let correlation_id = format!("c{}", self.questions);
        let text = self.text(&question, &correlation_id);
        if text.len() > self.plan.shard.message_bytes_max {
            return;
        }
        self.trace.note(|| {
            let text: String = text.chars().take(150).collect();
            format!("peer {id} asks {text}")
        });
        let floor_ms = self.floor_ms();
        let fragments = self.rng.usize(..8).saturating_sub(4);
        let peer = &mut self.peers[id];
        let room = match &question {
            Question::Publish(n) => &self.truth.publications[*n].room,
            Question::Join { room, .. } => room,
            _ => "",
        };
        let pending = Pending {
            standing: peer.session.standing(room),
            question,
            floor_ms,
        };
        peer.session.pending.insert(correlation_id, pending);
        peer.send_text(&text, fragments, &mut self.rng);
    }

    fn text(&mut self, question: &Question, correlation_id: &str) -> String {
        let metadata = json!({ "correlation_id": correlation_id });
        let envelope = |kind: &str, room: Option<&str>, payload: Value| {
            let mut message = json!({"type": kind, "metadata": metadata});
            if let Some(room) = room {
                message["room"] = room.into();
            }
            if !payload.is_null() {
                message["payload"] = payload;
            }
            message.to_string()
        };
        match question {
            Question::Auth(token) => envelope("auth", None, json!({ "token": token })),
            Question::Join {
                room,
                history,
                recover,
                presence,
            } => {
                let mut payload = json!({ "history": history });
                if let Some((epoch, offset)) = recover {
                    payload["recover"] = json!({"epoch": epoch, "offset": offset});
                }
                if let Some(presence) = presence {
                    payload["presence"] = json!(presence);
                }
                envelope("join_room", Some(room), payload)
            }
            Question::Leave { room } => envelope("leave_room", Some(room), Value::Null),
            Question::Publish(n) => self.publish_text(*n, correlation_id),
            Question::Direct(n) => {
                let Direct { to, raw, .. } = &self.truth.directs[*n];
                format!(
                    "{{\"type\":\"direct_message\",\"payload\":{{\"user_id\":{},\"data\":{raw}}},\
                     \"metadata\":{metadata}}}",
                    json!(to)
                )
            }
            Question::Signal { room } => match self.rng.u8(..3) {
                0 => envelope("typing_start", Some(room), Value::Null),
                1 => envelope("typing_stop", Some(room), Value::Null),
                _ => {
                    let offset = self.rng.u64(..50);
                    envelope("read_receipt", Some(room), json!({ "offset": offset }))
                }
            },
            Question::Members { room } => envelope("presence_query", Some(room), Value::Null),
            Question::History { room, since, limit } => {
                let mut payload = json!({});
                if let Some(since) = since {
                    payload["since"] = json!(since);
                }
                if let Some(limit) = limit {
                    payload["limit"] = json!(limit);
                }
                envelope("history_query", Some(room), payload)
            }
            Question::Ping(payload) => match payload {
                Some(raw) => {
                    format!("{{\"type\":\"ping\",\"payload\":{raw},\"metadata\":{metadata}}}")
                }
                None => envelope("ping", None, Value::Null),
            },
        }
    }

    fn publish_text(&self, n: usize, correlation_id: &str) -> String {
        let publication = &self.truth.publications[n];
        let mut metadata = json!({ "correlation_id": correlation_id });
        if let Some(id) = &publication.message_id {
            metadata["message_id"] = json!(id);
        }
        if !publication.echo {
            metadata["echo"] = json!(false);
        }
        let (room, raw) = (json!(publication.room), &publication.raw);
        format!(
            "{{\"type\":\"message\",\"room\":{room},\"payload\":{raw},\"metadata\":{metadata}}}"
        )
    }

    /// One client publishes so much in one turn that a single write cannot hold it.
    fn flood(&mut self) -> Check {
        self.settle()?;
        let room = self.plan.rooms[0].clone();
        let open = |p: &Peer| p.is_open() && p.session.echoes.is_none();
        let ids: Vec<usize> = (0..self.peers.len())
            .filter(|id| open(&self.peers[*id]))
            .collect();
        for id in &ids {
            let question = self.join(*id, room.clone());
            self.ask(*id, question);
        }
        self.settle()?;
        let Some(id) = ids.into_iter().find(|id| open(&self.peers[*id])) else {
            return Ok(());
        };
        for _ in 0..FLOOD_MESSAGES {
            let n = self.publication(id, room.clone());
            let publication = &mut self.truth.publications[n];
            publication.raw = format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(FLOOD_BYTES));
            self.ask(id, Question::Publish(n));
        }
        self.settle()
    }
}

fn percent(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02x}")).collect()
}
