//! One batch on its way to the backend: again and again until it is taken, refused, or too old.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// The last request failed, and it was said why.
    is_failing: AtomicBool,
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
            is_failing: AtomicBool::new(false),
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
                    host = self.endpoint.host(),
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
                self.complain(&"no answer within --webhook-timeout");
                return Attempt::Failed(Failure::TimedOut, None);
            }
            Err(NoAnswer::Unreachable(reason)) => {
                self.complain(&reason);
                return Attempt::Failed(Failure::Unreachable, None);
            }
        };
        match status {
            StatusCode::RESET_CONTENT => Attempt::Over(Outcome::DeliveredAndReset),
            status if status.is_success() => Attempt::Over(Outcome::Delivered),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                self.complain(&status);
                Attempt::Failed(Failure::Unwell, retry_after(&headers))
            }
            status if status.is_server_error() => {
                self.complain(&status);
                Attempt::Failed(Failure::Unwell, retry_after(&headers))
            }
            status => {
                self.counters.count_failure(Failure::Refused);
                self.complain(&format!(
                    "{status}; the batch is dropped, and the next one says so"
                ));
                Attempt::Over(Outcome::Refused)
            }
        }
    }

    /// Says why a request failed: once, until one does not.
    fn complain(&self, reason: &dyn fmt::Display) {
        self.counters.tell_failing(true);
        let host = self.endpoint.host();
        if self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::debug!(host, %reason, "--webhook fails");
        } else {
            tracing::warn!(host, %reason, "--webhook fails: events wait");
        }
    }

    fn recover(&self) {
        self.counters.tell_failing(false);
        if self.is_failing.swap(false, Ordering::Relaxed) {
            tracing::info!("--webhook takes events again");
        }
    }
}

/// RFC 9110 §10.2.3: a number of seconds, or a date, which is not looked at.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}
