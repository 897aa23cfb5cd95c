//! Text of one WebSocket message to a [`Request`].
//!
//! Where PROTOCOL leaves room, it is filled so: `null` is a value like any other, so it is
//! application data where that is expected, and the wrong form everywhere else; a member that the
//! command does not use is not looked at, except that `metadata` always has to be right; a
//! repeated member is an error whether its name is known or not, in the envelope, in `metadata`
//! and in the payload of a command that has one of its own.

use std::fmt;

use super::outline::{Object, Outline, Value};
use super::scan::NotJson;
use crate::protocol::command::{Command, Malformed, Recover, Request};
use crate::protocol::ids::{self, Epoch};

/// Reads the messages of clients. Keeps its memory from one to the next; each core needs one.
pub struct Parser {
    envelope: Outline,
    /// Of payloads that are a command's own.
    payload: Outline,
}

impl Default for Parser {
    fn default() -> Parser {
        Parser::new()
    }
}

impl fmt::Debug for Parser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parser")
    }
}

impl Parser {
    /// A parser without memory so far.
    pub fn new() -> Parser {
        Parser {
            envelope: Outline::default(),
            payload: Outline::default(),
        }
    }

    /// Reads one message. Takes no memory in the usual case, and time linear in the text (for
    /// thousands of unknown members, linear but for sorting their names).
    ///
    /// # Errors
    /// [`Malformed`] for anything but a message of the documented form: error 4006.
    pub fn parse<'a>(&'a mut self, text: &'a str) -> Result<Request<'a>, Malformed> {
        let (envelope, fault) = self.envelope.read(text, "payload", Envelope::collect);
        match fault {
            Some(fault) => Err(not_json(fault, text)),
            None => request(&envelope, &mut self.payload),
        }
        .map_err(|wrong| malformed(&wrong, &envelope))
    }
}

/// The members of a message, not yet checked.
struct Envelope<'a> {
    kind: Option<Value<'a>>,
    room: Option<Value<'a>>,
    payload: Option<Value<'a>>,
    metadata: Option<Value<'a>>,
    correlation_id: Option<Value<'a>>,
    message_id: Option<Value<'a>>,
    echo: Option<Value<'a>>,
    repeated: Option<&'a str>,
}

impl<'a> Envelope<'a> {
    fn collect(members: Object<'a>) -> Envelope<'a> {
        let mut metadata_members = None;
        let names = ["type", "room", "payload", "metadata"];
        let ([kind, room, payload, metadata], mut repeated) =
            pick(members, names, |name, inner| {
                if name == "metadata" {
                    metadata_members.get_or_insert(inner);
                }
            });
        let [mut correlation_id, mut message_id, mut echo] = [None; 3];
        if let Some(members) = metadata_members {
            let names = ["correlation_id", "message_id", "echo"];
            let (values, within) = pick(members, names, |_, _| ());
            [correlation_id, message_id, echo] = values;
            repeated = repeated.or(within);
        }
        Envelope {
            kind,
            room,
            payload,
            metadata,
            correlation_id,
            message_id,
            echo,
            repeated,
        }
    }
}

/// The values of the members called `names`, the first of each, and a name that more than one member
/// has. `inner` is shown the members of each of those values that is an object.
fn pick<'a, const N: usize>(
    members: Object<'a>,
    names: [&str; N],
    mut inner: impl FnMut(&str, Object<'a>),
) -> ([Option<Value<'a>>; N], Option<&'a str>) {
    let mut values = [None; N];
    // Where each is one of the names, and none comes twice, there is nothing to compare.
    let mut is_plain = true;
    for (name, value, inner_members) in members {
        let slot = names
            .iter()
            .zip(&mut values)
            .find(|(known, _)| **known == name);
        match slot {
            Some((_, slot @ None)) => {
                *slot = Some(value);
                inner(name, inner_members);
            }
            _ => is_plain = false,
        }
    }
    let repeated = if is_plain {
        None
    } else {
        members.repeated_name()
    };
    (values, repeated)
}

/// What is wrong with a message.
#[derive(Debug, thiserror::Error)]
enum Wrong<'a> {
    #[error(
        "not valid JSON: {fault}, found {found}; send one JSON object like \
         {{\"type\":\"message\",\"room\":\"lobby\",\"payload\":1}}"
    )]
    NotJson { fault: NotJson, found: String },
    #[error("member {name} appears more than once; send it once")]
    Repeated { name: Cut<'a> },
    #[error("member `{name}` is missing; send {form}")]
    Missing {
        name: &'static str,
        form: &'static str,
    },
    #[error("member `{name}` is {found}; send {form}")]
    Form {
        name: &'static str,
        found: Cut<'a>,
        form: &'static str,
    },
    #[error("unknown type {found}; send one of {}", Command::TYPES.join(", "))]
    UnknownType { found: Cut<'a> },
}

/// At most 64 bytes of a peer's text, for a message that goes back to it.
#[derive(Debug)]
struct Cut<'a>(&'a str);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BYTES_MAX: usize = 64;
        let end = (0..=BYTES_MAX)
            .rev()
            .find(|&end| self.0.is_char_boundary(end));
        match self.0.get(..end.unwrap_or(0)) {
            Some(shown) if self.0.len() > BYTES_MAX => write!(f, "`{shown}…`"),
            _ => write!(f, "`{}`", self.0),
        }
    }
}

#[cold]
fn not_json<'a>(fault: NotJson, text: &str) -> Wrong<'a> {
    let found = match text.get(fault.at()..) {
        Some(rest) if !rest.is_empty() => Cut(rest).to_string(),
        _ => "the end of the text".to_owned(),
    };
    Wrong::NotJson { fault, found }
}

#[cold]
fn malformed(wrong: &Wrong<'_>, envelope: &Envelope<'_>) -> Malformed {
    let readable = |value: Option<Value<'_>>, is_good: fn(&str) -> bool| {
        value
            .and_then(|value| value.text)
            .filter(|text| is_good(text))
            .map(str::to_owned)
    };
    Malformed {
        message: wrong.to_string(),
        correlation_id: readable(envelope.correlation_id, ids::is_key),
        room: readable(envelope.room, ids::is_room_name),
    }
}

const TYPE_FORM: &str = "a string that names the command, for example \"join_room\"";
const NAME_FORM: &str = "a string of 1 to 255 bytes without control characters";
const OBJECT_FORM: &str = "an object";
const WHOLE_FORM: &str = "a whole number from 0 to 18446744073709551615, in digits alone";
const COUNT_FORM: &str = "a whole number from 0, in digits alone";

/// Checks a whole message.
fn request<'a>(
    envelope: &Envelope<'a>,
    scratch: &'a mut Outline,
) -> Result<Request<'a>, Wrong<'a>> {
    if let Some(name) = envelope.repeated {
        return Err(Wrong::Repeated { name: Cut(name) });
    }
    if let Some(metadata) = envelope.metadata.filter(|metadata| !is_object(metadata)) {
        return Err(form("metadata", metadata, OBJECT_FORM));
    }
    let correlation_id = optional(envelope.correlation_id, "metadata.correlation_id", key())?;
    let message_id = optional(envelope.message_id, "metadata.message_id", key())?;
    let echo = optional(envelope.echo, "metadata.echo", boolean())?.unwrap_or(true);
    let command = command(envelope, scratch)?;
    Ok(Request {
        command,
        correlation_id,
        message_id,
        echo,
    })
}

fn command<'a>(
    envelope: &Envelope<'a>,
    scratch: &'a mut Outline,
) -> Result<Command<'a>, Wrong<'a>> {
    let kind = envelope.kind.ok_or(Wrong::Missing {
        name: "type",
        form: TYPE_FORM,
    })?;
    let Some(name) = kind.text else {
        return Err(form("type", kind, TYPE_FORM));
    };
    let room = || required(envelope.room, "room", room_name());
    let payload = envelope.payload;
    Ok(match name {
        "message" => {
            let room = room()?;
            Command::Message {
                room,
                payload: required(payload, "payload", json())?,
            }
        }
        "join_room" => join_room(room()?, payload, scratch)?,
        "leave_room" => Command::LeaveRoom { room: room()? },
        "typing_start" => Command::TypingStart { room: room()? },
        "typing_stop" => Command::TypingStop { room: room()? },
        "read_receipt" => {
            let room = room()?;
            let ([at], _) = members(payload, scratch, "", ["offset"])?;
            Command::ReadReceipt {
                room,
                offset: required(at, "payload.offset", offset())?,
            }
        }
        "presence_query" => Command::PresenceQuery { room: room()? },
        "history_query" => history_query(room()?, payload, scratch)?,
        "direct_message" => {
            let ([user, data], _) = members(payload, scratch, "data", ["user_id", "data"])?;
            let user_id = required(user, "payload.user_id", user_id())?;
            Command::DirectMessage {
                user_id,
                data: required(data, "payload.data", json())?,
            }
        }
        "auth" => {
            let ([token], _) = members(payload, scratch, "", ["token"])?;
            // What stands in its place may still be a secret, and is not quoted.
            let token = token.and_then(|token| token.text);
            let missing = Wrong::Missing {
                name: "payload.token",
                form: "the token as a string",
            };
            Command::Auth {
                token: token.ok_or(missing)?,
            }
        }
        "ping" => Command::Ping {
            payload: optional(payload, "payload", json())?,
        },
        _ => {
            return Err(Wrong::UnknownType {
                found: Cut(kind.raw),
            });
        }
    })
}

fn join_room<'a>(
    room: &'a str,
    payload: Option<Value<'a>>,
    scratch: &'a mut Outline,
) -> Result<Command<'a>, Wrong<'a>> {
    let (mut history, mut recover, mut presence) = (None, None, None);
    if payload.is_some() {
        let names = ["history", "recover", "presence"];
        let ([wanted, position, updates], position_members) = members(payload, scratch, "", names)?;
        history = optional(wanted, "payload.history", count())?;
        presence = optional(updates, "payload.presence", boolean())?;
        if let Some(position) = position {
            if !is_object(&position) {
                return Err(form("payload.recover", position, OBJECT_FORM));
            }
            let [reign, at] = position_members;
            recover = Some(Recover {
                epoch: required(reign, "payload.recover.epoch", epoch())?,
                offset: required(at, "payload.recover.offset", offset())?,
            });
        }
    }
    Ok(Command::JoinRoom {
        room,
        history,
        recover,
        presence,
    })
}

fn history_query<'a>(
    room: &'a str,
    payload: Option<Value<'a>>,
    scratch: &'a mut Outline,
) -> Result<Command<'a>, Wrong<'a>> {
    let (mut since, mut limit) = (None, None);
    if payload.is_some() {
        let ([after, most], _) = members(payload, scratch, "", ["since", "limit"])?;
        since = optional(after, "payload.since", offset())?;
        limit = optional(most, "payload.limit", count())?;
    }
    Ok(Command::HistoryQuery { room, since, limit })
}

/// The members of a payload that is the command's own and has to be an object: those called
/// `names`, and those of `recover`.
#[expect(
    clippy::type_complexity,
    reason = "a list of values, and the list within one of them"
)]
fn members<'a, const N: usize>(
    payload: Option<Value<'a>>,
    scratch: &'a mut Outline,
    opaque: &str,
    names: [&str; N],
) -> Result<([Option<Value<'a>>; N], [Option<Value<'a>>; 2]), Wrong<'a>> {
    let payload = payload.ok_or(Wrong::Missing {
        name: "payload",
        form: OBJECT_FORM,
    })?;
    if !is_object(&payload) {
        return Err(form("payload", payload, OBJECT_FORM));
    }
    let (picked, fault) = scratch.read(payload.raw, opaque, |members| {
        let (mut position, mut within) = ([None; 2], None);
        let (values, repeated) = pick(members, names, |name, inner| {
            if name == "recover" {
                (position, within) = pick(inner, ["epoch", "offset"], |_, _| ());
            }
        });
        match repeated.or(within) {
            Some(name) => Err(Wrong::Repeated { name: Cut(name) }),
            None => Ok((values, position)),
        }
    });
    match fault {
        Some(fault) => Err(not_json(fault, payload.raw)),
        None => picked,
    }
}

/// The form that a value should have, in words for the error, and how to read it.
type Reading<'a, T> = (&'static str, fn(Value<'a>) -> Option<T>);

fn required<'a, T>(
    value: Option<Value<'a>>,
    name: &'static str,
    reading: Reading<'a, T>,
) -> Result<T, Wrong<'a>> {
    let missing = Wrong::Missing {
        name,
        form: reading.0,
    };
    optional(value, name, reading)?.ok_or(missing)
}

fn optional<'a, T>(
    value: Option<Value<'a>>,
    name: &'static str,
    (expected, read): Reading<'a, T>,
) -> Result<Option<T>, Wrong<'a>> {
    match value {
        None => Ok(None),
        Some(value) => match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(form(name, value, expected)),
        },
    }
}

#[cold]
fn form<'a>(name: &'static str, value: Value<'a>, form: &'static str) -> Wrong<'a> {
    Wrong::Form {
        name,
        found: Cut(value.raw),
        form,
    }
}

fn is_object(value: &Value<'_>) -> bool {
    value.raw.starts_with('{')
}

fn room_name<'a>() -> Reading<'a, &'a str> {
    (NAME_FORM, |value| {
        value.text.filter(|text| ids::is_room_name(text))
    })
}

fn user_id<'a>() -> Reading<'a, &'a str> {
    (NAME_FORM, |value| {
        value.text.filter(|text| ids::is_user_id(text))
    })
}

fn key<'a>() -> Reading<'a, &'a str> {
    ("a string of 1 to 64 bytes", |value| {
        value.text.filter(|text| ids::is_key(text))
    })
}

fn epoch<'a>() -> Reading<'a, Option<Epoch>> {
    ("the epoch string of an earlier reply", |value| {
        value.text.map(Epoch::parse)
    })
}

fn json<'a>() -> Reading<'a, &'a [u8]> {
    ("any JSON value", |value| Some(value.raw.as_bytes()))
}

fn boolean<'a>() -> Reading<'a, bool> {
    ("true or false", |value| value.raw.parse().ok())
}

fn offset<'a>() -> Reading<'a, u64> {
    (WHOLE_FORM, |value| whole(value.raw)?.parse().ok())
}

fn count<'a>() -> Reading<'a, u32> {
    // More than anyone keeps is as good as all there are.
    (COUNT_FORM, |value| {
        Some(whole(value.raw)?.parse().unwrap_or(u32::MAX))
    })
}

/// The digits of a JSON number that has nothing else.
fn whole(raw: &str) -> Option<&str> {
    raw.bytes().all(|byte| byte.is_ascii_digit()).then_some(raw)
}
