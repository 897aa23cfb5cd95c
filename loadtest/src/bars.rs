//! How far a run is, while it runs: a bar on a terminal, a line now and then elsewhere.
//!
//! It speaks on stderr only, so that the summary on stdout stays as it is. [`Bars::clear`] takes
//! the bar away before anything else is printed.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::clock::Clock;
use crate::figures::grouped;
use crate::measures::Unit;
use crate::outcome::Sample;

/// Least time between two lines where there is no terminal.
const LINE_INTERVAL_S: f64 = 5.0;
/// Steps of a bar.
const STEPS: u64 = 1_000;
const TEMPLATE: &str = "{prefix:<11} {bar:14.cyan/blue} {wide_msg}";

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    /// Connecting and joining so many.
    Connecting {
        /// How many are to get in.
        total: u64,
    },
    /// Loading before the window.
    WarmingUp(Duration),
    /// Within the window, of this length.
    Measuring(Duration),
    /// Waiting for the last messages.
    Settling,
}

/// Shows progress; clones show it in the same place.
#[derive(Clone)]
pub struct Bars {
    clock: Clock,
    shown: Arc<Mutex<Shown>>,
}

struct Shown {
    out: Out,
    phase: Option<Phase>,
    began_s: f64,
}

enum Out {
    Nothing,
    Bar(ProgressBar),
    Lines {
        to: Box<dyn Write + Send>,
        due_s: f64,
    },
}

impl Bars {
    /// A bar where stderr is a terminal, else lines; nothing where it is to be quiet.
    pub fn new(is_quiet: bool) -> Bars {
        let out = if is_quiet {
            Out::Nothing
        } else if io::stderr().is_terminal() {
            Out::Bar(bar(ProgressDrawTarget::stderr()))
        } else {
            Out::lines(Box::new(io::stderr()))
        };
        Bars {
            clock: Clock::start(),
            shown: Arc::new(Mutex::new(Shown {
                out,
                phase: None,
                began_s: 0.0,
            })),
        }
    }

    /// The run goes over to another phase.
    pub fn enter(&self, phase: Phase) {
        let now_s = self.now_s();
        self.with(|shown| shown.enter(phase, now_s));
    }

    /// The newest sample.
    pub fn note(&self, sample: &Sample) {
        let now_s = self.now_s();
        self.with(|shown| shown.note(sample, now_s));
    }

    /// Nothing is shown until the next phase: for what is printed otherwise.
    pub fn clear(&self) {
        self.with(Shown::clear);
    }

    fn now_s(&self) -> f64 {
        self.clock.now_ns() as f64 / 1e9
    }

    fn with(&self, act: impl FnOnce(&mut Shown)) {
        // What another thread left half done is overwritten by the next sample.
        act(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Out {
    fn lines(to: Box<dyn Write + Send>) -> Out {
        Out::Lines {
            to,
            due_s: LINE_INTERVAL_S,
        }
    }
}

impl Shown {
    fn enter(&mut self, phase: Phase, now_s: f64) {
        self.phase = Some(phase);
        self.began_s = now_s;
        if let Out::Bar(bar) = &self.out {
            // The old words go first, so that they never stand beside the new phase's name.
            bar.set_message("");
            bar.set_prefix(phase.name());
            bar.reset();
            bar.tick();
        }
    }

    fn note(&mut self, sample: &Sample, now_s: f64) {
        let Some(phase) = self.phase else { return };
        let elapsed_s = now_s - self.began_s;
        match &mut self.out {
            Out::Nothing => {}
            Out::Bar(bar) => {
                bar.set_message(phase.words(sample, elapsed_s));
                bar.set_position((phase.share(sample, elapsed_s) * STEPS as f64) as u64);
            }
            Out::Lines { to, due_s } if now_s >= *due_s => {
                *due_s = now_s + LINE_INTERVAL_S;
                // A log that cannot be written to is no reason to stop measuring.
                let _ = writeln!(
                    to,
                    "{:<11} {}",
                    phase.name(),
                    phase.words(sample, elapsed_s)
                );
            }
            Out::Lines { .. } => {}
        }
    }

    fn clear(&mut self) {
        self.phase = None;
        if let Out::Bar(bar) = &self.out {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Connecting { .. } => "connecting",
            Phase::WarmingUp(_) => "warming up",
            Phase::Measuring(_) => "measuring",
            Phase::Settling => "settling",
        }
    }

    /// How much of it is done, from 0 to 1.
    fn share(self, sample: &Sample, elapsed_s: f64) -> f64 {
        let share = match self {
            Phase::Connecting { total } => sample.joined as f64 / total.max(1) as f64,
            Phase::WarmingUp(length) | Phase::Measuring(length) => {
                elapsed_s / length.as_secs_f64().max(1e-9)
            }
            Phase::Settling => 1.0,
        };
        share.clamp(0.0, 1.0)
    }

    fn words(self, sample: &Sample, elapsed_s: f64) -> String {
        let rate = Unit::Count.show(sample.deliveries_per_s);
        let of = |length: Duration| {
            let length_s = length.as_secs_f64();
            format!(
                "{:.1} of {length_s:.1} s, {rate} deliveries/s",
                elapsed_s.min(length_s)
            )
        };
        match self {
            Phase::Connecting { total } => format!(
                "{} of {} connected, {} joined, {}/s",
                grouped(sample.connected as f64),
                grouped(total as f64),
                grouped(sample.joined as f64),
                grouped(sample.connects_per_s)
            ),
            Phase::WarmingUp(length) => of(length),
            Phase::Measuring(length) => match sample.p99_ms {
                Some(p99_ms) => format!("{}, p99 {}", of(length), Unit::Milliseconds.show(p99_ms)),
                None => of(length),
            },
            Phase::Settling => format!("waiting for the last messages, {rate} deliveries/s"),
        }
    }
}

fn bar(target: ProgressDrawTarget) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(STEPS), target);
    // The template is a constant; a bar without it would be plain, and no worse.
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style.progress_chars("━━╌"));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sample() -> Sample {
        Sample {
            connected: 12_345,
            joined: 6_000,
            connects_per_s: 31_000.4,
            deliveries_per_s: 512_000.0,
            p99_ms: Some(4.2),
            ..Sample::default()
        }
    }

    fn lines() -> (Shown, Log) {
        let log = Log::default();
        let shown = Shown {
            out: Out::lines(Box::new(log.clone())),
            phase: None,
            began_s: 0.0,
        };
        (shown, log)
    }

    #[test]
    fn without_a_terminal_there_is_a_line_every_five_seconds_at_most() {
        let (mut shown, log) = lines();
        shown.enter(Phase::Measuring(Duration::from_secs(20)), 0.0);
        for step in 0..=80 {
            shown.note(&sample(), f64::from(step) * 0.25);
        }
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(
            lines[0],
            "measuring   5.0 of 20.0 s, 512,000 deliveries/s, p99 4.20 ms"
        );
        assert!(!text.contains('\u{1b}') && !text.contains('\r'));
    }

    #[test]
    fn nothing_is_said_between_clear_and_the_next_phase() {
        let (mut shown, log) = lines();
        shown.enter(Phase::Settling, 0.0);
        shown.clear();
        shown.note(&sample(), 60.0);
        assert!(log.0.lock().unwrap().is_empty());
    }

    #[test]
    fn every_phase_says_how_far_it_is() {
        let two = Duration::from_secs(2);
        let cases = [
            (
                Phase::Connecting { total: 30_000 },
                0.2,
                "12,345 of 30,000 connected, 6,000 joined, 31,000/s",
            ),
            (
                Phase::WarmingUp(two),
                0.25,
                "0.5 of 2.0 s, 512,000 deliveries/s",
            ),
            (
                Phase::Measuring(two),
                0.25,
                "0.5 of 2.0 s, 512,000 deliveries/s, p99 4.20 ms",
            ),
            (
                Phase::Settling,
                1.0,
                "waiting for the last messages, 512,000 deliveries/s",
            ),
        ];
        for (phase, share, words) in cases {
            assert_eq!(
                (
                    phase.share(&sample(), 0.5),
                    phase.words(&sample(), 0.5).as_str()
                ),
                (share, words)
            );
        }
        assert_eq!(Phase::Measuring(Duration::ZERO).share(&sample(), 1.0), 1.0);
        assert_eq!(Phase::Connecting { total: 0 }.share(&sample(), 1.0), 1.0);
    }

    #[test]
    fn a_bar_moves_and_is_gone_when_it_is_cleared() {
        let mut shown = Shown {
            out: Out::Bar(bar(ProgressDrawTarget::hidden())),
            phase: None,
            began_s: 0.0,
        };
        shown.enter(Phase::Measuring(Duration::from_secs(10)), 1.0);
        shown.note(&sample(), 6.0);
        let Out::Bar(bar) = &shown.out else { panic!() };
        let bar = bar.clone();
        assert_eq!((bar.position(), bar.prefix().as_str()), (500, "measuring"));
        shown.clear();
        assert!(bar.is_finished());
        shown.enter(Phase::Settling, 7.0);
        assert!(!bar.is_finished());
    }

    #[test]
    fn a_quiet_run_says_nothing_and_takes_everything() {
        let bars = Bars::new(true);
        bars.enter(Phase::Settling);
        bars.note(&sample());
        bars.clear();
    }
}
