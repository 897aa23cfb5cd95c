//! Looking at rooms: which there are, who is in them, what was said.

use axum::extract::State;
use axum::http::StatusCode;

use super::asking::{ASK_BYTES, misunderstood, no_room};
use super::names::{Query, RoomName, bad_request};
use super::schema::{History, Members, Room, Rooms};
use super::{Api, Json};
use crate::address::{CoreId, RoomKey};
use crate::bus::{ApiAnswer, ApiAsk, Crowd, Past, RoomFacts};
use crate::control::Problem;
use crate::control::access::{Granted, Reading};
use crate::protocol::json::write_string;

/// Rooms on a page where nothing else is said.
const LIMIT_DEFAULT: u64 = 100;
/// Rooms on a page at most.
const LIMIT_MAX: u64 = 1_000;
/// Questions for one page: each looks at a bounded stretch of a core's table, and there may be
/// nothing in it.
const ASKS_MAX: usize = 64;

/// List rooms.
///
/// Page by page: `next` of one is `after` of the following. A room that exists during the whole
/// listing is told of exactly once; one that comes or goes meanwhile may be missing. A page may be
/// shorter than `limit`, or empty, and still have a `next`.
#[utoipa::path(
    get, path = "/api/v1/rooms", operation_id = "list_rooms", tag = "rooms",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, nullable = false, description = "Rooms on the page at most"),
        ("after" = Option<String>, Query, nullable = false, pattern = "^[0-9]{1,5}-[0-9]{1,9}$", description = "`next` of the page before"),
    ),
    responses((status = 200, description = "A page of rooms", body = Rooms))
)]
pub(super) async fn list(
    _caller: Granted<Reading>,
    State(api): State<Api>,
    query: Query,
) -> Result<Json, Problem> {
    let limit = query
        .number("limit", 1, LIMIT_MAX)?
        .unwrap_or(LIMIT_DEFAULT);
    let mut place = match query.text("after")? {
        None => Place::default(),
        Some(after) => Place::from_text(&after).ok_or_else(|| {
            bad_request(format!(
                "after is {after:?}, which is no next of a page; begin without it"
            ))
        })?,
    };
    let mut rooms: Vec<Room> = Vec::new();
    let mut asks = 0;
    while place.core < api.switchboard.core_count() {
        if rooms.len() as u64 >= limit || asks == ASKS_MAX {
            let next = Some(place.text());
            return Json::of(&Rooms { rooms, next });
        }
        asks += 1;
        let ask = ApiAsk::Rooms {
            from: place.from,
            limit: (limit - rooms.len() as u64) as u32,
        };
        let answer = api.ask(CoreId(place.core), ask, ASK_BYTES).await?;
        let ApiAnswer::Rooms { rooms: found, next } = answer else {
            return Err(misunderstood());
        };
        rooms.extend(found.iter().map(facts));
        place = place.followed_by(next);
    }
    let next = None;
    Json::of(&Rooms { rooms, next })
}

/// A place in the tables of all cores.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
struct Place {
    core: u16,
    from: u32,
}

impl Place {
    fn text(self) -> String {
        format!("{}-{}", self.core, self.from)
    }

    fn from_text(text: &str) -> Option<Place> {
        let (core, from) = text.split_once('-')?;
        let place = Place {
            core: core.parse().ok()?,
            from: from.parse().ok()?,
        };
        // One text for each place.
        (place.text() == text).then_some(place)
    }

    /// Where to go on, after a core said where it would.
    fn followed_by(self, next: Option<u32>) -> Place {
        match next {
            Some(from) => Place { from, ..self },
            None => Place {
                core: self.core.saturating_add(1),
                from: 0,
            },
        }
    }
}

fn facts(facts: &RoomFacts) -> Room {
    Room {
        room: facts.room.name().to_owned(),
        members: facts.members,
        connections: facts.connections,
        offset: facts.offset,
        epoch: facts.epoch.to_string(),
    }
}

/// Look at a room.
#[utoipa::path(
    get, path = "/api/v1/rooms/{room}", operation_id = "room", tag = "rooms",
    params(("room" = String, Path, description = "The room")),
    responses((status = 200, description = "The room", body = Room))
)]
pub(super) async fn room(
    _caller: Granted<Reading>,
    State(api): State<Api>,
    RoomName(name): RoomName,
) -> Result<Json, Problem> {
    match api.ask_room(&name, ApiAsk::Room).await? {
        ApiAnswer::Room(Some(found)) => Json::of(&facts(&found)),
        ApiAnswer::Room(None) => Err(no_room(&name)),
        _ => Err(misunderstood()),
    }
}

/// List who is in a room.
///
/// `count` is exact; at most 1,000 users are listed.
#[utoipa::path(
    get, path = "/api/v1/rooms/{room}/members", operation_id = "room_members", tag = "rooms",
    params(("room" = String, Path, description = "The room")),
    responses((status = 200, description = "Who is there", body = Members))
)]
pub(super) async fn members(
    _caller: Granted<Reading>,
    State(api): State<Api>,
    RoomName(name): RoomName,
) -> Result<Json, Problem> {
    match api.ask_room(&name, ApiAsk::Members).await? {
        ApiAnswer::Members(Some(crowd)) => Ok(Json(crowd_json(&crowd))),
        ApiAnswer::Members(None) => Err(no_room(&name)),
        _ => Err(misunderstood()),
    }
}

/// Read messages of a room's past.
///
/// The first `limit` after `since`, or without `since` the newest `limit`; at most 10,000 at once.
#[utoipa::path(
    get, path = "/api/v1/rooms/{room}/messages", operation_id = "history", tag = "rooms",
    params(
        ("room" = String, Path, description = "The room"),
        ("since" = Option<u64>, Query, minimum = 0, nullable = false, description = "The offset after which to begin"),
        ("limit" = Option<u32>, Query, minimum = 0, nullable = false, description = "Messages at most"),
    ),
    responses((status = 200, description = "The messages", body = History))
)]
pub(super) async fn history(
    _caller: Granted<Reading>,
    State(api): State<Api>,
    RoomName(name): RoomName,
    query: Query,
) -> Result<Json, Problem> {
    let since = query.number("since", 0, i64::MAX as u64)?;
    let limit = query.number("limit", 0, u64::from(u32::MAX >> 1))?;
    let limit = limit.map(|limit| limit as u32);
    let ask = |room| ApiAsk::History { room, since, limit };
    match api.ask_room(&name, ask).await? {
        ApiAnswer::History(Some(past)) => Ok(Json(past_json(&past))),
        ApiAnswer::History(None) => Err(no_room(&name)),
        _ => Err(misunderstood()),
    }
}

impl Api {
    /// Asks a room's home.
    async fn ask_room(
        &self,
        name: &str,
        ask: impl FnOnce(RoomKey) -> ApiAsk,
    ) -> Result<ApiAnswer, Problem> {
        let placement = self.switchboard.placement();
        let room = placement.room(name);
        let home = placement.home_of(room.hash());
        self.ask(home, ask(room), ASK_BYTES).await
    }
}

fn past_json(past: &Past) -> Vec<u8> {
    let bytes: usize = past.messages.iter().map(|frame| frame.len() + 1).sum();
    let mut out = Vec::with_capacity(bytes + 96);
    out.extend_from_slice(br#"{"messages":["#);
    for (place, frame) in past.messages.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(frame.body());
    }
    out.extend_from_slice(br#"],"offset":"#);
    write_number(past.offset, &mut out);
    out.extend_from_slice(br#","epoch":""#);
    out.extend_from_slice(past.epoch.text().as_bytes());
    out.extend_from_slice(br#"","complete":"#);
    let complete: &[u8] = if past.complete { b"true}" } else { b"false}" };
    out.extend_from_slice(complete);
    out
}

fn crowd_json(crowd: &Crowd) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + crowd.members.len() * 64);
    out.extend_from_slice(br#"{"count":"#);
    write_number(crowd.count, &mut out);
    out.extend_from_slice(br#","members":["#);
    for (place, member) in crowd.members.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"user_id":"#);
        write_string(&member.user.to_string(), &mut out);
        out.extend_from_slice(br#","connections":"#);
        write_number(member.connections, &mut out);
        if member.read > 0 {
            out.extend_from_slice(br#","read":"#);
            write_number(member.read, &mut out);
        }
        if let Some(info) = &member.info {
            out.extend_from_slice(br#","info":"#);
            out.extend_from_slice(info);
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    out
}

fn write_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

impl Json {
    /// An answer of this type.
    pub(super) fn of(answer: &impl serde::Serialize) -> Result<Json, Problem> {
        let json = serde_json::to_vec(answer).map_err(|_| {
            let detail = "the answer could not be written; this is a fault of the server";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
        })?;
        Ok(Json(json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_text() {
        for (core, from) in [(0, 0), (3, 4_096), (u16::MAX, u32::MAX)] {
            let place = Place { core, from };
            assert_eq!(Place::from_text(&place.text()), Some(place));
        }
        for text in [
            "",
            "0",
            "-",
            "0-",
            "00-1",
            "0-+1",
            "0-1-2",
            "65536-0",
            "0-4294967296",
        ] {
            assert_eq!(Place::from_text(text), None, "{text}");
        }
        let place = Place { core: 1, from: 5 };
        assert_eq!(place.followed_by(Some(9)), Place { core: 1, from: 9 });
        assert_eq!(place.followed_by(None), Place { core: 2, from: 0 });
    }
}
