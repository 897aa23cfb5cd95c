//! One question to the backend, and what its answer says.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use axum::http::StatusCode;

use crate::control::outbound::{
    Endpoint, EndpointError, EndpointFlags, EndpointSettings, NoAnswer,
};
use crate::control::webhook::WebhookSettings;
use crate::control::webhook::body::{read_answer, write_question};
use crate::control::webhook::counters::Outcome;
use crate::gate::{Question, Verdict};

const FLAGS: EndpointFlags = EndpointFlags {
    url: "auth-webhook-url",
    secret_file: "auth-webhook-secret-file",
    ca_file: "auth-webhook-ca-file",
};

/// What came of a question.
pub(super) struct Answer {
    /// What the connection is told.
    pub verdict: Verdict,
    /// How it is counted.
    pub outcome: Outcome,
    /// How long the answer was.
    pub body_bytes: usize,
    /// The backend failed as a whole, and not about this question.
    is_fault: bool,
}

impl Answer {
    /// There was none.
    pub(super) fn broken() -> Answer {
        Answer::none(Outcome::Unreachable, true)
    }

    fn none(outcome: Outcome, is_fault: bool) -> Answer {
        Answer {
            verdict: Verdict::Unavailable,
            outcome,
            body_bytes: 0,
            is_fault,
        }
    }

    /// Whether the backend is in trouble. A status or a body that only this question may have brought
    /// about does not say so: nobody is to shut out everyone else by asking something odd.
    pub(super) fn is_backends_fault(&self) -> bool {
        self.is_fault
    }
}

/// The backend.
pub(super) struct Backend {
    endpoint: Endpoint,
    /// The last question failed, and it was said why.
    is_failing: AtomicBool,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({:?})", self.endpoint.origin())
    }
}

impl Backend {
    pub(super) fn new(settings: &WebhookSettings) -> Result<Backend, EndpointError> {
        let endpoint = Endpoint::new(&EndpointSettings {
            url: settings.url.clone(),
            timeout: settings.timeout,
            connections_max: settings.in_flight_max,
            secret_file: settings.secret_file.clone(),
            ca_file: settings.ca_file.clone(),
            flags: &FLAGS,
        })?;
        Ok(Backend {
            endpoint,
            is_failing: AtomicBool::new(false),
        })
    }

    /// Asks about a connection.
    pub(super) async fn ask(&self, question: &Question) -> Answer {
        let body = Bytes::from(write_question(question));
        let answer = match self.endpoint.post(body).await {
            Ok(answer) => {
                let judged = judge(answer.status, &answer.body);
                if judged.is_fault {
                    self.complain(&answer.status);
                }
                judged
            }
            Err(NoAnswer::TimedOut) => {
                self.complain(&"no answer within --auth-webhook-timeout");
                Answer::none(Outcome::TimedOut, true)
            }
            Err(NoAnswer::TooLarge) => {
                tracing::warn!("the authentication webhook's answer is longer than 64 KiB");
                Answer::none(Outcome::TooLarge, false)
            }
            Err(NoAnswer::Unreachable(reason)) => {
                self.complain(&reason);
                Answer::broken()
            }
        };
        if !answer.is_fault {
            self.is_failing.store(false, Ordering::Relaxed);
        }
        answer
    }

    /// Says why a question failed: once, until one does not.
    fn complain(&self, reason: &dyn fmt::Display) {
        let backend = self.endpoint.origin();
        if self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::debug!(backend, %reason, "the authentication webhook fails");
        } else {
            tracing::warn!(backend, %reason, "the authentication webhook fails: nobody new is let in");
        }
    }
}

/// What an answer says.
fn judge(status: StatusCode, body: &[u8]) -> Answer {
    let (verdict, outcome) = match status {
        StatusCode::OK => match read_answer(body) {
            Ok(grant) => (Verdict::Granted(Arc::new(grant)), Outcome::Granted),
            Err(error) => {
                tracing::warn!(%error, "the authentication webhook's answer cannot be used");
                return Answer::none(Outcome::Malformed, false);
            }
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (Verdict::Denied, Outcome::Denied),
        status => {
            tracing::debug!(%status, "the authentication webhook answered something else");
            let is_fault = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            return Answer::none(Outcome::BadStatus, is_fault);
        }
    };
    Answer {
        verdict,
        outcome,
        body_bytes: body.len(),
        is_fault: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_mean_what_the_contract_says() {
        let yes = br#"{"user_id":"ada"}"#;
        let table: [(u16, &[u8], Outcome, bool); 9] = [
            (200, yes, Outcome::Granted, false),
            (200, b"<html>", Outcome::Malformed, false),
            (201, yes, Outcome::BadStatus, false),
            (302, yes, Outcome::BadStatus, false),
            (401, yes, Outcome::Denied, false),
            (403, b"", Outcome::Denied, false),
            (404, yes, Outcome::BadStatus, false),
            (429, yes, Outcome::BadStatus, true),
            (500, yes, Outcome::BadStatus, true),
        ];
        for (status, body, outcome, is_fault) in table {
            let answer = judge(StatusCode::from_u16(status).unwrap(), body);
            assert_eq!(
                (answer.outcome, answer.is_fault),
                (outcome, is_fault),
                "{status}"
            );
            let is_granted = matches!(answer.verdict, Verdict::Granted(_));
            assert_eq!(is_granted, outcome == Outcome::Granted);
        }
    }
}
