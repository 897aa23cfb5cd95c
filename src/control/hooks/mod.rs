//! Events for the operator's backend: `--webhook`.
//!
//! ```text
//!   cores ── Notice, a bounded channel ──► Desk ── Pending ── Queue ── Courier: POST, one at a time
//!              what does not fit:           │      a quick return      │ the oldest goes:
//!              counted, and told            │      is no event         │ counted, and told
//!                                           └── batches of events, each with the next number ──┘
//! ```
//!
//! No core waits for any of it. Every queue has a bound, and the backend is told how many events it
//! did not get ([`event::What::EventsDropped`]). `docs/hooks.md` is the contract with it.

mod counters;
mod delivery;
mod event;
mod pending;
mod queue;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub(super) use counters::Counters;

use crate::bus::{Heard, Notice, NoticeReceiver, NoticeSender, notice_channel};
use crate::control::hooks::counters::Loss;
use crate::control::hooks::delivery::{Courier, Outcome};
use crate::control::hooks::event::{Event, Subject, TYPES, What, write_batch};
use crate::control::hooks::pending::{Delays, Pending, Taken};
use crate::control::hooks::queue::Queue;
use crate::control::outbound::{Endpoint, EndpointError, EndpointFlags, EndpointSettings};

const FLAGS: EndpointFlags = EndpointFlags {
    url: "webhook",
    secret_file: "webhook-secret-file",
    ca_file: "webhook-ca-file",
};

/// Notices that may wait between the cores and this.
const NOTICES_MAX: usize = 65_536;

/// How long a batch gathers that is not full.
const LINGER: Duration = Duration::from_millis(200);

/// How long things are tried.
#[derive(Copy, Clone, Debug)]
struct Patience {
    /// A batch that fails. 10 minutes.
    batch: Duration,
    /// Until a first retry; each further one takes twice as long. 500 ms.
    pause: Duration,
    /// Until anything is sent after a batch was refused: the next one may well be, too. 5 s.
    refused: Duration,
    /// What is on the way when the node ends. 5 s.
    end: Duration,
}

const PATIENCE: Patience = Patience {
    batch: Duration::from_secs(600),
    pause: Duration::from_millis(500),
    refused: Duration::from_secs(5),
    end: Duration::from_secs(5),
};

/// After events were lost, or the backend said that it lost its picture: how long every change is told
/// as it happens, so that what the API shows meanwhile and what is told fit together.
const WHOLE_FOR: Duration = Duration::from_secs(60);

/// What the backend is told, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HookSettings {
    /// Where: `http` or `https`.
    pub url: String,
    /// How long a request may take, the connection included.
    pub timeout: Duration,
    /// The file with the secret that signs requests.
    pub secret_file: Option<PathBuf>,
    /// The file with certificates that an `https` backend's may be signed by; the system's where not
    /// given.
    pub ca_file: Option<PathBuf>,
    /// What this node is called.
    pub node: String,
    /// Whether rooms are told of.
    pub rooms: bool,
    /// Whether users are told of.
    pub users: bool,
    /// How long who comes is held back, in case it goes again.
    pub arrival_delay: Duration,
    /// How long who goes is held back, in case it comes again.
    pub departure_delay: Duration,
    /// Events of a batch.
    pub batch_max: usize,
    /// Events that may wait.
    pub queue_max: usize,
}

/// Where the node is in its life, as the backend is to know.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stage {
    /// It serves.
    Serving,
    /// Everybody is leaving: of that nothing is told.
    Draining,
    /// It ends as soon as what is on the way has arrived.
    Stopping,
}

/// The events before anything is told.
pub struct Hooks {
    desk: Desk,
    notices: NoticeReceiver,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hooks({:?})", self.desk.courier.endpoint.origin())
    }
}

impl Hooks {
    /// Reads the files that it needs. Cores give their notices to the sender.
    ///
    /// # Errors
    /// [`EndpointError`] where nobody could be told.
    pub fn new(settings: &HookSettings) -> Result<(NoticeSender, Hooks), EndpointError> {
        Hooks::with(settings, PATIENCE)
    }

    fn with(
        settings: &HookSettings,
        patience: Patience,
    ) -> Result<(NoticeSender, Hooks), EndpointError> {
        let endpoint = Endpoint::new(&EndpointSettings {
            url: settings.url.clone(),
            timeout: settings.timeout,
            connections_max: 1,
            secret_file: settings.secret_file.clone(),
            ca_file: settings.ca_file.clone(),
            flags: &FLAGS,
        })?;
        let (sender, notices) = notice_channel(NOTICES_MAX);
        let counters = Arc::<Counters>::default();
        let delays = Delays {
            arrival: settings.arrival_delay,
            departure: settings.departure_delay,
        };
        let desk = Desk {
            courier: Arc::new(Courier::new(endpoint, Arc::clone(&counters), patience)),
            epoch: 0,
            node: settings.node.clone(),
            rooms: settings.rooms,
            users: settings.users,
            batch_max: settings.batch_max,
            pending: Pending::new(delays, settings.queue_max),
            queue: Queue::new(settings.queue_max),
            counters,
            sequence: 0,
            gathers_until: None,
            rests_until: None,
            whole_until: None,
            under_way: JoinSet::new(),
            in_flight: InFlight::default(),
        };
        Ok((sender, Hooks { desk, notices }))
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.desk.counters)
    }

    /// Tells what happens until the node ends, and then what is on the way, within [`Patience::end`].
    pub(super) async fn serve(self, mut stage: watch::Receiver<Stage>, epoch: u64) {
        let Hooks {
            mut desk,
            mut notices,
        } = self;
        let patience = desk.courier.patience;
        desk.epoch = epoch;
        desk.push(What::NodeStarted, unix_ms());
        let mut ends = None;
        let mut is_listening = true;
        let mut has_drained = false;
        loop {
            desk.move_on();
            if ends.is_some() && desk.is_done() {
                return;
            }
            let due = [desk.due(), ends].into_iter().flatten().min();
            let wake = due.unwrap_or_else(Instant::now);
            tokio::select! {
                heard = notices.receive(), if is_listening => match heard {
                    Some(Heard::Notices(notices)) => desk.hear(notices),
                    Some(Heard::Lost(count)) => desk.lose(Loss::Core, count),
                    None => is_listening = false,
                },
                Some(done) = desk.under_way.join_next() => {
                    desk.finish(done.unwrap_or(Outcome::GivenUp));
                }
                changed = stage.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let stage = *stage.borrow_and_update();
                    if stage >= Stage::Draining && !has_drained {
                        // Also where the cores have gone already.
                        (is_listening, has_drained) = (false, true);
                        desk.drain();
                    }
                    if stage == Stage::Stopping {
                        ends = Some(Instant::now() + patience.end);
                        desk.courier.hurry.notify_one();
                    }
                }
                () = sleep_until(wake), if due.is_some() => {
                    if ends.is_some_and(|ends| ends <= Instant::now()) {
                        return desk.give_up();
                    }
                }
            }
        }
    }
}

/// What is in the batch that is under way.
#[derive(Default)]
struct InFlight {
    /// Its events and its bytes: they take memory until it is over.
    events: usize,
    bytes: usize,
    told: [u64; TYPES.len()],
    /// Events that are lost where it does not arrive, those that it says were lost included.
    at_stake: u64,
    /// It says that events were lost.
    tells_loss: bool,
}

/// Who hears notices and makes batches of them.
struct Desk {
    courier: Arc<Courier>,
    counters: Arc<Counters>,
    node: String,
    /// The node's.
    epoch: u64,
    rooms: bool,
    users: bool,
    batch_max: usize,
    pending: Pending,
    queue: Queue,
    /// Batches so far.
    sequence: u64,
    /// When the next batch goes, full or not.
    gathers_until: Option<Instant>,
    /// Before this nothing is sent.
    rests_until: Option<Instant>,
    /// Until when nothing is held back.
    whole_until: Option<Instant>,
    /// At most one, so that order holds.
    under_way: JoinSet<Outcome>,
    in_flight: InFlight,
}

impl Desk {
    fn hear(&mut self, notices: Vec<Notice>) {
        let now = Instant::now();
        let held_back = self.whole_until.is_none_or(|until| until <= now);
        for Notice { unix_ms, what } in notices {
            let change = Subject::of(what);
            let is_wanted = match change.0 {
                Subject::Room(_) => self.rooms,
                Subject::User(_) => self.users,
            };
            if !is_wanted {
                continue;
            }
            match self.pending.take(now, change, unix_ms, held_back) {
                Taken::Tell(event) => self.put(event),
                Taken::CameToNothing => self.counters.count_nothing(),
                Taken::Waits | Taken::Known => {}
            }
        }
    }

    fn push(&mut self, what: What, unix_ms: u64) {
        self.put(Event { unix_ms, what });
    }

    fn put(&mut self, event: Event) {
        let gone = self.queue.push(event);
        self.counters.count_loss(Loss::Queue, gone);
        self.gathers_until
            .get_or_insert_with(|| Instant::now() + LINGER);
    }

    fn lose(&mut self, loss: Loss, count: u64) {
        self.counters.count_loss(loss, count);
        self.queue.lose(count);
        self.gathers_until
            .get_or_insert_with(|| Instant::now() + LINGER);
    }

    /// Does what is due.
    fn move_on(&mut self) {
        let now = Instant::now();
        while let Some(event) = self.pending.poll(now) {
            self.put(event);
        }
        let is_ripe = self.gathers_until.is_some_and(|until| until <= now);
        let is_full = self.queue.len() >= self.batch_max;
        let may_send = self.under_way.is_empty() && self.rests_until.is_none_or(|it| it <= now);
        if may_send && !self.queue.is_empty() && (is_ripe || is_full) {
            self.send();
        }
        let queued = self.queue.len() + self.in_flight.events;
        let bytes = self.queue.bytes() + self.in_flight.bytes;
        self.counters.tell(self.pending.len(), queued, bytes);
    }

    /// When there is something to do that nobody announces.
    fn due(&self) -> Option<Instant> {
        let batch = self.gathers_until.max(self.rests_until);
        let batch = batch.filter(|_| self.under_way.is_empty() && !self.queue.is_empty());
        batch.into_iter().chain(self.pending.due()).min()
    }

    fn send(&mut self) {
        if self.queue.has_losses() {
            // What is told from here on has to fit to what the API shows.
            self.whole_until = Some(Instant::now() + self.courier.patience.batch + WHOLE_FOR);
            self.tell_what_waits();
        }
        let now_unix_ms = unix_ms();
        let events = self.queue.take(self.batch_max, now_unix_ms);
        self.gathers_until = (!self.queue.is_empty()).then(|| Instant::now() + LINGER);
        self.in_flight = InFlight {
            events: events.len(),
            ..InFlight::default()
        };
        for event in &events {
            if let Some(told) = self.in_flight.told.get_mut(event.what.index()) {
                *told += 1;
            }
            match event.what {
                What::EventsDropped(count) => {
                    self.in_flight.at_stake += count;
                    self.in_flight.tells_loss = true;
                }
                What::Change { .. } => self.in_flight.at_stake += 1,
                What::NodeStarted | What::NodeStopping => {}
            }
        }
        self.sequence += 1;
        let head = (self.node.as_str(), self.epoch, self.sequence);
        let body = Bytes::from(write_batch(head, now_unix_ms, &events));
        self.in_flight.bytes = body.len();
        let courier = Arc::clone(&self.courier);
        self.under_way
            .spawn(async move { courier.deliver(body).await });
    }

    /// Puts into the queue what is held back.
    fn tell_what_waits(&mut self) {
        while let Some(event) = self.pending.poll_early() {
            self.put(event);
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        let InFlight {
            told,
            at_stake,
            tells_loss,
            ..
        } = std::mem::take(&mut self.in_flight);
        self.rests_until = None;
        let loss = match outcome {
            Outcome::Delivered | Outcome::DeliveredAndReset => {
                self.counters.count_events(&told);
                if tells_loss || outcome == Outcome::DeliveredAndReset {
                    self.whole_until = Some(Instant::now() + WHOLE_FOR);
                    self.tell_what_waits();
                }
                return;
            }
            Outcome::Refused => {
                self.rests_until = Some(Instant::now() + self.courier.patience.refused);
                Loss::Refused
            }
            Outcome::GivenUp => Loss::GivenUp,
        };
        if told.first().is_some_and(|starts| *starts > 0) {
            // The first that the backend hears of this epoch, whenever that is.
            self.queue.begin_again(unix_ms());
        }
        // What it said of earlier losses is counted already.
        let changes = told.iter().skip(3).sum();
        self.counters.count_loss(loss, changes);
        if at_stake > 0 {
            self.queue.lose(at_stake);
            self.gathers_until
                .get_or_insert_with(|| Instant::now() + LINGER);
        }
    }

    /// Everybody is leaving. The backend hears that once; what is held back is part of it.
    fn drain(&mut self) {
        while self.pending.poll_early().is_some() {}
        self.push(What::NodeStopping, unix_ms());
        self.gathers_until = Some(Instant::now());
        self.courier.hurry.notify_one();
    }

    fn is_done(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_empty()
    }

    /// The node ends, whatever waits.
    fn give_up(&mut self) {
        let changes: u64 = self.in_flight.told.iter().skip(3).sum();
        let events = changes + self.queue.len() as u64;
        self.counters.count_loss(Loss::Stopped, events);
        tracing::warn!(
            events,
            "--webhook: the node ends before the backend took these events; the next start tells a new epoch"
        );
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the control plane reads clocks: when a batch is sent"
)]
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests;
