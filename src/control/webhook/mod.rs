//! The operator's backend as the judge of credentials: `--auth webhook`.
//!
//! ```text
//!   cores ── Question, a bounded channel ──► Desk ─┬─ the cache knows ───────────────► Verdict
//!                                                  ├─ the same is being asked: waits for that one
//!                                                  ├─ the circuit is open, too many wait ► Unavailable
//!                                                  └─ Backend: POST over a kept connection ► Verdict
//!   cores ◄── Mail::Verdict ── Cores::deliver_verdict ◄──────────────────────────────────┘
//! ```
//!
//! No core waits: each gives its questions away and goes on. Whatever goes wrong here, nobody is let
//! in because of it. `docs/webhook.md` is the contract with the backend.

mod backend;
mod body;
mod cache;
mod circuit;
mod counters;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

pub(super) use counters::Counters;

use crate::address::ConnectionRef;
use crate::control::Cores;
use crate::control::outbound::EndpointError;
use crate::control::webhook::backend::{Answer, Backend};
use crate::control::webhook::cache::{Cache, Key, Keys};
use crate::control::webhook::circuit::Circuit;
use crate::control::webhook::counters::Outcome;
use crate::gate::{Question, Verdict};

/// How many questions may wait for each that is asked.
const WAITING_PER_ASKED: usize = 16;

/// How often it is looked who has gone, where all places are taken.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How the backend is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WebhookSettings {
    /// Where: `http` or `https`.
    pub url: String,
    /// How long an answer may take, the connection included.
    pub timeout: Duration,
    /// Questions asked at the same time.
    pub in_flight_max: usize,
    /// How long an answer holds for the same question; zero: not at all.
    pub cache_ttl: Duration,
    /// The file with the secret that signs questions.
    pub secret_file: Option<PathBuf>,
    /// The file with certificates that an `https` backend's may be signed by; the system's where not
    /// given.
    pub ca_file: Option<PathBuf>,
}

/// Why nobody can be asked. None of it holds a secret.
#[derive(Debug, Error)]
pub enum WebhookError {
    /// The backend cannot be spoken to.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// No random numbers.
    #[error("the system has no random numbers to keep the webhook's cache safe with")]
    NoRandomness,
}

/// The webhook before it runs.
#[derive(Debug)]
pub struct Webhook {
    desk: Desk,
    asked: Receiver<Question>,
}

impl Webhook {
    /// Reads the files that it needs. Cores ask through the sender, which never waits: where it is
    /// full, nobody is let in.
    ///
    /// # Errors
    /// [`WebhookError`] where nobody could be asked.
    pub fn new(settings: &WebhookSettings) -> Result<(Sender<Question>, Webhook), WebhookError> {
        let waiting_max = settings.in_flight_max * WAITING_PER_ASKED;
        let (sender, asked) = mpsc::channel(waiting_max);
        let desk = Desk {
            backend: Arc::new(Backend::new(settings)?),
            keys: Keys::new().ok_or(WebhookError::NoRandomness)?,
            cache: Cache::new(settings.cache_ttl),
            circuit: Circuit::default(),
            in_flight_max: settings.in_flight_max,
            waiting_max,
            waiting: 0,
            asking: HashMap::new(),
            looked_at: None,
            queue: VecDeque::new(),
            under_way: JoinSet::new(),
            names: HashMap::new(),
            counters: Arc::default(),
        };
        Ok((sender, Webhook { desk, asked }))
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.desk.counters)
    }

    /// Answers questions until nobody can ask any more.
    pub(super) async fn serve(self, cores: Arc<dyn Cores>) {
        let Webhook {
            mut desk,
            mut asked,
        } = self;
        loop {
            tokio::select! {
                question = asked.recv() => match question {
                    Some(question) => desk.take(question, &*cores),
                    None => return,
                },
                Some(done) = desk.under_way.join_next_with_id() => desk.finish(done, &*cores),
            }
            desk.tell();
        }
    }
}

/// Who waits for an answer.
#[derive(Debug)]
struct Asker {
    connection: ConnectionRef,
    /// Gone with the connection.
    asker: Weak<()>,
}

impl Asker {
    fn of(question: &Question) -> Asker {
        Asker {
            connection: question.connection,
            asker: Weak::clone(&question.asker),
        }
    }

    fn is_gone(&self) -> bool {
        self.asker.strong_count() == 0
    }
}

/// The one place where questions are: a plain struct on one task.
#[derive(Debug)]
struct Desk {
    backend: Arc<Backend>,
    keys: Keys,
    cache: Cache,
    circuit: Circuit,
    in_flight_max: usize,
    waiting_max: usize,
    /// Connections that wait for an answer, of what is asked and of what waits to be.
    waiting: usize,
    /// Who waits for each question. Its key is all that is kept of it.
    asking: HashMap<Key, Vec<Asker>>,
    /// When it was looked last who has gone.
    looked_at: Option<Instant>,
    queue: VecDeque<(Key, Question)>,
    under_way: JoinSet<Answer>,
    /// Which question each task under way asks.
    names: HashMap<Id, Key>,
    counters: Arc<Counters>,
}

impl Desk {
    fn take(&mut self, question: Question, cores: &dyn Cores) {
        let now = Instant::now();
        let key = self.keys.name(&question);
        let connection = question.connection;
        if let Some(verdict) = self.cache.find(&key, now) {
            self.counters.count(Outcome::Cached);
            return cores.deliver_verdict(connection, verdict);
        }
        let is_full = self.is_full() && {
            self.forget_gone(now);
            self.is_full()
        };
        if let Some(askers) = self.asking.get_mut(&key).filter(|_| !is_full) {
            self.counters.count(Outcome::Shared);
            self.waiting += 1;
            return askers.push(Asker::of(&question));
        }
        if is_full {
            self.counters.count(Outcome::TooMany);
            return cores.deliver_verdict(connection, Verdict::Unavailable);
        }
        if !self.circuit.lets_through(now) {
            self.counters.count(Outcome::CircuitOpen);
            return cores.deliver_verdict(connection, Verdict::Unavailable);
        }
        self.waiting += 1;
        self.asking.insert(key, vec![Asker::of(&question)]);
        if self.under_way.len() < self.in_flight_max {
            self.ask(key, question);
        } else {
            self.queue.push_back((key, question));
        }
    }

    fn is_full(&self) -> bool {
        self.waiting >= self.waiting_max + self.in_flight_max
    }

    /// Gives away the places of those who went, so that nobody is turned away for their sake. Not for
    /// each who comes: it looks at all who wait.
    fn forget_gone(&mut self, now: Instant) {
        if self.looked_at.is_some_and(|at| now < at + LOOK_INTERVAL) {
            return;
        }
        self.looked_at = Some(now);
        let mut gone = 0;
        for askers in self.asking.values_mut() {
            let before = askers.len();
            askers.retain(|asker| !asker.is_gone());
            gone += before - askers.len();
        }
        self.waiting -= gone;
        let Desk {
            asking,
            queue,
            counters,
            ..
        } = self;
        queue.retain(|(key, _)| {
            let is_awaited = asking.get(key).is_some_and(|askers| !askers.is_empty());
            if !is_awaited {
                asking.remove(key);
                counters.count(Outcome::Withdrawn);
            }
            is_awaited
        });
    }

    /// The next question that somebody still waits for the answer to.
    fn next_in_queue(&mut self) -> Option<(Key, Question)> {
        loop {
            let (key, question) = self.queue.pop_front()?;
            let askers = self.asking.get(&key);
            if askers.is_some_and(|askers| askers.iter().any(|asker| !asker.is_gone())) {
                return Some((key, question));
            }
            self.waiting -= self.asking.remove(&key).map_or(0, |askers| askers.len());
            self.counters.count(Outcome::Withdrawn);
        }
    }

    fn ask(&mut self, key: Key, question: Question) {
        let backend = Arc::clone(&self.backend);
        let task = self
            .under_way
            .spawn(async move { backend.ask(&question).await });
        self.names.insert(task.id(), key);
    }

    fn finish(&mut self, done: Result<(Id, Answer), JoinError>, cores: &dyn Cores) {
        let now = Instant::now();
        let (id, answer) = match done {
            Ok((id, answer)) => (id, answer),
            Err(error) => {
                tracing::error!(%error, "a question to the webhook panicked");
                (error.id(), Answer::broken())
            }
        };
        let Some(key) = self.names.remove(&id) else {
            return;
        };
        self.counters.count(answer.outcome);
        if answer.is_backends_fault() {
            self.circuit.fail(now);
        } else {
            self.circuit.succeed();
        }
        let cost_bytes = answer.body_bytes;
        self.cache.insert(key, &answer.verdict, cost_bytes, now);
        self.deliver(&key, &answer.verdict, cores);
        if self.circuit.is_open() {
            return self.give_up_queue(cores);
        }
        if let Some((key, question)) = self.next_in_queue() {
            self.ask(key, question);
        }
    }

    fn deliver(&mut self, key: &Key, verdict: &Verdict, cores: &dyn Cores) {
        for Asker { connection, .. } in self.asking.remove(key).unwrap_or_default() {
            self.waiting -= 1;
            cores.deliver_verdict(connection, verdict.clone());
        }
    }

    /// Those that wait to be asked about would wait in vain.
    fn give_up_queue(&mut self, cores: &dyn Cores) {
        for (key, _) in std::mem::take(&mut self.queue) {
            self.counters.count(Outcome::CircuitOpen);
            self.deliver(&key, &Verdict::Unavailable, cores);
        }
    }

    /// Brings the gauges up to date.
    fn tell(&self) {
        let is_open = self.circuit.is_open();
        self.counters
            .tell(self.under_way.len(), self.waiting, is_open);
    }
}

#[cfg(test)]
mod tests;
