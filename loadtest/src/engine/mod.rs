//! The one engine: it does whatever the settings ask for, and every scenario is a set of settings.
//!
//! ```text
//! assemble ─▶ connect ─▶ [ begin ─▶ warm up ─▶ measure ─▶ quiet ─▶ settle ] ─▶ finish ─▶ ledger
//!                          └─ once more with slow readers, where asked ─┘
//! ```

mod plan;
mod probe;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use mio::Poll;

use crate::clock::{Clock, duration_ns};
use crate::crew::{Arrived, Crew, Observer, gate};
use crate::figures::{latency, ratio};
use crate::ledger::{Books, Ours};
use crate::limits;
use crate::outcome::{Arrival, Sample, Turn};
use crate::publisher::{Feed, PublisherReport, Publishers, PublishersPlan};
use crate::settings::{Profile, Settings};
use crate::sys;
use crate::target::Target;
use crate::worker::{Findings, Gate};

use plan::Plan;
use probe::{Memories, Snapshot};

/// How long a room above the presence limit may take to tell who came: a second, and a little.
const SUMMARY_WAIT: Duration = Duration::from_millis(1_500);
/// How long the server may take at least to settle its books once everyone is gone.
const BOOKS_GRACE: Duration = Duration::from_secs(5);
/// How often the engine looks at what it waits for.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What the engine is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many clients connect and join.
    Connect { clients: usize },
    /// Load that is not measured yet.
    WarmUp { lasts: Duration },
    /// The window of measurement.
    Measure { lasts: Duration },
    /// The last messages are waited for.
    Settle,
    /// The run is over; nobody is to be observed any more.
    Over,
}

/// Someone who looks on while the engine runs: progress bars, a sampler of the run over time.
pub trait Onlooker {
    /// A step begins; `observer` may be used from another thread until [`Step::Over`].
    fn begin(&mut self, step: Step, observer: &Observer, clock: Clock, server_pid: Option<u32>);

    /// The samples of the phase that has ended.
    fn take_samples(&mut self) -> Vec<Sample>;
}

/// One run in progress.
struct Run<'a> {
    settings: &'a Settings,
    target: &'a Target,
    plan: Plan,
    clock: Clock,
    crew: Crew,
    observer: Observer,
    publishers: Option<Publishers>,
    last_offsets: Vec<u64>,
    onlooker: &'a mut dyn Onlooker,
}

/// Measures `target` once: a turn for each phase, the last of which has the audit of all.
pub fn measure(
    settings: &Settings,
    target: &Target,
    onlooker: &mut dyn Onlooker,
) -> anyhow::Result<Vec<Turn>> {
    sys::sharpen_timers();
    let clock = Clock::start();
    let plan = Plan::new(settings, target)?;
    let (poll, gate) = gate()?;
    limits::check(
        settings.connections(),
        plan.threads,
        plan.publishers(settings),
        target.connections_max,
    )?;
    let crew = Crew::assemble(plan.workers(settings, target)?, &gate, clock)?;
    let books = books(settings, target);
    let memories = Memories::read(target)?;
    let mut run = Run {
        observer: crew.observer(),
        last_offsets: vec![0; plan.rooms.names.len()],
        publishers: None,
        settings,
        target,
        plan,
        clock,
        crew,
        onlooker,
    };
    let arrival = run.arrive(&memories)?;
    run.publishers = run.connect_publishers(poll, gate)?;
    if settings.watchers > 0 {
        clock.wait_until(clock.now_ns() + duration_ns(SUMMARY_WAIT));
    }
    let told_before = run.crew.told();
    let mut turns = run.phases()?;
    let Some(last) = turns.last_mut() else {
        return Ok(turns);
    };
    last.failures = run.presence_failures(told_before);
    run.step(Step::Over);
    let (findings, publishers) = run.finish()?;
    conclude(last, settings, &findings, &publishers);
    if let Some(before) = &books {
        hold_against(last, (target, settings.grace), before, &findings)?;
    }
    if let Some(first) = turns.first_mut() {
        first.arrival = Some(arrival);
    }
    Ok(turns)
}

/// The server's books, where they are asked for and to be had.
fn books(settings: &Settings, target: &Target) -> Option<Books> {
    if settings.target != Profile::Tidewheel || !settings.ledger {
        return None;
    }
    match Books::read(target) {
        Ok(books) => Some(books),
        Err(error) => {
            eprintln!(
                "the ledger is not checked: {error:#}; --admin-url says where it is, \
                 --ledger=false leaves it out"
            );
            None
        }
    }
}

impl Run<'_> {
    fn arrive(&mut self, before: &Memories) -> anyhow::Result<Arrival> {
        let clients = self.settings.connections();
        self.step(Step::Connect { clients });
        let Arrived {
            began_ns,
            connected_ns,
            joined_ns,
        } = self.crew.connect(self.settings.connect_timeout)?;
        let after = Memories::read(self.target)?;
        let connected = self.crew.upgrades();
        let first = if self.settings.alone {
            clients - self.settings.slow()
        } else {
            clients
        };
        let each = |amount: Option<f64>| amount.map(|it| ratio(it, connected as f64));
        Ok(Arrival {
            connected,
            refused: (first as u64).saturating_sub(connected),
            connect_s: connected_ns.saturating_sub(began_ns) as f64 / 1e9,
            join_s: joined_ns.saturating_sub(began_ns) as f64 / 1e9,
            server_cpu_us_each: each(after.server_cpu_us_since(before)),
            server_bytes_each: each(after.server_bytes_since(before)),
            kernel_bytes_each: each(after.kernel_bytes_since(before)),
        })
    }

    fn connect_publishers(
        &self,
        poll: Poll,
        gate: Arc<Gate>,
    ) -> anyhow::Result<Option<Publishers>> {
        let count = self.plan.publishers(self.settings);
        if count == 0 {
            return Ok(None);
        }
        let rooms = &self.plan.rooms;
        let fed = rooms.main + usize::from(rooms.hall.is_some());
        let plan = PublishersPlan {
            target: self.target.address,
            path: &self.plan.path,
            dialect: self.plan.dialect,
            rooms: rooms.names.get(..fed).unwrap_or_default(),
            count,
            payload_bytes: self.settings.payload,
        };
        Publishers::connect(&plan, &self.crew, (poll, gate), self.clock).map(Some)
    }

    fn phases(&mut self) -> anyhow::Result<Vec<Turn>> {
        if !self.settings.alone || self.settings.slow() == 0 {
            return Ok(vec![self.phase(None, true)?]);
        }
        let alone = self.phase(Some("live alone"), false)?;
        self.crew.connect(self.settings.connect_timeout)?;
        let beside = self.phase(Some("beside slow readers"), true)?;
        Ok(vec![alone, beside])
    }

    /// Loads, measures, and waits until everyone has what was sent.
    fn phase(&mut self, name: Option<&str>, is_last: bool) -> anyhow::Result<Turn> {
        let settings = self.settings;
        let feeds = self.plan.feeds(settings);
        self.crew.begin()?;
        self.step(Step::WarmUp {
            lasts: settings.warmup,
        });
        self.load_for(&feeds, settings.warmup)?;
        self.step(Step::Measure {
            lasts: settings.duration,
        });
        let books_before = self.scrape();
        self.crew.measure_from_now();
        let before = self.snapshot()?;
        self.load_for(&feeds, settings.duration / 2)?;
        if settings.stopping > 0 {
            self.crew.stop_midway()?;
        }
        self.load_for(&feeds, settings.duration - settings.duration / 2)?;
        let after = self.snapshot()?;
        let books_after = self.scrape();
        self.step(Step::Settle);
        self.settle(is_last && settings.publish)?;
        let latencies = self.crew.take_latencies()?;
        self.crew.measure_no_more();
        let mut turn = after.turn_since(&before);
        turn.subject = self.plan.subject.to_owned();
        turn.phase = name.map(str::to_owned);
        let slow = if is_last { 0 } else { settings.slow() };
        turn.connections = (settings.connections() - slow) as u64;
        turn.rooms = self.plan.rooms.names.len() as u64;
        turn.frame_bytes = self.crew.frame_bytes();
        turn.latency = latency(&latencies);
        turn.messages_per_write = books_before
            .zip(books_after)
            .and_then(|(before, after)| after.messages_per_write(&before));
        turn.series = self.onlooker.take_samples();
        Ok(turn)
    }

    fn load_for(&mut self, feeds: &[Feed], lasts: Duration) -> anyhow::Result<()> {
        let end_ns = self.clock.now_ns().saturating_add(duration_ns(lasts));
        // With nothing to publish they still answer heartbeats: one more may be asked of them.
        if let Some(publishers) = &mut self.publishers {
            return publishers.run(&self.crew, feeds, end_ns);
        }
        self.clock.wait_until(end_ns);
        Ok(())
    }

    /// Ends the load and waits for the last messages, after one more where that is asked for.
    fn settle(&mut self, publishes_once: bool) -> anyhow::Result<()> {
        let settings = self.settings;
        let quiet = settings.grace.saturating_add(settings.away);
        let mut newest = self.crew.quiet(self.last_offsets.len(), quiet)?;
        if let Some(publishers) = &mut self.publishers {
            if publishes_once {
                publishers.publish_once()?;
            }
            publishers.settle(settings.target == Profile::Tidewheel)?;
            for (newest, last) in newest.iter_mut().zip(publishers.last_offsets()) {
                *newest = last.max(*newest);
            }
        }
        self.crew.settle(&newest, settings.grace)?;
        self.last_offsets = newest;
        Ok(())
    }

    /// Waits until watchers have been told all; says where they were not.
    fn presence_failures(&self, told_before: u64) -> Vec<String> {
        let expected = self.plan.expected_presence();
        let deadline_ns = self.clock.now_ns() + duration_ns(self.settings.grace);
        let told = || self.crew.told() - told_before;
        while told() < expected && self.clock.now_ns() < deadline_ns {
            thread::park_timeout(LOOK_INTERVAL);
        }
        if told() == expected {
            Vec::new()
        } else {
            vec![format!(
                "watchers were told of {} joins and leaves instead of {expected}",
                told()
            )]
        }
    }

    fn finish(self) -> anyhow::Result<(Findings, PublisherReport)> {
        let publishers = self.publishers.map(Publishers::finish);
        self.crew.resume()?;
        let findings = self.crew.finish(&self.last_offsets, self.settings.grace)?;
        Ok((findings, publishers.unwrap_or_default()))
    }

    fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let published = self.publishers.as_ref().map_or(0, Publishers::published);
        Snapshot::take(self.target, &self.crew, self.clock, published)
    }

    fn scrape(&self) -> Option<Books> {
        let has_books = self.settings.target == Profile::Tidewheel && self.settings.ledger;
        has_books.then(|| Books::read(self.target).ok()).flatten()
    }

    fn step(&mut self, step: Step) {
        let (observer, clock) = (&self.observer, self.clock);
        self.onlooker.begin(step, observer, clock, self.target.pid);
    }
}

/// Puts what everyone found into the last turn.
fn conclude(
    turn: &mut Turn,
    settings: &Settings,
    findings: &Findings,
    publishers: &PublisherReport,
) {
    turn.failures.extend(findings.audit.failures(false));
    // A peer that does not read may lose the close frame: the reset after it is the rule.
    let slow = findings.slow_audit.failures(true);
    turn.failures.extend(
        slow.iter()
            .map(|failure| format!("slow readers: {failure}")),
    );
    let expects_answers = settings.target == Profile::Tidewheel;
    turn.failures.extend(publishers.failures(expects_answers));
    let counts = &findings.counts;
    let answered = counts.answered + counts.unanswered_at_a_drop;
    if counts.published > answered {
        turn.failures.push(format!(
            "{} publishes of clients without an answer",
            counts.published - answered
        ));
    }
    turn.audit = findings.audit.clone();
    turn.audit.merge(&findings.slow_audit);
    turn.counts = counts.to_map();
    let times = findings.times.named();
    turn.times = times
        .map(|(name, histogram)| (name.to_owned(), latency(histogram)))
        .collect();
}

/// Waits until the server's books are closed, and holds them against what arrived.
fn hold_against(
    turn: &mut Turn,
    (target, grace): (&Target, Duration),
    before: &Books,
    findings: &Findings,
) -> anyhow::Result<()> {
    let clock = Clock::start();
    let mut after = Books::read(target)?;
    let grace_ns = duration_ns(grace.max(BOOKS_GRACE));
    while !after.are_settled() && clock.now_ns() < grace_ns {
        thread::park_timeout(LOOK_INTERVAL);
        after = Books::read(target)?;
    }
    let ours = Ours {
        delivered: turn.audit.delivered,
        some_ended: findings.counts.ended + findings.counts.drops() > 0,
    };
    turn.failures.extend(after.failures(before, ours));
    turn.ledger = after.since(before);
    Ok(())
}

/// What watchers are to be told, by what visitors did.
impl Plan {
    fn expected_presence(&self) -> u64 {
        let visits = self.visits.iter().enumerate();
        visits
            .map(|(number, visit)| {
                let watchers = self.watchers_of_visitor(number);
                visit.count.load(Ordering::Relaxed) * watchers
            })
            .sum()
    }
}
