//! Small runs against the real server, and one behind a proxy that lies, which must not pass.
//!
//! They need a server's program, so `cargo test` alone leaves them out and says so;
//! `cargo xtask test loadtest` runs them.
#![allow(
    clippy::unwrap_used,
    reason = "the test's own servers are part of the test"
)]

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

/// The environment variable that names the server's program.
const SERVER: &str = "TIDEWHEEL_BIN";

fn server_program() -> String {
    env::var(SERVER).unwrap_or_else(|_| panic!("{SERVER} names the server's program"))
}

fn tidewheel_load(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidewheel-load"))
        .args(args.split_whitespace())
        .output()
        .unwrap()
}

fn assert_exit(output: &Output, code: i32, mentions: &[&str]) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}{errors}");
    for mention in mentions {
        assert!(text.contains(mention), "{mention}: {text}{errors}");
    }
}

/// Runs a scenario against a server of its own; the audit and the ledger must hold.
fn assert_passes(scenario: &str, mentions: &[&str]) {
    let server = server_program();
    let output = tidewheel_load(&format!("{scenario} --server-bin {server}"));
    assert_exit(&output, 0, mentions);
    assert_exit(&output, 0, &["passed", "the server's ledger agrees"]);
}

#[test]
#[ignore = "needs a server: run `cargo xtask test loadtest`"]
fn rooms_in_which_everyone_speaks_pass_and_the_ledger_agrees() {
    assert_passes(
        "chat --clients 60 --rooms 12 --rate 300 --warmup 100ms --duration 500ms",
        &["publishes answered"],
    );
}

#[test]
#[ignore = "needs a server: run `cargo xtask test loadtest`"]
fn clients_that_drop_recover_everything() {
    assert_passes(
        "churn --clients 60 --rooms 3 --rate 100 --churn-rate 40 --away 200ms --warmup 100ms \
         --duration 1s",
        &["recovered", "drops with a reset"],
    );
}

#[test]
#[ignore = "needs a server: run `cargo xtask test loadtest`"]
fn everything_at_once_passes() {
    assert_passes(
        "mixed --clients 60 --rooms 12 --rate 100 --hall 40 --churn-rate 20 --away 200ms \
         --stalled 3 --trickling 3 --stopping 3 --watchers 20 --visitors 20 --warmup 100ms \
         --duration 1s",
        &["presence events"],
    );
}

#[test]
#[ignore = "needs a server: run `cargo xtask test loadtest`"]
fn a_publisher_that_waits_for_its_one_message_answers_heartbeats() {
    let output = Command::new(env!("CARGO_BIN_EXE_tidewheel-load"))
        .args("idle --clients 20 --duration 2500ms --publish --server-bin".split(' '))
        .arg(server_program())
        // The server takes its flags from there too.
        .env("TIDEWHEEL_HEARTBEAT_INTERVAL", "1s")
        .env("TIDEWHEEL_HEARTBEAT_TIMEOUT", "200ms")
        .output()
        .unwrap();
    assert_exit(&output, 0, &["passed: 20 deliveries"]);
}

#[test]
#[ignore = "needs a server: run `cargo xtask test loadtest`"]
fn a_proxy_that_swallows_one_message_fails_the_audit_and_the_ledger() {
    let server = Server::start();
    let proxy = lie(&server.public, |payload| {
        !contains(payload, r#""offset":20,"#)
    });
    let output = tidewheel_load(&format!(
        "fan-out --url ws://{proxy} --admin-url http://{} --clients 5 --rate 200 \
         --warmup 50ms --duration 250ms --grace 300ms",
        server.admin
    ));
    assert_exit(
        &output,
        1,
        &["5 gaps in the offsets", "the server's ledger has"],
    );
}

#[test]
#[ignore = "needs a server: run `cargo xtask test loadtest`"]
fn a_proxy_that_alters_one_letter_of_a_payload_fails_the_audit() {
    let server = Server::start();
    let proxy = lie(&server.public, |payload| {
        if contains(payload, r#""offset":20,"#) {
            let text = String::from_utf8_lossy(payload);
            let at = text.find(r#""metadata""#).unwrap();
            payload[at - 5] ^= 1;
        }
        true
    });
    let output = tidewheel_load(&format!(
        "fan-out --url ws://{proxy} --admin-url http://{} --clients 5 --rate 200 \
         --warmup 50ms --duration 250ms --grace 300ms",
        server.admin
    ));
    assert_exit(&output, 1, &["5 messages that were altered"]);
}

#[test]
#[ignore = "needs a server: run `cargo xtask test loadtest`"]
fn more_clients_than_the_server_takes_are_refused_before_the_run() {
    let output = Command::new(env!("CARGO_BIN_EXE_tidewheel-load"))
        .args([
            "connect",
            "--clients",
            "30",
            "--server-bin",
            &server_program(),
        ])
        .args([
            "--server-args",
            "--listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --max-connections 20",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("30 clients and 0 publishers are 10 more"),
        "{errors}"
    );
}

/// A server, killed at the end of the test.
struct Server {
    child: Child,
    public: String,
    admin: String,
}

impl Server {
    fn start() -> Server {
        let mut child = Command::new(server_program())
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
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
        thread::spawn(move || lines.for_each(drop));
        Server {
            child,
            public,
            admin,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a proxy does to a message: it may change it, and says whether to pass it on.
type Lie = fn(&mut Vec<u8>) -> bool;

fn contains(payload: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(payload).contains(text)
}

/// A proxy that does so to every message to a client.
fn lie(server: &str, lie: Lie) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = server.to_owned();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(&server).unwrap();
            let (mut up, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut up, &mut to));
            thread::spawn(move || pass_on(server, client, lie));
        }
    });
    address
}

/// Passes the response head and frames on, until either end goes.
fn pass_on(mut server: TcpStream, mut client: TcpStream, lie: Lie) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        server.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    client.write_all(&head).ok()?;
    loop {
        let mut frame = vec![0; 2];
        server.read_exact(&mut frame).ok()?;
        let length = match frame[1] {
            126 => {
                let mut length = [0; 2];
                server.read_exact(&mut length).ok()?;
                frame.extend_from_slice(&length);
                usize::from(u16::from_be_bytes(length))
            }
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        server.read_exact(&mut payload).ok()?;
        if payload.starts_with(br#"{"type":"message","#) && !lie(&mut payload) {
            continue;
        }
        frame.extend_from_slice(&payload);
        client.write_all(&frame).ok()?;
    }
}
