//! Any bytes as operations on one or two shards, in any order that a reactor could bring about:
//! peers that come, join, publish, stall and vanish, mail between the cores, the clock, new rules, a
//! drain, what the operator's backend asks.
//!
//! After each operation the ledger balances. On every connection the frames are whole and nothing
//! follows a close; in every room the offsets follow on. At the end, when everyone has gone and
//! time has passed, nothing is left.
//!
//! The first two bytes choose the bounds; after them an operation is a byte, and what it needs.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tidewheel::address::{CoreId, Placement};
use tidewheel::bus::{ApiAnswer, ApiAsk, Batch, Order, Post, Query, Ticket};
use tidewheel::cli::sources::options_from_text;
use tidewheel::codec::websocket::client::{ServerFrames, encode_fragment};
use tidewheel::codec::websocket::{Control, Data, OpCode};
use tidewheel::gate::rate::Per;
use tidewheel::gate::{Limits, Policy, Rate};
use tidewheel::protocol::UserId;
use tidewheel::protocol::json::validate;
use tidewheel::room::history::HistoryLimits;
use tidewheel::room::home::RoomLimits;
use tidewheel::shard::{Action, Footprint, Overflow, Sent, Shard, ShardConfig, Transport};
use tidewheel::time::{Instant, Now};

/// Beyond these an input only takes time.
const OPERATIONS_MAX: usize = 400;
const CLIENTS_MAX: usize = 48;
/// What a socket takes at least of its first write.
const FIRST_BYTES: usize = 512;
/// Rounds after which two shards that are left alone must have nothing to say to each other.
const ROUNDS_MAX: usize = 10_000;

/// Of everything that a node makes up.
const SEED: u64 = 1;

const UPGRADE: &str = "HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const TARGETS: [&str; 8] = [
    "/ws",
    "/ws/r0",
    "/ws/r1?user_id=u1",
    "/ws?user_id=u1",
    "/ws?user_id=u2",
    "/echo",
    "/",
    "/nowhere",
];

/// Runs one input.
///
/// # Panics
/// When one of the properties does not hold.
pub fn run(data: &[u8]) {
    let mut tape = Tape(data);
    let mut world = World::new(tape.byte(), tape.byte());
    for _ in 0..OPERATIONS_MAX {
        if tape.0.is_empty() {
            break;
        }
        world.operate(&mut tape);
        world.check();
    }
    world.end();
}

/// The input as numbers; zeros when it is used up.
struct Tape<'a>(&'a [u8]);

impl Tape<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn bytes(&mut self) -> Vec<u8> {
        let count = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken.to_vec()
    }
}

struct World {
    shards: Vec<Core>,
    clients: Vec<Client>,
    now: Now,
    /// Peers answer pings.
    answers_pings: bool,
    /// At the end peers hang up; otherwise the node drains.
    hangs_up: bool,
}

struct Core {
    shard: Shard,
    sockets: Sockets,
    /// Mail that has not arrived, by its sender.
    mail: Vec<VecDeque<Batch>>,
    /// It accepts nobody any more.
    drains: bool,
}

impl World {
    fn new(bounds: u8, habits: u8) -> World {
        let now = Now {
            mono: Instant::ORIGIN,
            unix_ms: 1_000_000,
        };
        let cores = 1 + u16::from(bounds & 1);
        let core = |core| Core {
            shard: Shard::new(config(CoreId(core), cores, bounds, habits), now),
            sockets: Sockets::default(),
            mail: (0..cores).map(|_| VecDeque::new()).collect(),
            drains: false,
        };
        World {
            shards: (0..cores).map(core).collect(),
            clients: Vec::new(),
            now,
            answers_pings: habits & 64 != 0,
            hangs_up: habits & 128 != 0,
        }
    }

    fn operate(&mut self, tape: &mut Tape<'_>) {
        match tape.byte() % 32 {
            0 | 1 => self.connect(tape),
            2..=15 => self.speak(tape),
            16 => self.send(tape, |tape| tape.bytes()),
            17 => self.stall(tape),
            18 => self.unstall(tape),
            19 => self.vanish(tape),
            20..=25 => {
                let budget = 1 + usize::from(tape.byte());
                for core in 0..self.shards.len() {
                    self.turn(core, budget);
                }
            }
            26 | 27 => drop(self.deliver(usize::from(tape.byte()))),
            28 => self.advance(Duration::from_millis(u64::from(tape.byte()))),
            29 => self.advance(Duration::from_millis(250 * u64::from(tape.byte()))),
            30 => {
                let core = tape.byte();
                if core >= 128 {
                    return self.query(usize::from(core) % self.shards.len(), tape);
                }
                let core = usize::from(core) % self.shards.len();
                self.shards[core]
                    .shard
                    .suspend_reading(tape.byte() & 1 == 1);
            }
            _ => {
                // A drain is for good, so it is rare.
                let (core, really) = (tape.byte(), tape.byte());
                if really & 1 == 1 && really <= 240 {
                    // One core hears of a reload before the others, or alone.
                    let policy = policy(really >> 1);
                    let core = usize::from(core) % self.shards.len();
                    self.shards[core].shard.handle_policy(self.now, policy);
                }
                if really > 240 {
                    let window = Duration::from_millis(u64::from(really) * 10);
                    let core = usize::from(core) % self.shards.len();
                    self.drain(core, window);
                } else {
                    self.order(core, really);
                }
            }
        }
    }

    /// An operator orders something about a user, of each core in turn or of one alone.
    fn order(&mut self, which: u8, what: u8) {
        let user = UserId::from_name(&format!("u{}", which % 3));
        let order = match what % 4 {
            0 => Order::Ban {
                user,
                lasts: Some(Duration::from_secs(u64::from(what))),
            },
            1 => Order::Ban { user, lasts: None },
            2 => Order::Unban { user },
            _ => Order::Disconnect {
                user,
                code: 1000 + 31 * u16::from(what),
                reason: "r".repeat(usize::from(what)).into(),
            },
        };
        for (core, Core { shard, .. }) in self.shards.iter_mut().enumerate() {
            if core == 0 || which & 1 == 0 {
                let _bad_code = shard.handle_order(self.now, order.clone());
            }
        }
    }

    /// The operator's backend asks a core, which may be the wrong one; it is answered once.
    fn query(&mut self, core: usize, tape: &mut Tape<'_>) {
        let (what, n) = (tape.byte(), tape.byte());
        let placement = Placement::new(SEED, self.shards.len() as u16);
        let room = placement.room(&format!("r{}", n % 8));
        let user = UserId::from_name(&format!("u{}", n % 3));
        let text = format!("\"{}\"", "q".repeat(usize::from(n) * 4));
        let ask = match what % 16 {
            0..=3 => {
                let post = |at: u8| Post {
                    room: placement.room(&format!("r{}", (n ^ at) % 8)),
                    payload: text.as_bytes().into(),
                    message_id: (at & 1 == 1).then(|| format!("k{at}").into()),
                };
                ApiAsk::Publish((0..what % 8).map(post).collect())
            }
            4 => ApiAsk::History {
                room,
                since: (n & 1 == 0).then_some(u64::from(n)),
                limit: (n & 2 == 0).then_some(u32::from(n)),
            },
            5 => ApiAsk::Members(room),
            6 => ApiAsk::Room(room),
            7 => ApiAsk::Rooms {
                from: u32::from(n % 8),
                limit: u32::from(what >> 4),
            },
            8 | 9 => ApiAsk::Broadcast(text.as_bytes().into()),
            10 => ApiAsk::Direct {
                user,
                data: text.as_bytes().into(),
            },
            11 | 12 => ApiAsk::Join { user, room },
            13 => ApiAsk::Leave { user, room },
            14 => ApiAsk::Look {
                rooms_from: Some(u32::from(n)),
                connections_from: Some(u32::from(n >> 4)),
                top: u32::from(n % 4),
            },
            _ => ApiAsk::Metrics,
        };
        let posts = match &ask {
            ApiAsk::Publish(posts) => Some(posts.len()),
            _ => None,
        };
        let shard = &mut self.shards[core].shard;
        let ticket = Ticket(u64::from(n));
        shard.handle_query(self.now, Query { ticket, ask });
        let answers = shard.poll_answers().expect("an answer");
        assert!(answers.len() == 1 && answers[0].ticket == ticket);
        if let Some(posts) = posts {
            let results = match &answers[0].answer {
                ApiAnswer::Published(results) => results.len(),
                other => panic!("{other:?}"),
            };
            assert_eq!(results, posts);
        }
    }

    fn connect(&mut self, tape: &mut Tape<'_>) {
        let what = tape.byte();
        let core = usize::from(what >> 3) % self.shards.len();
        if self.shards[core].drains || self.shards[core].sockets.open() >= CLIENTS_MAX {
            return;
        }
        // The reactor closes sockets before it accepts others.
        self.act(core);
        let shard = &mut self.shards[core].shard;
        let index = if what > 250 {
            shard.handle_refused(self.now, Duration::from_secs(1))
        } else {
            shard.handle_accept(self.now)
        };
        self.shards[core].sockets.insert(index);
        let target = TARGETS[usize::from(what & 7)];
        let mut client = Client::new(core, index);
        client.may_miss = target == "/echo";
        self.clients.push(client);
        let head = format!("GET {target} {UPGRADE}");
        self.input(self.clients.len() - 1, head.as_bytes(), 0);
    }

    /// A client that is open, by a byte.
    fn pick(&self, tape: &mut Tape<'_>) -> Option<usize> {
        let which = usize::from(tape.byte());
        let open = self.clients.iter().enumerate().filter(|(_, c)| c.is_open);
        let open: Vec<usize> = open.map(|(at, _)| at).collect();
        (!open.is_empty()).then(|| open[which % open.len()])
    }

    /// A client sends a command, or another frame that is in order.
    fn speak(&mut self, tape: &mut Tape<'_>) {
        let Some(at) = self.pick(tape) else { return };
        let (what, room, n) = (tape.byte(), tape.byte() % 8, tape.byte());
        let text = match what % 16 {
            0 => format!(r#"{{"type":"join_room","room":"r{room}"}}"#),
            1 => format!(
                r#"{{"type":"join_room","room":"r{room}","payload":{{"presence":{},"history":{n}}}}}"#,
                n & 1 == 0
            ),
            2 => format!(
                r#"{{"type":"join_room","room":"r{room}","payload":{{"recover":{{"epoch":"{}","offset":{n}}}}}}}"#,
                self.clients[at].epoch
            ),
            3 => format!(r#"{{"type":"leave_room","room":"r{room}"}}"#),
            4 | 5 => format!(
                r#"{{"type":"message","room":"r{room}","payload":"{}"}}"#,
                "m".repeat(usize::from(n) * 8)
            ),
            6 => {
                self.clients[at].may_miss = true;
                format!(
                    r#"{{"type":"message","room":"r{room}","payload":{n},"metadata":{{"echo":false}}}}"#
                )
            }
            7 => format!(
                r#"{{"type":"message","room":"r{room}","payload":1,"metadata":{{"message_id":"k{}"}}}}"#,
                n % 4
            ),
            8 => format!(
                r#"{{"type":"direct_message","payload":{{"user_id":"u{}","data":"{}"}}}}"#,
                room % 3,
                "d".repeat(usize::from(n) * 4)
            ),
            9 => format!(
                r#"{{"type":"typing_{}","room":"r{room}"}}"#,
                if n & 1 == 0 { "start" } else { "stop" }
            ),
            10 => {
                format!(r#"{{"type":"read_receipt","room":"r{room}","payload":{{"offset":{n}}}}}"#)
            }
            11 => format!(r#"{{"type":"presence_query","room":"r{room}"}}"#),
            12 => format!(
                r#"{{"type":"history_query","room":"r{room}","payload":{{"since":{n},"limit":{}}}}}"#,
                room + 1
            ),
            13 => format!(r#"{{"type":"ping","payload":{n}}}"#),
            14 => return self.control(at, room, n),
            _ => {
                self.clients[at].may_miss = true;
                String::from_utf8_lossy(&tape.bytes()).into_owned()
            }
        };
        let text = text.as_bytes();
        let split = usize::from(what >> 4) % (text.len() + 1);
        let mut wire = Vec::new();
        let mask = [what, n, 3, 4];
        if what & 0x80 == 0 || split == 0 {
            encode_fragment(OpCode::Data(Data::Text), true, mask, text, &mut wire);
        } else {
            encode_fragment(
                OpCode::Data(Data::Text),
                false,
                mask,
                &text[..split],
                &mut wire,
            );
            encode_fragment(
                OpCode::Control(Control::Ping),
                true,
                mask,
                b"between",
                &mut wire,
            );
            encode_fragment(
                OpCode::Data(Data::Continue),
                true,
                mask,
                &text[split..],
                &mut wire,
            );
        }
        self.input(at, &wire, usize::from(n & 15));
    }

    fn control(&mut self, at: usize, what: u8, n: u8) {
        let (opcode, payload) = match what {
            0 => (OpCode::Control(Control::Close), vec![]),
            1 => (OpCode::Control(Control::Close), vec![3, n]),
            2 => (OpCode::Control(Control::Pong), vec![n]),
            3 => (OpCode::Data(Data::Binary), vec![n; usize::from(n)]),
            _ => (
                OpCode::Control(Control::Ping),
                vec![n; usize::from(n % 126)],
            ),
        };
        let mut wire = Vec::new();
        encode_fragment(opcode, true, [n; 4], &payload, &mut wire);
        self.input(at, &wire, 0);
    }

    fn send(&mut self, tape: &mut Tape<'_>, bytes: impl FnOnce(&mut Tape<'_>) -> Vec<u8>) {
        let Some(at) = self.pick(tape) else { return };
        self.clients[at].may_miss = true;
        let bytes = bytes(tape);
        self.input(at, &bytes, 0);
    }

    /// Bytes of a client reach its shard, in chops, where it is read at all.
    fn input(&mut self, at: usize, bytes: &[u8], chop: usize) {
        let Client { core, index, .. } = self.clients[at];
        self.act(core);
        self.clients[at].unread.extend_from_slice(bytes);
        self.read(at, core, index, chop);
    }

    fn read(&mut self, at: usize, core: usize, index: u32, chop: usize) {
        let shard = &mut self.shards[core].shard;
        if !self.clients[at].is_open || !shard.wants_read(index) {
            return;
        }
        let mut bytes = std::mem::take(&mut self.clients[at].unread);
        let size = if chop == 0 { bytes.len().max(1) } else { chop };
        for piece in bytes.chunks_mut(size) {
            shard.handle_bytes(self.now, index, piece);
        }
    }

    fn stall(&mut self, tape: &mut Tape<'_>) {
        let Some(at) = self.pick(tape) else { return };
        let room = usize::from(tape.byte()) * 4;
        let Client { core, index, .. } = self.clients[at];
        if let Some(socket) = self.shards[core].sockets.0.get_mut(&index) {
            socket.room = Some(room);
        }
    }

    fn unstall(&mut self, tape: &mut Tape<'_>) {
        let Some(at) = self.pick(tape) else { return };
        // A peer that takes a little and stalls again, or for good.
        let room = usize::from(tape.byte()) * 16;
        let room = if room > 2048 { None } else { Some(room) };
        self.open_up(at, room);
    }

    fn open_up(&mut self, at: usize, room: Option<usize>) {
        let Client { core, index, .. } = self.clients[at];
        let Core { shard, sockets, .. } = &mut self.shards[core];
        if let Some(socket) = sockets.0.get_mut(&index)
            && self.clients[at].is_open
        {
            socket.room = room;
            if std::mem::take(&mut socket.full) {
                shard.handle_writable(self.now, index);
            }
        }
    }

    /// A peer ends its side, or its socket breaks and the next write says so.
    fn vanish(&mut self, tape: &mut Tape<'_>) {
        let Some(at) = self.pick(tape) else { return };
        let Client { core, index, .. } = self.clients[at];
        let Core { shard, sockets, .. } = &mut self.shards[core];
        if tape.byte() & 1 == 0 {
            shard.handle_end(self.now, index);
        } else if let Some(socket) = sockets.0.get_mut(&index) {
            socket.broken = true;
        }
    }

    /// What a reactor does between two polls, for one core.
    fn turn(&mut self, core: usize, budget: usize) -> bool {
        let Core { shard, sockets, .. } = &mut self.shards[core];
        shard.handle_timeouts(self.now);
        assert!(
            shard.poll_timeout().is_none_or(|due| due > self.now.mono),
            "a timer that is due did not fire: the loop would spin"
        );
        shard.poll_flush(self.now, sockets, budget);
        self.act(core);
        self.shards[core]
            .shard
            .handle_turn_end(self.now.mono, self.now.mono);
        self.listen(core);
        let mut sent = false;
        for to in 0..self.shards.len() {
            if let Some(batch) = self.shards[core].shard.poll_bus(CoreId(to as u16)) {
                assert_ne!(to, core, "mail to oneself");
                self.shards[to].mail[core].push_back(batch);
                sent = true;
            }
        }
        sent
    }

    fn act(&mut self, core: usize) {
        let mut steps = 0;
        while let Some(action) = self.shards[core].shard.poll_action() {
            let Core { shard, sockets, .. } = &mut self.shards[core];
            match action {
                Action::ShutdownWrite(index) => {
                    let socket = sockets.0.get_mut(&index).expect("an open socket");
                    assert!(!std::mem::replace(&mut socket.shut, true), "shut twice");
                }
                Action::Close(index) | Action::Reset(index) => self.closed(core, index),
                Action::Resume(index) => {
                    shard.handle_resume(self.now, index);
                    let at = self.clients.iter().position(|c| c.is(core, index));
                    if let Some(at) = at {
                        self.read(at, core, index, 0);
                    }
                }
            }
            steps += 1;
            assert!(steps < ROUNDS_MAX, "actions without end");
        }
    }

    fn closed(&mut self, core: usize, index: u32) {
        let socket = self.shards[core].sockets.0.remove(&index);
        let socket = socket.expect("a socket is closed once");
        let at = self
            .clients
            .iter()
            .position(|c| c.is(core, index))
            .expect("its client");
        self.clients[at].hear(&socket.received);
        self.clients[at].is_open = false;
    }

    /// Clients look at what has come, and answer pings.
    fn listen(&mut self, core: usize) {
        for at in 0..self.clients.len() {
            let Client {
                core: own, index, ..
            } = self.clients[at];
            if own != core || !self.clients[at].is_open {
                continue;
            }
            let socket = self.shards[core].sockets.0.get_mut(&index);
            let received = socket
                .map(|s| std::mem::take(&mut s.received))
                .unwrap_or_default();
            self.clients[at].hear(&received);
            if self.answers_pings && std::mem::take(&mut self.clients[at].pinged) {
                let mut wire = Vec::new();
                encode_fragment(OpCode::Control(Control::Pong), true, [7; 4], b"", &mut wire);
                // Behind what was sent before, and not in the middle of a frame of garbage.
                if !self.clients[at].may_miss {
                    self.input(at, &wire, 0);
                }
            }
        }
    }

    /// The oldest batch from one core to another arrives.
    fn deliver(&mut self, which: usize) -> bool {
        let cores = self.shards.len();
        let (to, from) = (which % cores, which / cores % cores);
        let Some(batch) = self.shards[to].mail[from].pop_front() else {
            return false;
        };
        self.shards[to].shard.handle_bus(self.now, batch);
        true
    }

    fn drain(&mut self, core: usize, window: Duration) {
        self.shards[core].drains = true;
        self.shards[core].shard.handle_drain(self.now, window);
    }

    fn advance(&mut self, time: Duration) {
        self.now.mono = self.now.mono + time;
        self.now.unix_ms += time.as_millis() as u64;
    }

    fn check(&mut self) {
        for (core, Core { shard, sockets, .. }) in self.shards.iter_mut().enumerate() {
            let pending = shard.pending_frames();
            let metrics = shard.metrics();
            assert!(
                metrics.ledger.balances(pending),
                "core {core}: {pending} frames wait, and the ledger says {:#?}",
                metrics.ledger
            );
            let open = metrics.connections.open_total();
            let held = shard.footprint().connections;
            assert_eq!(open, held as u64, "connections by state, and all");
            // Those that the reactor was not told of yet are closed here already.
            assert!(held <= sockets.open());
        }
    }

    /// Lets the shards talk until they have nothing to say at this moment.
    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut busy = false;
            for core in 0..self.shards.len() {
                busy |= self.turn(core, usize::MAX);
                busy |= self.shards[core].shard.wants_flush();
            }
            for which in 0..self.shards.len() * self.shards.len() {
                while self.deliver(which) {
                    busy = true;
                }
            }
            self.check();
            if !busy {
                return;
            }
        }
        panic!("the shards do not come to rest");
    }

    fn end(&mut self) {
        if self.hangs_up {
            for at in 0..self.clients.len() {
                let Client {
                    core,
                    index,
                    is_open,
                    ..
                } = self.clients[at];
                if !is_open {
                    continue;
                }
                self.open_up(at, None);
                self.shards[core].shard.handle_end(self.now, index);
            }
        } else {
            for core in 0..self.shards.len() {
                self.drain(core, Duration::from_secs(3));
            }
        }
        self.settle();
        let mut steps = 0;
        while let Some(due) = self
            .shards
            .iter()
            .filter_map(|c| c.shard.poll_timeout())
            .min()
        {
            self.advance(due - self.now.mono);
            self.settle();
            steps += 1;
            assert!(steps < ROUNDS_MAX, "timers without end");
        }
        for Core { shard, sockets, .. } in &mut self.shards {
            assert_eq!(shard.footprint(), Footprint::default());
            assert_eq!(shard.metrics().ledger.pending(), 0);
            assert_eq!(sockets.open(), 0);
        }
        assert!(self.clients.iter().all(|c| !c.is_open));
    }
}

/// One of four: none, of all kinds, explicit, ephemeral.
fn policy(which: u8) -> Arc<Policy> {
    static POLICIES: LazyLock<[Arc<Policy>; 4]> = LazyLock::new(|| {
        RULES.map(|file| {
            let (options, _) = options_from_text(file).expect("rules");
            Arc::new(tidewheel::cli::policy::policy(&options).unwrap_or_default())
        })
    });
    Arc::clone(&POLICIES[usize::from(which % 4)])
}

const RULES: [&str; 4] = [
    "",
    "[[rooms]]
pattern = 'r0'
overflow = 'skip'
max-members = 1
[[rooms]]
pattern = 'r1'
overflow = 'latest'
history = 1
history-ttl = '3s'
publish = 'members'
[[rooms]]
pattern = 'r2'
presence = false
typing = false
max-message-bytes = 100
room-idle-ttl = '0'
[[rooms]]
pattern = 'r3'
overflow = 'evict'
ephemeral = true
[[rooms]]
pattern = 'r4'
presence-limit = 0
history-bytes = '64KiB'
room-idle-ttl = '5s'",
    "room-names = 'explicit'
[[rooms]]
pattern = 'r0'
publish = 'server'
[[rooms]]
pattern = 'r*'
allow = ['join', 'publish']
max-members = 2",
    "[[rooms]]
pattern = '**'
ephemeral = true
overflow = 'latest'",
];
/// Limits that are soon met, where there are any.
fn limits(habits: u8) -> Limits {
    let is_limited = habits & 8 != 0;
    let rate = |count, burst| Rate::new(count, Per::Second, burst).ok();
    Limits {
        connection_messages: rate(20, 10).filter(|_| is_limited),
        connection_joins: rate(5, 5).filter(|_| is_limited),
        connection_control: rate(5, 3).filter(|_| is_limited),
        user_messages: rate(10, 20).filter(|_| is_limited),
        user_rooms: rate(1, 2).filter(|_| is_limited),
        rate_errors_max: 5,
        one_connection_per_user: habits & 16 != 0,
        connections_per_user_max: (habits & 32 != 0).then_some(2),
        ..Limits::default()
    }
}

/// Bounds that are soon reached.
fn config(core: CoreId, cores: u16, bounds: u8, habits: u8) -> ShardConfig {
    let pick = |bit: u8, small: usize, large: usize| if bounds & bit == 0 { small } else { large };
    ShardConfig {
        durability: tidewheel::bus::Durability::Off,
        gives_notice: false,
        core,
        cores,
        seed: SEED,
        echo: true,
        page: b"page",
        policy: Arc::new(Policy {
            limits: limits(habits),
            ..(*policy((habits >> 3) ^ (bounds >> 1))).clone()
        }),
        meters: Default::default(),
        handshake_timeout: Duration::from_secs(10),
        head_bytes_max: 512,
        close_timeout: Duration::from_secs(2),
        message_bytes_max: 4096,
        fragments_max: 8,
        protocol_errors_max: 3,
        rooms_per_connection_max: pick(2, 2, 8),
        rooms_max: pick(4, 3, 100),
        room: RoomLimits {
            history: HistoryLimits {
                messages_max: pick(8, 3, 20),
                bytes_max: 4096,
                ttl: (bounds & 16 != 0).then_some(Duration::from_secs(5)),
            },
            idle_ttl: Duration::from_secs(20),
            idempotency_window: Duration::from_secs(10),
            idempotency_keys_max: 3,
        },
        presence_limit: pick(32, 2, 100) as u64,
        overflow: match habits & 3 {
            0 => Overflow::Evict,
            1 => Overflow::Skip,
            _ => Overflow::Latest,
        },
        lag_bytes_max: pick(64, 1024, 64 * 1024) as u64,
        lag_age_max: Duration::from_secs(10),
        coalesce: Duration::from_millis(if habits & 4 == 0 { 0 } else { 20 }),
        answer_bytes_max: pick(128, 512, 16 * 1024),
        memory_budget_bytes: 0,
        heartbeat_interval: Duration::from_secs(25),
        heartbeat_timeout: Duration::from_secs(10),
    }
}

#[derive(Default)]
struct Socket {
    /// What it takes before it is full; no bound where nothing is given.
    room: Option<usize>,
    full: bool,
    broken: bool,
    /// Nothing was written to it yet.
    is_fresh: bool,
    shut: bool,
    received: Vec<u8>,
}

/// The sockets of one core, as strict as they can be about what a shard does to them.
#[derive(Default)]
struct Sockets(HashMap<u32, Socket>);

impl Sockets {
    fn insert(&mut self, index: u32) {
        let before = self.0.insert(
            index,
            Socket {
                is_fresh: true,
                ..Socket::default()
            },
        );
        assert!(before.is_none(), "an index is given once");
    }

    fn open(&self) -> usize {
        self.0.len()
    }
}

impl Transport for Sockets {
    fn send(&mut self, connection: u32, bytes: &[u8]) -> Sent {
        self.send_vectored(connection, &[IoSlice::new(bytes)])
    }

    fn send_vectored(&mut self, connection: u32, slices: &[IoSlice<'_>]) -> Sent {
        let socket = self
            .0
            .get_mut(&connection)
            .expect("a write to an open socket");
        assert!(!socket.shut, "a write after the end");
        let offered: usize = slices.iter().map(|s| s.len()).sum();
        assert_ne!(offered, 0, "a write of nothing");
        if socket.broken {
            return Sent::Gone;
        }
        // The first thing on a socket, the response to the upgrade, fits into its buffer.
        let first = if socket.is_fresh { FIRST_BYTES } else { 0 };
        let taken = socket
            .room
            .map_or(offered, |room| room.max(first).min(offered));
        socket.is_fresh = false;
        socket.full |= taken < offered;
        if let Some(room) = &mut socket.room {
            *room = room.saturating_sub(taken);
        }
        let bytes = slices.iter().flat_map(|s| s.iter().copied()).take(taken);
        socket.received.extend(bytes);
        if taken == 0 {
            Sent::Full
        } else {
            Sent::Took(taken)
        }
    }
}

/// How far a client has followed one room.
#[derive(Copy, Clone)]
enum Progress {
    /// It was let in at this offset; older ones may be replayed first.
    Joined(u64),
    /// It had the message of this offset, or was told that it will not.
    At(u64),
}

struct Client {
    core: usize,
    index: u32,
    is_open: bool,
    /// It has sent nobody-knows-what, or asked not to get its own, or is on `/echo`: offsets may be
    /// missing, or not be a room's.
    may_miss: bool,
    /// The last epoch that it heard of.
    epoch: String,
    /// What its shard does not want to read yet.
    unread: Vec<u8>,
    head: Vec<u8>,
    frames: Option<ServerFrames>,
    rooms: HashMap<String, Progress>,
    pinged: bool,
    close_heard: bool,
}

impl Client {
    fn new(core: usize, index: u32) -> Client {
        Client {
            core,
            index,
            may_miss: false,
            epoch: "0".to_owned(),
            unread: Vec::new(),
            head: Vec::new(),
            frames: None,
            rooms: HashMap::new(),
            pinged: false,
            close_heard: false,
            is_open: true,
        }
    }

    fn is(&self, core: usize, index: u32) -> bool {
        self.is_open && (self.core, self.index) == (core, index)
    }

    fn hear(&mut self, bytes: &[u8]) {
        let Some(frames) = &mut self.frames else {
            self.head.extend_from_slice(bytes);
            let begins = self.head.iter().zip(b"HTTP/1.1 ").all(|(a, b)| a == b);
            assert!(
                begins,
                "something came before the response: {}",
                self.head.escape_ascii()
            );
            let end = self.head.windows(4).position(|w| w == b"\r\n\r\n");
            if let Some(end) = end
                && self.head.starts_with(b"HTTP/1.1 101 ")
            {
                let rest = self.head.split_off(end + 4);
                self.frames = Some(ServerFrames::default());
                self.hear(&rest);
            }
            return;
        };
        frames.push(bytes);
        let mut heard = Vec::new();
        while let Some(frame) = frames.next_frame().expect("a server's frame") {
            heard.push(frame);
        }
        for frame in heard {
            assert!(!self.close_heard, "a frame after the close");
            assert!(frame.is_final);
            match frame.opcode {
                OpCode::Control(Control::Close) => self.close_heard = true,
                OpCode::Control(Control::Ping) => self.pinged = true,
                OpCode::Data(Data::Text) => {
                    let text = String::from_utf8(frame.payload).expect("text");
                    if !self.may_miss {
                        self.follow(&text);
                    }
                }
                _ => {}
            }
        }
    }

    /// Holds what is heard of a room against what was heard before.
    fn follow(&mut self, text: &str) {
        assert!(validate(text).is_ok(), "{text}");
        let Some(room) = value(text, r#""room":""#, '"') else {
            return;
        };
        let kind = value(text, r#"{"type":""#, '"').unwrap_or_default();
        let number = |name| {
            let (_, rest) = text.split_once(name)?;
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            rest[..end].parse::<u64>().ok()
        };
        match kind {
            "room_joined" => {
                let offset = number(r#""offset":"#).expect("an offset");
                self.epoch = value(text, r#""epoch":""#, '"').unwrap_or("0").to_owned();
                let before = self.rooms.insert(room.to_owned(), Progress::Joined(offset));
                // Joining again replays nothing, and what came before is all there.
                if let Some(Progress::At(at)) = before {
                    assert!(at <= offset, "{room}: {at} before it was told {offset}");
                }
            }
            "room_left" => drop(self.rooms.remove(room)),
            "message" => {
                let offset = number(r#""offset":"#).expect("an offset");
                self.step(room, offset, offset);
            }
            "messages_missed" => {
                let (from, to) = (number(r#""from":"#), number(r#""to":"#));
                self.step(room, from.expect("from"), to.expect("to"));
            }
            _ => {}
        }
    }

    fn step(&mut self, room: &str, from: u64, to: u64) {
        assert!(from <= to);
        let progress = self
            .rooms
            .get_mut(room)
            .expect("a message of a room that it is in");
        match *progress {
            Progress::Joined(offset) => {
                assert!(from <= offset + 1, "{room}: {from} after {offset}");
            }
            Progress::At(before) => assert_eq!(from, before + 1, "{room}"),
        }
        *progress = Progress::At(to);
    }
}

/// What stands between `before` and the next `end`.
fn value<'a>(text: &'a str, before: &str, end: char) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    let (value, _) = rest.split_once(end)?;
    Some(value)
}
