//! One batch on its way to the backend: again and again until it is taken, refused, or too old.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::control::hooks::Patience;
use crate::control::hooks::counters::{Counters, Failure};
use crate::control::outbound::{Endpoint, NoAnswer};

/// The longest pause, also where the backend asks for a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How a batch ended.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The backend has it.
    Delivered,
    /// It has it, and has lost its picture: 205.
    DeliveredAndReset,
    /// It does not want it.
    Refused,
    /// It failed for longer than a batch is tried.
    GivenUp,
}

/// Delivers batches, one at a time.
pub(super) struct Courier {
    pub endpoint: Endpoint,
    pub counters: Arc<Counters>,
    pub patience: Patience,
    /// Ends a pause early: the node is about to end.
    pub hurry: Notify,
    /// What was said last of a request that failed, as a [`Fate`]; 0 where the last one did not.
    said: AtomicU8,
}

/// What becomes of events whose request failed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Fate {
    /// They are sent again.
    Wait = 1,
    /// The backend does not want them.
    Dropped = 2,
}

impl Fate {
    fn text(self) -> &'static str {
        match self {
            Fate::Wait => "--webhook fails: events wait, and are sent again",
            Fate::Dropped => {
                "--webhook refuses events: the batch is dropped, and the next one says so; the \
                 backend's log should say why: look at the path in --webhook and at \
                 --webhook-secret-file"
            }
        }
    }
}

/// What came of a request.
enum Attempt {
    Over(Outcome),
    /// To be tried again, not before this time if one is given.
    Failed(Failure, Option<Duration>),
}

impl Courier {
    pub(super) fn new(endpoint: Endpoint, counters: Arc<Counters>, patience: Patience) -> Courier {
        Courier {
            endpoint,
            counters,
            patience,
            hurry: Notify::new(),
            said: AtomicU8::new(0),
        }
    }

    /// Tries a batch until it is over. The bytes are the same each time; their signature is as old
    /// as the request.
    pub(super) async fn deliver(&self, body: Bytes) -> Outcome {
        let began = Instant::now();
        let mut pause = self.patience.pause;
        loop {
            let (failure, wanted) = match self.attempt(body.clone()).await {
                Attempt::Over(outcome) => {
                    if outcome != Outcome::Refused {
                        self.recover();
                        self.counters.count_delivery(began.elapsed());
                    }
                    return outcome;
                }
                Attempt::Failed(failure, wanted) => (failure, wanted),
            };
            self.counters.count_failure(failure);
            if began.elapsed() >= self.patience.batch {
                tracing::error!(
                    backend = self.endpoint.origin(),
                    "--webhook: a batch of events failed for too long and is given up; the next one says so"
                );
                return Outcome::GivenUp;
            }
            // A half to the whole of it: nodes that failed together do not come back together.
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            let rest = wanted.map_or(jittered, |wanted| wanted.clamp(jittered, PAUSE_MAX));
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = self.hurry.notified() => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
            self.counters.count_retry();
        }
    }

    async fn attempt(&self, body: Bytes) -> Attempt {
        let (status, headers) = match self.endpoint.tell(body).await {
            Ok(answer) => answer,
            Err(NoAnswer::TooLarge | NoAnswer::TimedOut) => {
                self.complain(&"no answer within --webhook-timeout", Fate::Wait);
                return Attempt::Failed(Failure::TimedOut, None);
            }
            Err(NoAnswer::Unreachable(reason)) => {
                self.complain(&reason, Fate::Wait);
                return Attempt::Failed(Failure::Unreachable, None);
            }
        };
        match status {
            StatusCode::RESET_CONTENT => Attempt::Over(Outcome::DeliveredAndReset),
            status if status.is_success() => Attempt::Over(Outcome::Delivered),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                self.complain(&status, Fate::Wait);
                Attempt::Failed(Failure::Unwell, retry_after(&headers))
            }
            status if status.is_server_error() => {
                self.complain(&status, Fate::Wait);
                Attempt::Failed(Failure::Unwell, retry_after(&headers))
            }
            status => {
                self.counters.count_failure(Failure::Refused);
                self.complain(&status, Fate::Dropped);
                Attempt::Over(Outcome::Refused)
            }
        }
    }

    /// Says why a request failed and what becomes of its events: once, until that changes.
    fn complain(&self, reason: &dyn fmt::Display, fate: Fate) {
        self.counters.tell_failing(true);
        let (backend, text) = (self.endpoint.origin(), fate.text());
        if self.said.swap(fate as u8, Ordering::Relaxed) == fate as u8 {
            tracing::debug!(backend, %reason, "{text}");
        } else {
            tracing::warn!(backend, %reason, "{text}");
        }
    }

    fn recover(&self) {
        self.counters.tell_failing(false);
        if self.said.swap(0, Ordering::Relaxed) != 0 {
            tracing::info!("--webhook takes events again");
        }
    }
}

/// RFC 9110 §10.2.3: a number of seconds, or a date, which is not looked at.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}
