//! `kill -9` at random moments under publish load, against the program itself.
//!
//! With `--durability fsync` no acknowledged message is missing, none is there twice, offsets go on,
//! and members recover across each restart by their position. With `async` a kill begins new epochs,
//! so that nobody takes a lost message for one that was never there.
//!
//! `KILLS=200 cargo test --test durability -- --nocapture` is the proof; five kills are for every day.
//! What a loss of power would do is not shown by this: the system's cache survives a process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod peer;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use peer::Peer;
use serde_json::Value;

const ROOMS: [&str; 5] = ["a", "b", "c", "d", "e"];
const PUBLISHERS: usize = 6;
const MEMBERS: usize = 3;
/// Messages of one publisher that have no answer yet.
const WINDOW: usize = 16;

/// A running server, and nothing of it afterwards.
struct Server {
    child: Child,
    address: SocketAddr,
    ready_after: Duration,
}

impl Server {
    fn start(folder: &Path, durability: &str) -> Server {
        let began = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidewheel"))
            .args([
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
                "--shards",
                "2",
            ])
            .args([
                "--history",
                "1000000",
                "--history-bytes",
                "1GiB",
                "--history-ttl",
                "0",
            ])
            .args(["--idempotency-keys", "1000000", "--drain-window", "0"])
            .args(["--durability", durability, "--data-dir"])
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.find_map(|line| {
            let line = line.ok()?;
            line.strip_prefix("listening on http://").map(str::to_owned)
        });
        let address = line
            .expect("it listens")
            .trim_end_matches('/')
            .parse()
            .unwrap();
        thread::spawn(move || lines.for_each(drop));
        let ready_after = began.elapsed();
        Server {
            child,
            address,
            ready_after,
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, and waits until it has.
    fn stop(mut self) {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// What all threads know.
struct World {
    address: Mutex<Option<SocketAddr>>,
    is_over: AtomicBool,
    /// Acknowledged messages: room and id, offset.
    acknowledged: Mutex<BTreeMap<(String, String), u64>>,
    retries: AtomicU64,
    recoveries: AtomicU64,
    not_recovered: AtomicU64,
    fsync: bool,
}

impl World {
    fn new(fsync: bool) -> Arc<World> {
        Arc::new(World {
            address: Mutex::new(None),
            is_over: AtomicBool::new(false),
            acknowledged: Mutex::default(),
            retries: AtomicU64::new(0),
            recoveries: AtomicU64::new(0),
            not_recovered: AtomicU64::new(0),
            fsync,
        })
    }

    fn connect(&self, user: &str) -> Option<Peer> {
        let address = *self.address.lock().unwrap();
        let peer = address.and_then(|address| Peer::connect(address, user));
        if peer.is_none() {
            thread::sleep(Duration::from_millis(5));
        }
        peer
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Publishes until it is over, and then until all is answered. One that does not try again after
    /// a restart leaves open what became of its last messages.
    fn publish(&self, publisher: usize) {
        let user = format!("p{publisher}");
        let tries_again = publisher % 3 != 2;
        let mut open: BTreeMap<u64, &str> = BTreeMap::new();
        let mut rng = fastrand::Rng::with_seed(publisher as u64);
        let mut count = 0;
        let mut over_since = None;
        while !self.is_over() || !open.is_empty() {
            let Some(mut peer) = self.connect(&user) else {
                if self.is_over() {
                    let since = over_since.get_or_insert_with(Instant::now);
                    assert!(since.elapsed() < Duration::from_secs(30), "it is there");
                }
                continue;
            };
            if !tries_again {
                open.clear();
            }
            self.retries.fetch_add(open.len() as u64, Ordering::Relaxed);
            let mut to_say: Vec<(u64, &str)> = open.iter().map(|(n, room)| (*n, *room)).collect();
            loop {
                if open.len() < WINDOW && !self.is_over() {
                    count += 1;
                    let room = ROOMS[rng.usize(..ROOMS.len())];
                    open.insert(count, room);
                    to_say.push((count, room));
                }
                let said = to_say.drain(..).try_for_each(|(n, room)| {
                    peer.say(&format!(
                        r#"{{"type":"message","room":"{room}","payload":{n},"metadata":{{"message_id":"{user}-{n}"}}}}"#
                    ))
                });
                let (Some(()), Some(told)) = (said, peer.hear()) else {
                    break;
                };
                for told in told
                    .iter()
                    .filter(|told| told["type"] != "connection_established")
                {
                    self.acknowledge(told, &user, &mut open);
                }
                if self.is_over() && open.is_empty() {
                    return;
                }
            }
        }
    }

    fn acknowledge(&self, told: &Value, user: &str, open: &mut BTreeMap<u64, &str>) {
        assert_eq!(told["type"], "message_sent", "{told}");
        let (room, id) = (text(&told["room"]), text(&told["payload"]["message_id"]));
        let offset = told["payload"]["offset"].as_u64().unwrap();
        let number = id
            .strip_prefix(&format!("{user}-"))
            .unwrap()
            .parse()
            .unwrap();
        open.remove(&number);
        let known = self
            .acknowledged
            .lock()
            .unwrap()
            .insert((room, id.clone()), offset);
        assert!(
            known.is_none_or(|known| known == offset || !self.fsync),
            "{id} at {offset} and {known:?}"
        );
    }

    /// Reads all rooms until it is over, and recovers by its position after each restart.
    fn read(&self, member: usize) {
        let mut positions: HashMap<String, (String, u64)> = HashMap::new();
        let mut seen: HashSet<(String, String)> = HashSet::new();
        while !self.is_over() {
            let Some(mut peer) = self.connect(&format!("m{member}")) else {
                continue;
            };
            for room in ROOMS {
                let payload = positions
                    .get(room)
                    .map_or(String::new(), |(epoch, offset)| {
                        format!(
                            r#","payload":{{"recover":{{"epoch":"{epoch}","offset":{offset}}}}}"#
                        )
                    });
                let _gone = peer.say(&format!(
                    r#"{{"type":"join_room","room":"{room}"{payload}}}"#
                ));
            }
            while !self.is_over()
                && let Some(told) = peer.hear()
            {
                for told in told {
                    self.hear(&told, &mut positions, &mut seen);
                }
            }
        }
    }

    fn hear(
        &self,
        told: &Value,
        positions: &mut HashMap<String, (String, u64)>,
        seen: &mut HashSet<(String, String)>,
    ) {
        let room = text(&told["room"]);
        let payload = &told["payload"];
        match told["type"].as_str().unwrap() {
            "room_joined" => {
                let (epoch, offset) =
                    (text(&payload["epoch"]), payload["offset"].as_u64().unwrap());
                let is_recovered = payload["recovered"] == true;
                match positions.get(&room) {
                    Some(asked) => {
                        assert_eq!(is_recovered, asked.0 == epoch, "{asked:?} of {told}");
                        let counter = if is_recovered {
                            &self.recoveries
                        } else {
                            &self.not_recovered
                        };
                        counter.fetch_add(1, Ordering::Relaxed);
                        assert!(
                            is_recovered || !self.fsync || asked.1 == 0,
                            "{asked:?} of {told}"
                        );
                        if !is_recovered {
                            positions.insert(room, (epoch, offset));
                        }
                    }
                    None => drop(positions.insert(room, (epoch, offset))),
                }
            }
            "message" => {
                let (_, last) = positions.get_mut(&room).expect("a member");
                *last += 1;
                assert_eq!(told["offset"], *last, "{room} goes on without hole");
                let is_new = seen.insert((room, text(&told["metadata"]["message_id"])));
                assert!(is_new || !self.fsync, "it came twice: {told}");
            }
            "connection_established" | "server_shutdown" => {}
            _ => panic!("{told}"),
        }
    }

    /// Everything that a room keeps, by offset.
    fn history(&self, room: &str) -> BTreeMap<u64, String> {
        let mut peer = self.connect("judge").expect("it runs");
        let mut found = BTreeMap::new();
        loop {
            let since = found.len();
            let ask = format!(
                r#"{{"type":"history_query","room":"{room}","payload":{{"since":{since},"limit":2000}}}}"#
            );
            peer.say(&ask).unwrap();
            let answer = loop {
                let told = peer.hear().expect("it is there");
                if let Some(answer) = told.into_iter().find(|told| told["type"] == "history") {
                    break answer["payload"].clone();
                }
            };
            assert_eq!(answer["complete"], true);
            let messages = answer["messages"].as_array().unwrap();
            for message in messages {
                let offset = message["offset"].as_u64().unwrap();
                assert_eq!(offset, found.len() as u64 + 1, "without hole");
                found.insert(offset, text(&message["metadata"]["message_id"]));
            }
            if messages.is_empty() {
                assert_eq!(answer["offset"], found.len());
                return found;
            }
        }
    }

    fn judge(&self) -> usize {
        let acknowledged = self.acknowledged.lock().unwrap();
        let mut stored = 0;
        for room in ROOMS {
            let found = self.history(room);
            let ids: HashSet<&String> = found.values().collect();
            assert_eq!(ids.len(), found.len(), "none is there twice");
            for ((_, id), offset) in acknowledged.iter().filter(|((name, _), _)| name == room) {
                assert_eq!(
                    found.get(offset),
                    Some(id),
                    "acknowledged in {room} at {offset}"
                );
            }
            stored += found.len();
        }
        stored
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A folder of this test's own, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("tidewheel-durability-{name}-{}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// Publishers and members, through so many kills. The server still runs afterwards.
fn kill_again_and_again(world: &Arc<World>, folder: &Path, durability: &str, kills: u64) -> Server {
    let mut rng = fastrand::Rng::new();
    let mut readies = Vec::new();
    let start = |readies: &mut Vec<Duration>| {
        let server = Server::start(folder, durability);
        readies.push(server.ready_after);
        *world.address.lock().unwrap() = Some(server.address);
        server
    };
    let mut server = start(&mut readies);
    let begin = |run: fn(&World, usize), number| {
        let world = Arc::clone(world);
        thread::spawn(move || run(&world, number))
    };
    let publishers: Vec<_> = (0..PUBLISHERS).map(|n| begin(World::publish, n)).collect();
    let members: Vec<_> = (0..MEMBERS).map(|n| begin(World::read, n)).collect();
    for _ in 0..kills {
        thread::sleep(Duration::from_millis(rng.u64(20..500)));
        *world.address.lock().unwrap() = None;
        server.kill();
        server = start(&mut readies);
        let all = publishers.iter().chain(&members);
        assert!(
            all.into_iter().all(|thread| !thread.is_finished()),
            "a law was broken"
        );
    }
    thread::sleep(Duration::from_millis(500));
    world.is_over.store(true, Ordering::Relaxed);
    for thread in publishers.into_iter().chain(members) {
        thread.join().expect("no law was broken");
    }
    readies.sort();
    println!(
        "{durability}: {kills} kills, ready after {:?} (median; most {:?})",
        readies[readies.len() / 2],
        readies.last().unwrap()
    );
    server
}

fn kills() -> u64 {
    let kills = std::env::var("KILLS")
        .ok()
        .and_then(|text| text.parse().ok());
    kills.unwrap_or(5)
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged_with_fsync() {
    let (world, folder) = (World::new(true), Folder::new("fsync"));
    let server = kill_again_and_again(&world, &folder.0, "fsync", kills());
    let stored = world.judge();
    let acknowledged = world.acknowledged.lock().unwrap().len();
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{acknowledged} acknowledged, {stored} stored, none missing, none twice; {} tried again; \
         {} recoveries by position, {} not recovered",
        of(&world.retries),
        of(&world.recoveries),
        of(&world.not_recovered)
    );
    assert!(acknowledged > 0 && of(&world.recoveries) > 0 && of(&world.retries) > 0);
    server.stop();
    let server = Server::start(&folder.0, "fsync");
    *world.address.lock().unwrap() = Some(server.address);
    assert_eq!(world.judge(), stored, "after a clean stop");
}

#[test]
fn kill_9_begins_new_epochs_with_async_and_a_clean_stop_does_not() {
    let (world, folder) = (World::new(false), Folder::new("async"));
    let server = kill_again_and_again(&world, &folder.0, "async", kills().min(20));
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert!(
        of(&world.not_recovered) > 0,
        "positions of a killed run say nothing"
    );
    let position = |server: &Server| {
        let mut peer = Peer::connect(server.address, "ann").unwrap();
        peer.say(r#"{"type":"join_room","room":"a"}"#).unwrap();
        loop {
            let told = peer.hear().unwrap();
            if let Some(joined) = told.into_iter().find(|told| told["type"] == "room_joined") {
                return (
                    text(&joined["payload"]["epoch"]),
                    joined["payload"]["offset"].as_u64(),
                );
            }
        }
    };
    let before = position(&server);
    server.stop();
    let server = Server::start(&folder.0, "async");
    assert_eq!(position(&server), before);
}
