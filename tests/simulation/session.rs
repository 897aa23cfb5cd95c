//! One connection as its client ought to see it: what it asked, what it is a member of, and what
//! it must be given. Judges every frame that the server writes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidewheel::codec::websocket::client::ServerFrame;
use tidewheel::codec::websocket::{Control, Data, OpCode};
use tidewheel::gate::Wish;
use tidewheel::shard::Overflow;

use crate::Check;
use crate::law::{Law, Standing};
use crate::member::Member;
use crate::truth::{Asked, BACKEND, Glimpse, Truth};

/// Something that was asked with a `correlation_id`.
#[derive(Clone, Debug)]
pub enum Question {
    Auth(String),
    Join {
        room: String,
        history: u64,
        recover: Option<(String, u64)>,
        presence: Option<bool>,
    },
    Leave {
        room: String,
    },
    Publish(usize),
    Direct(usize),
    /// Typing and receipts: an error or nothing.
    Signal {
        room: String,
    },
    Members {
        room: String,
    },
    History {
        room: String,
        since: Option<u64>,
        limit: Option<u64>,
    },
    Ping(Option<String>),
}

/// A question, and when it was asked.
pub struct Pending {
    pub question: Question,
    /// Whether it was a member of the room it asks about.
    pub standing: Standing,
    /// Everything that was due before this had been done when it was asked.
    pub floor_ms: u64,
}

/// What the members of a room are said to be: users with their connections.
pub type Listing = (u64, BTreeMap<String, u64>);

pub struct Session {
    pub peer: usize,
    /// The name that the client gave.
    name: Option<String>,
    pub user: Option<String>,
    pub client_id: Option<String>,
    pub law: Law,
    pub pending: BTreeMap<String, Pending>,
    pub members: BTreeMap<String, Member>,
    /// Malformed messages that were sent, and errors 4006 that came.
    pub malformed: u32,
    malformed_told: u32,
    /// With which codes the server may close.
    pub allowed: BTreeSet<u16>,
    /// With which code it did; 1005 for none.
    pub closed: Option<u16>,
    /// What `presence_query` was answered last.
    pub listings: BTreeMap<String, Listing>,
    /// `server_shutdown` came.
    pub warned: bool,
    /// What the WebSocket pings of the client carried, in order.
    pub pings: Vec<Vec<u8>>,
    /// What was sent to `/echo` and has not come back.
    pub echoes: Option<std::collections::VecDeque<Vec<u8>>>,
    /// Which broadcasts came.
    pub broadcasts: BTreeSet<usize>,
    /// How often it was told of each room what it had not asked.
    pub unasked: BTreeMap<String, u32>,
}

impl Session {
    pub fn new(peer: usize, name: Option<String>, law: Law) -> Session {
        Session {
            peer,
            name,
            user: None,
            client_id: None,
            law,
            pending: BTreeMap::new(),
            members: BTreeMap::new(),
            malformed: 0,
            malformed_told: 0,
            allowed: BTreeSet::new(),
            closed: None,
            listings: BTreeMap::new(),
            warned: false,
            pings: Vec::new(),
            echoes: None,
            broadcasts: BTreeSet::new(),
            unasked: BTreeMap::new(),
        }
    }

    /// Judges a frame that the server has written.
    pub fn take_frame(&mut self, frame: &ServerFrame, truth: &mut Truth, now_ms: u64) -> Check {
        if self.closed.is_some() {
            return Err("a frame after the close frame".into());
        }
        if !frame.is_final {
            return Err("a fragment".into());
        }
        match frame.opcode {
            OpCode::Control(Control::Close) => {
                let code = match frame.payload[..] {
                    [a, b, ..] => u16::from_be_bytes([a, b]),
                    _ => 1005,
                };
                self.closed = Some(code);
                truth.count(format!("close {code}"));
                if self.allowed.contains(&code) {
                    Ok(())
                } else {
                    Err(format!(
                        "closed with {code}; only {:?} may be",
                        self.allowed
                    ))
                }
            }
            OpCode::Control(Control::Pong) => match self.pings.first() {
                Some(first) if *first == frame.payload => {
                    self.pings.remove(0);
                    Ok(())
                }
                first => Err(format!("a pong, not {first:?}")),
            },
            OpCode::Control(_) => Ok(()),
            OpCode::Data(data) => match &mut self.echoes {
                Some(echoes) => match echoes.pop_front() {
                    Some(sent) if sent == frame.payload => Ok(()),
                    _ => Err("not what was to be echoed".into()),
                },
                None if data == Data::Text => {
                    let text = str::from_utf8(&frame.payload).map_err(|e| e.to_string())?;
                    let event = serde_json::from_str(text).map_err(|e| e.to_string())?;
                    self.take_event(text, &event, truth, now_ms)
                }
                None => Err("not a text".into()),
            },
        }
    }

    fn take_event(&mut self, text: &str, event: &Value, truth: &mut Truth, now_ms: u64) -> Check {
        let kind = event["type"].as_str().ok_or("no type")?;
        let payload = &event["payload"];
        truth.count(match kind {
            "error" => format!("error {}", payload["code"]),
            "presence_update" => format!("presence {}", payload["event"].as_str().unwrap_or("")),
            "room_joined" if payload["recovered"] == true => "recovered".to_owned(),
            kind => kind.to_owned(),
        });
        if kind == "connection_established" {
            return self.established(payload);
        }
        // Whoever says who it is hears that first.
        if self.user.is_none() && kind != "auth_response" {
            return Err("before connection_established".into());
        }
        match kind {
            "error" => return self.refused(event, truth),
            "token_expiring" if self.allowed.contains(&4106) => return Ok(()),
            "server_shutdown" => {
                self.warned = true;
                return Ok(());
            }
            "direct_message" => return self.direct(event, truth),
            "broadcast" => return self.broadcast(text, payload, truth),
            _ => {}
        }
        let room = event["room"].as_str().unwrap_or_default();
        match kind {
            "message" | "messages_missed" | "typing_start" | "typing_stop" | "read_receipt"
            | "presence_update" => {
                let law = &self.law;
                let rule = law.rule(room);
                let user = self.user.as_deref().unwrap_or_default();
                let member = self.members.get_mut(room).ok_or("not a member")?;
                let about = event["metadata"]["user_id"].as_str();
                match kind {
                    "message" => member.message(self.peer, room, text, event, truth, now_ms),
                    "messages_missed" if law.overflow(room) == Overflow::Evict => {
                        Err("nothing may be skipped".into())
                    }
                    "messages_missed" => member.missed(self.peer, room, payload, truth),
                    "presence_update" => member.presence_update(room, payload, user, law),
                    "read_receipt" if rule.is_some_and(|rule| !rule.receipts) => {
                        Err("this room passes on no receipts".into())
                    }
                    "typing_start" if rule.is_some_and(|rule| !rule.typing) => {
                        Err("this room passes on no typing".into())
                    }
                    _ if about.is_none_or(|about| about == user) => {
                        Err("about oneself or nobody".into())
                    }
                    _ => {
                        member.typing(kind, about.unwrap_or_default());
                        Ok(())
                    }
                }
            }
            _ => self.answered(kind, event, text, truth, now_ms),
        }
    }

    fn established(&mut self, payload: &Value) -> Check {
        let client_id = payload["client_id"].as_str().ok_or("no client_id")?;
        let user = payload["user_id"].as_str().ok_or("no user_id")?;
        let expected = match &self.name {
            Some(name) => name.clone(),
            None => format!("anon-{client_id}"),
        };
        if self.user.is_some() || user != expected {
            return Err(format!("again, or not {expected}"));
        }
        self.user = Some(user.to_owned());
        self.client_id = Some(client_id.to_owned());
        Ok(())
    }

    fn refused(&mut self, event: &Value, truth: &mut Truth) -> Check {
        let code = event["payload"]["code"].as_u64().ok_or("no code")?;
        let correlation_id = event["metadata"]["correlation_id"].as_str();
        if code == 4004 && !self.law.is_limited {
            return Err("too fast, with limits that nobody comes near".into());
        }
        let about = event["room"].as_str().unwrap_or_default();
        if correlation_id.is_none()
            && matches!(code, 4008 | 4013 | 4100)
            && !self.url_names(about)
            && self.is_ordered(about, truth)
        {
            truth.count(format!("by the backend {code}"));
            return self.may_bar(about, code);
        }
        // The room in the URL is joined unasked.
        let is_url = !matches!(code, 4004 | 4006) && self.pending.contains_key("url");
        let Some(correlation_id) = correlation_id.or(is_url.then_some("url")) else {
            self.malformed_told += 1;
            if !matches!(code, 4004 | 4006) || self.malformed_told > self.malformed {
                return Err("an error for nothing".into());
            }
            return Ok(());
        };
        let pending = self.pending.remove(correlation_id);
        let Pending {
            question, standing, ..
        } = pending.ok_or("an error to no question")?;
        let standing = self.standing_then(standing, about, truth);
        let by_rule = self.wish(&question, truth).is_some_and(|(room, wish)| {
            let is_told = event["room"] == *room;
            is_told && self.law.may_refuse(&room, wish, standing, code)
        });
        let is_right = match (&question, code) {
            (Question::Join { .. } | Question::Publish(_), 4100) => self.allowed.contains(&4100),
            _ if by_rule => true,
            (Question::Join { room, .. }, 4008) => {
                event["room"] == **room
                    && self.law.members_max(room).is_some()
                    && standing != Standing::Member
            }
            (Question::Join { .. }, 4013) => self.law.rooms_per_connection_max < 64,
            (Question::Publish(n), 4004) => {
                truth.publications[*n].refused = true;
                true
            }
            (Question::Direct(n), 4004) => {
                truth.directs[*n].not_taken = true;
                true
            }
            (_, 4004) => true,
            (Question::Signal { .. }, 4010) => true,
            (Question::Auth(_), 4002) => self.allowed.contains(&4002),
            (Question::Direct(n), 4010) => {
                truth.directs[*n].not_taken = true;
                !self.law.allows_direct()
            }
            (Question::Direct(n), 4014) => {
                truth.directs[*n].refused = true;
                true
            }
            _ => false,
        };
        if is_right {
            Ok(())
        } else {
            Err(format!("{code} is no answer to {question:?}"))
        }
    }

    /// Whether it is a member of a room now, as far as it can know.
    pub fn standing(&self, room: &str) -> Standing {
        let about = |q: &Question| match q {
            Question::Join { room: asked, .. } | Question::Leave { room: asked } => asked == room,
            _ => false,
        };
        if self.pending.values().any(|p| about(&p.question)) {
            Standing::Unknown
        } else if self.members.contains_key(room) {
            Standing::Member
        } else {
            Standing::Outside
        }
    }

    /// What a question is to the rules.
    fn wish(&self, question: &Question, truth: &Truth) -> Option<(String, Wish)> {
        Some(match question {
            Question::Join {
                room,
                history,
                recover,
                presence,
            } => {
                let wish = Wish::Join {
                    history: *history > 0 || recover.is_some(),
                    presence: *presence == Some(true),
                };
                (room.clone(), wish)
            }
            Question::Publish(n) => {
                let publication = &truth.publications[*n];
                let bytes = publication.raw.len();
                (publication.room.clone(), Wish::Publish { bytes })
            }
            Question::Members { room } => (room.clone(), Wish::Members),
            Question::History { room, .. } => (room.clone(), Wish::History),
            Question::Signal { room } => (room.clone(), Wish::Typing),
            Question::Auth(_)
            | Question::Leave { .. }
            | Question::Direct(_)
            | Question::Ping(_) => {
                return None;
            }
        })
    }

    fn direct(&mut self, event: &Value, truth: &mut Truth) -> Check {
        let n = event["payload"]["data"]["d"]
            .as_u64()
            .ok_or("not our data")?;
        let direct = truth.directs.get_mut(n as usize).ok_or("never sent")?;
        if self.user.as_ref() != Some(&direct.to) {
            return Err(format!("that is for {}", direct.to));
        }
        let has_sender = !event["metadata"]["user_id"].is_null();
        if has_sender == (direct.from == BACKEND) {
            return Err("the backend has no name, and everyone else has".into());
        }
        let times = direct.got.entry(self.peer).or_default();
        *times += 1;
        if *times > 1 {
            return Err("the same direct message twice".into());
        }
        Ok(())
    }

    fn answered(
        &mut self,
        kind: &str,
        event: &Value,
        text: &str,
        truth: &mut Truth,
        now_ms: u64,
    ) -> Check {
        let correlation_id = event["metadata"]["correlation_id"].as_str();
        let about = event["room"].as_str().unwrap_or_default();
        if correlation_id.is_none()
            && matches!(kind, "room_joined" | "room_left")
            && !(kind == "room_joined" && self.url_names(about))
            && self.is_ordered(about, truth)
        {
            return self.moved(kind, about, &event["payload"], truth, now_ms);
        }
        let pending = match correlation_id {
            Some(id) => self.pending.remove(id),
            // The room in the URL is joined unasked.
            None => self.pending.remove("url"),
        };
        let Pending {
            question,
            standing,
            floor_ms,
        } = pending.ok_or("an answer to no question")?;
        let standing = self.standing_then(standing, about, truth);
        if let Some((room, wish)) = self.wish(&question, truth)
            && !self.law.may_answer(&room, wish, standing)
        {
            return Err(format!("{wish:?} is against the rule of {room}"));
        }
        let payload = &event["payload"];
        let room = event["room"].as_str();
        let peer = self.peer;
        match (&question, kind) {
            (Question::Auth(_), "auth_response") => Ok(()),
            (Question::Ping(sent), "pong") => {
                let wanted = sent.as_deref().unwrap_or("null");
                let same = serde_json::from_str::<Value>(wanted).ok().as_ref() == Some(payload);
                same.then_some(()).ok_or_else(|| format!("not {wanted}"))
            }
            (Question::Join { room: asked, .. }, "room_joined") if room == Some(asked) => {
                self.joined(asked, &question, payload, floor_ms, truth, now_ms)
            }
            (Question::Leave { room: asked }, "room_left") if room == Some(asked) => {
                match self.members.remove(asked) {
                    Some(member) => member.end(asked, truth, true),
                    None => Ok(()),
                }
            }
            (Question::Publish(n), "message_sent") => {
                let offset = payload["offset"].as_u64().ok_or("no offset")?;
                let epoch = payload["epoch"].as_str().ok_or("no epoch")?;
                let publication = &mut truth.publications[*n];
                publication.answered = Some((epoch.to_owned(), offset));
                publication.user.clone_from(&self.user);
                (room == Some(&publication.room))
                    .then_some(())
                    .ok_or("another room".into())
            }
            (Question::Direct(n), "message_sent") => {
                truth.directs[*n].accepted = true;
                Ok(())
            }
            (Question::Members { room: asked }, "room_members") if room == Some(asked) => {
                let listing = listing(payload).ok_or("no listing")?;
                self.listings.insert(asked.clone(), listing);
                Ok(())
            }
            (
                Question::History {
                    room: asked,
                    since,
                    limit,
                },
                "history",
            ) if room == Some(asked) => {
                let mut glimpse = history(asked, payload, text, truth)?;
                glimpse.what = format!("peer {peer}'s history_query {since:?} {limit:?}");
                let limit = limit.unwrap_or(u64::MAX);
                glimpse.asked = match since {
                    Some(since) => Asked::After(*since, limit),
                    None => Asked::Newest(limit),
                };
                (glimpse.floor_ms, glimpse.told_ms) = (floor_ms, now_ms);
                let place = (glimpse.epoch.clone(), glimpse.newest);
                truth.finals.insert(asked.clone(), place);
                truth.glimpse(glimpse);
                Ok(())
            }
            _ => Err(format!("{kind} is no answer to {question:?}")),
        }
    }

    pub fn joined(
        &mut self,
        room: &str,
        question: &Question,
        payload: &Value,
        floor_ms: u64,
        truth: &mut Truth,
        now_ms: u64,
    ) -> Check {
        let members = payload["members"].as_u64().ok_or("no members")?;
        if self.law.members_max(room).is_some_and(|max| members > max) {
            return Err(format!("{members} users are too many for the rule"));
        }
        match self.members.get_mut(room) {
            Some(member) => member.joined_again(self.peer, room, question, payload, truth),
            None => {
                let member = Member::new(self.peer, question, payload, floor_ms, now_ms)?;
                self.members.insert(room.to_owned(), member);
                Ok(())
            }
        }
    }
}

fn listing(payload: &Value) -> Option<Listing> {
    let mut users = BTreeMap::new();
    for member in payload["members"].as_array()? {
        let user = member["user_id"].as_str()?.to_owned();
        if users
            .insert(user, member["connections"].as_u64()?)
            .is_some()
        {
            return None;
        }
    }
    Some((payload["count"].as_u64()?, users))
}

/// Takes note of the messages in a `history`: consecutive, and the same as everyone's.
pub fn history(
    room: &str,
    payload: &Value,
    text: &str,
    truth: &mut Truth,
) -> Result<Glimpse, String> {
    let epoch = payload["epoch"].as_str().ok_or("no epoch")?;
    let newest = payload["offset"].as_u64().ok_or("no offset")?;
    let messages = payload["messages"].as_array().ok_or("no messages")?;
    let mut rest = text;
    let (mut first, mut last) = (None, None);
    for message in messages {
        // Each is the very text that was sent to members.
        let start = rest.find("{\"type\":\"message\"").ok_or("no message")?;
        rest = &rest[start..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        values.next();
        let (one, after) = rest.split_at(values.byte_offset());
        rest = after;
        let (offset, _) = truth.see(room, epoch, one, message)?;
        if last.is_some_and(|last| offset != last + 1) {
            return Err(format!("{offset} follows {last:?}"));
        }
        first.get_or_insert(offset);
        last = Some(offset);
    }
    Ok(Glimpse {
        what: String::new(),
        room: room.to_owned(),
        epoch: epoch.to_owned(),
        newest,
        asked: Asked::Newest(0),
        first,
        count: messages.len() as u64,
        whole: payload["complete"].as_bool(),
        floor_ms: 0,
        told_ms: 0,
    })
}
