//! Asking cores, and what becomes of a refusal over HTTP.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::Api;
use crate::address::CoreId;
use crate::bus::{ApiAnswer, ApiAsk, Order, OrderFault, OrderReply, Refused, UserFacts};
use crate::control::{Problem, Unanswered};
use crate::protocol::{Code, UserId};

/// What a question without application data holds in memory, roughly.
pub(super) const ASK_BYTES: usize = 256;

/// How long callers are asked to wait before they try again, in seconds.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// How long a core that has too much to do is left alone.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A refusal as a problem.
pub(super) fn refused(refused: Refused) -> Problem {
    let status = match refused.code {
        Code::InvalidMessageFormat => StatusCode::BAD_REQUEST,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::RoomNotFound | Code::UserNotConnected => StatusCode::NOT_FOUND,
        Code::RoomFull | Code::TooManyRooms | Code::UserBanned => StatusCode::CONFLICT,
        Code::MessageTooLarge | Code::MessageTooBig => StatusCode::PAYLOAD_TOO_LARGE,
        Code::RateLimitExceeded => StatusCode::TOO_MANY_REQUESTS,
        Code::OverCapacity | Code::BrokerUnavailable | Code::ServerDraining => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let problem = Problem::new(status, refused.message.into_string()).with_code(refused.code);
    match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            problem.with_header(header::RETRY_AFTER, RETRY_AFTER_S)
        }
        _ => problem,
    }
}

/// The code of a question that got no answer.
pub(super) fn code_of(unanswered: Unanswered) -> Code {
    match unanswered {
        Unanswered::Busy(_) => Code::OverCapacity,
        Unanswered::Gone(_) => Code::ServerDraining,
        // Whether it was accepted is not known, which 4104 would say.
        Unanswered::Late(_) => Code::UnknownError,
    }
}

/// A question without an answer as a problem.
pub(super) fn unanswered(unanswered: Unanswered) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, unanswered.to_string())
        .with_code(code_of(unanswered))
        .with_header(header::RETRY_AFTER, RETRY_AFTER_S)
}

/// An answer to another question than was asked: a fault of ours.
pub(super) fn misunderstood() -> Problem {
    let detail = "a core answered something else than it was asked; this is a fault of the server";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).with_code(Code::UnknownError)
}

pub(super) fn no_room(room: &str) -> Problem {
    let detail = format!("there is no room {room:?} on this node");
    Problem::new(StatusCode::NOT_FOUND, detail).with_code(Code::RoomNotFound)
}

pub(super) fn no_user(user: &UserId) -> Problem {
    let user = user.to_string();
    let detail = format!("the user {user:?} has no connection to this node");
    Problem::new(StatusCode::NOT_FOUND, detail).with_code(Code::UserNotConnected)
}

impl Api {
    /// Asks one core. A refusal is a problem.
    pub(super) async fn ask(
        &self,
        core: CoreId,
        ask: ApiAsk,
        weight_bytes: usize,
    ) -> Result<ApiAnswer, Problem> {
        match self.switchboard.ask(core, ask, weight_bytes).await {
            Ok(ApiAnswer::Refused(refusal)) => Err(refused(refusal)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(unanswered(error)),
        }
    }

    /// Asks one core again and again where it has too much to do: others have said yes, and it would be
    /// done by half.
    async fn ask_patiently(
        &self,
        core: CoreId,
        ask: &ApiAsk,
        weight: usize,
    ) -> Result<ApiAnswer, Problem> {
        let until = Instant::now() + self.limits.answer_timeout;
        loop {
            let answer = self.switchboard.ask(core, ask.clone(), weight).await;
            let is_busy = match &answer {
                Ok(ApiAnswer::Refused(refused)) => refused.code == Code::OverCapacity,
                Ok(_) => false,
                Err(error) => matches!(error, Unanswered::Busy(_)),
            };
            if !is_busy || Instant::now() >= until {
                return match answer {
                    Ok(ApiAnswer::Refused(refusal)) => Err(refused(refusal)),
                    Ok(answer) => Ok(answer),
                    Err(error) => Err(unanswered(error)),
                };
            }
            sleep(BUSY_PAUSE).await;
        }
    }

    /// Asks every core the same at the same time; how many connections it reaches in all.
    pub(super) async fn ask_all(&self, ask: &ApiAsk, weight: usize) -> Result<u64, Problem> {
        let mut asked = JoinSet::new();
        for core in self.all_cores() {
            let (api, ask) = (self.clone(), ask.clone());
            asked.spawn(async move { api.ask_patiently(core, &ask, weight).await });
        }
        let (mut connections, mut problem) = (0, None);
        while let Some(answer) = asked.join_next().await {
            let answer = answer
                .map_err(|_| misunderstood())
                .and_then(|answer| answer);
            match answer.and_then(connections_of) {
                Ok(more) => connections += more,
                Err(why) => problem = Some(why),
            }
        }
        match problem {
            None => Ok(connections),
            Some(problem) if connections == 0 => Err(problem),
            Some(problem) => Err(problem.with_more(&format!(
                "; {connections} connections of other cores are told, and a repeat tells them again"
            ))),
        }
    }

    /// Asks the user's home something that is answered by a number of connections.
    pub(super) async fn ask_home(
        &self,
        user: &UserId,
        ask: ApiAsk,
        weight: usize,
    ) -> Result<u64, Problem> {
        let placement = self.switchboard.placement();
        let home = placement.home_of(placement.hash_one(user));
        connections_of(self.ask(home, ask, weight).await?)
    }

    /// What the user's home knows of it.
    pub(super) async fn ask_user(&self, user: &UserId) -> Result<UserFacts, Problem> {
        let placement = self.switchboard.placement();
        let home = placement.home_of(placement.hash_one(user));
        match self
            .ask(home, ApiAsk::User(user.clone()), ASK_BYTES)
            .await?
        {
            ApiAnswer::User(facts) => Ok(facts),
            _ => Err(misunderstood()),
        }
    }

    /// Gives an order to every core; how many connections are told to close in all.
    pub(super) async fn order(&self, order: &Order) -> Result<u64, Problem> {
        let mut awaited = Vec::new();
        for core in self.all_cores() {
            let (sender, receiver) = oneshot::channel();
            let reply = OrderReply::new(move |obeyed| {
                // Whoever asked may have gone away.
                let _gone = sender.send(obeyed);
            });
            self.cores.order(core.index(), order.clone(), reply);
            awaited.push((core, receiver));
        }
        let mut connections = 0;
        for (core, answer) in awaited {
            let obeyed = match timeout(self.limits.answer_timeout, answer).await {
                Ok(Ok(obeyed)) => obeyed,
                Ok(Err(_)) => return Err(unanswered(Unanswered::Gone(core))),
                Err(_) => return Err(unanswered(Unanswered::Late(core))),
            };
            connections += obeyed.map_err(disobeyed)? as u64;
        }
        Ok(connections)
    }

    pub(super) fn all_cores(&self) -> impl Iterator<Item = CoreId> + use<> {
        (0..self.switchboard.core_count()).map(CoreId)
    }
}

fn connections_of(answer: ApiAnswer) -> Result<u64, Problem> {
    match answer {
        ApiAnswer::Connections(connections) => Ok(connections),
        _ => Err(misunderstood()),
    }
}

fn disobeyed(fault: OrderFault) -> Problem {
    let code = match fault {
        OrderFault::TooManyBans { .. } => Code::OverCapacity,
        OrderFault::BadCode(_) => Code::InvalidMessageFormat,
    };
    let message = fault.to_string().into();
    refused(Refused { code, message })
}
