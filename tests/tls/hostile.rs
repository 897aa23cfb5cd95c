//! What is no TLS, or too much or too slow of it, is bounded and counted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustls::version::TLS13;
use tidewheel::cli::units::Count;

use crate::peer::{Peer, config};
use crate::server::{PATIENCE, Running, STARTS};

fn connect(server: &Running) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes until the server ends the connection, however it does.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return all,
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("the server did not end the connection: {error}"),
        }
    }
}

fn failed(reason: &str) -> String {
    format!("tidewheel_tls_failed_total{{reason=\"{reason}\"}}")
}

#[test]
fn plain_http_is_told_that_this_port_speaks_tls() {
    let server = Running::start(|_, _| {});
    let mut stream = connect(&server);
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let answer = String::from_utf8(rest(stream)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("this port speaks TLS"), "{answer}");
    server.await_metric(&failed("http"), 1);
}

#[test]
fn what_is_no_handshake_is_cut_at_once() {
    let server = Running::start(|_, _| {});
    let sslv2 = [0x80, 0x2e, 0x01, 0x03, 0x01, 0x00, 0x15, 0, 0, 0, 0x10];
    for bytes in [
        &sslv2[..],
        b"\x00\x00\x00\x00",
        b"\xff\xfe\xfd",
        b"\x17\x03\x03\x00\x01\x00",
    ] {
        let mut stream = connect(&server);
        stream.write_all(bytes).unwrap();
        rest(stream);
    }
    server.await_metric(&failed("not_tls"), 4);
    // A handshake that is none.
    let mut stream = connect(&server);
    stream
        .write_all(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff")
        .unwrap();
    let alert = rest(stream);
    assert_eq!(alert.first(), Some(&21), "an alert: {alert:?}");
    server.await_metric(&failed("protocol"), 1);
    server.await_metric("tidewheel_tls_in_progress", 0);
}

#[test]
fn silence_and_a_trickle_end_with_the_handshake_timeout() {
    let server = Running::start(|options, _| {
        options.connections.handshake_timeout = Duration::from_millis(300);
        options.connections.close_timeout = Duration::from_millis(100);
    });
    let silent = connect(&server);
    let mut trickle = connect(&server);
    for byte in [0x16, 0x03, 0x01, 0x01, 0x00, 0x01, 0x00] {
        let _cut = trickle.write_all(&[byte]);
        std::thread::sleep(Duration::from_millis(20));
    }
    rest(silent);
    rest(trickle);
    server.await_metric(&failed("abandoned"), 2);
    server.await_metric(
        "tidewheel_connections_rejected_total{reason=\"timeout\"}",
        2,
    );
    server.await_metric("tidewheel_tls_in_progress", 0);
}

#[test]
fn a_client_hello_that_does_not_end_is_cut() {
    let server = Running::start(|_, _| {});
    let mut stream = connect(&server);
    // A handshake message of 64 KiB less one, in records of a kilobyte.
    let mut hello = vec![1, 0, 0xff, 0xff];
    hello.resize(4 + 0xffff, 0);
    for part in hello.chunks(1_024) {
        let mut record = vec![22, 3, 1];
        record.extend_from_slice(&(part.len() as u16).to_be_bytes());
        record.extend_from_slice(part);
        if stream.write_all(&record).is_err() {
            break;
        }
    }
    rest(stream);
    server.await_metric(&failed("too_large"), 1);
}

#[test]
fn a_forged_record_ends_the_stream() {
    let server = Running::start(|_, _| {});
    let config = Arc::new(config(&[&server.shown], &[&TLS13]));
    let mut peer = Peer::connect(server.address, "localhost", &config).unwrap();
    peer.upgrade("/ws");
    let forged = [
        23, 3, 3, 0, 20, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
    ];
    peer.stream.sock.write_all(&forged).unwrap();
    server.await_metric(&failed("record"), 1);
    server.await_metric("tidewheel_connections_closed_total{code=\"1006\"}", 1);
}

#[test]
fn more_connections_than_there_may_be_are_told_503_after_their_handshake() {
    let server = Running::start(|options, _| {
        options.connections.max_connections = Count::Exactly(1);
    });
    let config = Arc::new(config(&[&server.shown], &[&TLS13]));
    let mut first = Peer::connect(server.address, "localhost", &config).unwrap();
    first.upgrade("/echo");
    let mut second = Peer::connect(server.address, "localhost", &config).unwrap();
    let mut answer = String::new();
    let _end = second.stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[test]
fn a_storm_of_handshakes_waits_while_open_connections_are_served() {
    let server = Running::start(|options, _| {
        options.tls.tls_handshake_budget = Duration::from_micros(1);
        options.connections.shards = Count::Exactly(1);
    });
    let config = Arc::new(config(&[&server.shown], &[&TLS13]));
    let mut open = Peer::connect(server.address, "localhost", &config).unwrap();
    open.upgrade("/echo");
    let storm: Vec<_> = (0..64)
        .map(|_| {
            let (config, address) = (Arc::clone(&config), server.address);
            std::thread::spawn(move || Peer::connect(address, "localhost", &config).is_ok())
        })
        .collect();
    for i in 0..50 {
        let text = format!("message {i}");
        open.send(&text);
        assert_eq!(open.text(), text);
    }
    assert!(storm.into_iter().all(|it| it.join().unwrap()));
    server.await_metric("tidewheel_tls_handshakes_total{version=\"1.3\"}", 65);
    assert!(server.metric("tidewheel_tls_deferred_total") > 0);
}

#[test]
fn key_updates_are_followed_but_not_without_end() {
    let server = Running::start(|_, _| {});
    let config = Arc::new(config(&[&server.shown], &[&TLS13]));
    let mut peer = Peer::connect(server.address, "localhost", &config).unwrap();
    peer.upgrade("/echo");
    // Each asks for one in return, which goes in front of the echo.
    for i in 0..20 {
        peer.stream.conn.refresh_traffic_keys().unwrap();
        let text = format!("key {i}");
        peer.send(&text);
        assert_eq!(peer.text(), text);
    }
    for _ in 0..40 {
        peer.stream.conn.refresh_traffic_keys().unwrap();
        let _cut = peer.stream.conn.complete_io(&mut peer.stream.sock);
    }
    server.await_metric(&failed("record"), 1);
    server.await_metric("tidewheel_connections_closed_total{code=\"1006\"}", 1);
}

#[test]
fn whoever_leaves_in_the_middle_of_a_handshake_leaves_nothing_behind() {
    let server = Running::start(|_, _| {});
    // A real ClientHello, and a real client that goes on with it for a while.
    let mut hello = Vec::new();
    let trusted = Arc::new(config(&[&server.shown], &[&TLS13]));
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut session = rustls::ClientConnection::new(Arc::clone(&trusted), name).unwrap();
    session.write_tls(&mut hello).unwrap();
    let cuts = (0..hello.len()).step_by(41).chain([hello.len()]);
    let mut count = 0;
    for (i, cut) in cuts.enumerate() {
        // Another test's server would have a copy of the descriptor: closing it would not do.
        let _starts = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stream = connect(&server);
        stream.write_all(&hello[..cut]).unwrap();
        if i % 2 == 0 {
            socket2::SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
        count += 1;
    }
    server.await_metric(&failed("abandoned"), count);
    server.await_metric("tidewheel_tls_in_progress", 0);
    server.await_metric("tidewheel_tls_pending_bytes", 0);
    for core in 0..2 {
        let open = format!("tidewheel_core_connections{{core=\"{core}\"}}");
        server.await_metric(&open, 0);
    }
}
