//! The paths. What comes before `measured` is not counted, and neither is the warm-up.

use std::hint::black_box;

use tidewheel::protocol::json::Parser;

use crate::measured;
use crate::rooms::{Node, masked, message};

/// A path.
pub struct Path {
    /// What it is called on the command line and in the table.
    pub name: &'static str,
    /// How many operations its count is for.
    pub times: u64,
    /// What one operation is.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(),
}

/// Messages between two flushes, where flushing is not what is measured.
const BURST: u64 = 50;

/// All of them.
pub const PATHS: [Path; 11] = [
    Path {
        name: "parse",
        times: 1000,
        about: "a publish of 150 bytes, text to command",
        run: || parse(PUBLISH),
    },
    Path {
        name: "parse_join",
        times: 1000,
        about: "join_room with recovery, text to command",
        run: || parse(JOIN),
    },
    Path {
        name: "publish",
        times: 1000,
        about: "a publish of 128 bytes: frame, text, home, log, answer; no flush",
        run: || publish(|_| String::new()),
    },
    Path {
        name: "publish_named",
        times: 1000,
        about: "the same with message_id and correlation_id",
        run: || publish(metadata),
    },
    Path {
        name: "turn",
        times: 1000,
        about: "a publish and its flush in a room of its publisher alone, answer included",
        run: turn,
    },
    Path {
        name: "flush_1",
        times: 20 * 1000,
        about: "a member's write in a flush of 1 message to 1,000 members",
        run: || flush(1),
    },
    Path {
        name: "flush_8",
        times: 20 * 1000,
        about: "a member's write in a flush of 8 messages to 1,000 members",
        run: || flush(8),
    },
    Path {
        name: "join",
        times: 1000,
        about: "a connection: accepted, upgraded, joined, flushed",
        run: join,
    },
    Path {
        name: "echo",
        times: 1000,
        about: "128 bytes to /echo and back",
        run: echo,
    },
    Path {
        name: "bus_home",
        times: 1000,
        about: "a publish on the room's home core to a member on each of two cores, all of it",
        run: || bus(1),
    },
    Path {
        name: "bus_away",
        times: 1000,
        about: "a publish on the other core to a member on each of two cores, all of it",
        run: || bus(0),
    },
];

const PUBLISH: &str = r#"{"type":"message","room":"lobby","payload":{"text":"not a word more than this, and that is all that there is","n":12345},"metadata":{"echo":true}}"#;

const JOIN: &str = r#"{"type":"join_room","room":"lobby","payload":{"history":10,"recover":{"epoch":"000000000000a","offset":7},"presence":true}}"#;

fn metadata(n: u64) -> String {
    let id = format_args!(r#""message_id":"d0ba4a7c-5b6d-4e4e-9f0a-{n:012}""#);
    format!(r#","metadata":{{{id},"correlation_id":"c{n}"}}"#)
}

fn parse(text: &str) {
    let mut parser = Parser::new();
    let mut work = || {
        for _ in 0..1000 {
            let _read = black_box(parser.parse(black_box(text)));
        }
    };
    work();
    measured(&mut work);
}

fn publish(metadata: impl Fn(u64) -> String) {
    let mut node = Node::of_members(10);
    for round in 0..40 {
        let wires: Vec<_> = (0..BURST)
            .map(|n| message("lobby", &metadata(round * BURST + n)))
            .collect();
        let mut work = || wires.iter().for_each(|wire| node.take(0, 0, wire));
        if round < 20 {
            work();
        } else {
            measured(&mut work);
        }
        node.turn();
    }
}

fn turn() {
    let mut node = Node::of_members(1);
    let wire = message("lobby", "");
    let mut work = || {
        for _ in 0..1000 {
            node.take(0, 0, &wire);
            node.turn();
        }
    };
    work();
    measured(&mut work);
}

fn flush(messages: usize) {
    let mut node = Node::of_members(1000);
    let wire = message("lobby", "");
    for round in 0..40 {
        for _ in 0..messages {
            node.take(0, 0, &wire);
        }
        if round < 20 {
            node.turn();
        } else {
            measured(&mut || node.turn());
        }
    }
}

fn join() {
    let mut node = Node::new(1);
    let join = masked(r#"{"type":"join_room","room":"lobby"}"#);
    let mut work = || {
        for n in 0..1000 {
            let index = node.connect(0, "/ws");
            node.take(0, index, &join);
            if n % 20 == 19 {
                node.turn();
            }
        }
    };
    work();
    measured(&mut work);
}

fn echo() {
    let mut node = Node::new(1);
    let index = node.connect(0, "/echo");
    let wire = masked(&"x".repeat(128));
    let mut work = || {
        for _ in 0..1000 {
            node.take(0, index, &wire);
            node.turn();
        }
    };
    work();
    measured(&mut work);
}

fn bus(core: usize) {
    let (mut node, room) = Node::of_two_cores();
    let wire = message(&room, "");
    let mut work = || {
        for _ in 0..1000 {
            node.take(core, 0, &wire);
            node.turn();
        }
    };
    work();
    measured(&mut work);
}
