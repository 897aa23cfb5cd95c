//! History that survives, over whole nodes and a store in memory: with `fsync` nobody hears of a
//! message that is not on disk, nothing acknowledged is missing or there twice, offsets go on without
//! hole and clients recover, whatever the store does and whenever the node dies.
//!
//! A seed is a whole run. `SEED=17 cargo test --test durable` replays one; `SEEDS` says how many.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod model;

use std::collections::{BTreeMap, HashMap};
use std::io::IoSlice;
use std::time::Duration;

use serde_json::Value;
use tidewheel::address::{CoreId, Placement};
use tidewheel::bus::{Durability, Order, StoredBan};
use tidewheel::cli::Options;
use tidewheel::cli::settings::shard_config;
use tidewheel::codec::websocket::{Data, OpCode, client};
use tidewheel::metrics::MemoryKind;
use tidewheel::protocol::UserId;
use tidewheel::shard::{Action, STALL, Sent, Shard, ShardConfig, Transport};
use tidewheel::time::{Instant, Now};

use model::Disk;

const ROOMS: [&str; 4] = ["a", "b", "c", "d"];

/// Takes everything; keeps what each connection of a core got.
#[derive(Default)]
struct Sockets(BTreeMap<u32, Vec<u8>>);

impl Transport for Sockets {
    fn send(&mut self, connection: u32, bytes: &[u8]) -> Sent {
        self.0
            .entry(connection)
            .or_default()
            .extend_from_slice(bytes);
        Sent::Took(bytes.len())
    }

    fn send_vectored(&mut self, connection: u32, slices: &[IoSlice<'_>]) -> Sent {
        let lengths = slices.iter().map(|slice| {
            self.send(connection, slice);
            slice.len()
        });
        Sent::Took(lengths.sum())
    }
}

/// The texts of whole frames.
fn texts(mut bytes: &[u8]) -> Vec<Value> {
    let mut texts = Vec::new();
    if bytes.starts_with(b"HTTP") {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        bytes = &bytes[end + 4..];
    }
    while let [first, second, rest @ ..] = bytes {
        let (len, header) = match second {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), 2),
            127 => (
                u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize,
                8,
            ),
            len => (usize::from(*len), 0),
        };
        let body = &rest[header..header + len];
        if first & 0x0f == 1 {
            texts.push(serde_json::from_slice(body).unwrap());
        }
        bytes = &rest[header + len..];
    }
    texts
}

fn config(durability: Durability, history: usize, cores: u16, seed: u64) -> ShardConfig {
    let mut options = Options::default();
    options.rooms.history = history;
    options.rooms.room_idle_ttl = Duration::from_secs(86_400);
    options.rooms.idempotency_window = Duration::from_secs(86_400);
    options.heartbeat.heartbeat_interval = Duration::from_secs(86_400);
    let config = shard_config(&options, CoreId(0), cores, seed);
    ShardConfig {
        durability,
        ..config
    }
}

/// Someone who publishes until it is told that the message is there, and reads along.
#[derive(Default)]
struct Client {
    place: Option<(usize, u32)>,
    /// Messages that have no answer, by id: to which room.
    open: BTreeMap<String, &'static str>,
    /// Rooms: epoch and offset of the last message, and whether that is where the room stands.
    read: HashMap<String, (String, u64)>,
    /// Where it asked to go on.
    recovering: HashMap<String, (String, u64)>,
}

struct World {
    rng: fastrand::Rng,
    durability: Durability,
    history: usize,
    now: Now,
    shards: Vec<Shard>,
    sockets: Vec<Sockets>,
    clients: Vec<Client>,
    disk: Disk,
    ids: u64,
    /// Acknowledged messages: room and id, epoch and offset.
    acknowledged: BTreeMap<(String, String), (String, u64)>,
    recovered: u64,
    unrecovered: u64,
    refused: u64,
}

impl World {
    fn new(seed: u64, durability: Durability) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let history = if rng.bool() { 100_000 } else { rng.usize(0..6) };
        let now = Now {
            mono: Instant::ORIGIN + Duration::from_secs(1_000_000),
            unix_ms: 1_800_000_000_000,
        };
        let mut world = World {
            rng,
            durability,
            history,
            now,
            shards: Vec::new(),
            sockets: Vec::new(),
            clients: (0..5).map(|_| Client::default()).collect(),
            disk: Disk::new(durability),
            ids: 0,
            acknowledged: BTreeMap::new(),
            recovered: 0,
            unrecovered: 0,
            refused: 0,
        };
        world.start();
        world
    }

    /// A node begins with what is on disk: with another seed, and as many cores as it likes.
    fn start(&mut self) {
        let (seed, cores) = (self.rng.u64(..), self.rng.u16(1..4));
        let placement = Placement::new(seed, cores);
        let mut rooms: Vec<Vec<_>> = (0..cores).map(|_| Vec::new()).collect();
        for room in self.disk.contents() {
            rooms[placement.home_of(placement.hash_one(&*room.name)).index()].push(room);
        }
        self.shards = Vec::new();
        for (core, rooms) in rooms.into_iter().enumerate() {
            let mut config = config(self.durability, self.history, cores, seed);
            config.core = CoreId(core as u16);
            let mut shard = Shard::new(config, self.now);
            shard.restore(self.now, rooms, &[]);
            self.shards.push(shard);
        }
        self.sockets = (0..cores).map(|_| Sockets::default()).collect();
        for client in 0..self.clients.len() {
            self.clients[client].place = None;
            self.connect(client);
        }
    }

    fn connect(&mut self, client: usize) {
        let core = self.rng.usize(..self.shards.len());
        let index = self.shards[core].handle_accept(self.now);
        self.clients[client].place = Some((core, index));
        let head = format!(
            "GET /ws?user_id=u{client} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let mut head = head.into_bytes();
        self.shards[core].handle_bytes(self.now, index, &mut head);
        for room in ROOMS {
            self.join(client, room);
        }
        for (id, room) in self.clients[client].open.clone() {
            self.publish(client, room, &id);
        }
    }

    fn join(&mut self, client: usize, room: &str) {
        let known = self.clients[client].read.get(room).cloned();
        let recover = match &known {
            Some((epoch, offset)) => {
                format!(r#","payload":{{"recover":{{"epoch":"{epoch}","offset":{offset}}}}}"#)
            }
            None => String::new(),
        };
        if let Some(position) = known {
            self.clients[client]
                .recovering
                .insert(room.to_owned(), position);
        }
        self.say(
            client,
            &format!(r#"{{"type":"join_room","room":"{room}"{recover}}}"#),
        );
    }

    fn publish(&mut self, client: usize, room: &'static str, id: &str) {
        self.clients[client].open.insert(id.to_owned(), room);
        self.say(client, &format!(
            r#"{{"type":"message","room":"{room}","payload":1,"metadata":{{"message_id":"{id}","correlation_id":"{id}"}}}}"#
        ));
    }

    fn say(&mut self, client: usize, text: &str) {
        let Some((core, index)) = self.clients[client].place else {
            return;
        };
        let mut wire = Vec::new();
        client::encode_masked(
            OpCode::Data(Data::Text),
            [1, 2, 3, 4],
            text.as_bytes(),
            &mut wire,
        );
        self.shards[core].handle_bytes(self.now, index, &mut wire);
    }

    /// A turn of every core, until nothing is left to do; and what came of it, held against the laws.
    fn turn(&mut self) {
        loop {
            let mut is_quiet = true;
            for from in 0..self.shards.len() {
                for to in 0..self.shards.len() {
                    if let Some(batch) = self.shards[from].poll_bus(CoreId(to as u16)) {
                        self.shards[to].handle_bus(self.now, batch);
                        is_quiet = false;
                    }
                }
            }
            for (shard, sockets) in self.shards.iter_mut().zip(&mut self.sockets) {
                shard.handle_timeouts(self.now);
                while !shard.poll_flush(self.now, sockets, 100) {}
                while let Some(action) = shard.poll_action() {
                    if let Action::Resume(index) = action {
                        shard.handle_resume(self.now, index);
                    }
                }
            }
            if is_quiet {
                break;
            }
        }
        for shard in &mut self.shards {
            if let Some(batch) = shard.poll_records() {
                self.disk.take(batch);
            }
            let kind = MemoryKind::Store;
            assert_eq!(shard.memory().of(kind), shard.recount().of(kind));
        }
        self.listen();
    }

    fn listen(&mut self) {
        for client in 0..self.clients.len() {
            let Some((core, index)) = self.clients[client].place else {
                continue;
            };
            let bytes = self.sockets[core].0.remove(&index).unwrap_or_default();
            for told in texts(&bytes) {
                self.hear(client, &told);
            }
        }
    }

    fn hear(&mut self, client: usize, told: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (room, payload) = (text(&told["room"]), &told["payload"]);
        let me = &mut self.clients[client];
        match told["type"].as_str().unwrap() {
            "message" => {
                let (offset, id) = (
                    told["offset"].as_u64().unwrap(),
                    text(&told["metadata"]["message_id"]),
                );
                let (_, last) = me.read.get_mut(&room).expect("a member");
                assert_eq!(offset, *last + 1, "{room} goes on without hole");
                *last = offset;
                self.is_on_disk(&room, offset, &id);
            }
            "message_sent" => {
                let (offset, id) = (
                    payload["offset"].as_u64().unwrap(),
                    text(&payload["message_id"]),
                );
                me.open.remove(&id);
                let position = (text(&payload["epoch"]), offset);
                self.is_on_disk(&room, offset, &id);
                let known = self.acknowledged.insert((room, id), position.clone());
                assert!(
                    known.is_none_or(|known| known.1 == position.1),
                    "one offset for good"
                );
            }
            "room_joined" => {
                let position = (text(&payload["epoch"]), payload["offset"].as_u64().unwrap());
                let recovered = payload["recovered"].as_bool().unwrap();
                let asked = me.recovering.remove(&room);
                if let Some(asked) = asked {
                    let same = asked.0 == position.0;
                    let is_kept = self.history == 100_000 || asked.1 == position.1;
                    assert_eq!(
                        recovered,
                        same && (is_kept || recovered),
                        "{asked:?} of {position:?}"
                    );
                    // A room without a message is not waited for.
                    let may_be_new = asked.1 == 0 || self.durability == Durability::Async;
                    assert!(same || may_be_new, "epochs survive");
                    *(if recovered {
                        &mut self.recovered
                    } else {
                        &mut self.unrecovered
                    }) += 1;
                    if recovered {
                        me.read.insert(room, asked);
                        return;
                    }
                }
                me.read.insert(room, position);
            }
            "error" => {
                assert_eq!(payload["code"], 4104, "{told}");
                self.refused += 1;
            }
            "connection_established" | "read_receipt" => {}
            other => panic!("{other}: {told}"),
        }
    }

    /// With fsync nobody is told of what is not on disk.
    fn is_on_disk(&self, room: &str, offset: u64, id: &str) {
        if self.durability == Durability::Fsync {
            let stored = self
                .disk
                .rooms
                .get(room)
                .and_then(|room| room.ever.get(&offset));
            assert_eq!(stored.map(String::as_str), Some(id), "{room} at {offset}");
        }
    }

    fn tell(&mut self, told: Vec<(CoreId, tidewheel::bus::Stored)>) {
        for (core, stored) in told {
            self.shards[core.index()].handle_stored(self.now, &stored);
        }
        self.turn();
    }

    fn step(&mut self) {
        let client = self.rng.usize(..self.clients.len());
        self.now.mono = self.now.mono + Duration::from_millis(7);
        self.now.unix_ms += 7;
        match self.rng.u32(0..100) {
            0..40 => {
                self.ids += 1;
                let id = format!("m{}", self.ids);
                let room = ROOMS[self.rng.usize(..ROOMS.len())];
                self.publish(client, room, &id);
                if self.rng.u8(..4) == 0 {
                    self.publish(client, room, &id);
                }
            }
            40..50 => {
                for (id, room) in self.clients[client].open.clone() {
                    self.publish(client, room, &id);
                }
            }
            50..55 => {
                let room = ROOMS[self.rng.usize(..ROOMS.len())];
                let offset = self.clients[client].read.get(room).map_or(0, |read| read.1);
                if offset > 0 {
                    self.say(client, &format!(r#"{{"type":"read_receipt","room":"{room}","payload":{{"offset":{offset}}}}}"#));
                }
            }
            55..60 => {
                if let Some((core, index)) = self.clients[client].place.take() {
                    self.listen();
                    self.shards[core].handle_end(self.now, index);
                    self.connect(client);
                }
            }
            60..94 => {
                let (count, fails) = (self.rng.usize(1..4), self.rng.u8(..8) == 0);
                let told = self.disk.commit(count, fails);
                self.tell(told);
            }
            94..97 => self.restart(true),
            _ => self.restart(false),
        }
        self.turn();
    }

    fn restart(&mut self, is_clean: bool) {
        if is_clean {
            self.settle();
        } else {
            // Some of it may be on disk without anybody having been told.
            let count = self.rng.usize(..3);
            drop(self.disk.commit(count, false));
            let mut epochs = self.rng.fork();
            self.disk.crash(&mut || epochs.u64(..));
            if self.durability == Durability::Async {
                self.acknowledged.clear();
            }
        }
        self.start();
        self.turn();
    }

    fn settle(&mut self) {
        while self.disk.waiting() > 0 {
            let told = self.disk.commit(usize::MAX, false);
            self.tell(told);
        }
        assert!(self.shards.iter().all(|shard| !shard.has_staged()));
    }

    /// All that was acknowledged is there once, under the offset that was told.
    fn judge(&mut self) {
        self.settle();
        for client in 0..self.clients.len() {
            for (id, room) in self.clients[client].open.clone() {
                self.publish(client, room, &id);
            }
        }
        self.turn();
        self.settle();
        for ((room, id), (_, offset)) in &self.acknowledged {
            let room = &self.disk.rooms[room];
            assert_eq!(room.ever.get(offset), Some(id));
            assert_eq!(room.ever.values().filter(|known| *known == id).count(), 1);
        }
        assert!(self.clients.iter().all(|client| client.open.is_empty()));
    }
}

fn run(durability: Durability) {
    let read = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seeds = match read("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..read("SEEDS").unwrap_or(30),
    };
    let (mut acknowledged, mut recovered, mut refused, mut unrecovered, mut failures) =
        (0, 0, 0, 0, 0);
    for seed in seeds {
        println!("SEED={seed}");
        let mut world = World::new(seed, durability);
        for _ in 0..300 {
            world.step();
        }
        world.judge();
        acknowledged += world.acknowledged.len();
        recovered += world.recovered;
        unrecovered += world.unrecovered;
        refused += world.refused;
        failures += world.disk.failures;
    }
    println!(
        "{durability:?}: acknowledged {acknowledged}, recoveries {recovered}, not recovered \
         {unrecovered}, refused {refused}, failures {failures}"
    );
    assert!(acknowledged > 0 && recovered > 0);
}

#[test]
fn with_fsync_nothing_acknowledged_is_missing_or_there_twice() {
    run(Durability::Fsync);
}

#[test]
fn with_async_a_clean_restart_loses_nothing_and_another_begins_new_epochs() {
    run(Durability::Async);
}

/// A shard with one connection, and what it was told.
struct One {
    shard: Shard,
    sockets: Sockets,
    now: Now,
}

impl One {
    fn new(config: ShardConfig) -> One {
        let now = Now {
            mono: Instant::ORIGIN + Duration::from_secs(1_000_000),
            unix_ms: 1_800_000_000_000,
        };
        let mut shard = Shard::new(config, now);
        shard.handle_accept(now);
        let mut head = b"GET /ws?user_id=ann HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".to_vec();
        shard.handle_bytes(now, 0, &mut head);
        let mut one = One {
            shard,
            sockets: Sockets::default(),
            now,
        };
        one.told();
        one
    }

    fn say(&mut self, text: &str) -> Vec<Value> {
        let mut wire = Vec::new();
        client::encode_masked(
            OpCode::Data(Data::Text),
            [1, 2, 3, 4],
            text.as_bytes(),
            &mut wire,
        );
        self.shard.handle_bytes(self.now, 0, &mut wire);
        self.told()
    }

    fn told(&mut self) -> Vec<Value> {
        while !self.shard.poll_flush(self.now, &mut self.sockets, 100) {}
        texts(&self.sockets.0.remove(&0).unwrap_or_default())
    }

    fn wait(&mut self, time: Duration) {
        self.now.mono = self.now.mono + time;
        self.now.unix_ms += time.as_millis() as u64;
        self.shard.handle_timeouts(self.now);
    }
}

#[test]
fn a_store_that_says_nothing_is_not_waited_for_longer_than_it_may() {
    let mut one = One::new(config(Durability::Fsync, 10, 1, 7));
    let publish = r#"{"type":"message","room":"r","payload":1}"#;
    assert!(one.say(publish).is_empty(), "it waits for the disk");
    assert!(one.shard.poll_records().is_some());
    one.wait(STALL);
    let told = one.say(publish);
    assert_eq!(told[0]["payload"]["code"], 4104, "{told:?}");
    one.shard.handle_stored(
        one.now,
        &tidewheel::bus::Stored {
            through: 1,
            fault: None,
        },
    );
    assert_eq!(
        one.told()[0]["payload"]["offset"],
        1,
        "the first one is there"
    );
    assert!(one.say(publish).is_empty(), "and the next may wait again");
}

#[test]
fn what_may_wait_for_the_disk_is_bounded_and_publishers_are_paused_first() {
    let config = ShardConfig {
        memory_budget_bytes: 64 << 20,
        ..config(Durability::Fsync, 10, 1, 7)
    };
    let mut one = One::new(config);
    let publish = format!(
        r#"{{"type":"message","room":"r","payload":"{}"}}"#,
        "x".repeat(50_000)
    );
    let mut staged = 0;
    while !one.shard.awaits_store() {
        assert!(one.say(&publish).is_empty());
        staged += 1;
    }
    let refused = (0..100).find(|_| !one.say(&publish).is_empty());
    assert!(
        refused.is_some(),
        "other cores' messages still come, up to a bound"
    );
    assert!(staged < 25 && one.shard.memory_bytes() < 3 << 20);
    assert!(one.shard.poll_records().is_some());
    one.shard.handle_stored(
        one.now,
        &tidewheel::bus::Stored {
            through: 1,
            fault: None,
        },
    );
    assert!(!one.shard.awaits_store() && one.told().len() >= staged);
}

#[test]
fn bans_come_back_but_for_those_that_are_over() {
    let user = UserId::from_name("ann");
    let bans = |until_unix_ms| {
        [StoredBan {
            user: user.clone(),
            until_unix_ms,
        }]
    };
    for (until, is_banned) in [
        (None, true),
        (Some(1_800_000_000_000), false),
        (Some(1_800_000_009_000), true),
    ] {
        let mut one = One::new(config(Durability::Async, 10, 1, 7));
        one.shard.restore(one.now, Vec::new(), &bans(until));
        let told = one.shard.poll_records();
        assert_eq!(
            told.is_some(),
            !is_banned,
            "one that is over is told to the store"
        );
        assert_eq!(
            one.shard.handle_unban(one.now, &user),
            is_banned,
            "{until:?}"
        );
    }
    let mut one = One::new(config(Durability::Async, 10, 1, 7));
    let order = Order::Ban {
        user,
        lasts: Some(Duration::from_secs(9)),
    };
    one.shard.handle_order(one.now, order).unwrap();
    let records = one.shard.poll_records().unwrap().records;
    assert!(
        format!("{records:?}").contains("until_unix_ms: Some(1800000009000)"),
        "{records:?}"
    );
    one.wait(Duration::from_secs(70));
    let records = one.shard.poll_records().unwrap().records;
    assert!(format!("{records:?}").contains("Unbanned"), "{records:?}");
}
