//! What was published, what everyone was shown of it, and what joins and queries were told: facts
//! gathered from the outside, which must not contradict each other.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Check;
use crate::backend::{Broadcast, PlaceOrder};
use crate::plan::Plan;

/// Stands for the operator's backend where a peer's number is.
pub const BACKEND: usize = usize::MAX;

/// An epoch and an offset in it.
pub type Place = (String, u64);

/// One `message` that a client sent.
pub struct Publication {
    pub peer: usize,
    pub room: String,
    /// The payload, byte for byte.
    pub raw: String,
    pub echo: bool,
    pub message_id: Option<String>,
    /// Whoever it is, when it is known.
    pub user: Option<String>,
    /// Everything that was due before this had been done when it was sent.
    pub floor_ms: u64,
    /// Where it was seen.
    pub accepted: Option<Place>,
    /// What its `message_sent` said.
    pub answered: Option<Place>,
    /// It came too fast.
    pub refused: bool,
}

/// A message as everyone is shown it.
pub struct Record {
    pub text: String,
    pub publication: usize,
    pub at_ms: u64,
}

/// What an answer said of a room's past, to be held against all that is known in the end.
pub struct Glimpse {
    pub what: String,
    pub room: String,
    pub epoch: String,
    pub newest: u64,
    /// How many of the newest were asked for, or those after an offset.
    pub asked: Asked,
    /// The first offset that was shown, and how many.
    pub first: Option<u64>,
    pub count: u64,
    /// `recovered` or `complete`, where it means something.
    pub whole: Option<bool>,
    /// Everything that was due before this had been done when it was asked.
    pub floor_ms: u64,
    pub told_ms: u64,
}

pub enum Asked {
    Newest(u64),
    /// After an offset, at most so many.
    After(u64, u64),
    /// After an offset if all are there, else so many of the newest.
    Recover(u64, u64),
}

/// A hole in what a connection was given.
struct Gap {
    peer: usize,
    room: String,
    epoch: String,
    from: u64,
    to: u64,
}

/// A direct message.
pub struct Direct {
    pub from: usize,
    pub to: String,
    pub raw: String,
    /// How many times everything had come to rest when it was sent.
    pub rests: u64,
    pub accepted: bool,
    pub refused: bool,
    /// It was refused because it came too fast, or may not be sent.
    pub not_taken: bool,
    /// How often each connection got it.
    pub got: BTreeMap<usize, u32>,
}

/// All of it.
#[derive(Default)]
pub struct Truth {
    pub publications: Vec<Publication>,
    pub directs: Vec<Direct>,
    pub broadcasts: Vec<Broadcast>,
    pub place_orders: Vec<PlaceOrder>,
    pub rooms: BTreeMap<(String, String), BTreeMap<u64, Record>>,
    glimpses: Vec<Glimpse>,
    gaps: Vec<Gap>,
    /// The final offset of each room, as asked at the end of the day.
    pub finals: BTreeMap<String, Place>,
    /// How often what was told to somebody.
    pub told: BTreeMap<String, u64>,
}

/// The wall clock at the start of every day: 2026-01-01T00:00:00Z.
pub const BASE_UNIX_MS: u64 = 1_767_225_600_000;

/// Milliseconds since the epoch, of a timestamp in January 2026.
pub fn unix_ms(text: &str) -> Option<u64> {
    let rest = text.strip_prefix("2026-01-")?.strip_suffix('Z')?;
    let number = |from: usize, to: usize| rest.get(from..to)?.parse::<u64>().ok();
    let (day, hour, minute) = (number(0, 2)?, number(3, 5)?, number(6, 8)?);
    let (second, ms) = (number(9, 11)?, number(12, 15)?);
    let minutes = ((day - 1) * 24 + hour) * 60 + minute;
    Some(BASE_UNIX_MS + (minutes * 60 + second) * 1_000 + ms)
}

impl Truth {
    /// Takes note of a message that somebody was shown.
    pub fn see(
        &mut self,
        room: &str,
        epoch: &str,
        text: &str,
        message: &Value,
    ) -> Result<(u64, usize), String> {
        let offset = message["offset"].as_u64().ok_or("no offset")?;
        let number = message["payload"]["n"].as_u64().ok_or("not our payload")?;
        let records = self.rooms.entry((room.into(), epoch.into())).or_default();
        if let Some(known) = records.get(&offset) {
            if known.text != text {
                return Err(format!("offset {offset} was {} elsewhere", known.text));
            }
            return Ok((offset, known.publication));
        }
        let id = usize::try_from(number).map_err(|e| e.to_string())?;
        let publication = self.publications.get_mut(id).ok_or("never published")?;
        let place = (epoch.to_owned(), offset);
        publication.check(room, &place, text, message)?;
        publication.accepted = Some(place);
        let at_ms = message["metadata"]["timestamp"].as_str().and_then(unix_ms);
        let record = Record {
            text: text.to_owned(),
            publication: id,
            at_ms: at_ms.ok_or("no timestamp")?,
        };
        records.insert(offset, record);
        Ok((offset, id))
    }

    /// A connection was not given some offsets; it has to have published all of them itself.
    pub fn excuse(
        &mut self,
        peer: usize,
        room: &str,
        epoch: &str,
        (from, to): (u64, u64),
    ) -> Check {
        if from > to {
            return Ok(());
        }
        let own = |p: &&Publication| p.peer == peer && p.room == room && !p.echo;
        let silent = self.publications.iter().filter(own).count() as u64;
        if silent < to - from + 1 {
            return Err(format!(
                "{room} {from}..={to} are missing, and it has {silent} of its own without echo"
            ));
        }
        self.gaps.push(Gap {
            peer,
            room: room.into(),
            epoch: epoch.into(),
            from,
            to,
        });
        Ok(())
    }

    /// How many orders were given about a user and a room.
    pub fn orders(&self, user: &str, room: &str) -> u32 {
        let about = |o: &&PlaceOrder| o.user == user && o.room == room;
        self.place_orders.iter().filter(about).count() as u32
    }

    /// How many orders about a user were carried out, by room, that were given after that rest.
    pub fn orders_since(&self, user: &str, rests: u64) -> BTreeMap<&str, u32> {
        let mut orders = BTreeMap::new();
        for order in &self.place_orders {
            if order.user == user && order.is_taken && rests <= order.rests {
                *orders.entry(order.room.as_str()).or_default() += 1;
            }
        }
        orders
    }

    /// Counts something that was told.
    pub fn count(&mut self, what: impl Into<String>) {
        *self.told.entry(what.into()).or_default() += 1;
    }

    pub fn glimpse(&mut self, glimpse: Glimpse) {
        self.glimpses.push(glimpse);
    }

    /// Holds everything against everything.
    pub fn judge(&self, plan: &Plan) -> Check {
        self.gaps.iter().try_for_each(|gap| self.judge_gap(gap))?;
        self.glimpses
            .iter()
            .try_for_each(|glimpse| self.judge_glimpse(glimpse, plan))?;
        self.judge_repeats(plan)?;
        self.judge_answers()
    }

    fn judge_gap(&self, gap: &Gap) -> Check {
        let Gap {
            peer, room, epoch, ..
        } = gap;
        let records = self.rooms.get(&(room.clone(), epoch.clone()));
        for offset in gap.from..=gap.to {
            let record = records.and_then(|r| r.get(&offset));
            let place = Some((epoch.clone(), offset));
            let is_own = match record {
                Some(record) => {
                    let publication = &self.publications[record.publication];
                    publication.peer == *peer && !publication.echo
                }
                None => self.publications.iter().any(|p| {
                    p.peer == *peer
                        && p.room == *room
                        && !p.echo
                        && (p.answered == place || p.answered.is_none())
                }),
            };
            if !is_own {
                return Err(format!("peer {peer} never got {room} {epoch} {offset}"));
            }
        }
        Ok(())
    }

    /// How many of the newest messages were kept at least and at most when something was told.
    fn kept(&self, glimpse: &Glimpse, plan: &Plan) -> (u64, u64) {
        let limits = plan.law.limits(&glimpse.room).history;
        let records = self
            .rooms
            .get(&(glimpse.room.clone(), glimpse.epoch.clone()));
        let (mut least, mut most) = (0, 0);
        let (mut certain, mut bytes) = (!plan.is_short_of_memory(), 0);
        for offset in (1..=glimpse.newest).rev() {
            if most >= limits.messages_max as u64 {
                break;
            }
            let record = records.and_then(|r| r.get(&offset));
            let Some(record) = record else {
                certain &= limits.ttl.is_none() && limits.bytes_max > 1 << 20;
                most += 1;
                least += u64::from(certain);
                continue;
            };
            bytes += frame_len(record.text.len());
            if bytes > limits.bytes_max {
                break;
            }
            if let Some(ttl) = limits.ttl {
                let ends_ms = record.at_ms + ttl.as_millis() as u64;
                if ends_ms + 2 <= glimpse.floor_ms {
                    break;
                }
                certain &= ends_ms > glimpse.told_ms + 1;
            }
            most += 1;
            least += u64::from(certain);
        }
        (least, most)
    }

    fn judge_glimpse(&self, glimpse: &Glimpse, plan: &Plan) -> Check {
        let (least, most) = self.kept(glimpse, plan);
        let Glimpse {
            what,
            newest,
            count,
            ..
        } = glimpse;
        let newest = *newest;
        let told = format!(
            "{what} was told newest {newest}, first {:?}, count {count}, whole {:?}; \
             {least} to {most} were kept",
            glimpse.first, glimpse.whole
        );
        let within = |low: u64, high: u64| {
            if (low..=high).contains(count) {
                Ok(())
            } else {
                Err(format!("{told}: not {low} to {high} messages"))
            }
        };
        let since = match glimpse.asked {
            Asked::Newest(n) => return within(n.min(least), n.min(most)),
            Asked::After(since, _) | Asked::Recover(since, _) => since,
        };
        let must = since >= newest - least && since <= newest;
        let may = since >= newest - most && since <= newest;
        let is_query = matches!(glimpse.asked, Asked::After(..));
        let whole = glimpse.whole.unwrap_or_default();
        if (must && !whole) || (whole && !may && !(is_query && since > newest)) {
            return Err(format!("{told}: after {since} it must {must}, may {may}"));
        }
        let behind = newest.saturating_sub(since);
        match glimpse.asked {
            Asked::After(_, limit) => {
                within(behind.min(least).min(limit), behind.min(most).min(limit))
            }
            Asked::Recover(..) if whole => within(behind, behind),
            Asked::Recover(_, n) => within(n.min(least), n.min(most)),
            Asked::Newest(_) => Ok(()),
        }
    }

    /// A repeated `message_id` is accepted once within the window, and again after it.
    fn judge_repeats(&self, plan: &Plan) -> Check {
        if plan.is_short_of_memory() {
            return Ok(());
        }
        let window_ms = |room: &str| {
            let limits = plan.law.limits(room);
            let is_enough = limits.idempotency_keys_max >= 100;
            is_enough.then_some(limits.idempotency_window.as_millis() as u64)
        };
        let mut accepted: BTreeMap<_, Vec<(u64, usize)>> = BTreeMap::new();
        for ((room, epoch), records) in &self.rooms {
            if window_ms(room).is_none() {
                continue;
            }
            for record in records.values() {
                let p = &self.publications[record.publication];
                if let (Some(id), Some(user)) = (&p.message_id, p.publisher()) {
                    let key = (room, epoch, id, user);
                    let entry = accepted.entry(key).or_default();
                    entry.push((record.at_ms, record.publication));
                }
            }
        }
        for (key, times) in &accepted {
            let window_ms = window_ms(key.0).unwrap_or_default();
            let close = times.windows(2).find(|w| w[0].0 + window_ms > w[1].0 + 2);
            if let Some(close) = close {
                return Err(format!("{key:?} was accepted twice: {close:?}"));
            }
        }
        for p in &self.publications {
            let Some(place) = &p.answered else { continue };
            let records = self.rooms.get(&(p.room.clone(), place.0.clone()));
            let Some(record) = records.and_then(|r| r.get(&place.1)) else {
                continue;
            };
            let Some(window_ms) = window_ms(&p.room) else {
                continue;
            };
            if p.accepted.is_none() && record.at_ms + window_ms + 2 < p.floor_ms {
                return Err(format!("{} was taken for a repeat after the window", p.raw));
            }
        }
        Ok(())
    }

    /// What `message_sent` said is where the message is.
    fn judge_answers(&self) -> Check {
        for p in &self.publications {
            let Some(place) = &p.answered else { continue };
            if p.accepted.as_ref().is_some_and(|a| a != place) {
                return Err(format!("{} is at {:?}, not {place:?}", p.raw, p.accepted));
            }
            let records = self.rooms.get(&(p.room.clone(), place.0.clone()));
            let Some(record) = records.and_then(|r| r.get(&place.1)) else {
                continue;
            };
            let first = &self.publications[record.publication];
            let is_repeat = p.message_id.is_some()
                && first.message_id == p.message_id
                && match (p.publisher(), first.publisher()) {
                    (Some(one), Some(other)) => one == other,
                    _ => true,
                };
            if p.accepted.is_none() && !is_repeat {
                return Err(format!("{place:?} is {}, not {}", first.raw, p.raw));
            }
        }
        Ok(())
    }
}

/// The length of a server's frame with `len` bytes of payload.
fn frame_len(len: usize) -> usize {
    len + match len {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    }
}

impl Publication {
    /// Whose idempotency key it has, where that is known.
    fn publisher(&self) -> Option<&str> {
        match self.peer {
            BACKEND => Some("the backend"),
            _ => self.user.as_deref(),
        }
    }

    /// Whether a message that is shown at `place` is this one, unchanged.
    fn check(&self, room: &str, place: &Place, text: &str, message: &Value) -> Check {
        if self.room != room {
            return Err(format!("published to {}", self.room));
        }
        if self.refused {
            return Err("refused, because it came too fast".into());
        }
        if let Some(other) = &self.accepted {
            return Err(format!("accepted at {other:?} too"));
        }
        if self.answered.as_ref().is_some_and(|a| a != place) {
            return Err(format!("answered with {:?}", self.answered));
        }
        let raw = format!("\"payload\":{},\"metadata\"", self.raw);
        if !text.contains(&raw) {
            return Err(format!("the payload was {}", self.raw));
        }
        let metadata = &message["metadata"];
        let generated = format!("{}-{}", place.0, place.1);
        let id = self.message_id.as_ref().unwrap_or(&generated);
        if metadata["message_id"] != **id {
            return Err(format!("its message_id is {id}"));
        }
        let has_sender = !metadata["user_id"].is_null() || !metadata["client_id"].is_null();
        if has_sender == (self.peer == BACKEND) {
            return Err("the backend has no name, and everyone else has".into());
        }
        match &self.user {
            Some(user) if metadata["user_id"] != **user => Err(format!("its user is {user}")),
            _ => Ok(()),
        }
    }
}
