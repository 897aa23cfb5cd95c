//! Looks on while the engine runs: progress for whoever waits, samples for the report.

use std::cell::Cell;

use crate::bars::{Bars, Phase};
use crate::clock::Clock;
use crate::crew::Observer;
use crate::engine::{Onlooker, Step};
use crate::outcome::Sample;
use crate::series::{Observation, Observed, Sampler};

/// Bars, and a sampler for each phase.
pub struct Watch {
    bars: Bars,
    sampler: Option<Sampler>,
}

impl Watch {
    /// Shows progress on these bars.
    pub fn new(bars: Bars) -> Watch {
        Watch {
            bars,
            sampler: None,
        }
    }

    fn sample(&mut self, observer: &Observer, clock: Clock, server_pid: Option<u32>) {
        if self.sampler.is_some() {
            return;
        }
        let clients = Clients {
            observer: observer.clone(),
            delivered: Cell::new(0),
        };
        let bars = self.bars.clone();
        // Without a thread for it there is no series; the figures are taken all the same.
        let sampler = Sampler::start(clock, server_pid, clients, move |it| bars.note(it));
        self.sampler = sampler
            .inspect_err(|error| eprintln!("no series: {error:#}"))
            .ok();
    }

    fn mark(&self, is_measured: bool) {
        if let Some(sampler) = &self.sampler {
            sampler.set_measured(is_measured);
        }
    }
}

impl Onlooker for Watch {
    fn begin(&mut self, step: Step, observer: &Observer, clock: Clock, server_pid: Option<u32>) {
        let phase = match step {
            Step::Connect { clients } => {
                self.sample(observer, clock, server_pid);
                Phase::Connecting {
                    total: clients as u64,
                }
            }
            Step::WarmUp { lasts } => {
                self.sample(observer, clock, server_pid);
                Phase::WarmingUp(lasts)
            }
            Step::Measure { lasts } => {
                self.mark(true);
                Phase::Measuring(lasts)
            }
            Step::Settle => {
                self.mark(false);
                Phase::Settling
            }
            Step::Over => {
                drop(self.take_samples());
                return self.bars.clear();
            }
        };
        self.bars.enter(phase);
    }

    fn take_samples(&mut self) -> Vec<Sample> {
        self.sampler.take().map(Sampler::stop).unwrap_or_default()
    }
}

/// The clients, as the sampler sees them.
struct Clients {
    observer: Observer,
    /// At the last observation.
    delivered: Cell<u64>,
}

impl Observed for Clients {
    fn observe(&self) -> Observation {
        let counters = self.observer.counters();
        // Where nothing arrived there is no latency to be asked for, which costs every worker.
        let is_news = self.delivered.replace(counters.delivered) != counters.delivered;
        let latency = is_news.then(|| self.observer.interval_latency().ok());
        Observation {
            connected: counters.connected,
            joined: counters.joined,
            delivered: counters.delivered,
            bytes: counters.bytes,
            latency: latency.flatten(),
        }
    }
}
