//! A run over time: a thread that reads counters at an interval and makes [`Sample`]s of them.
//!
//! ```text
//!  workers ──▶ atomics, interval histograms ──▶ Observed ─┐
//!  /proc of the server, TCP memory ───────────────────────┴▶ Meter ─▶ Series ─▶ watcher
//! ```
//! What is measured notices nothing of it but loads of atomics and the taking of a histogram. The
//! memory is bounded: when [`SAMPLES_MAX`] samples are there, neighbours are merged, and the
//! interval doubles.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;

use crate::clock::{Clock, duration_ns, until};
use crate::outcome::Sample;
use crate::proc_stat::{KernelMemory, Memory, Usage};

/// Samples kept of one turn.
pub const SAMPLES_MAX: usize = 2_000;
/// Time between two samples, until there are too many.
pub const INTERVAL: Duration = Duration::from_millis(250);
/// Samples for each of these while connections are being opened, which is over quickly.
const RAMP_SHARE: u64 = 5;
/// A shorter interval, cut off where the window begins or ends, has rates of mere chance.
const SHORTEST: Duration = Duration::from_millis(40);

/// Counters at one moment, over all workers.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Connections open.
    pub connected: u64,
    /// Subscriptions in force.
    pub joined: u64,
    /// Messages delivered since the run began.
    pub delivered: u64,
    /// Bytes received since the run began.
    pub bytes: u64,
    /// Latencies since the last observation, in microseconds, where they are kept by interval.
    pub latency: Option<Histogram<u64>>,
}

/// What can be observed while it runs.
pub trait Observed: Send {
    /// As it stands now; called by one thread alone.
    fn observe(&self) -> Observation;
}

/// The thread that samples.
pub struct Sampler {
    tell: Sender<Tell>,
    thread: JoinHandle<Vec<Sample>>,
}

/// What the thread is told.
enum Tell {
    /// The window of measurement begins, or ends.
    Window(bool),
    /// That was all.
    Stop,
}

impl Sampler {
    /// Samples every [`INTERVAL`] from now on, and oftener while connections are being opened; shows
    /// each sample to `watch`.
    pub fn start(
        clock: Clock,
        server_pid: Option<u32>,
        observed: impl Observed + 'static,
        watch: impl FnMut(&Sample) + Send + 'static,
    ) -> anyhow::Result<Sampler> {
        let (tell, told) = mpsc::channel();
        let mut meter = Meter::new(clock.now_ns(), server_pid);
        // A later turn on the same clients begins where the counters stand, not at zero. Read before
        // the thread is there: who starts it may open connections as soon as it returns.
        meter.begin(&observed.observe());
        let sampling = Sampling {
            meter,
            series: Series::new(INTERVAL),
            is_ramping: true,
            clock,
            observed,
            watch,
        };
        let thread = thread::Builder::new()
            .name("sampler".into())
            .spawn(move || sampling.run(&told))
            .context("start the sampler")?;
        Ok(Sampler { tell, thread })
    }

    /// The window of measurement begins (true) or ends. A sample is taken at once, so that none
    /// lies half in it.
    pub fn set_measured(&self, is_measured: bool) {
        // A sampler that is gone has nothing to mark.
        let _ = self.tell.send(Tell::Window(is_measured));
    }

    /// Takes a last sample and returns them all.
    pub fn stop(self) -> Vec<Sample> {
        let _ = self.tell.send(Tell::Stop);
        // The thread does not panic by itself; a watcher that did costs the series, not the run.
        self.thread.join().unwrap_or_default()
    }
}

struct Sampling<O, W> {
    meter: Meter,
    series: Series,
    is_ramping: bool,
    clock: Clock,
    observed: O,
    watch: W,
}

impl<O: Observed, W: FnMut(&Sample)> Sampling<O, W> {
    fn run(mut self, told: &Receiver<Tell>) -> Vec<Sample> {
        let mut is_measured = false;
        let mut due_ns = self.due_ns();
        loop {
            match told.recv_timeout(until(self.clock.now_ns(), due_ns)) {
                Ok(Tell::Window(begins)) => {
                    self.sample(is_measured);
                    is_measured = begins;
                }
                Err(RecvTimeoutError::Timeout) => self.sample(is_measured),
                Ok(Tell::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    let passed_ns = self.clock.now_ns().saturating_sub(self.meter.at_ns);
                    if passed_ns >= duration_ns(SHORTEST) {
                        self.sample(is_measured);
                    }
                    return self.series.samples;
                }
            }
            due_ns = self.due_ns();
        }
    }

    /// After a delay it goes on from now, rather than catch up in a burst.
    fn due_ns(&self) -> u64 {
        let share = if self.is_ramping { RAMP_SHARE } else { 1 };
        let interval_ns = self.series.interval_ns / share;
        self.meter.at_ns + interval_ns
    }

    fn sample(&mut self, is_measured: bool) {
        let observation = self.observed.observe();
        // Those that come and go later are no ramp.
        let is_rising = observation.connected == 0 || observation.connected > self.meter.connected;
        self.is_ramping &= is_rising;
        let mut sample = self.meter.read(self.clock.now_ns(), &observation);
        sample.is_measured = is_measured;
        (self.watch)(&sample);
        self.series.push(sample);
    }
}

/// Makes rates of counters.
struct Meter {
    server_pid: Option<u32>,
    at_ns: u64,
    connected: u64,
    delivered: u64,
    bytes: u64,
    server_cpu_ns: Option<u64>,
}

impl Meter {
    fn new(now_ns: u64, server_pid: Option<u32>) -> Meter {
        Meter {
            server_pid,
            at_ns: now_ns,
            connected: 0,
            delivered: 0,
            bytes: 0,
            server_cpu_ns: cpu_ns(server_pid),
        }
    }

    /// Rates count from here.
    fn begin(&mut self, now: &Observation) {
        self.connected = now.connected;
        self.delivered = now.delivered;
        self.bytes = now.bytes;
    }

    fn read(&mut self, now_ns: u64, now: &Observation) -> Sample {
        // Two readings of one instant have no rate; a nanosecond keeps it finite.
        let seconds = now_ns.saturating_sub(self.at_ns).max(1) as f64 / 1e9;
        let a_second = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
        let server_cpu_ns = cpu_ns(self.server_pid);
        let cores = server_cpu_ns
            .zip(self.server_cpu_ns)
            .map(|(new, old)| a_second(new, old) / 1e9);
        let latency = now
            .latency
            .as_ref()
            .filter(|histogram| !histogram.is_empty());
        let at = |quantile: f64| {
            latency.map(|histogram| histogram.value_at_quantile(quantile) as f64 / 1e3)
        };
        let memory = self.server_pid.and_then(|pid| Memory::of(pid).ok());
        let sample = Sample {
            at_s: now_ns as f64 / 1e9,
            is_measured: false,
            connected: now.connected,
            joined: now.joined,
            connects_per_s: a_second(now.connected, self.connected),
            deliveries_per_s: a_second(now.delivered, self.delivered),
            bytes_per_s: a_second(now.bytes, self.bytes),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: latency.map(|histogram| histogram.max() as f64 / 1e3),
            server_cores: cores,
            server_rss_bytes: memory
                .map(|memory| memory.rss_bytes)
                .filter(|bytes| *bytes > 0),
            tcp_buffer_bytes: KernelMemory::now().tcp_buffer_bytes,
        };
        self.at_ns = now_ns;
        self.connected = now.connected;
        self.delivered = now.delivered;
        self.bytes = now.bytes;
        self.server_cpu_ns = server_cpu_ns;
        sample
    }
}

/// CPU time of the server so far; nothing where it is not known, or gone.
fn cpu_ns(server_pid: Option<u32>) -> Option<u64> {
    Some(Usage::of(server_pid?).ok()?.cpu_ns)
}

/// Samples, never more than [`SAMPLES_MAX`].
struct Series {
    samples: Vec<Sample>,
    interval_ns: u64,
}

impl Series {
    fn new(interval: Duration) -> Series {
        Series {
            samples: Vec::new(),
            interval_ns: duration_ns(interval),
        }
    }

    fn push(&mut self, sample: Sample) {
        if self.samples.len() >= SAMPLES_MAX {
            self.samples = halved(&self.samples);
            self.interval_ns = self.interval_ns.saturating_mul(2);
        }
        let before_s = match self.samples.as_slice() {
            [.., before, _] => before.at_s,
            _ => 0.0,
        };
        match self.samples.last_mut() {
            Some(last) if is_short(last, &sample) => {
                let lengths_s = (last.at_s - before_s, sample.at_s - last.at_s);
                *last = merged(last, &sample, lengths_s);
            }
            _ => self.samples.push(sample),
        }
    }
}

/// True where a sample is too short after the last one to stand alone.
fn is_short(last: &Sample, sample: &Sample) -> bool {
    let passed_s = sample.at_s - last.at_s;
    sample.is_measured == last.is_measured && passed_s < SHORTEST.as_secs_f64()
}

/// Half as many: neighbours are merged, unless the window begins or ends between them.
fn halved(samples: &[Sample]) -> Vec<Sample> {
    let mut half = Vec::with_capacity(SAMPLES_MAX);
    let mut rest = samples;
    let mut before_s = 0.0;
    loop {
        let (sample, after) = match rest {
            [] => return half,
            [a, b, after @ ..] if a.is_measured == b.is_measured => {
                (merged(a, b, (a.at_s - before_s, b.at_s - a.at_s)), after)
            }
            [a, after @ ..] => (*a, after),
        };
        before_s = sample.at_s;
        rest = after;
        half.push(sample);
    }
}

/// Two neighbours as one, each as long as it took.
///
/// Counts, rates and the longest latency stay exact. Percentiles cannot: the median becomes the
/// mean of both by messages, and of two 99th percentiles the larger stays.
fn merged(a: &Sample, b: &Sample, (a_s, b_s): (f64, f64)) -> Sample {
    let mean = |a: f64, b: f64| (a * a_s + b * b_s) / (a_s + b_s).max(f64::MIN_POSITIVE);
    let (a_messages, b_messages) = (a.deliveries_per_s * a_s, b.deliveries_per_s * b_s);
    let both = |a: Option<f64>, b: Option<f64>, of: &dyn Fn(f64, f64) -> f64| match (a, b) {
        (Some(a), Some(b)) => Some(of(a, b)),
        (a, b) => a.or(b),
    };
    let by_messages = |a: f64, b: f64| match a_messages + b_messages {
        0.0 => f64::midpoint(a, b),
        all => (a * a_messages + b * b_messages) / all,
    };
    Sample {
        connects_per_s: mean(a.connects_per_s, b.connects_per_s),
        deliveries_per_s: mean(a.deliveries_per_s, b.deliveries_per_s),
        bytes_per_s: mean(a.bytes_per_s, b.bytes_per_s),
        p50_ms: both(a.p50_ms, b.p50_ms, &by_messages),
        p99_ms: both(a.p99_ms, b.p99_ms, &f64::max),
        max_ms: both(a.max_ms, b.max_ms, &f64::max),
        server_cores: both(a.server_cores, b.server_cores, &mean),
        ..*b
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Counting(Arc<AtomicU64>);

    impl Observed for Counting {
        fn observe(&self) -> Observation {
            let delivered = self.0.load(Ordering::Relaxed);
            let mut latency = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
            latency.record(1_500).unwrap();
            Observation {
                connected: 5,
                joined: 4,
                delivered,
                bytes: delivered * 10,
                latency: Some(latency),
            }
        }
    }

    #[test]
    fn a_sampler_takes_what_it_is_shown_until_it_is_stopped() {
        let delivered = Arc::new(AtomicU64::new(0));
        let (seen, watched) = mpsc::channel();
        let clock = Clock::start();
        let sampler = Sampler::start(
            clock,
            Some(std::process::id()),
            Counting(Arc::clone(&delivered)),
            move |sample| seen.send(*sample).unwrap(),
        )
        .unwrap();
        sampler.set_measured(true);
        let first = watched.recv().unwrap();
        delivered.store(1_000, Ordering::Relaxed);
        let second = watched.recv().unwrap();
        sampler.set_measured(false);
        let samples = sampler.stop();
        assert!(samples.len() >= 2, "{samples:?}");
        assert!(!first.is_measured && second.is_measured);
        assert_eq!((second.connected, second.joined), (5, 4));
        // Rates over the real interval give the count back.
        let delivered = second.deliveries_per_s * (second.at_s - first.at_s);
        assert!((delivered - 1_000.0).abs() < 1.0, "{delivered}");
        assert!((second.p99_ms.unwrap() - 1.5).abs() < 0.01);
        assert!(second.server_cores.is_some() && second.server_rss_bytes > Some(0));
        assert!(samples.windows(2).all(|pair| pair[0].at_s < pair[1].at_s));
    }

    #[test]
    fn a_later_turn_does_not_count_what_came_before_it() {
        let delivered = Arc::new(AtomicU64::new(1_000_000));
        let (seen, watched) = mpsc::channel();
        let clients = Counting(delivered);
        let watch = move |sample: &Sample| seen.send(*sample).unwrap();
        let sampler = Sampler::start(Clock::start(), None, clients, watch).unwrap();
        let first = watched.recv().unwrap();
        drop(sampler.stop());
        assert_eq!((first.deliveries_per_s, first.bytes_per_s), (0.0, 0.0));
        assert_eq!((first.connects_per_s, first.connected), (0.0, 5));
    }

    struct Connected(Arc<AtomicU64>);

    impl Observed for Connected {
        fn observe(&self) -> Observation {
            Observation {
                connected: self.0.load(Ordering::Relaxed),
                ..Observation::default()
            }
        }
    }

    #[test]
    fn samples_come_oftener_until_everyone_is_in_and_not_again_when_some_return() {
        let connected = Arc::new(AtomicU64::new(0));
        let mut sampling = Sampling {
            meter: Meter::new(0, None),
            series: Series::new(INTERVAL),
            is_ramping: true,
            clock: Clock::start(),
            observed: Connected(Arc::clone(&connected)),
            watch: |_: &Sample| {},
        };
        let steps = [(0, 50), (5, 50), (9, 50), (9, 250), (3, 250), (9, 250)];
        for (now, interval_ms) in steps {
            connected.store(now, Ordering::Relaxed);
            sampling.sample(false);
            let interval_ns = sampling.due_ns() - sampling.meter.at_ns;
            assert_eq!(interval_ns, interval_ms * 1_000_000, "at {now}");
        }
    }

    #[test]
    fn a_server_that_is_unknown_or_gone_leaves_its_values_out() {
        for pid in [None, Some(u32::MAX)] {
            let mut meter = Meter::new(0, pid);
            let sample = meter.read(1_000_000_000, &Observation::default());
            assert_eq!((sample.server_cores, sample.server_rss_bytes), (None, None));
            assert_eq!((sample.p50_ms, sample.deliveries_per_s), (None, 0.0));
        }
    }

    #[test]
    fn two_readings_of_one_instant_have_finite_rates() {
        let mut meter = Meter::new(5, None);
        let now = Observation {
            delivered: 7,
            ..Observation::default()
        };
        assert!(meter.read(5, &now).deliveries_per_s.is_finite());
    }

    #[test]
    fn a_long_run_keeps_few_samples_that_add_up_to_the_same() {
        let mut series = Series::new(INTERVAL);
        let mut at_s = 0.0;
        for index in 0..50_000 {
            at_s += series.interval_ns as f64 / 1e9;
            series.push(Sample {
                at_s,
                is_measured: (100..40_000).contains(&index),
                deliveries_per_s: 1_000.0,
                p50_ms: Some(2.0),
                max_ms: Some(if index == 7_777 { 99.0 } else { 3.0 }),
                ..Sample::default()
            });
            assert!(series.samples.len() <= SAMPLES_MAX);
        }
        assert!(series.samples.len() > SAMPLES_MAX / 4);
        assert_eq!(series.samples.last().unwrap().at_s, at_s);
        let same = |sample: &Sample| {
            let p50_ms = sample.p50_ms.unwrap();
            (sample.deliveries_per_s - 1_000.0).abs() < 1e-6 && (p50_ms - 2.0).abs() < 1e-6
        };
        assert!(series.samples.iter().all(same));
        assert!(
            series
                .samples
                .iter()
                .any(|sample| sample.max_ms == Some(99.0))
        );
        let changes = series.samples.windows(2);
        assert_eq!(
            changes
                .filter(|pair| pair[0].is_measured != pair[1].is_measured)
                .count(),
            2
        );
    }

    #[test]
    fn a_sample_cut_short_is_counted_with_the_one_before() {
        let sample = |at_s, rate, is_measured| Sample {
            at_s,
            deliveries_per_s: rate,
            is_measured,
            ..Sample::default()
        };
        let mut series = Series::new(INTERVAL);
        series.push(sample(1.0, 100.0, false));
        series.push(sample(1.2, 100.0, false));
        series.push(sample(1.21, 2_100.0, false));
        series.push(sample(1.22, 500.0, true));
        let kept: Vec<(f64, f64)> = series
            .samples
            .iter()
            .map(|sample| (sample.at_s, sample.deliveries_per_s.round()))
            .collect();
        assert_eq!(kept, [(1.0, 100.0), (1.21, 195.0), (1.22, 500.0)]);
    }

    #[test]
    fn merging_weighs_rates_by_time_and_medians_by_messages() {
        let sample = |at_s, rate, p50_ms, p99_ms| Sample {
            at_s,
            deliveries_per_s: rate,
            p50_ms,
            p99_ms,
            ..Sample::default()
        };
        let (a, b) = (
            sample(1.0, 300.0, Some(1.0), Some(9.0)),
            sample(4.0, 100.0, Some(3.0), None),
        );
        let merged = merged(&a, &b, (1.0, 3.0));
        assert_eq!((merged.at_s, merged.deliveries_per_s), (4.0, 150.0));
        assert_eq!((merged.p50_ms, merged.p99_ms), (Some(2.0), Some(9.0)));
    }
}
