//! What `/metrics` says about the node as a whole: what runs, since when, and which process it is.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant, SystemTime};

use crate::metrics::exposition::{Exposition, Source, Type};
use crate::protocol::Timestamp;

/// The program and this run of it.
#[derive(Debug)]
pub(super) struct Node {
    epoch: u64,
    started_at: Instant,
    started_at_wall: SystemTime,
}

impl Node {
    /// A run that begins now.
    #[allow(clippy::disallowed_methods, reason = "the uptime is the real one")]
    pub(super) fn start() -> Node {
        Node {
            // Keyed by the system's randomness.
            epoch: RandomState::new().build_hasher().finish(),
            started_at: Instant::now(),
            started_at_wall: SystemTime::now(),
        }
    }

    /// When it began, by the wall clock.
    pub(super) fn started_at(&self) -> Timestamp {
        let since = self.started_at_wall.duration_since(SystemTime::UNIX_EPOCH);
        let unix_ms = since.map_or(0, |since| since.as_millis() as u64);
        Timestamp::from_unix_ms(unix_ms)
    }

    /// How long it has been running.
    pub(super) fn uptime(&self) -> Duration {
        self.started_at.elapsed()
    }

    /// A random number of this run: another one says that the node was started anew.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Source for Node {
    fn write(&self, out: &mut Exposition) {
        let help = "The program that runs: its version, its commit where that was told when it was \
                    built, and its compiler; always 1.";
        out.family("tidewheel_build_info", Type::Info, help);
        let version = env!("CARGO_PKG_VERSION");
        let commit = option_env!("TIDEWHEEL_COMMIT").unwrap_or("unknown");
        let rustc = env!("TIDEWHEEL_RUSTC");
        let labels: [(&str, &dyn std::fmt::Display); 3] = [
            ("version", &version),
            ("commit", &commit),
            ("rustc", &rustc),
        ];
        out.sample(&labels, 1);
        let help = "A random number of this run of the node, in hexadecimal; always 1.";
        out.family("tidewheel_node_info", Type::Info, help);
        out.sample(&[("epoch", &format_args!("{:016x}", self.epoch))], 1);
        let help = "How long the node has been running.";
        let uptime = self.uptime().as_secs_f64();
        out.gauge("tidewheel_uptime_seconds", help, uptime);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::exposition::Format;
    use crate::metrics::lint;

    #[test]
    fn a_node_says_what_it_is() {
        let node = Node::start();
        for format in [Format::Prometheus, Format::OpenMetrics] {
            let mut out = Exposition::new(format);
            node.write(&mut out);
            let text = out.finish();
            let series = lint::check(&text, format);
            lint::check_documented(&text);
            let epoch = format!("tidewheel_node_info{{epoch=\"{:016x}\"}}", node.epoch());
            assert_eq!(series[&epoch], 1.0);
            assert!(text.contains(concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"")));
            assert!(!text.contains("rustc=\"unknown\""), "{text}");
        }
        assert_ne!(node.epoch(), Node::start().epoch());
    }
}
