//! Users: looking at one, and changing who is where (join, leave, disconnect, ban). Changes are logged
//! with the key's name.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;

use super::asking::ASK_BYTES;
use super::body::{Body, malformed};
use super::names::{UserName, UsersRoom};
use super::schema::{Ban, Connections, Disconnect, User};
use super::{Api, Json};
use crate::bus::{ApiAsk, Order, UserFacts};
use crate::control::Problem;
use crate::control::access::{Administering, Granted, Reading};
use crate::protocol::{Code, Timestamp};

/// A ban of ten years is one until it is lifted.
const BAN_SECONDS_MAX: u64 = 315_360_000;

/// Bytes of a close frame's reason: RFC 6455 §5.5, less the code.
const REASON_BYTES_MAX: usize = 123;

/// Look at a user.
///
/// One without a connection is answered too: `connections` is 0.
#[utoipa::path(
    get, path = "/api/v1/users/{user}", operation_id = "user", tag = "rooms",
    params(("user" = String, Path, description = "The user")),
    responses((status = 200, description = "What is known of the user", body = User))
)]
pub(super) async fn user(
    _: Granted<Reading>,
    State(api): State<Api>,
    UserName(user): UserName,
) -> Result<Json, Problem> {
    let UserFacts { connections, ban } = api.ask_user(&user).await?;
    let until = ban.flatten().map(Timestamp::from_unix_ms);
    Json::of(&User {
        user_id: user.to_string(),
        connections,
        banned: ban.is_some(),
        banned_until: until.map(|until| until.to_string()),
    })
}

/// Let a user's connections join a room.
///
/// Each of them gets `room_joined`, and messages from then on. A user without a connection joins
/// nothing: `connections` is 0.
#[utoipa::path(
    put, path = "/api/v1/users/{user}/rooms/{room}", operation_id = "join", tag = "users",
    params(("user" = String, Path, description = "The user"), ("room" = String, Path, description = "The room")),
    responses((status = 200, description = "They are told to join", body = Connections))
)]
pub(super) async fn join(
    Granted(caller, ..): Granted<Administering>,
    State(api): State<Api>,
    UserName(user): UserName,
    UsersRoom(name): UsersRoom,
) -> Result<Json, Problem> {
    let room = api.switchboard.placement().room(&name);
    let who = user.clone();
    let ask = ApiAsk::Join { user: who, room };
    let connections = api.ask_home(&user, ask, ASK_BYTES).await?;
    tracing::info!(key = %caller.name, user = user.to_string(), room = name, connections, "api: join");
    Json::of(&Connections { connections })
}

/// Let a user's connections leave a room.
///
/// Each of them gets `room_left`.
#[utoipa::path(
    delete, path = "/api/v1/users/{user}/rooms/{room}", operation_id = "leave", tag = "users",
    params(("user" = String, Path, description = "The user"), ("room" = String, Path, description = "The room")),
    responses((status = 200, description = "They are told to leave", body = Connections))
)]
pub(super) async fn leave(
    Granted(caller, ..): Granted<Administering>,
    State(api): State<Api>,
    UserName(user): UserName,
    UsersRoom(name): UsersRoom,
) -> Result<Json, Problem> {
    let room = api.switchboard.placement().room(&name);
    let who = user.clone();
    let ask = ApiAsk::Leave { user: who, room };
    let connections = api.ask_home(&user, ask, ASK_BYTES).await?;
    tracing::info!(key = %caller.name, user = user.to_string(), room = name, connections, "api: leave");
    Json::of(&Connections { connections })
}

/// Close a user's connections.
///
/// The user may come again. A body is optional.
#[utoipa::path(
    post, path = "/api/v1/users/{user}/disconnect", operation_id = "disconnect", tag = "users",
    params(("user" = String, Path, description = "The user")),
    request_body = Disconnect,
    responses((status = 200, description = "They are told to close", body = Connections))
)]
pub(super) async fn disconnect(
    Granted(caller, ..): Granted<Administering>,
    State(api): State<Api>,
    UserName(user): UserName,
    body: Body,
) -> Result<Json, Problem> {
    let object = body.object_if_any()?;
    object.only(&["code", "reason"])?;
    let code = match object.number("code", 0, u64::from(u16::MAX))? {
        None => Code::DisconnectedByApi.number(),
        Some(code) if matches!(code, 1000 | 4000..=4999) => code as u16,
        Some(code) => {
            let detail = format!("{code} is no code to close with; use 1000, or 4000 to 4999");
            return Err(malformed(detail));
        }
    };
    let reason = match object.text("reason")? {
        None if code == Code::DisconnectedByApi.number() => Code::DisconnectedByApi.name().into(),
        None => Arc::from(""),
        Some(reason) if reason.len() <= REASON_BYTES_MAX => Arc::from(&*reason),
        Some(reason) => {
            let bytes = reason.len();
            return Err(malformed(format!(
                "the reason has {bytes} bytes, and a close frame takes {REASON_BYTES_MAX}"
            )));
        }
    };
    let who = user.clone();
    let order = Order::Disconnect {
        user: who,
        code,
        reason,
    };
    let connections = api.order(&order).await?;
    tracing::info!(key = %caller.name, user = user.to_string(), code, connections, "api: disconnect");
    Json::of(&Connections { connections })
}

/// Ban a user.
///
/// The user's connections are closed with 4009, and so is each new one. One who is banned already is
/// banned for the new time. A body is optional.
#[utoipa::path(
    put, path = "/api/v1/users/{user}/ban", operation_id = "ban", tag = "users",
    params(("user" = String, Path, description = "The user")),
    request_body = Ban,
    responses((status = 200, description = "The user is banned", body = Connections))
)]
pub(super) async fn ban(
    Granted(caller, ..): Granted<Administering>,
    State(api): State<Api>,
    UserName(user): UserName,
    body: Body,
) -> Result<Json, Problem> {
    let object = body.object_if_any()?;
    object.only(&["ttl_s"])?;
    let ttl_s = object.number("ttl_s", 1, BAN_SECONDS_MAX)?;
    let order = Order::Ban {
        user: user.clone(),
        lasts: ttl_s.map(Duration::from_secs),
    };
    let connections = api.order(&order).await?;
    tracing::info!(key = %caller.name, user = user.to_string(), ttl_s, connections, "api: ban");
    Json::of(&Connections { connections })
}

/// Lift a ban.
///
/// Also where there was none, so that a request that got no answer may be sent again. `connections`
/// is 0: a banned user has none.
#[utoipa::path(
    delete, path = "/api/v1/users/{user}/ban", operation_id = "unban", tag = "users",
    params(("user" = String, Path, description = "The user")),
    responses((status = 200, description = "The user may come again", body = Connections))
)]
pub(super) async fn unban(
    Granted(caller, ..): Granted<Administering>,
    State(api): State<Api>,
    UserName(user): UserName,
) -> Result<Json, Problem> {
    let who = user.clone();
    let connections = api.order(&Order::Unban { user: who }).await?;
    tracing::info!(key = %caller.name, user = user.to_string(), "api: unban");
    Json::of(&Connections { connections })
}
