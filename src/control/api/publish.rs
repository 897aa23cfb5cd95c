//! Sending: to a room, to many rooms, to a user, to everyone.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use tokio::task::JoinSet;

use super::asking::{code_of, misunderstood, no_user, refused};
use super::body::{Body, Object, malformed, shortened};
use super::names::{RoomName, UserName};
use super::schema::{Batch, BatchResults, Connections, Payload, Publish, Published};
use super::{Api, Json};
use crate::address::CoreId;
use crate::bus::{ApiAnswer, ApiAsk, Position, Post, Refused};
use crate::control::Problem;
use crate::control::access::{Granted, Publishing};
use crate::protocol::ids::is_room_name;
use crate::protocol::json::{elements, string, write_string};
use crate::protocol::{Code, MessageId, Offset};

/// What a message holds in memory on its way besides its payload, roughly.
const POST_BYTES: usize = 160;

/// Bytes of JSON that one result of a batch takes, roughly.
const RESULT_BYTES: usize = 96;

/// Publish a message to a room.
///
/// Members get it as they get each other's messages, without a sender. A message with the same
/// `message_id` is accepted once, so a request that got no answer may be sent again.
#[utoipa::path(
    post, path = "/api/v1/rooms/{room}/messages", operation_id = "publish", tag = "publish",
    params(("room" = String, Path, description = "The room")),
    request_body = Publish,
    responses((status = 200, description = "It was published", body = Published))
)]
pub(super) async fn publish(
    Granted(caller, ..): Granted<Publishing>,
    State(api): State<Api>,
    RoomName(room): RoomName,
    body: Body,
) -> Result<Json, Problem> {
    let object = body.object()?;
    let post = api.post(&room, &object)?;
    let message_id = post.message_id.clone();
    let core = api.switchboard.placement().home_of(post.room.hash());
    let weight = weight(&post);
    tracing::debug!(key = %caller.name, room, "api: publish");
    let ask = ApiAsk::Publish(vec![post]);
    let ApiAnswer::Published(outcomes) = api.ask(core, ask, weight).await? else {
        return Err(misunderstood());
    };
    let outcome = outcomes.into_iter().next().ok_or_else(misunderstood)?;
    let position = outcome.map_err(refused)?;
    let mut json = Vec::with_capacity(RESULT_BYTES);
    write_position(&position, message_id.as_deref(), &mut json);
    Ok(Json(json))
}

/// Publish messages to any rooms.
///
/// Those for one room are published in the order of the request; between rooms there is no order.
/// Each has a result of its own at the same place: its position, or why it was refused. A request
/// that is not of this form publishes nothing.
#[utoipa::path(
    post, path = "/api/v1/publish", operation_id = "publish_batch", tag = "publish",
    request_body = Batch,
    responses((status = 200, description = "What became of each", body = BatchResults))
)]
pub(super) async fn batch(
    Granted(caller, ..): Granted<Publishing>,
    State(api): State<Api>,
    body: Body,
) -> Result<Json, Problem> {
    let object = body.object()?;
    let posts = posts(&api, object.needed("messages")?)?;
    tracing::debug!(key = %caller.name, messages = posts.len(), "api: batch");
    let ids: Vec<Option<Box<str>>> = posts.iter().map(|it| it.message_id.clone()).collect();
    let outcomes = api.publish_all(posts).await;
    let mut json = Vec::with_capacity(16 + ids.len() * RESULT_BYTES);
    json.extend_from_slice(br#"{"results":["#);
    for (place, (outcome, id)) in outcomes.iter().zip(&ids).enumerate() {
        if place > 0 {
            json.push(b',');
        }
        match outcome {
            Ok(position) => write_position(position, id.as_deref(), &mut json),
            Err(refused) => write_failure(refused, &mut json),
        }
    }
    json.extend_from_slice(b"]}");
    Ok(Json(json))
}

/// Send application data to every established connection.
///
/// Each gets `{"type":"broadcast","payload":…}`. It belongs to no room, has no offset and is not kept.
#[utoipa::path(
    post, path = "/api/v1/broadcast", operation_id = "broadcast", tag = "publish",
    request_body = Payload,
    responses((status = 200, description = "It is on its way", body = Connections))
)]
pub(super) async fn broadcast(
    Granted(caller, ..): Granted<Publishing>,
    State(api): State<Api>,
    body: Body,
) -> Result<Json, Problem> {
    let object = body.object()?;
    let payload: Arc<[u8]> = Arc::from(api.payload(&object)?.as_bytes());
    let weight = payload.len() + POST_BYTES;
    let connections = api.ask_all(&ApiAsk::Broadcast(payload), weight).await?;
    tracing::info!(key = %caller.name, connections, "api: broadcast");
    Json::of(&Connections { connections })
}

/// Send a direct message to every connection of a user.
#[utoipa::path(
    post, path = "/api/v1/users/{user}/messages", operation_id = "send_to_user", tag = "publish",
    params(("user" = String, Path, description = "The user")),
    request_body = Payload,
    responses((status = 200, description = "It is on its way", body = Connections))
)]
pub(super) async fn direct(
    Granted(caller, ..): Granted<Publishing>,
    State(api): State<Api>,
    UserName(user): UserName,
    body: Body,
) -> Result<Json, Problem> {
    let object = body.object()?;
    let data: Arc<[u8]> = Arc::from(api.payload(&object)?.as_bytes());
    let weight = data.len() + POST_BYTES;
    tracing::debug!(key = %caller.name, %user, "api: direct message");
    let to = user.clone();
    let connections = api
        .ask_home(&user, ApiAsk::Direct { user: to, data }, weight)
        .await?;
    if connections == 0 {
        return Err(no_user(&user));
    }
    Json::of(&Connections { connections })
}

/// The messages that a batch names.
fn posts(api: &Api, messages: &str) -> Result<Vec<Post>, Problem> {
    let bad = |bad| malformed(format!("messages is not an array: {bad}"));
    let messages = elements(messages).map_err(bad)?;
    let max = api.limits.batch_max;
    if messages.len() > max {
        return Err(malformed(format!(
            "{} messages are too many; a batch has at most {max} (--api-batch-messages)",
            messages.len()
        )));
    }
    let post = |(place, message): (usize, &&str)| {
        let object = Object::read(message, Some(place))?;
        let given = object.needed("room")?;
        let room = string(given).filter(|room| is_room_name(room));
        let room = room.ok_or_else(|| {
            object.fault(&format!(
                "room is {}, and no room name: a text of 1 to 255 bytes without control characters",
                shortened(given)
            ))
        })?;
        api.post(&room, &object)
    };
    messages.iter().enumerate().map(post).collect()
}

impl Api {
    /// The message that an object with `payload` and `message_id` is, for `room`.
    fn post(&self, room: &str, object: &Object<'_>) -> Result<Post, Problem> {
        Ok(Post {
            room: self.switchboard.placement().room(room),
            payload: object.needed("payload")?.as_bytes().into(),
            message_id: object.message_id()?.map(|id| Box::from(&*id)),
        })
    }

    /// The application data of an object, where it is no longer than a message may be.
    fn payload<'a>(&self, object: &Object<'a>) -> Result<&'a str, Problem> {
        let payload = object.needed("payload")?;
        let max = self.about.message_bytes_max;
        if payload.len() <= max {
            return Ok(payload);
        }
        let message = format!(
            "the payload has {} bytes, and a message at most {max} (--max-message-bytes)",
            payload.len()
        );
        Err(refused(Refused {
            code: Code::MessageTooLarge,
            message: message.into(),
        }))
    }

    /// Publishes messages at their homes at the same time; the outcomes are in the messages' order.
    async fn publish_all(&self, posts: Vec<Post>) -> Vec<Result<Position, Refused>> {
        let mut outcomes: Vec<_> = posts.iter().map(|_| Err(lost())).collect();
        let mut homes: BTreeMap<u16, (Vec<usize>, Vec<Post>)> = BTreeMap::new();
        for (place, post) in posts.into_iter().enumerate() {
            let home = self.switchboard.placement().home_of(post.room.hash());
            let (places, posts) = homes.entry(home.0).or_default();
            places.push(place);
            posts.push(post);
        }
        let mut asked = JoinSet::new();
        for (home, (places, posts)) in homes {
            let api = self.clone();
            asked.spawn(async move { (api.publish_at(CoreId(home), posts).await, places) });
        }
        while let Some(answered) = asked.join_next().await {
            let Ok((answer, places)) = answered else {
                continue;
            };
            for (place, outcome) in places.into_iter().zip(answer) {
                if let Some(cell) = outcomes.get_mut(place) {
                    *cell = outcome;
                }
            }
        }
        outcomes
    }

    /// Publishes messages at one core: one outcome for each.
    async fn publish_at(&self, core: CoreId, posts: Vec<Post>) -> Vec<Result<Position, Refused>> {
        let count = posts.len();
        let weight = posts.iter().map(weight).sum();
        let answer = self
            .switchboard
            .ask(core, ApiAsk::Publish(posts), weight)
            .await;
        let refused = match answer {
            Ok(ApiAnswer::Published(outcomes)) => return outcomes,
            Ok(ApiAnswer::Refused(refused)) => refused,
            Ok(_) => lost(),
            Err(unanswered) => Refused {
                code: code_of(unanswered),
                message: unanswered.to_string().into(),
            },
        };
        vec![Err(refused); count]
    }
}

/// What a message without an outcome is answered with: a fault of ours.
fn lost() -> Refused {
    Refused {
        code: Code::UnknownError,
        message: "what became of this message is not known; this is a fault of the server".into(),
    }
}

fn weight(post: &Post) -> usize {
    POST_BYTES + post.payload.len() + post.room.name().len()
}

fn write_position(position: &Position, message_id: Option<&str>, out: &mut Vec<u8>) {
    let Position { epoch, offset } = position;
    out.extend_from_slice(br#"{"offset":"#);
    out.extend_from_slice(itoa::Buffer::new().format(*offset).as_bytes());
    out.extend_from_slice(br#","epoch":""#);
    out.extend_from_slice(epoch.text().as_bytes());
    out.extend_from_slice(br#"","message_id":"#);
    match message_id {
        Some(id) => write_string(id, out),
        None => {
            let id = MessageId::Generated(*epoch, Offset(*offset));
            write_string(&id.to_string(), out);
        }
    }
    out.push(b'}');
}

fn write_failure(refused: &Refused, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"error":{"code":"#);
    let code = refused.code.number();
    out.extend_from_slice(itoa::Buffer::new().format(code).as_bytes());
    out.extend_from_slice(br#","message":"#);
    write_string(&refused.message, out);
    out.extend_from_slice(b"}}");
}
