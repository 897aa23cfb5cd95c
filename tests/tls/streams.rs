//! What is said over TLS arrives, whole and once, however it is cut.

use std::sync::Arc;
use std::thread;

use rustls::version::{TLS12, TLS13};
use socket2::{Domain, Socket, Type};

use crate::peer::{Peer, config};
use crate::server::Running;

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

/// Sends messages to `/echo` from one thread, over a socket with a tiny receive buffer, while another
/// reads them back by `chunk` bytes.
fn echo_all(
    server: &Running,
    version: &'static rustls::SupportedProtocolVersion,
    sizes: &[usize],
    chunk: usize,
) {
    let config = Arc::new(config(&[&server.shown], &[version]));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&server.address.into()).unwrap();
    let mut peer = Peer::over(socket.into(), "localhost", &config).unwrap();
    peer.upgrade("/echo");
    for (i, size) in sizes.iter().enumerate() {
        let message = random(i as u64, *size);
        // The server holds no more than it must: what is echoed is read while it is sent.
        peer.send_binary(&message);
        let frame = peer.frame_by(chunk).unwrap();
        assert_eq!(frame.payload.len(), *size);
        assert!(
            frame.payload == message,
            "message {i} of {size} bytes is another"
        );
    }
}

#[test]
fn messages_of_all_sizes_come_back_through_tiny_socket_buffers() {
    let server = Running::start(|options, _| {
        options.tuning.sndbuf = 4_608;
        options.slow_consumers.max_unsent_bytes = 4_096;
    });
    let sizes = [
        0, 1, 125, 126, 16_383, 16_384, 16_385, 40_000, 65_536, 300_000, 1_000_000,
    ];
    for version in [&TLS12, &TLS13] {
        echo_all(&server, version, &sizes, 7_001);
    }
    server.await_metric("tidewheel_tls_pending_bytes", 0);
}

#[test]
fn what_was_decrypted_and_not_yet_read_is_not_forgotten() {
    // One record holds far more than a turn reads from a connection, and the poller does not tell
    // of it again.
    let server = Running::start(|options, _| {
        options.tuning.read_budget = 1;
        options.tuning.read_buffer_bytes = 4_096;
    });
    for version in [&TLS12, &TLS13] {
        echo_all(
            &server,
            version,
            &[1, 100, 10_000, 16_384, 20_000],
            64 * 1024,
        );
    }
}

#[test]
fn a_paused_connection_goes_on_with_what_tls_holds() {
    // A reply that waits pauses the connection; all requests come in one record.
    let server = Running::start(|options, _| {
        options.tuning.max_reply_bytes = 128;
        options.tuning.read_buffer_bytes = 4_096;
        options.tuning.read_budget = 4_096;
        options.tuning.sndbuf = 4_608;
        options.slow_consumers.max_unsent_bytes = 4_096;
    });
    const PINGS: usize = 300;
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(config(&[&server.shown], &[version]));
        let mut peer = Peer::connect(server.address, "localhost", &config).unwrap();
        peer.upgrade("/ws");
        let mut wire = Vec::new();
        for i in 0..PINGS {
            use tidewheel::codec::websocket::{Data, OpCode, client::encode_masked};
            let text = format!(r#"{{"type":"ping","metadata":{{"correlation_id":"c{i}"}}}}"#);
            encode_masked(OpCode::Data(Data::Text), [9; 4], text.as_bytes(), &mut wire);
        }
        std::io::Write::write_all(&mut peer.stream, &wire).unwrap();
        for i in 0..PINGS {
            let text = peer.await_text("pong");
            assert!(text.contains(&format!("\"c{i}\"")), "{i}: {text}");
        }
    }
}

#[test]
fn a_reader_that_stalls_gets_every_byte_once_it_goes_on() {
    let server = Running::start(|options, _| {
        options.tuning.sndbuf = 8_192;
        options.slow_consumers.max_unsent_bytes = 8_192;
        options.slow_consumers.max_lag_bytes = 64 * 1024 * 1024;
        options.slow_consumers.max_lag_age = std::time::Duration::from_secs(60);
        options.rooms.history = 0;
    });
    let config = Arc::new(config(&[&server.shown], &[&TLS13]));
    let mut reader = Peer::connect(server.address, "localhost", &config).unwrap();
    reader.upgrade("/ws/room?user=reader");
    reader.await_text("room_joined");
    let mut writer = Peer::connect(server.address, "localhost", &config).unwrap();
    writer.upgrade("/ws/room?user=writer");
    writer.await_text("room_joined");
    const MESSAGES: usize = 200;
    let payload = |i: usize| format!("{i}-{}", "x".repeat(i * 37 % 30_000));
    for i in 0..MESSAGES {
        let text = format!(
            r#"{{"type":"message","room":"room","payload":"{}","metadata":{{"echo":false}}}}"#,
            payload(i)
        );
        writer.send(&text);
    }
    // The socket is full by now: 3 MB are on their way through 8 KiB.
    for i in 0..MESSAGES {
        let text = reader.await_text(r#""type":"message""#);
        assert!(
            text.contains(&format!("\"{}\"", payload(i))),
            "{i}: {}",
            &text[..80]
        );
    }
    server.await_metric("tidewheel_tls_pending_bytes", 0);
}

#[test]
fn many_talk_to_each_other_in_a_room() {
    let server = Running::start(|_, _| {});
    let config = Arc::new(config(&[&server.shown], &[&TLS12, &TLS13]));
    let talkers: Vec<_> = (0..8)
        .map(|i| {
            let (config, address) = (Arc::clone(&config), server.address);
            thread::spawn(move || {
                let mut peer = Peer::connect(address, "localhost", &config).unwrap();
                peer.upgrade(&format!("/ws/chat?user=u{i}"));
                peer.await_text("room_joined");
                peer
            })
        })
        .collect();
    let mut peers: Vec<Peer> = talkers.into_iter().map(|it| it.join().unwrap()).collect();
    peers[0].send(r#"{"type":"message","room":"chat","payload":"to all"}"#);
    for peer in &mut peers {
        peer.await_text("to all");
    }
}

#[test]
fn a_close_ends_with_close_notify_and_a_torn_stream_is_an_end() {
    use std::io::Write;
    use tidewheel::codec::websocket::{Control, OpCode, client::encode_masked};
    let server = Running::start(|_, _| {});
    let config = Arc::new(config(&[&server.shown], &[&TLS13]));
    let mut peer = Peer::connect(server.address, "localhost", &config).unwrap();
    peer.upgrade("/ws");
    let mut wire = Vec::new();
    let close = OpCode::Control(Control::Close);
    encode_masked(close, [0; 4], &1000u16.to_be_bytes(), &mut wire);
    peer.stream.write_all(&wire).unwrap();
    // rustls tells an end without close_notify as an error, which `frame` does not let pass.
    while peer.frame().is_some() {}

    let mut torn = Peer::connect(server.address, "localhost", &config).unwrap();
    torn.upgrade("/ws");
    torn.stream.sock.shutdown(std::net::Shutdown::Both).unwrap();
    server.await_metric("tidewheel_connections_closed_total{code=\"1006\"}", 1);
    server.await_metric("tidewheel_connections_closed_total{code=\"1000\"}", 1);
}
