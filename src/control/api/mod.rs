//! The admin API: what the operator's backend asks of this node, `/api/v1`.
//!
//! ```text
//! request ── Granted (access) ── names, Body ── one handler ──► Switchboard ──► a room's home,
//!                    │                │                 │                       a user's home,
//!                    ▼                ▼                 ▼                       or every core
//!                401, 403      400, 413, 415      answer, or Problem
//! ```
//! [`publish`] sends, [`rooms`] looks, [`users`] changes who is where, [`node`] tells of the server.
//! [`openapi`] is the description of all of it, made from these handlers and from the types in
//! [`schema`]; a test asks the server for each thing that it promises.

mod asking;
mod body;
mod names;
mod node;
pub mod openapi;
mod publish;
mod rooms;
mod schema;
mod users;

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};

use crate::bus::Durability;
use crate::control::node::Node;
use crate::control::{Access, Cores, Limits, Readiness, Switchboard};

pub(super) use body::shortened;
pub(super) use names::bad_name;

/// What the API tells of the node, and holds requests against, that no core has to be asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// Where clients connect.
    pub listen: Option<SocketAddr>,
    /// What survives the end of the process.
    pub durability: Durability,
    /// `--max-message-bytes`.
    pub message_bytes_max: usize,
}

impl Default for About {
    fn default() -> About {
        About {
            listen: None,
            durability: Durability::Off,
            message_bytes_max: 64 * 1024,
        }
    }
}

/// What handlers work with. Clones are the same one.
#[derive(Clone)]
pub(super) struct Api(Arc<Parts>);

/// The parts of it.
pub(super) struct Parts {
    pub access: Access,
    pub switchboard: Switchboard,
    pub cores: Arc<dyn Cores>,
    pub readiness: Arc<Readiness>,
    pub node: Arc<Node>,
    pub about: About,
    pub admin_listen: SocketAddr,
    pub limits: Limits,
}

impl Api {
    pub(super) fn new(parts: Parts) -> Api {
        Api(Arc::new(parts))
    }
}

impl Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl FromRef<Api> for Access {
    fn from_ref(api: &Api) -> Access {
        api.access.clone()
    }
}

/// The paths of the API.
pub(super) fn routes(api: Api) -> Router {
    let messages = post(publish::publish).get(rooms::history);
    let ban = put(users::ban).delete(users::unban);
    let membership = put(users::join).delete(users::leave);
    Router::new()
        .route("/api/v1/rooms/{room}/messages", messages)
        .route("/api/v1/publish", post(publish::batch))
        .route("/api/v1/broadcast", post(publish::broadcast))
        .route("/api/v1/rooms", get(rooms::list))
        .route("/api/v1/rooms/{room}", get(rooms::room))
        .route("/api/v1/rooms/{room}/members", get(rooms::members))
        .route("/api/v1/users/{user}", get(users::user))
        .route("/api/v1/users/{user}/messages", post(publish::direct))
        .route("/api/v1/users/{user}/rooms/{room}", membership)
        .route("/api/v1/users/{user}/disconnect", post(users::disconnect))
        .route("/api/v1/users/{user}/ban", ban)
        .route("/api/v1/node", get(node::node))
        .route("/api/openapi.json", get(openapi::openapi))
        .with_state(api)
}

/// An answer that is written as JSON already.
struct Json(Vec<u8>);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        let described = [
            (header::CONTENT_TYPE, "application/json"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        (described, self.0).into_response()
    }
}
