//! Bad company for a server under measurement: slow heads, and a flood of bad handshakes.
//!
//! ```sh
//! cargo run --release -p tidewheel-load --example hostile -- 127.0.0.1:8080 \
//!     --slow 5000 --bad-rate 1000 --seconds 30
//! ```
//!
//! `--slow` connections each send their request's head a byte a second, and come back when the
//! server has had enough of them. `--bad-rate` connections a second send something that is no
//! handshake, wait for the answer and go. What the server answered is counted by its first line.
//! With `--tls` the slow ones trickle a TLS record, and among the bad ones are whole hellos, which
//! cost the server a key exchange.
//!
//! It connects to loopback addresses only, from 127.0.0.40 to 127.0.0.59.

#![allow(
    clippy::disallowed_methods,
    reason = "a program that waits and looks at the clock, and nothing else"
)]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;

/// Addresses to connect from: 127.0.0.40 and the next ones.
const SOURCES: u64 = 20;

/// Threads that make bad handshakes.
const BAD_THREADS: u64 = 8;

/// How long a bad handshake waits for its answer.
const PATIENCE: Duration = Duration::from_millis(50);

/// Bad company for a server under measurement, on loopback only
#[derive(Parser)]
struct Plan {
    /// The server
    address: SocketAddr,
    /// Connections whose request never gets done
    #[arg(long, default_value_t = 5_000)]
    slow: usize,
    /// Bad handshakes a second
    #[arg(long, default_value_t = 1_000)]
    bad_rate: u64,
    /// How long
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The server speaks TLS
    #[arg(long)]
    tls: bool,
}

/// What came of it.
#[derive(Default)]
struct Tally {
    slow_opened: AtomicU64,
    slow_ended: AtomicU64,
    bad_sent: AtomicU64,
    refused: AtomicU64,
    answers: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    fn answer(&self, bytes: &[u8]) {
        let first = bytes
            .split(|byte| *byte == b'\r')
            .next()
            .unwrap_or_default();
        let text = match first {
            b"" => "closed without a word".to_owned(),
            [0x15, ..] => "TLS alert".to_owned(),
            [0x16, ..] => "TLS server hello".to_owned(),
            line => {
                String::from_utf8_lossy(line.get(..60.min(line.len())).unwrap_or_default()).into()
            }
        };
        if let Ok(mut answers) = self.answers.lock() {
            *answers.entry(text).or_default() += 1;
        }
    }
}

fn main() -> anyhow::Result<()> {
    let plan = Plan::parse();
    if !plan.address.ip().is_loopback() {
        bail!(
            "{} is not on this machine; this program only harms loopback addresses",
            plan.address
        );
    }
    let tally = Tally::default();
    let ends = Instant::now() + Duration::from_secs(plan.seconds);
    thread::scope(|scope| {
        scope.spawn(|| trickle(&plan, &tally, ends));
        for number in 0..BAD_THREADS {
            let (plan, tally) = (&plan, &tally);
            scope.spawn(move || flood(plan, tally, number, ends));
        }
    });
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "slow connections opened {}, ended by the server {}",
        of(&tally.slow_opened),
        of(&tally.slow_ended)
    );
    println!(
        "bad handshakes {}, connects that failed {}",
        of(&tally.bad_sent),
        of(&tally.refused)
    );
    for (answer, count) in tally
        .answers
        .lock()
        .iter()
        .flat_map(|answers| answers.iter())
    {
        println!("{count:>8}  {answer}");
    }
    Ok(())
}

/// Connects from one of our addresses, with the port left to the kernel.
fn connect(to: SocketAddr, turn: u64) -> anyhow::Result<TcpStream> {
    let SocketAddr::V4(to) = to else {
        bail!("{to}: an IPv4 address is needed");
    };
    let from = [127, 0, 0, 40 + (turn % SOURCES) as u8];
    let address = |octets: [u8; 4], port: u16| libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(octets),
        },
        sin_zero: [0; 8],
    };
    let (from, to) = (address(from, 0), address(to.ip().octets(), to.port()));
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: plain system calls on a descriptor that is ours from here on, and on addresses that
    // live on the stack and are of the length that is given.
    #[allow(unsafe_code)]
    let stream = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(std::io::Error::last_os_error()).context("no socket");
        }
        let stream = TcpStream::from(OwnedFd::from_raw_fd(fd));
        let on: libc::c_int = 1;
        // The port is chosen when it connects, so that each pair of addresses has all ports.
        libc::setsockopt(
            fd,
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
        let bound = libc::bind(fd, (&raw const from).cast(), length);
        if bound != 0 || libc::connect(fd, (&raw const to).cast(), length) != 0 {
            return Err(std::io::Error::last_os_error()).context("no connection");
        }
        stream
    };
    Ok(stream)
}

/// A request, or a record, that never comes to its end.
struct Slow {
    stream: Option<TcpStream>,
    sent: usize,
}

fn trickle(plan: &Plan, tally: &Tally, ends: Instant) {
    let head: &[u8] = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nX-Slow: ";
    // RFC 8446 §5.1: a handshake record of 512 bytes that begins a hello.
    let record: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let beginning = if plan.tls { record } else { head };
    let mut all: Vec<Slow> = (0..plan.slow)
        .map(|_| Slow {
            stream: None,
            sent: 0,
        })
        .collect();
    let mut buffer = [0; 512];
    let rounds_a_second = 50;
    let slice = plan.slow.div_ceil(rounds_a_second).max(1);
    let mut turn = 0;
    while Instant::now() < ends {
        for chunk in all.chunks_mut(slice) {
            let began = Instant::now();
            for slow in chunk {
                turn += 1;
                step(slow, plan.address, turn, beginning, &mut buffer, tally);
            }
            thread::sleep(
                Duration::from_millis(1_000 / rounds_a_second as u64)
                    .saturating_sub(began.elapsed()),
            );
        }
    }
}

fn step(
    slow: &mut Slow,
    to: SocketAddr,
    turn: u64,
    beginning: &[u8],
    buffer: &mut [u8],
    tally: &Tally,
) {
    let Some(stream) = &mut slow.stream else {
        if let Ok(stream) = connect(to, turn)
            && stream.set_nonblocking(true).is_ok()
        {
            tally.slow_opened.fetch_add(1, Ordering::Relaxed);
            *slow = Slow {
                stream: Some(stream),
                sent: 0,
            };
        } else {
            tally.refused.fetch_add(1, Ordering::Relaxed);
        }
        return;
    };
    let byte = beginning.get(slow.sent).copied().unwrap_or(b'x');
    slow.sent += 1;
    let over = match stream.read(buffer) {
        Ok(count) => {
            tally.answer(buffer.get(..count).unwrap_or_default());
            true
        }
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    };
    if over || stream.write(&[byte]).is_err() {
        tally.slow_ended.fetch_add(1, Ordering::Relaxed);
        slow.stream = None;
    }
}

fn flood(plan: &Plan, tally: &Tally, number: u64, ends: Instant) {
    let shapes = shapes(plan.tls);
    let each = Duration::from_secs_f64(BAD_THREADS as f64 / plan.bad_rate.max(1) as f64);
    let mut due = Instant::now();
    let mut turn = number;
    let mut buffer = [0; 4_096];
    while plan.bad_rate > 0 && Instant::now() < ends {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due += each;
        turn += BAD_THREADS;
        let Ok(mut stream) = connect(plan.address, turn) else {
            tally.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let shape = shapes.get(turn as usize / BAD_THREADS as usize % shapes.len());
        let _patient = stream.set_read_timeout(Some(PATIENCE));
        let _refused = stream.write_all(shape.map(Vec::as_slice).unwrap_or_default());
        tally.bad_sent.fetch_add(1, Ordering::Relaxed);
        match stream.read(&mut buffer) {
            Ok(count) => tally.answer(buffer.get(..count).unwrap_or_default()),
            Err(_) => tally.answer(b"no answer\r"),
        }
    }
}

fn shapes(tls: bool) -> Vec<Vec<u8>> {
    let http = |head: &str| format!("{head}\r\n\r\n").into_bytes();
    let mut shapes = vec![
        http(
            "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short",
        ),
        http(
            "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
        http("POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked"),
        http("GET /\0 HTTP/1.1"),
        vec![b'\x80'; 300],
        http(&format!("GET /ws HTTP/1.1\r\nX: {}", "y".repeat(9_000))),
    ];
    if tls {
        // A whole hello, behind which nothing comes: the server has made its half of the keys.
        shapes.extend(hello());
        shapes.push(b"\x15\x03\x01\x00\x02\x02\x28".to_vec());
        shapes.push(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03".to_vec());
    }
    shapes
}

/// What a TLS client says first.
fn hello() -> Option<Vec<u8>> {
    let roots = rustls::RootCertStore::empty();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().ok()?;
    let mut client = rustls::ClientConnection::new(config.into(), name).ok()?;
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).ok()?;
    Some(bytes)
}
