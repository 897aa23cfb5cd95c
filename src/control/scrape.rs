//! Collects the cores' metrics, without ever holding up a core or waiting for a stuck one for long.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::address::{ConnectionRef, CoreId, Placement};
use crate::bus::{Order, OrderReply, Query};
use crate::gate::Verdict;
use crate::metrics::exposition::{Exposition, Format, Sources};
use crate::metrics::text::{self, CoreReport};
use crate::metrics::{Metrics, SnapshotReply};

/// The cores, as the control plane reaches them.
pub trait Cores: Send + Sync + 'static {
    /// How many there are; they are numbered from 0, and their number does not change.
    fn count(&self) -> usize;

    /// Asks a core for a copy of its metrics, by a message that the core finds in its own time.
    ///
    /// Must not block. Where the message cannot be sent, dropping `reply` says so.
    fn request_snapshot(&self, core: usize, reply: SnapshotReply);

    /// Tells a connection's core what the operator's backend says about it, by a message that the
    /// core finds in its own time. Must not block.
    fn deliver_verdict(&self, connection: ConnectionRef, verdict: Verdict);

    /// Orders something about one user. It has to go to each core; the user's home answers how many
    /// connections were told to close, the others none.
    ///
    /// Must not block. Where the message cannot be sent, dropping `reply` says so.
    fn order(&self, core: usize, order: Order, reply: OrderReply);

    /// Puts a question to a core, which answers through the channel of [`Plane::answers`]. Must not
    /// block. False where the core is gone. `weight_bytes` is what the question holds in memory.
    ///
    /// [`Plane::answers`]: crate::control::Plane::answers
    fn query(&self, core: CoreId, query: Query, weight_bytes: usize) -> bool;

    /// Bytes that wait for a core.
    fn backlog_bytes(&self, core: CoreId) -> usize;

    /// Where rooms and users are at home.
    fn placement(&self) -> &Placement;
}

/// Answers scrapes. Those that come in while one is under way share the next.
pub(super) struct Scraper {
    cores: Arc<dyn Cores>,
    timeout: Duration,
    sources: Sources,
    state: Mutex<Collected>,
}

#[derive(Default)]
struct Collected {
    /// When the cores were asked for what `reports` say.
    asked_at: Option<Instant>,
    /// The same as text, in the formats that somebody wanted so far.
    texts: [Option<Bytes>; 2],
    reports: Vec<CoreReport>,
    /// For each core, the answer that has not come so far.
    awaited: Vec<Option<oneshot::Receiver<Box<Metrics>>>>,
}

impl Scraper {
    pub(super) fn new(cores: Arc<dyn Cores>, timeout: Duration, sources: Sources) -> Scraper {
        let mut state = Collected::default();
        state
            .reports
            .resize_with(cores.count(), CoreReport::default);
        state.awaited.resize_with(cores.count(), || None);
        Scraper {
            cores,
            timeout,
            sources,
            state: Mutex::new(state),
        }
    }

    /// The metrics as text, no older than this call; within twice the time-out.
    pub(super) async fn text(&self, format: Format) -> Bytes {
        let called_at = Instant::now();
        let mut state = self.state.lock().await;
        if state.asked_at.is_none_or(|asked_at| asked_at < called_at) {
            let asked_at = Instant::now();
            state.ask(&*self.cores);
            state.collect(asked_at + self.timeout).await;
            state.texts = Default::default();
            // Last, because a caller that goes away ends this at the `await`.
            state.asked_at = Some(asked_at);
        }
        let Collected { texts, reports, .. } = &mut *state;
        let text = match format {
            Format::Prometheus => &mut texts[0],
            Format::OpenMetrics => &mut texts[1],
        };
        let render = || {
            let mut out = Exposition::new(format);
            text::write(&mut out, reports);
            self.sources.write(&mut out);
            Bytes::from(out.finish())
        };
        text.get_or_insert_with(render).clone()
    }

    /// What the sources beside the cores say now.
    pub(super) fn sources_text(&self) -> String {
        let mut out = Exposition::new(Format::Prometheus);
        self.sources.write(&mut out);
        out.finish()
    }

    /// What the cores say, no older than this call; within twice the time-out.
    pub(super) async fn reports(&self) -> Vec<CoreReport> {
        let mut state = self.state.lock().await;
        state.ask(&*self.cores);
        state.collect(Instant::now() + self.timeout).await;
        state.reports.clone()
    }
}

impl Collected {
    /// Asks every core that does not still owe an answer: a stuck core finds one message when it
    /// comes back, not one for each scrape.
    fn ask(&mut self, cores: &dyn Cores) {
        for (core, awaited) in self.awaited.iter_mut().enumerate() {
            if let Some(report) = self.reports.get_mut(core) {
                // Before the core is asked: what waited then is gone when it answers.
                report.bus_bytes = cores.backlog_bytes(CoreId(core as u16)) as u64;
            }
            let is_stuck = awaited.as_mut().is_some_and(|answer| {
                matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty))
            });
            if is_stuck {
                continue;
            }
            let (sender, receiver) = oneshot::channel();
            let deliver = move |metrics| {
                // Nobody waits any more once the control plane has stopped.
                let _ = sender.send(metrics);
            };
            cores.request_snapshot(core, SnapshotReply::new(deliver));
            *awaited = Some(receiver);
        }
    }

    /// Takes what comes until the deadline, which all cores share.
    async fn collect(&mut self, deadline: Instant) {
        for (awaited, report) in self.awaited.iter_mut().zip(&mut self.reports) {
            report.is_up = false;
            let Some(answer) = awaited else { continue };
            match timeout_at(deadline, answer).await {
                Ok(Ok(metrics)) => {
                    report.is_up = true;
                    report.metrics = Some(metrics);
                    *awaited = None;
                }
                // The request could not be sent, or the core is gone.
                Ok(Err(_)) => *awaited = None,
                Err(_) => {}
            }
        }
    }
}
