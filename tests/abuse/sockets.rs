//! A server with sockets, in this process: what the kernel and the poller have a part in.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tidewheel::bus::{Order, OrderReply};
use tidewheel::cli::host::Host;
use tidewheel::cli::policy::policy;
use tidewheel::cli::settings::settings;
use tidewheel::cli::{Parsed, parse_from};
use tidewheel::codec::websocket::{Data, OpCode};
use tidewheel::control::Cores;
use tidewheel::protocol::UserId;
use tidewheel::server::Server;

use crate::node::{UPGRADE, frame, head};

/// Where a server listens that runs until the tests end, and its admin listener.
struct Node {
    listen: SocketAddr,
    admin: SocketAddr,
    cores: Arc<dyn Cores>,
}

impl Node {
    fn start(flags: &[&str]) -> Node {
        let fixed = ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"];
        let fixed = ["tidewheel", "--shards=2", "--close-timeout=200ms"]
            .iter()
            .chain(&fixed);
        let args = fixed.chain(flags).copied();
        let env: [(&str, &str); 0] = [];
        let Parsed::Serve { options, .. } = parse_from(args, env).unwrap() else {
            panic!("not to be served");
        };
        let policy = Arc::new(policy(&options).unwrap());
        let host = Host::inspect().unwrap();
        let server = Server::start(&settings(&options, &host, policy)).unwrap();
        let node = Node {
            listen: server.listen,
            admin: server.admin_listen,
            cores: server.cores(),
        };
        // Its cores are threads that end with the process.
        std::mem::forget(server);
        node
    }

    /// A connection from 127.0.0.`last`.
    fn connect_from(&self, last: u8) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0);
        socket.bind(&from.into()).unwrap();
        socket.connect(&self.listen.into()).unwrap();
        let stream = TcpStream::from(socket);
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Has an order carried out on all cores. How many connections were told to close.
    fn order(&self, order: &Order) -> usize {
        let (sender, answers) = std::sync::mpsc::channel();
        for core in 0..self.cores.count() {
            let sender = sender.clone();
            let reply = OrderReply::new(move |obeyed| sender.send(obeyed).unwrap());
            self.cores.order(core, order.clone(), reply);
        }
        drop(sender);
        answers.iter().map(Result::unwrap).sum()
    }

    /// A metric's value, summed over its labels.
    fn metric(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        values.sum()
    }
}

/// What comes until the end, at most so much; an error of the socket counts as its end.
fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while all.len() < 1 << 20 {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => all.extend(&buffer[..count]),
        }
    }
    all
}

/// The status of the response that comes; 0 where the connection ends without one.
fn status(stream: &mut TcpStream) -> u16 {
    let mut line = [0; 12];
    match stream.read_exact(&mut line) {
        Ok(()) => String::from_utf8_lossy(&line[9..]).parse().unwrap_or(0),
        Err(_) => 0,
    }
}

fn v2(command: u8, source: [u8; 4], claimed: u16, more: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, 0x11]);
    header.extend(claimed.to_be_bytes());
    header.extend(source);
    header.extend([10, 0, 0, 1, 0, 80, 1, 187]);
    header.extend(more);
    header
}

#[test]
fn a_flood_of_connections_from_one_address_gets_429_and_others_get_in() {
    let node = Node::start(&["--max-connections-per-address=3"]);
    let mut held: Vec<TcpStream> = (0..3).map(|_| node.connect_from(21)).collect();
    for stream in &mut held {
        stream.write_all(head("/ws").as_bytes()).unwrap();
        assert_eq!(status(stream), 101);
    }
    for _ in 0..20 {
        let mut stream = node.connect_from(21);
        let answer = String::from_utf8(read_all(&mut stream)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
        assert!(answer.contains("\r\nRetry-After: "), "{answer}");
    }
    let mut other = node.connect_from(22);
    other.write_all(head("/ws").as_bytes()).unwrap();
    assert_eq!(status(&mut other), 101);
    let refused = "tidewheel_connections_rejected_total{reason=\"rate\"}";
    assert_eq!(node.metric(refused), 20);
    // Its places are free when it has gone.
    drop(held);
    let free = (0..200).any(|_| {
        let mut stream = node.connect_from(21);
        let sent = stream.write_all(head("/ws").as_bytes());
        sent.is_ok() && status(&mut stream) == 101
    });
    assert!(free);
}

#[test]
fn a_proxy_header_is_taken_from_a_trusted_proxy_alone() {
    let node = Node::start(&[
        "--proxy-protocol=required",
        "--trusted-proxies=127.0.0.30",
        "--max-connections-per-address=1",
        "--handshake-timeout=500ms",
    ]);
    let upgrade = head("/ws").into_bytes();
    let v1 = |source: &str| format!("PROXY TCP4 {source} 10.0.0.1 5 443\r\n").into_bytes();
    let with = |header: Vec<u8>| [header, upgrade.clone()].concat();
    let mut held = Vec::new();
    let table: Vec<(&str, u8, Vec<u8>, u16)> = vec![
        ("version 1", 30, with(v1("192.0.2.1")), 101),
        ("the same client again", 30, with(v1("192.0.2.1")), 429),
        (
            "version 2",
            30,
            with(v2(0x21, [192, 0, 2, 2], 12, b"")),
            101,
        ),
        ("the same in version 1", 30, with(v1("192.0.2.2")), 429),
        (
            "more behind the addresses",
            30,
            with(v2(0x21, [192, 0, 2, 3], 16, b"\x04\0\x01x")),
            101,
        ),
        (
            "the proxy for itself",
            30,
            with(v2(0x20, [192, 0, 2, 2], 12, b"")),
            101,
        ),
        ("unknown", 30, with(b"PROXY UNKNOWN\r\n".to_vec()), 101),
        ("from somebody else", 31, with(v1("192.0.2.4")), 0),
        ("somebody else without one", 31, upgrade.clone(), 0),
        ("no header", 30, upgrade.clone(), 0),
        (
            "a length of 65,535",
            30,
            v2(0x21, [192, 0, 2, 5], 65_535, b""),
            0,
        ),
        (
            "a length that is too short",
            30,
            with(v2(0x21, [192, 0, 2, 5], 11, b"")),
            0,
        ),
        // What it lacks is waited for, as long as a request may take.
        (
            "a length that never comes",
            30,
            v2(0x21, [192, 0, 2, 5], 500, b""),
            408,
        ),
        ("nothing", 30, Vec::new(), 408),
        (
            "version 1 without an end",
            30,
            [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat(),
            0,
        ),
        ("a name for an address", 30, with(v1("localhost")), 0),
        // The header is not read twice: what follows is HTTP.
        (
            "two headers",
            30,
            with([v1("192.0.2.6"), v1("192.0.2.7")].concat()),
            505,
        ),
    ];
    for (what, from, bytes, expected) in table {
        let mut stream = node.connect_from(from);
        // It may be closed before all was sent.
        let _closed = stream.write_all(&bytes);
        assert_eq!(status(&mut stream), expected, "{what}");
        held.push(stream);
    }
    let mut trickling = node.connect_from(30);
    for octet in with(v1("192.0.2.99")) {
        trickling.write_all(&[octet]).unwrap();
    }
    assert_eq!(status(&mut trickling), 101, "octet by octet");
    assert_eq!(
        node.metric("tidewheel_connections_rejected_total{reason=\"proxy\"}"),
        7
    );
}

#[test]
fn an_address_in_a_header_counts_only_from_a_trusted_proxy() {
    let node = Node::start(&[
        "--trusted-proxies=127.0.0.40",
        "--max-connections-per-address=1",
    ]);
    let mut held = Vec::new();
    for (from, says, expected) in [
        (41, "198.51.100.1", 101),
        (41, "198.51.100.2", 429),
        (40, "198.51.100.1", 101),
        (40, "6.6.6.6, 198.51.100.1", 429),
        (40, "198.51.100.9, 198.51.100.2", 101),
        (40, "nonsense", 400),
    ] {
        let mut stream = node.connect_from(from);
        let request = format!("GET /ws HTTP/1.1\r\nX-Forwarded-For: {says}\r\n{UPGRADE}");
        let _closed = stream.write_all(request.as_bytes());
        assert_eq!(status(&mut stream), expected, "{from} says {says}");
        held.push(stream);
    }
}

#[test]
fn orders_reach_a_user_on_whichever_core() {
    let node = Node::start(&[]);
    let user = || UserId::from_name("ann");
    let mut streams: Vec<TcpStream> = (0..12)
        .map(|n| {
            let mut stream = node.connect_from(25 + n % 3);
            let head = head("/ws?user_id=ann");
            stream.write_all(head.as_bytes()).unwrap();
            let mut first = vec![0; 1_024];
            // The response, and `connection_established` with it or behind it.
            while !first.windows(11).any(|w| w == b"established") {
                assert!(stream.read(&mut first).unwrap() > 0);
            }
            stream
        })
        .collect();
    let (lasts, reason) = (None, "bye".into());
    let kick = Order::Disconnect {
        user: user(),
        code: 4012,
        reason,
    };
    assert_eq!(node.order(&kick), 12);
    for stream in &mut streams {
        // Whatever was left of what came before is followed by the close frame.
        let all = read_all(stream);
        assert!(
            all.ends_with(&[0x88, 5, 0x0f, 0xac, b'b', b'y', b'e']),
            "{all:?}"
        );
    }
    let ban = Order::Ban {
        user: user(),
        lasts,
    };
    assert_eq!(node.order(&ban), 0, "they are gone");
    let mut again = node.connect_from(28);
    again.write_all(head("/ws?user_id=ann").as_bytes()).unwrap();
    let all = read_all(&mut again);
    assert!(all.windows(4).any(|w| w == [0x88, 13, 0x0f, 0xa9]), "4009");
    assert!(!all.windows(11).any(|w| w == b"established"));
}

#[test]
fn a_head_that_trickles_into_a_socket_is_answered_with_408() {
    let node = Node::start(&["--handshake-timeout=300ms"]);
    let mut stream = node.connect_from(23);
    stream
        .set_read_timeout(Some(Duration::from_millis(30)))
        .unwrap();
    let request = head("/ws");
    let mut octets = request.bytes();
    let answer = loop {
        if let Some(octet) = octets.next() {
            // The server may have answered and closed already.
            let _closed = stream.write_all(&[octet]);
        }
        match status(&mut stream) {
            0 if octets.len() > 0 => {}
            status => break status,
        }
    };
    assert_eq!(answer, 408);
}

#[test]
fn a_close_that_is_not_answered_is_cut_and_the_close_frame_arrives() {
    let node = Node::start(&[]);
    let mut stream = node.connect_from(24);
    stream.write_all(head("/ws").as_bytes()).unwrap();
    // Much more than the server reads before it knows that it will close.
    let flood = frame(OpCode::Data(Data::Binary), &[0; 1_000]).repeat(200);
    let _closed = stream.write_all(&flood);
    let all = read_all(&mut stream);
    let close = [0x88, 0x12, 3, 235];
    assert!(all.windows(4).any(|w| w == close), "1003 arrives");
    let gone = (0..500).any(|_| node.metric("tidewheel_connections{") == 0);
    assert!(gone, "it is cut after --close-timeout");
}
