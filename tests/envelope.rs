//! The envelope reader beside a second one, which is written from the protocol's page on top of
//! `serde_json` and shares nothing with the first: both must read the same from every text.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a text that cannot be built is a failed test

use std::fmt;
use std::time::{Duration, Instant};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tidewheel::protocol::json::Parser;
use tidewheel::protocol::{Command, Epoch, Recover, Request};

/// Enough for every shape below. `FUZZ_SECONDS` in the environment searches for that long instead,
/// from seeds of its own.
const TEXTS: u64 = 40_000;

#[test]
#[allow(clippy::disallowed_methods)] // how long to search is a matter of the real clock
fn both_readers_read_the_same() {
    let seconds = std::env::var("FUZZ_SECONDS").ok();
    let seconds = seconds
        .and_then(|s| s.parse().ok())
        .map(Duration::from_secs);
    let (began, first) = match seconds {
        Some(_) => (Instant::now(), fastrand::u64(TEXTS..1 << 60)),
        None => (Instant::now(), 0),
    };
    let mut parser = Parser::new();
    let (mut texts, mut good) = (0u64, 0u64);
    for seed in first.. {
        let is_over = match seconds {
            Some(seconds) => texts.is_multiple_of(1024) && began.elapsed() >= seconds,
            None => texts >= TEXTS,
        };
        if is_over {
            break;
        }
        texts += 1;
        let text = Writer(fastrand::Rng::with_seed(seed)).text();
        let expected = read(&text);
        let found = parser.parse(&text);
        good += u64::from(expected.is_some());
        match (found, &expected) {
            (Ok(request), Some(expected)) => {
                assert_eq!(said(&request), *expected, "seed {seed}: {text}");
            }
            (Err(_), None) => {}
            (found, _) => panic!("seed {seed}: {text}\nfound {found:?}\nexpected {expected:?}"),
        }
    }
    eprintln!("{texts} texts, {good} of them good");
    assert!(
        good > texts / 20,
        "{good} of {texts} were good: too few to say much"
    );
}

// ---------------------------------------------------------------------------- the second reader

/// Every member's name and value, in order, repeated ones too. A name may be no Unicode.
struct Members<'a>(Vec<(Vec<u8>, &'a str)>);

/// A member's name, whatever it holds.
struct Name(Vec<u8>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Name, E> {
                Ok(Name(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry::<Name, &RawValue>()? {
                    members.push((name, value.get()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// The members of an object; none where it is none, or where a name comes twice.
fn members(json: &str) -> Option<Members<'_>> {
    let members: Members<'_> = serde_json::from_str(json).ok()?;
    let mut names: Vec<&[u8]> = members.0.iter().map(|(name, _)| name.as_slice()).collect();
    // What is no Unicode is no name of the protocol's, and is ignored however often it comes.
    names.retain(|name| std::str::from_utf8(name).is_ok());
    names.sort_unstable();
    let is_repeated = names.windows(2).any(|pair| pair[0] == pair[1]);
    (!is_repeated).then_some(members)
}

impl<'a> Members<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().find(|(other, _)| other == name.as_bytes());
        found.map(|(_, value)| *value)
    }
}

/// The outer option: whether it is as it should be. The inner: whether it is there.
type Optional<T> = Option<Option<T>>;

fn optional<'a, T>(value: Option<&'a str>, read: impl Fn(&'a str) -> Option<T>) -> Optional<T> {
    match value {
        None => Some(None),
        Some(value) => read(value).map(Some),
    }
}

fn string(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

fn name(json: &str) -> Option<String> {
    let is_control = |c: char| matches!(c, '\0'..='\x1f' | '\x7f'..='\u{9f}');
    string(json).filter(|name| (1..=255).contains(&name.len()) && !name.contains(is_control))
}

fn key(json: &str) -> Option<String> {
    string(json).filter(|key| (1..=64).contains(&key.len()))
}

fn boolean(json: &str) -> Option<bool> {
    serde_json::from_str(json).ok()
}

/// Digits alone: `serde_json` would take `-0` for a whole number, too, and no `1.0`.
fn offset(json: &str) -> Option<u64> {
    serde_json::from_str(json).ok().filter(|_| json != "-0")
}

/// More than there could be is all there is.
fn count(json: &str) -> Option<u32> {
    let is_whole = json.bytes().all(|byte| byte.is_ascii_digit());
    is_whole.then(|| json.parse().unwrap_or(u32::MAX))
}

/// How many arrays and objects stand around the innermost value.
fn depth(json: &str) -> usize {
    let (mut deepest, mut depth, mut quoted, mut escaped) = (0, 0usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth -= 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// What `text` says, if it is a message of the documented form.
fn read(text: &str) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let envelope = members(text)?;
    if envelope.0.iter().any(|(_, value)| depth(value) > 512) {
        // A member's own members may begin a level of their own.
        let is_ours = |name: &[u8], value: &str| name != b"payload" && value.starts_with('{');
        let is_deep = |(name, value): &(Vec<u8>, &str)| {
            depth(value)
                > 512 + usize::from(is_ours(name, value) && std::str::from_utf8(name).is_ok())
        };
        if envelope.0.iter().any(is_deep) {
            return None;
        }
    }
    let metadata = optional(envelope.get("metadata"), members)?;
    let metadata = metadata.unwrap_or(Members(Vec::new()));
    let correlation_id = optional(metadata.get("correlation_id"), key)?;
    let message_id = optional(metadata.get("message_id"), key)?;
    let echo = optional(metadata.get("echo"), boolean)?.unwrap_or(true);
    let kind = string(envelope.get("type")?)?;
    let room = || name(envelope.get("room")?);
    let payload = envelope.get("payload");
    let own = || members(payload?);
    let said = match kind.as_str() {
        "message" => said(&Request {
            command: Command::Message {
                room: &room()?,
                payload: payload?.as_bytes(),
            },
            correlation_id: None,
            message_id: None,
            echo: true,
        }),
        "join_room" => {
            let own = match payload {
                None => Members(Vec::new()),
                Some(_) => own()?,
            };
            let position = optional(own.get("recover"), members)?;
            let recover = match position {
                None => None,
                Some(position) => Some(Recover {
                    epoch: Epoch::parse(&string(position.get("epoch")?)?),
                    offset: offset(position.get("offset")?)?,
                }),
            };
            plain(Command::JoinRoom {
                room: &room()?,
                history: optional(own.get("history"), count)?,
                recover,
                presence: optional(own.get("presence"), boolean)?,
            })
        }
        "leave_room" => plain(Command::LeaveRoom { room: &room()? }),
        "typing_start" => plain(Command::TypingStart { room: &room()? }),
        "typing_stop" => plain(Command::TypingStop { room: &room()? }),
        "presence_query" => plain(Command::PresenceQuery { room: &room()? }),
        "read_receipt" => plain(Command::ReadReceipt {
            room: &room()?,
            offset: offset(own()?.get("offset")?)?,
        }),
        "history_query" => {
            let own = match payload {
                None => Members(Vec::new()),
                Some(_) => own()?,
            };
            plain(Command::HistoryQuery {
                room: &room()?,
                since: optional(own.get("since"), offset)?,
                limit: optional(own.get("limit"), count)?,
            })
        }
        "direct_message" => {
            let own = own()?;
            plain(Command::DirectMessage {
                user_id: &name(own.get("user_id")?)?,
                data: own.get("data")?.as_bytes(),
            })
        }
        "auth" => plain(Command::Auth {
            token: &string(own()?.get("token")?)?,
        }),
        "ping" => plain(Command::Ping {
            payload: payload.map(str::as_bytes),
        }),
        _ => return None,
    };
    let metadata = format!("{correlation_id:?} {message_id:?} {echo}");
    Some(said.replace("None None true", &metadata))
}

fn plain(command: Command<'_>) -> String {
    said(&Request {
        command,
        correlation_id: None,
        message_id: None,
        echo: true,
    })
}

/// A request in words, metadata first.
fn said(request: &Request<'_>) -> String {
    let Request {
        command,
        correlation_id,
        message_id,
        echo,
    } = request;
    format!("{correlation_id:?} {message_id:?} {echo} {command:?}")
}

// ---------------------------------------------------------------------------- texts

/// Writes texts that are a message, or would be one but for a little.
struct Writer(fastrand::Rng);

const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "1",
    "7",
    "-1",
    "01",
    "1.0",
    "1.",
    ".5",
    "1e3",
    "1E+3",
    "1e",
    "1e999",
    "-0.0e-0",
    "+1",
    "0x1",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "007",
    "NaN",
    "Infinity",
    "123456789012345678901234567890",
];

const NAMES: &[&str] = &[
    "type",
    "room",
    "payload",
    "metadata",
    "correlation_id",
    "message_id",
    "echo",
    "history",
    "recover",
    "presence",
    "epoch",
    "offset",
    "since",
    "limit",
    "user_id",
    "data",
    "token",
    "x",
    "",
    "Type",
    "type ",
    "typ",
    "payloa",
    "payloads",
    "é",
    "🙂",
];

/// Places within a string that are more than a character.
const PIECES: &[&str] = &[
    "a",
    "lobby",
    "é",
    "🙂",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{feff}",
    "\u{2028}",
    "\\n",
    "\\\"",
    "\\\\",
    "\\/",
    "\\b",
    "\\u0000",
    "\\u0041",
    "\\u00e9",
    "\\u00E9",
    "\\ud83d\\ude42",
    "\\ud83d",
    "\\ude42",
    "\\ude42\\ud83d",
    "\\ud83d\\ud83d\\ude42",
    "\\u007f",
    "\\u0085",
    "\\x41",
    "\\u00g0",
    "\\u+041",
    "\\u 041",
    "\\U0041",
    "\\'",
    "\\",
    "\n",
    "\0",
    "\t",
    "'",
];

impl Writer {
    fn one(&mut self, of: &[&'static str]) -> &'static str {
        of[self.0.usize(..of.len())]
    }

    /// True once in `of` times.
    fn rarely(&mut self, of: u32) -> bool {
        self.0.u32(..of) == 0
    }

    fn text(&mut self) -> String {
        let mut text = self.message();
        if self.rarely(8) {
            let junk = [
                "\0", "x", "{}", ",", "}", "\u{feff}", " \n", "//", "]", "null",
            ];
            text.push_str(self.one(&junk));
        }
        if self.rarely(16) {
            let junk = ["\u{feff}", "\0", " \t\r\n", "\u{a0}", "\u{b}", ",", "["];
            text.insert_str(0, self.one(&junk));
        }
        if self.rarely(3) {
            for _ in 0..self.0.usize(1..4) {
                text = self.spoilt(&text);
            }
        }
        text
    }

    /// `text` with a piece gone, doubled or changed.
    fn spoilt(&mut self, text: &str) -> String {
        let mut letters: Vec<char> = text.chars().collect();
        let at = self.0.usize(..=letters.len());
        let end = self.0.usize(at..=letters.len().min(at + 12));
        match self.0.u8(..5) {
            0 => letters.truncate(at),
            1 => drop(letters.drain(at..end)),
            2 => {
                let copy = letters[at..end].to_vec();
                letters.splice(at..at, copy);
            }
            3 => {
                let signs = b"{}[]\",:\\ \t\n0e-.untf\0\x1f";
                let sign = char::from(signs[self.0.usize(..signs.len())]);
                letters.insert(at, sign);
            }
            _ if at < letters.len() => letters[at] = self.0.char('\u{1}'..'\u{ff}'),
            _ => {}
        }
        letters.into_iter().collect()
    }

    fn message(&mut self) -> String {
        let kind = self.one(&Command::TYPES);
        let mut members = vec![("type", self.quoted(kind))];
        if !self.rarely(12) {
            let room = self.name_value();
            members.push(("room", room));
        }
        if !self.rarely(8) {
            let payload = self.payload(kind);
            members.push(("payload", payload));
        }
        if self.rarely(2) {
            let metadata = self.metadata();
            members.push(("metadata", metadata));
        }
        self.object(members)
    }

    fn metadata(&mut self) -> String {
        if self.rarely(10) {
            return self.value(2);
        }
        let mut members = Vec::new();
        for name in ["correlation_id", "message_id"] {
            if self.rarely(2) {
                let value = self.name_value();
                members.push((name, value));
            }
        }
        if self.rarely(2) {
            let value = self.boolean();
            members.push(("echo", value));
        }
        self.object(members)
    }

    fn payload(&mut self, kind: &str) -> String {
        if self.rarely(8) {
            return self.value(4);
        }
        let mut members = Vec::new();
        match kind {
            "join_room" => {
                if self.rarely(2) {
                    let value = self.number();
                    members.push(("history", value));
                }
                if self.rarely(2) {
                    let (epoch, offset) = (self.name_value(), self.number());
                    let position = self.object(vec![("epoch", epoch), ("offset", offset)]);
                    members.push(("recover", position));
                }
                if self.rarely(2) {
                    let value = self.boolean();
                    members.push(("presence", value));
                }
            }
            "read_receipt" => members.push(("offset", self.number())),
            "history_query" => {
                for name in ["since", "limit"] {
                    if self.rarely(2) {
                        let value = self.number();
                        members.push((name, value));
                    }
                }
            }
            "direct_message" => {
                let (user, data) = (self.name_value(), self.value(4));
                members.extend([("user_id", user), ("data", data)]);
            }
            "auth" => members.push(("token", self.name_value())),
            _ => return self.value(4),
        }
        self.object(members)
    }

    /// An object of these members, with others among them, seldom one of them twice or not.
    fn object(&mut self, mut members: Vec<(&'static str, String)>) -> String {
        if self.rarely(4) {
            let many = if self.rarely(6) { 12 } else { 3 };
            for _ in 0..self.0.usize(1..=many) {
                let name = if self.rarely(3) {
                    self.one(NAMES)
                } else {
                    self.one(&["x", "y", "z", "é", "w", "q"])
                };
                let value = self.value(3);
                members.push((name, value));
            }
        }
        if self.rarely(14) && !members.is_empty() {
            let again = members[self.0.usize(..members.len())].clone();
            members.push(again);
        }
        if self.rarely(14) && !members.is_empty() {
            members.swap_remove(self.0.usize(..members.len()));
        }
        self.0.shuffle(&mut members);
        let mut text = String::from("{");
        for (i, (name, value)) in members.into_iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            let name = if self.rarely(40) {
                self.string()
            } else {
                self.quoted(name)
            };
            for part in [&name, ":", &value] {
                text += self.space();
                text += part;
            }
            text += self.space();
        }
        if self.rarely(60) {
            text.push(',');
        }
        text.push('}');
        text
    }

    fn space(&mut self) -> &'static str {
        if self.rarely(8) {
            self.one(&[" ", "\t", "\r\n", "  \n\t ", " ", " ", " ", "\u{c}"])
        } else {
            ""
        }
    }

    /// A string that says `text`, seldom with escapes where none are needed.
    fn quoted(&mut self, text: &str) -> String {
        let is_escaped = self.rarely(6);
        let mut quoted = String::from("\"");
        for letter in text.chars() {
            if is_escaped && self.rarely(2) {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    quoted += &if self.rarely(2) {
                        format!("\\u{unit:04x}")
                    } else {
                        format!("\\u{unit:04X}")
                    };
                }
            } else {
                quoted.push(letter);
            }
        }
        quoted.push('"');
        quoted
    }

    fn string(&mut self) -> String {
        let mut text = String::from("\"");
        for _ in 0..self.0.usize(..4) {
            text += if self.rarely(2) {
                "plain"
            } else {
                self.one(PIECES)
            };
        }
        if self.rarely(10) {
            let long = self.0.usize(..300);
            text.extend(std::iter::repeat_n(
                if self.rarely(2) { 'é' } else { 'x' },
                long,
            ));
        }
        text.push('"');
        text
    }

    /// Mostly a good name or key, about as long as one may be.
    fn name_value(&mut self) -> String {
        match self.0.u8(..10) {
            0 => self.string(),
            1 => self.value(2),
            2 => {
                let bytes = [1, 2, 63, 64, 65, 127, 254, 255, 256][self.0.usize(..9)];
                let name: String = std::iter::repeat_n('n', bytes).collect();
                self.quoted(&name)
            }
            3 => self.quoted("é🙂 \u{a0}"),
            4 => self.quoted("00000000000ab"),
            _ => self.quoted("lobby"),
        }
    }

    fn number(&mut self) -> String {
        match self.0.u8(..6) {
            0 => self.value(2),
            1 | 2 => self.one(NUMBERS).to_owned(),
            _ => self.0.u64(..1000).to_string(),
        }
    }

    fn boolean(&mut self) -> String {
        let words = [
            "true", "false", "true", "false", "null", "0", "\"true\"", "True", "tru", "truee",
        ];
        self.one(&words).to_owned()
    }

    /// Any value; one of `levels` levels, or seldom of as many as may be, and one more.
    fn value(&mut self, levels: u32) -> String {
        match self.0.u8(..9) {
            0 => self.string(),
            1 => self.quoted("text"),
            2 | 3 => {
                if self.rarely(4) {
                    self.one(NUMBERS).to_owned()
                } else {
                    self.0.i64(..).to_string()
                }
            }
            4 => self.one(&["true", "false", "null"]).to_owned(),
            5 if self.rarely(6) => self.deep(),
            5 | 6 if levels > 0 => {
                let values: Vec<_> = (0..self.0.usize(..4))
                    .map(|_| self.value(levels - 1))
                    .collect();
                format!("[{}{}]", self.space(), values.join(","))
            }
            7 | 8 if levels > 0 => {
                let members =
                    (0..self.0.usize(..3)).map(|_| (self.one(NAMES), self.value(levels - 1)));
                let members = members.collect();
                self.object(members)
            }
            _ => self.0.u8(..).to_string(),
        }
    }

    fn deep(&mut self) -> String {
        let levels =
            [1, 63, 64, 65, 127, 128, 129, 510, 511, 512, 513, 514, 1000][self.0.usize(..13)];
        let mut closing = Vec::new();
        let mut text = String::new();
        let is_mixed = self.rarely(2);
        for _ in 0..levels {
            let (open, close) = if is_mixed && self.0.bool() {
                ("{\"a\":", '}')
            } else {
                ("[", ']')
            };
            text += open;
            closing.push(close);
        }
        text += "1";
        text.extend(closing.into_iter().rev());
        text
    }
}
