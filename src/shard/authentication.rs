//! How an upgraded connection comes to have a user, and keeps it.
//!
//! ```text
//!   identify ─┬─ nobody has to prove anything ───────────────────────────────────────► let_in
//!             ├─ a credential ──► judge ─┬─ a token of ours ──► accept ──────────────► let_in
//!             │                   ▲      ├─ the backend is asked ── handle_verdict ──┘  (refresh:
//!             └─ none: the first message └─ no ──► turn_away: 4002                       renew)
//! ```
//!
//! While the backend is asked a connection holds all its credits, so it is not read; what it has sent
//! already waits. A refresh goes the same way, on a connection that has a user already.

use std::sync::Arc;

use crate::address::ConnectionRef;
use crate::bus::CREDITS;
use crate::gate::rate::Per;
use crate::gate::{Authentication, Credential, Excess, Grant, Question, Rate, Verdict};
use crate::metrics::{AuthRefusal, AuthWay};
use crate::protocol::{Code, Command, Event, Malformed, Request, UserId};
use crate::shard::Shard;
use crate::shard::connection::{Phase, Timer};
use crate::shard::pass::{Asked, Waiting};
use crate::time::Now;

/// The longest message of a connection that has no user, in bytes. No token that fits a request's
/// head is longer.
pub(super) const AUTH_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Who knocks, as its request says.
pub(super) struct Arrival {
    /// The room to join without being asked.
    pub room: Option<String>,
    /// A name that nobody has to prove.
    pub user: Option<String>,
    /// The credential of the request.
    pub credential: Option<Credential>,
    /// The page behind it may not connect.
    pub is_foreign: bool,
    /// Header fields for the operator's backend.
    pub passed: Vec<(Box<str>, Box<str>)>,
    /// By which the backend may know who this is.
    pub has_fields: bool,
}

/// How many credentials an established connection may show at once; after that, one a second.
const REFRESHES_AT_ONCE: u32 = 10;

impl Shard {
    /// A connection was upgraded: finds out who it is, or waits to be told.
    pub(super) fn identify(&mut self, index: u32, arrival: Arrival) {
        if arrival.is_foreign {
            let reason = "origin not allowed: pages of this origin may not connect here";
            let code = Code::OriginNotAllowed;
            return self.turn_away(index, AuthRefusal::Origin, code, reason);
        }
        if matches!(self.config.policy.authentication, Authentication::Open) {
            let name = arrival.user.as_deref().map(UserId::from_name);
            return self.let_in_by_name(index, name, arrival.room.as_deref());
        }
        let due = self.now.mono + self.config.policy.auth_timeout;
        let timer = self.wheel.insert(due, Timer::Auth(index));
        let waiting = Waiting {
            room: arrival.room,
            headers: arrival.passed,
            asked: None,
        };
        self.change_pass(index, |pass| pass.waiting = Some(Box::new(waiting)));
        if let Some(connection) = self.connections.get_mut(index) {
            connection.deadline = Some(timer);
        }
        match arrival.credential {
            Some(Credential { way, token }) => self.judge(index, way, Some(&token), None),
            None if arrival.has_fields => self.judge(index, AuthWay::Fields, None, None),
            None => {}
        }
    }

    /// The first message of a connection that has no user: it has to say who that is.
    pub(super) fn take_first(&mut self, index: u32, first: &Result<Request<'_>, Malformed>) {
        match first {
            Ok(Request {
                command: Command::Auth { token },
                correlation_id,
                ..
            }) => self.judge(index, AuthWay::Message, Some(token), *correlation_id),
            _ => {
                let reason = "authentication required: the first message has to be auth";
                let code = Code::AuthenticationRequired;
                self.turn_away(index, AuthRefusal::Missing, code, reason);
            }
        }
    }

    /// `--auth-timeout` is over.
    pub(super) fn give_up_on_auth(&mut self, index: u32) {
        if let Some(connection) = self.connections.get_mut(index) {
            connection.deadline = None;
        }
        if self.is_asked_about(index) {
            return self.not_answered(index);
        }
        let reason = "authentication required: no auth message within --auth-timeout";
        let code = Code::AuthenticationRequired;
        self.turn_away(index, AuthRefusal::Missing, code, reason);
    }

    /// `auth` on a connection that has a user: another credential in place of its own.
    pub(super) fn refresh(&mut self, index: u32, token: &str, correlation_id: Option<&str>) {
        if matches!(self.config.policy.authentication, Authentication::Open) {
            return self.answer_auth(index, correlation_id);
        }
        // To look at a signature takes up to a millisecond.
        let now = self.now.mono;
        if let Ok(rate) = Rate::new(1, Per::Second, REFRESHES_AT_ONCE)
            && let Some(pass) = self.connections.get_mut(index).and_then(|c| c.pass_mut())
            && let Err(wait) = pass.refreshes.take(rate, 1, now)
        {
            let excess = Excess::Refreshes(rate, wait);
            return self.refuse_excess(index, excess, None, correlation_id);
        }
        self.judge(index, AuthWay::Refresh, Some(token), correlation_id);
    }

    /// Holds a credential against what the operator asks for.
    fn judge(
        &mut self,
        index: u32,
        way: AuthWay,
        token: Option<&str>,
        correlation_id: Option<&str>,
    ) {
        let policy = Arc::clone(&self.config.policy);
        let given = token.unwrap_or_default();
        let asks_for_one = !matches!(policy.authentication, Authentication::Open);
        if asks_for_one && token.is_some_and(str::is_empty) {
            let reason = "authentication failed: the credential is empty";
            let refusal = AuthRefusal::Malformed;
            return self.refuse_credential(index, refusal, reason, correlation_id);
        }
        let judged = match &policy.authentication {
            // The operator opened the doors while this one waited.
            Authentication::Open => return self.let_in_by_name(index, None, None),
            Authentication::Webhook(_) => {
                return self.question(index, way, token, correlation_id);
            }
            Authentication::Token(verifier) => {
                let verified = verifier.verify(given, self.now.unix_ms);
                verified.map_err(|fault| {
                    let reason = format!("authentication failed: {}", fault.reason());
                    (AuthRefusal::from_text(fault.label()), reason)
                })
            }
            Authentication::Fixed(tokens) => tokens.0.get(given).cloned().ok_or_else(|| {
                let reason = "authentication failed: nobody gave out this token";
                (AuthRefusal::Signature, reason.to_owned())
            }),
        };
        match judged {
            Ok(grant) => self.accept(index, way, Arc::new(grant), correlation_id),
            Err((refusal, reason)) => {
                self.refuse_credential(index, refusal, &reason, correlation_id);
            }
        }
    }

    /// Asks the operator's backend about a connection, which is not read until it has answered.
    fn question(
        &mut self,
        index: u32,
        way: AuthWay,
        token: Option<&str>,
        correlation_id: Option<&str>,
    ) {
        let Some(connection) = self.reference(index) else {
            return;
        };
        let address = self.address_of(index).map(|address| address.to_string());
        let Some(known) = self.connections.get_mut(index) else {
            return;
        };
        known.credits_held += CREDITS;
        let client_id = known.client_id;
        let correlation_id = correlation_id.map(Box::from);
        let asker = Arc::new(());
        let question = self.change_pass(index, |pass| {
            let waiting = pass.waiting.get_or_insert_with(Box::default);
            let question = Question {
                connection,
                client_id,
                token: token.map(Box::from),
                headers: waiting.headers.clone(),
                room: waiting.room.as_deref().map(Box::from),
                address: address.unwrap_or_default().into(),
                asker: Arc::downgrade(&asker),
            };
            waiting.asked = Some(Asked {
                way,
                correlation_id,
                question_bytes: question.heap_bytes(),
                _asker: asker,
            });
            question
        });
        let Some(question) = question else { return };
        self.questions.push_back(question);
        self.pause_if_needed(index);
    }

    /// A question for the operator's backend.
    pub fn poll_question(&mut self) -> Option<Question> {
        self.questions.pop_front()
    }

    /// What the operator's backend says about a connection.
    pub fn handle_verdict(&mut self, now: Now, connection: ConnectionRef, verdict: Verdict) {
        self.set_now(now);
        let Some(index) = self.resolve(connection) else {
            return;
        };
        let asked = self.change_connection(index, |connection| {
            connection.pass_mut()?.waiting.as_mut()?.asked.take()
        });
        // Where it closes meanwhile, nothing waits any more.
        let Some(asked) = asked.flatten() else { return };
        let id = asked.correlation_id.as_deref();
        match verdict {
            Verdict::Granted(grant) => self.accept(index, asked.way, grant, id),
            Verdict::Denied => {
                let reason = "authentication failed: the application does not know this credential";
                self.refuse_credential(index, AuthRefusal::Denied, reason, id);
            }
            Verdict::Unavailable if asked.way == AuthWay::Refresh => {
                self.metrics
                    .connections
                    .auth_refused
                    .count(AuthRefusal::Unavailable);
                self.forget_waiting(index);
                let message = "the new token could not be checked, and the old one stays in force; \
                               try again later";
                self.refuse(index, Code::UnknownError, message, None, id);
            }
            Verdict::Unavailable => self.not_answered(index),
        }
        self.give_back(index, CREDITS);
    }

    /// Nobody is let in without an answer; that is not the client's fault, which comes back later.
    fn not_answered(&mut self, index: u32) {
        let reason = "over capacity: authentication is not available; try again later";
        let code = Code::OverCapacity;
        self.turn_away(index, AuthRefusal::Unavailable, code, reason);
    }

    /// A credential is good.
    fn accept(
        &mut self,
        index: u32,
        way: AuthWay,
        grant: Arc<Grant>,
        correlation_id: Option<&str>,
    ) {
        let ends = grant.expires_at_unix_ms;
        if ends.is_some_and(|ends| ends <= self.now.unix_ms) {
            let reason = "authentication failed: the credential is over its time";
            let refusal = AuthRefusal::Expired;
            return self.refuse_credential(index, refusal, reason, correlation_id);
        }
        match self.connections.get(index) {
            Some(known) if known.phase == Phase::Awaiting => {
                self.metrics.connections.auth_accepted.count(way);
                let room = self.forget_waiting(index);
                if self.admit(index, Some(grant)) {
                    if way == AuthWay::Message {
                        self.answer_auth(index, correlation_id);
                    }
                    self.establish(index);
                    if let Some(room) = room {
                        self.join_by_path(index, &room);
                    }
                }
            }
            Some(known) if known.phase == Phase::Native && known.user != grant.user => {
                let reason = "authentication failed: a refresh has to be for the same user; \
                              connect anew as another";
                let refusal = AuthRefusal::OtherUser;
                self.refuse_credential(index, refusal, reason, correlation_id);
            }
            Some(known) if known.phase == Phase::Native => {
                self.metrics.connections.auth_accepted.count(way);
                self.forget_waiting(index);
                self.bear(index, grant);
                self.answer_auth(index, correlation_id);
                self.leave_forbidden(index);
            }
            _ => {}
        }
    }

    /// Lets a connection in that has to prove nothing, by the name it gave.
    fn let_in_by_name(&mut self, index: u32, name: Option<UserId>, room: Option<&str>) {
        let waited_for = self.forget_waiting(index);
        if let Some(name) = name {
            self.change_connection(index, |connection| connection.user = name);
        }
        if self.admit(index, None) {
            self.establish(index);
            if let Some(room) = room.or(waited_for.as_deref()) {
                self.join_by_path(index, room);
            }
        }
    }

    /// Every connection that is to be established comes through here, when it is known who it is:
    /// the place to turn somebody away, whatever credential there is. Says whether it is let in.
    fn admit(&mut self, index: u32, grant: Option<Arc<Grant>>) -> bool {
        let Some(connection) = self.connections.get_mut(index) else {
            return false;
        };
        if let Some(timer) = connection.deadline.take() {
            self.wheel.cancel(timer);
        }
        if let Some(grant) = &grant {
            self.change_connection(index, |connection| connection.user = grant.user.clone());
        }
        if self.turn_away_banned(index) {
            return false;
        }
        self.set_phase(index, Phase::Native);
        if let Some(grant) = grant {
            self.bear(index, grant);
        }
        self.limit_lifetime(index);
        true
    }

    /// What waited until a connection is let in waits no more. Answers the room that it wants.
    fn forget_waiting(&mut self, index: u32) -> Option<String> {
        let waiting =
            self.change_connection(index, |connection| connection.pass_mut()?.waiting.take());
        waiting??.room
    }

    fn answer_auth(&mut self, index: u32, correlation_id: Option<&str>) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        let user = connection.user.clone();
        let grant = connection.pass().and_then(|p| p.grant.as_ref());
        let event = Event::AuthResponse {
            user_id: &user,
            expires_at_unix_ms: grant.and_then(|grant| grant.expires_at_unix_ms),
        };
        self.answer(index, &event, correlation_id);
    }

    /// A credential is not good: that closes, and is told before where there is a conversation.
    fn refuse_credential(
        &mut self,
        index: u32,
        refusal: AuthRefusal,
        reason: &str,
        correlation_id: Option<&str>,
    ) {
        let code = Code::AuthenticationFailed;
        let known = self.connections.get(index);
        if known.is_some_and(|c| c.phase == Phase::Native) {
            self.refuse(index, code, reason, None, correlation_id);
        }
        self.turn_away(index, refusal, code, reason);
    }

    /// Closes a connection because of who it is, or is not.
    fn turn_away(&mut self, index: u32, refusal: AuthRefusal, code: Code, reason: &str) {
        self.metrics.connections.auth_refused.count(refusal);
        self.begin_close(index, code.number(), reason);
    }
}
