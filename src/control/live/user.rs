//! One user: how many connections there are.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::bus::{ApiAnswer, ApiAsk};
use crate::control::access::{Granted, Reading};
use crate::control::live::stream::Doors;
use crate::control::problem::Problem;
use crate::protocol::UserId;
use crate::protocol::ids::is_user_id;

/// What a question holds in memory beside the name.
const QUESTION_BYTES: usize = 128;

/// What is known of a user.
#[derive(Serialize)]
struct User<'a> {
    user_id: &'a str,
    /// 0 for one who is not there.
    connections: u64,
}

/// `GET /api/v1/users/{user}`.
pub(super) async fn user(
    _: Granted<Reading>,
    State(doors): State<Doors>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    if !is_user_id(&name) {
        let detail = "that is no user's name; it takes 1 to 255 bytes without control characters";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let (switchboard, user) = (&doors.live.switchboard, UserId::from_name(&name));
    let placement = switchboard.placement();
    let home = placement.home_of(placement.hash_one(&user));
    let unavailable = |why: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, why);
    let weight = QUESTION_BYTES + name.len();
    match switchboard.ask(home, ApiAsk::User(user), weight).await {
        Ok(ApiAnswer::Connections(connections)) => {
            let described = [
                (header::CONTENT_TYPE, "application/json"),
                (header::CACHE_CONTROL, "no-store"),
            ];
            let user_id = &name;
            // A string and a number: it does not fail.
            let json = serde_json::to_vec(&User {
                user_id,
                connections,
            });
            Ok((described, json.unwrap_or_default()).into_response())
        }
        Ok(ApiAnswer::Refused(refused)) => Err(unavailable(refused.message.into())),
        Ok(_) => Err(unavailable("the core gave another answer".to_owned())),
        Err(unanswered) => Err(unavailable(unanswered.to_string())),
    }
}
