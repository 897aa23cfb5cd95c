//! A server that ten times its memory budget is wanted of, in several ways at once: it stays under the
//! budget, goes on serving those who read, and everything that it gives back is counted and told.
//!
//! What is wanted, each by a fifth of it or more: history of many rooms, logs for laggards that never
//! read, messages that are half sent, answers that are never read; and keys of accepted publishes.
//! Meanwhile some honest clients talk in a room of their own, and read along in the laggards' rooms.
//!
//! `MEMORY_TEST_BUDGET_MIB=64` takes another budget than 32 MiB, and `TIDEWHEEL_BIN` another
//! program than this build's. `cargo test --test memory_budget -- --nocapture` tells the figures.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "clients with a clock of their own; one that cannot go on is a failure"
)]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidewheel::codec::websocket::client::{ServerFrames, encode_masked};
use tidewheel::codec::websocket::{Control, Data, OpCode};

const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;

/// What the process may have beyond its budget and what it had before anybody came: pages that are
/// free and not given back yet, stacks, what one turn takes.
const ALLOWANCE: usize = 40 * MIB;

/// Connections that were told 503.
static REFUSED: AtomicU64 = AtomicU64::new(0);

fn budget() -> usize {
    let asked = env::var("MEMORY_TEST_BUDGET_MIB").ok();
    asked.and_then(|mib| mib.parse().ok()).unwrap_or(32) * MIB
}

/// A server, killed at the end of the test.
struct Server {
    child: Child,
    public: String,
    admin: String,
}

impl Server {
    fn start(budget: usize) -> Server {
        let program = env::var("TIDEWHEEL_BIN");
        let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_tidewheel").to_owned());
        let flags = format!(
            "--listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --shards 2 --memory-budget {budget} \
             --max-message-bytes 1MiB --history 100000 --history-bytes 4MiB --max-lag-bytes 4MiB \
             --max-lag-age 10m --heartbeat-interval 1h --idempotency-keys 100000"
        );
        let mut child = Command::new(program)
            .args(flags.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |label: &str| loop {
            let line = lines.next().unwrap().unwrap();
            if let Some(address) = line.strip_prefix(label) {
                return address.to_owned();
            }
        };
        let public = address("listening on http://");
        let admin = address("admin on http://");
        Server {
            child,
            public,
            admin,
        }
    }

    /// A line of the process's status that counts kibibytes, in bytes.
    fn status(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * KIB
    }

    fn metrics(&self) -> BTreeMap<String, f64> {
        metrics(&self.admin)
    }
}

fn metrics(admin: &str) -> BTreeMap<String, f64> {
    let mut stream = TcpStream::connect(admin).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let series = text.lines().filter(|line| line.starts_with("tidewheel_"));
    let pairs = series.filter_map(|line| line.rsplit_once(' '));
    pairs
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client {
    stream: TcpStream,
    frames: ServerFrames,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects, and waits until it is let in: where there is no memory, it tries again.
    fn connect(server: &str, path: &str) -> Client {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(client) = Client::try_to_connect(server, path) {
                return client;
            }
            assert!(Instant::now() < deadline, "refused for half a minute");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// None where it is refused.
    fn try_to_connect(server: &str, path: &str) -> Option<Client> {
        let mut stream = TcpStream::connect(server).ok()?;
        stream.set_nodelay(true).unwrap();
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        if head.starts_with(b"HTTP/1.1 503") {
            REFUSED.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", head.escape_ascii());
        let mut client = Client {
            stream,
            frames: ServerFrames::default(),
            buffer: vec![0; 256 * KIB],
        };
        client.await_event("connection_established");
        if path.starts_with("/ws/") {
            client.await_event("room_joined");
        }
        Some(client)
    }

    fn say(&mut self, text: &str) -> std::io::Result<()> {
        let mut wire = Vec::new();
        let opcode = OpCode::Data(Data::Text);
        encode_masked(opcode, [1, 2, 3, 4], text.as_bytes(), &mut wire);
        self.stream.write_all(&wire)
    }

    /// The next text, or the code of the close; none where the connection is gone.
    fn next(&mut self) -> Option<Result<String, u16>> {
        loop {
            while let Some(frame) = self.frames.next_frame().unwrap() {
                match frame.opcode {
                    OpCode::Data(_) => return Some(Ok(String::from_utf8(frame.payload).unwrap())),
                    OpCode::Control(Control::Close) => {
                        let code = frame
                            .payload
                            .get(..2)
                            .map_or(0, |c| u16::from_be_bytes([c[0], c[1]]));
                        return Some(Err(code));
                    }
                    OpCode::Control(_) => {}
                }
            }
            match self.stream.read(&mut self.buffer) {
                Ok(count) if count > 0 => self.frames.push(&self.buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("nothing came within a minute")
                }
                _ => return None,
            }
        }
    }

    fn await_event(&mut self, kind: &str) -> String {
        let start = format!("{{\"type\":\"{kind}\"");
        loop {
            match self.next() {
                Some(Ok(text)) if text.starts_with(&start) => return text,
                Some(Ok(_)) => {}
                other => panic!("{kind} was awaited, and {other:?} came"),
            }
        }
    }

    fn publish(&mut self, room: &str, payload: &str, id: Option<usize>) -> std::io::Result<()> {
        let id = id.map_or(String::new(), |id| format!(r#","message_id":"key-{id}""#));
        self.say(&format!(
            r#"{{"type":"message","room":"{room}","payload":{payload},"metadata":{{"echo":false{id}}}}}"#
        ))
    }

    /// Publishes so many messages, some at a time, and sees that each is accepted.
    fn publish_all(&mut self, rooms: &[String], count: usize, bytes: usize, with_keys: bool) {
        let payload = format!("\"{}\"", "x".repeat(bytes));
        let mut done = 0;
        while done < count {
            let some = (count - done).min((256 * KIB / bytes).clamp(1, 64));
            for n in done..done + some {
                let room = &rooms[n % rooms.len()];
                self.publish(room, &payload, with_keys.then_some(n))
                    .unwrap();
            }
            for _ in 0..some {
                self.await_event("message_sent");
            }
            done += some;
        }
    }
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{prefix}{i}")).collect()
}

/// What an honest reader saw.
#[derive(Default, Debug)]
struct Seen {
    messages: u64,
    latencies_us: Vec<u64>,
}

/// Reads everything in some rooms until it has had a message that says so in each; panics at a gap.
fn read_honestly(mut client: Client, rooms: usize, begin: Instant, progress: &AtomicU64) -> Seen {
    let mut seen = Seen::default();
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    let mut ended = 0;
    while ended < rooms {
        let text = client
            .next()
            .expect("an honest reader stays")
            .expect("and is not closed");
        if !text.starts_with("{\"type\":\"message\"") {
            continue;
        }
        let event: Value = serde_json::from_str(&text).unwrap();
        let room = event["room"].as_str().unwrap().to_owned();
        let offset = event["offset"].as_u64().unwrap();
        if let Some(before) = newest.insert(room, offset) {
            assert_eq!(offset, before + 1, "a hole in what an honest reader got");
        }
        seen.messages += 1;
        progress.store(seen.messages, Ordering::Relaxed);
        ended += usize::from(event["payload"] == "end");
        if let Some(sent_us) = event["payload"]["t"].as_u64() {
            let now_us = begin.elapsed().as_micros() as u64;
            seen.latencies_us.push(now_us.saturating_sub(sent_us));
        }
    }
    seen
}

/// Watches the pressure until told to stop: the highest level that was seen.
fn watch(admin: &str, stop: &Arc<AtomicBool>) -> thread::JoinHandle<(f64, f64)> {
    let (admin, stop) = (admin.to_owned(), Arc::clone(stop));
    thread::spawn(move || {
        let (mut pressure, mut held) = (0.0_f64, 0.0_f64);
        while !stop.load(Ordering::Relaxed) {
            let metrics = metrics(&admin);
            pressure = pressure.max(metrics["tidewheel_memory_pressure"]);
            let kinds = metrics
                .iter()
                .filter(|(name, _)| name.starts_with("tidewheel_memory_bytes"));
            held = held.max(kinds.map(|(_, bytes)| bytes).sum());
            thread::sleep(Duration::from_millis(20));
        }
        (pressure, held)
    })
}

#[test]
fn ten_times_the_budget_is_wanted_and_it_holds() {
    let budget = budget();
    let server = Server::start(budget);
    let public = server.public.clone();
    let base = server.status("VmRSS");
    let begin = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = watch(&server.admin, &stop);

    // The honest: one who talks, three who listen, and one who reads along with the laggards.
    let laggards = (2 * budget / (3 * MIB)).max(4);
    let lag_rooms = names("lag-", laggards);
    let listeners: Vec<_> = (0..3)
        .map(|_| {
            let client = Client::connect(&public, "/ws/talk");
            thread::spawn(move || read_honestly(client, 1, begin, &AtomicU64::new(0)))
        })
        .collect();
    let mut along = Client::connect(&public, "/ws");
    for room in &lag_rooms {
        along
            .say(&format!(r#"{{"type":"join_room","room":"{room}"}}"#))
            .unwrap();
        along.await_event("room_joined");
    }
    let rooms = lag_rooms.len();
    let kept_up = Arc::new(AtomicU64::new(0));
    let along = {
        let kept_up = Arc::clone(&kept_up);
        thread::spawn(move || read_honestly(along, rooms, begin, &kept_up))
    };
    let talked = Arc::new(AtomicU64::new(0));
    let talker = {
        let (stop, talked) = (Arc::clone(&stop), Arc::clone(&talked));
        let mut client = Client::connect(&public, "/ws");
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let payload = format!(r#"{{"t":{}}}"#, begin.elapsed().as_micros());
                client.publish("talk", &payload, None).unwrap();
                client.await_event("message_sent");
                talked.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(10));
            }
            client.publish("talk", "\"end\"", None).unwrap();
            client.await_event("message_sent");
            talked.fetch_add(1, Ordering::Relaxed);
        })
    };

    // The rooms are there before memory is short: then there are no new ones.
    let history_rooms = names("history-", 64);
    let key_rooms = names("keys-", 8);
    let mut early = Client::connect(&public, "/ws");
    early.publish_all(&history_rooms, history_rooms.len(), 16, false);
    early.publish_all(&key_rooms, key_rooms.len(), 16, false);
    early.publish_all(&names("unread-", 1), 3 * MIB / (48 * KIB), 48 * KIB, false);

    // Those who want too much, all at once.
    let history = {
        let public = public.clone();
        thread::spawn(move || {
            let rooms = history_rooms;
            let mut client = Client::connect(&public, "/ws");
            client.publish_all(&rooms, 3 * budget / (16 * KIB), 16 * KIB, false);
        })
    };
    let lag = {
        let (public, rooms) = (public.clone(), lag_rooms);
        thread::spawn(move || {
            let path = |room: &String| format!("/ws/{room}");
            let stalled: Vec<Client> = rooms
                .iter()
                .map(|r| Client::connect(&public, &path(r)))
                .collect();
            let mut client = Client::connect(&public, "/ws");
            // No faster than who reads along on a busy machine: its bound is a quarter, too.
            let mut done = 0;
            while done < 2 * budget / (32 * KIB) {
                client.publish_all(&rooms[done % rooms.len()..][..1], 1, 32 * KIB, false);
                done += 1;
                while kept_up.load(Ordering::Relaxed) + 16 < done as u64
                    && Arc::strong_count(&kept_up) > 1
                {
                    thread::sleep(Duration::from_micros(200));
                }
            }
            for room in &rooms {
                client.publish(room, "\"end\"", None).unwrap();
                client.await_event("message_sent");
            }
            stalled
        })
    };
    let halves = {
        let public = public.clone();
        thread::spawn(move || {
            let mut wire = Vec::new();
            let text = vec![b'y'; 1_000_000];
            encode_masked(OpCode::Data(Data::Text), [1, 2, 3, 4], &text, &mut wire);
            wire.truncate(wire.len() - 10);
            let half_sent = |_| {
                let mut client = Client::connect(&public, "/ws");
                // It may have been closed for it already.
                let _closed = client.stream.write_all(&wire);
                client
            };
            (0..3 * budget / 1_000_000)
                .map(half_sent)
                .collect::<Vec<Client>>()
        })
    };
    let unread = {
        let public = public.clone();
        thread::spawn(move || {
            let asking = |_| {
                let mut client = Client::connect(&public, "/ws");
                for _ in 0..4 {
                    let query = r#"{"type":"history_query","room":"unread-0"}"#;
                    if client.say(query).is_err() {
                        break;
                    }
                }
                client
            };
            (0..2 * budget / (3 * MIB))
                .map(asking)
                .collect::<Vec<Client>>()
        })
    };
    let keys = {
        let public = public.clone();
        thread::spawn(move || {
            let mut client = Client::connect(&public, "/ws");
            client.publish_all(&key_rooms, 20_000, 16, true);
        })
    };

    history.join().unwrap();
    keys.join().unwrap();
    let stalled = lag.join().unwrap();
    let mut halves = halves.join().unwrap();
    let unread = unread.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    let (pressure, held) = watcher.join().unwrap();
    talker.join().unwrap();

    // Who was honest got everything, in order.
    let talked = talked.load(Ordering::Relaxed);
    let mut latencies_us = Vec::new();
    for listener in listeners {
        let seen = listener.join().unwrap();
        assert_eq!(seen.messages, talked);
        latencies_us.extend(seen.latencies_us);
    }
    let along = along.join().unwrap();
    assert_eq!(along.messages as usize, 2 * budget / (32 * KIB) + rooms);
    latencies_us.sort_unstable();
    let p99 = Duration::from_micros(latencies_us[latencies_us.len() * 99 / 100]);

    let peak = server.status("VmHWM");
    let metrics = server.metrics();
    let trimmed = metrics["tidewheel_history_trimmed_messages_total"];
    let forgotten = metrics["tidewheel_idempotency_trimmed_keys_total"];
    let evicted = metrics["tidewheel_evictions_total{cause=\"memory\"}"];
    let closed = metrics["tidewheel_connections_closed_total{code=\"4100\"}"];
    println!(
        "budget {} MiB, wanted {} MiB in {:?}: counted at most {:.1} MiB, resident at most {:.1} MiB \
         ({:.1} MiB before), pressure up to {pressure}",
        budget / MIB,
        10 * budget / MIB,
        begin.elapsed(),
        held / MIB as f64,
        peak as f64 / MIB as f64,
        base as f64 / MIB as f64,
    );
    println!(
        "trimmed {trimmed} messages and {forgotten} keys, closed {evicted}, refused {}; the honest got \
         {talked} and {} messages, p99 {p99:?}",
        REFUSED.load(Ordering::Relaxed),
        along.messages
    );
    assert!(
        peak <= budget + base + ALLOWANCE,
        "{peak} bytes were resident"
    );
    // What came in between two looks is above the last step, and gone at the next look.
    assert!(held <= 1.25 * budget as f64, "{held} bytes were counted");
    assert!(pressure >= 3.0, "it was never short");
    assert!(trimmed > 0.0 && evicted > 0.0);
    assert_eq!(
        evicted, closed,
        "who is closed for memory is told so by 4100"
    );
    assert!(p99 < Duration::from_millis(500), "{p99:?}");

    // What was given back is told: a close to those who can hear it, `complete` to those who ask.
    let told = halves.iter_mut().filter_map(|client| {
        client
            .stream
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        let mut read = vec![0; KIB];
        let count = client
            .stream
            .read(&mut read)
            .ok()
            .filter(|count| *count > 0)?;
        client.frames.push(&read[..count]);
        client.next()?.err()
    });
    let told: Vec<u16> = told.collect();
    assert!(
        !told.is_empty() && told.iter().all(|code| *code == 4100),
        "{told:?}"
    );
    drop((stalled, halves, unread));
    let mut late = Client::connect(&public, "/ws");
    late.say(r#"{"type":"history_query","room":"history-0","payload":{"since":0}}"#)
        .unwrap();
    let answer: Value = serde_json::from_str(&late.await_event("history")).unwrap();
    assert_eq!(answer["payload"]["complete"], false);

    // And when all are gone it is calm again.
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.metrics()["tidewheel_memory_pressure"] > 0.0 {
        assert!(Instant::now() < deadline, "{:?}", server.metrics());
        thread::sleep(Duration::from_millis(50));
    }
}
