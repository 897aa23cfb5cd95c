//! The objects of the API, for its description and, where they are answers, for their JSON.
//!
//! Requests are read by hand ([`super::body`]), because application data passes as it stands; the
//! types of requests here say what is read there.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::AnyOfBuilder;
use utoipa::openapi::{ObjectBuilder, Schema, Type};

/// A message to publish.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, read by hand")]
pub(super) struct Publish {
    /// The application's data: any JSON, at most 512 levels deep. It is passed on byte for byte.
    #[schema(value_type = Value, example = json!({"text": "high tide"}))]
    payload: String,
    /// The idempotency key. The same one for the same room within `--idempotency-window` (2 min) is
    /// accepted once, and answered with the position of the first.
    #[schema(
        nullable = false,
        min_length = 1,
        max_length = 64,
        example = "order-17-paid"
    )]
    message_id: Option<String>,
}

/// A message of a batch.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, read by hand")]
pub(super) struct BatchMessage {
    /// The room: 1 to 255 bytes without control characters.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]+$",
        example = "harbour"
    )]
    room: String,
    /// The application's data: any JSON.
    #[schema(value_type = Value, example = json!({"text": "high tide"}))]
    payload: String,
    /// The idempotency key.
    #[schema(nullable = false, min_length = 1, max_length = 64)]
    message_id: Option<String>,
}

/// Messages to publish, to any rooms.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, read by hand")]
pub(super) struct Batch {
    /// At most `--api-batch-messages` (1,000). Those for one room are published in this order.
    #[schema(max_items = 1000)]
    messages: Vec<BatchMessage>,
}

/// Application data for connections.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, read by hand")]
pub(super) struct Payload {
    /// The application's data: any JSON, at most 512 levels deep. It is passed on byte for byte.
    #[schema(value_type = Value, example = json!({"text": "we close at six"}))]
    payload: String,
}

/// How a user's connections are closed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "described here, read by hand")]
pub(super) struct Disconnect {
    /// The close code: 1000, or 4000 to 4999. 4012 where not given.
    #[schema(schema_with = close_code)]
    code: Option<u16>,
    /// The reason in the close frame: at most 123 bytes.
    #[schema(nullable = false, max_length = 123, example = "signed out")]
    reason: Option<String>,
}

/// 1000, or 4000 to 4999.
fn close_code() -> Schema {
    let whole = |min, max| {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(min))
            .maximum(Some(max))
    };
    let codes = AnyOfBuilder::new()
        .item(whole(1_000, 1_000))
        .item(whole(4_000, 4_999))
        .description(Some(
            "The close code: 1000, or 4000 to 4999. 4012 where not given.",
        ));
    Schema::AnyOf(codes.build())
}

/// For how long a user is banned.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "described here, read by hand")]
pub(super) struct Ban {
    /// Seconds; without it, until the ban is lifted, or the server ends and keeps nothing on disk.
    #[schema(nullable = false, minimum = 1, maximum = 315_360_000, example = 3600)]
    ttl_s: Option<u32>,
}

/// Where a message stands in its room.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, written by hand")]
pub(super) struct Published {
    /// The message's offset.
    #[schema(minimum = 1, example = 42)]
    offset: u64,
    /// The room's epoch.
    #[schema(example = "5rk2z8q4w0a1c")]
    epoch: String,
    /// The message's own id, or one that was made for it.
    #[schema(example = "order-17-paid")]
    message_id: String,
}

/// Why a message of a batch was not published.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, written by hand")]
pub(super) struct Failure {
    /// A code of the protocol.
    #[schema(example = 4007)]
    code: u16,
    /// What was wrong.
    message: String,
}

/// A message of a batch that was not published.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, written by hand")]
pub(super) struct Failed {
    /// Why.
    error: Failure,
}

/// What became of a message of a batch.
#[derive(ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "described here, written by hand")]
pub(super) enum BatchResult {
    /// It was published.
    Published(Published),
    /// It was not.
    Failed(Failed),
}

/// What became of a batch.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, written by hand")]
pub(super) struct BatchResults {
    /// One for each message, in the order of the request.
    results: Vec<BatchResult>,
}

/// How many connections something reached.
#[derive(Serialize, ToSchema)]
pub(super) struct Connections {
    /// Connections.
    #[schema(example = 3)]
    pub connections: u64,
}

/// What is known of a user.
#[derive(Serialize, ToSchema)]
pub(super) struct User {
    /// Who.
    #[schema(example = "ada")]
    pub user_id: String,
    /// The user's connections to this node; 0 for one who is not there.
    #[schema(example = 2)]
    pub connections: u64,
    /// Whether the user is banned. Absent where not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false, example = true)]
    pub banned: bool,
    /// The end of the ban, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "2026-01-31T23:59:59.123Z")]
    pub banned_until: Option<String>,
}

/// Messages of a room's past.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, written by hand")]
pub(super) struct History {
    /// Whole messages, as members get them, oldest first.
    messages: Vec<Message>,
    /// The room's newest offset.
    offset: u64,
    /// The room's epoch.
    epoch: String,
    /// False where messages after `since` are no longer kept.
    complete: bool,
}

/// A message of a room.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, written by hand")]
pub(super) struct Message {
    /// `message`.
    r#type: String,
    /// The room.
    room: String,
    /// Where it stands in the room.
    offset: u64,
    /// The application's data.
    #[schema(value_type = Value)]
    payload: String,
    /// `message_id`, `timestamp`, and of a sender that is no backend `client_id` and `user_id`.
    #[schema(value_type = Object)]
    metadata: String,
}

/// A room.
#[derive(Serialize, ToSchema)]
pub(super) struct Room {
    /// Its name.
    #[schema(example = "harbour")]
    pub room: String,
    /// Users in it.
    pub members: u64,
    /// Their connections in it.
    pub connections: u64,
    /// The newest message's offset; 0 where there was none.
    pub offset: u64,
    /// The epoch of it.
    #[schema(example = "5rk2z8q4w0a1c")]
    pub epoch: String,
}

/// Rooms, page by page.
#[derive(Serialize, ToSchema)]
pub(super) struct Rooms {
    /// Rooms, in no order that means anything.
    pub rooms: Vec<Room>,
    /// What to give as `after` for the next page; not there on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next: Option<String>,
}

/// Who is in a room.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, written by hand")]
pub(super) struct Members {
    /// Users in the room.
    count: u64,
    /// At most 1,000 of them.
    #[schema(max_items = 1000)]
    members: Vec<Member>,
}

/// A user in a room.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, written by hand")]
pub(super) struct Member {
    /// Who.
    user_id: String,
    /// The user's connections in the room.
    connections: u64,
    /// The highest offset that the user has read.
    #[schema(nullable = false)]
    read: Option<u64>,
    /// What the user's token says about the user.
    #[schema(value_type = Value)]
    info: Option<String>,
}

/// What this node is and does.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeFacts {
    /// The version that runs.
    #[schema(example = "0.1.0")]
    pub version: &'static str,
    /// Of this run: another one says that the node was started anew.
    #[schema(example = "9f86d081884c7d65")]
    pub epoch: String,
    /// When it was started: RFC 3339.
    #[schema(format = DateTime, example = "2026-06-01T12:00:00.000Z")]
    pub started_at: String,
    /// Whole seconds since.
    pub uptime_s: u64,
    /// Where clients connect.
    #[schema(example = json!(["127.0.0.1:8080"]))]
    pub listen: Vec<String>,
    /// Where this API is.
    #[schema(example = "127.0.0.1:9090")]
    pub admin_listen: String,
    /// Cores.
    pub cores: u64,
    /// Those of them that answered in time; the numbers below are theirs.
    pub cores_up: u64,
    /// Open connections.
    pub connections: u64,
    /// How many there may be.
    pub connections_max: u64,
    /// Rooms.
    pub rooms: u64,
    /// Whether it is starting, ready or draining.
    pub state: NodeState,
    /// Whether clients are being sent away.
    pub draining: bool,
    /// What survives the end of the process.
    pub durability: NodeDurability,
    /// Memory.
    pub memory: NodeMemory,
}

/// Where a node is in its life.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum NodeState {
    /// Not all of it runs.
    Starting,
    /// It takes connections.
    Ready,
    /// It sends clients away.
    Draining,
}

/// What survives the end of the process.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum NodeDurability {
    /// Nothing.
    Off,
    /// Almost all.
    Async,
    /// All that was answered.
    Fsync,
}

/// Memory of a node.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeMemory {
    /// Of the process, as last measured.
    pub resident_bytes: u64,
    /// `--memory-budget`; 0: none.
    pub budget_bytes: u64,
    /// How near the budget is: 0 (calm) to 4 (newcomers are refused).
    #[schema(minimum = 0, maximum = 4)]
    pub pressure: u64,
}

/// A problem: RFC 9457.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, written by hand")]
pub(super) struct ProblemDetails {
    /// `about:blank`: the status says what kind of problem it is.
    #[schema(example = "about:blank")]
    r#type: String,
    /// The status in words.
    #[schema(example = "Bad Request")]
    title: String,
    /// The status.
    #[schema(minimum = 400, maximum = 599, example = 400)]
    status: u16,
    /// What was wrong, with what value, and what to do.
    detail: String,
    /// A code of the protocol, where one says more than the status.
    #[schema(nullable = false, example = 4006)]
    code: Option<u16>,
}
