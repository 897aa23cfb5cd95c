//! What a connection holds because of who it is: its grant, and how long that and itself may last.
//!
//! A connection that nobody asks for a credential, and that may stay for ever, holds none of it.

use std::sync::Arc;
use std::time::Duration;

use crate::gate::Grant;
use crate::gate::rate::Bucket;
use crate::metrics::AuthWay;
use crate::protocol::{Code, Event};
use crate::shard::Shard;
use crate::shard::connection::Timer;
use crate::shard::memory::TIMER_BYTES;
use crate::wheel::TimerId;

/// How long the clock of days is trusted: a token's end is looked at anew after so long, because
/// that clock may be set.
const CLOCK_TRUST: Duration = Duration::from_secs(86_400);

/// A connection's pass.
#[derive(Default)]
pub(super) struct Pass {
    /// What its credential gives it; none before one was accepted, and where none is asked for.
    pub grant: Option<Arc<Grant>>,
    /// Its share of what the grant takes.
    grant_bytes: usize,
    /// How often it may show another credential.
    pub refreshes: Bucket,
    /// When its bearer is told of the end; `u64::MAX` once it was, or is not to be.
    notice_at_unix_ms: u64,
    /// The notice, or the end.
    expiry: Option<TimerId>,
    /// The end of the connection, whatever its credential.
    lifetime: Option<TimerId>,
    /// There while it waits to be let in, or for a verdict.
    pub waiting: Option<Box<Waiting>>,
}

/// What is put off until a connection is let in.
#[derive(Default)]
pub(super) struct Waiting {
    /// The room that the path names.
    pub room: Option<String>,
    /// Header fields for the operator's backend.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// The backend was asked, and has not answered.
    pub asked: Option<Asked>,
}

/// A credential that is judged elsewhere.
pub(super) struct Asked {
    /// How it came.
    pub way: AuthWay,
    /// What stands in the answer's metadata.
    pub correlation_id: Option<Box<str>>,
    /// What the question to the backend takes, in bytes: nobody else counts it.
    pub question_bytes: usize,
    /// Goes with this, by which the question is known to be in vain.
    pub _asker: Arc<()>,
}

impl Waiting {
    /// Bytes of memory that it takes, roughly, itself and what is asked included.
    pub(super) fn heap_bytes(&self) -> usize {
        let asked = self.asked.as_ref().map_or(0, |asked| {
            asked.question_bytes + asked.correlation_id.as_ref().map_or(0, |id| id.len())
        });
        let room = self.room.as_ref().map_or(0, String::capacity);
        let fields = self.headers.iter().flat_map(|(name, value)| [name, value]);
        let fields = fields.map(|text| size_of::<Box<str>>() + text.len());
        size_of::<Self>() + room + fields.sum::<usize>() + asked
    }
}

impl Pass {
    /// Bytes of memory that it takes, roughly, itself and a timer included, but for what waits.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Self>() + TIMER_BYTES + self.grant_bytes
    }

    /// Takes its timers out, to be cancelled.
    pub(super) fn take_timers(&mut self) -> [Option<TimerId>; 2] {
        [self.expiry.take(), self.lifetime.take()]
    }
}

impl Shard {
    /// Changes the pass of a connection, made where there is none.
    pub(super) fn change_pass<R>(
        &mut self,
        index: u32,
        change: impl FnOnce(&mut Pass) -> R,
    ) -> Option<R> {
        self.change_connection(index, |connection| change(connection.pass_or_new()))
    }

    /// Whether the backend's verdict on a connection is awaited.
    pub(super) fn is_asked_about(&self, index: u32) -> bool {
        let pass = self.connections.get(index).and_then(|c| c.pass());
        let waiting = pass.and_then(|pass| pass.waiting.as_ref());
        waiting.is_some_and(|waiting| waiting.asked.is_some())
    }

    /// Gives a connection its grant, and sets the clock of the grant's end.
    pub(super) fn bear(&mut self, index: u32, grant: Arc<Grant>) {
        let notice = self.config.policy.token_expiring_notice.as_millis() as u64;
        let now = self.now.unix_ms;
        let ends = grant.expires_at_unix_ms;
        // One that several bear, because the operator's backend was asked once for all, is shared out
        // among them.
        let sharers = Arc::strong_count(&grant).max(1);
        self.change_pass(index, |pass| {
            pass.grant_bytes = grant.heap_bytes() / sharers;
            pass.grant = Some(grant);
            pass.notice_at_unix_ms = match ends {
                // What lives shorter than the notice is told at the half of its life.
                Some(ends) if notice > 0 => ends - notice.min(ends.saturating_sub(now) / 2),
                _ => u64::MAX,
            };
        });
        self.arm_expiry(index);
    }

    /// Sets the clock of a grant's notice, or of its end, in place of the one that runs.
    fn arm_expiry(&mut self, index: u32) {
        let now = self.now;
        let Some(pass) = self.connections.get_mut(index).and_then(|c| c.pass_mut()) else {
            return;
        };
        if let Some(timer) = pass.expiry.take() {
            self.wheel.cancel(timer);
        }
        let Some(ends) = pass.grant.as_ref().and_then(|g| g.expires_at_unix_ms) else {
            return;
        };
        let due_unix_ms = ends.min(pass.notice_at_unix_ms);
        let wait = Duration::from_millis(due_unix_ms.saturating_sub(now.unix_ms));
        let due = now.mono + wait.min(CLOCK_TRUST);
        pass.expiry = Some(self.wheel.insert(due, Timer::Expiry(index)));
    }

    /// A grant's notice is due, or its end, or the clock has to be looked at.
    pub(super) fn expire(&mut self, index: u32) {
        let now = self.now.unix_ms;
        let Some(pass) = self.connections.get_mut(index).and_then(|c| c.pass_mut()) else {
            return;
        };
        pass.expiry = None;
        let Some(ends) = pass.grant.as_ref().and_then(|g| g.expires_at_unix_ms) else {
            return;
        };
        if ends <= now {
            return self.close_with(index, Code::TokenExpired);
        }
        if pass.notice_at_unix_ms <= now {
            pass.notice_at_unix_ms = u64::MAX;
            let expires_in_ms = ends - now;
            self.answer(index, &Event::TokenExpiring { expires_in_ms }, None);
        }
        self.arm_expiry(index);
    }

    /// Sets the clock of a connection's own end, a tenth sooner or later: those that came together
    /// do not come back together.
    pub(super) fn limit_lifetime(&mut self, index: u32) {
        let Some(lifetime) = self.config.policy.connection_lifetime else {
            return;
        };
        let due = self.now.mono + lifetime.mul_f64(0.9 + 0.2 * self.rng.f64());
        let timer = self.wheel.insert(due, Timer::Lifetime(index));
        self.change_pass(index, |pass| pass.lifetime = Some(timer));
    }

    /// A connection's own end has come.
    pub(super) fn retire(&mut self, index: u32) {
        if let Some(pass) = self.connections.get_mut(index).and_then(|c| c.pass_mut()) {
            pass.lifetime = None;
        }
        self.close_with(index, Code::LifetimeReached);
    }

    /// A drain gives a connection an end of its own, which says when to come back: what is left of
    /// its lifetime does not matter any more. The end of its token does.
    pub(super) fn forget_lifetime(&mut self, index: u32) {
        let pass = self.connections.get_mut(index).and_then(|c| c.pass_mut());
        if let Some(timer) = pass.and_then(|pass| pass.lifetime.take()) {
            self.wheel.cancel(timer);
        }
    }
}
