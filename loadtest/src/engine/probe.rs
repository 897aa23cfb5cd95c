//! What is read of processes and counters at one moment, and the difference of two.

use crate::clock::Clock;
use crate::crew::Crew;
use crate::outcome::{Kernel, Side, Turn};
use crate::proc_stat::{KernelMemory, Memory, Usage};
use crate::target::Target;

/// CPU and memory before and after everyone came.
pub(super) struct Memories {
    usage: Option<Usage>,
    server: Option<Memory>,
    kernel: KernelMemory,
}

impl Memories {
    pub(super) fn read(target: &Target) -> anyhow::Result<Memories> {
        Ok(Memories {
            usage: target.pid.map(Usage::of).transpose()?,
            server: target.pid.map(Memory::of).transpose()?,
            kernel: KernelMemory::now(),
        })
    }

    pub(super) fn server_cpu_us_since(&self, earlier: &Memories) -> Option<f64> {
        let used = self.usage?.since(earlier.usage?);
        Some(used.cpu_ns as f64 / 1e3)
    }

    pub(super) fn server_bytes_since(&self, earlier: &Memories) -> Option<f64> {
        Some(self.server?.rss_anon_bytes as f64 - earlier.server?.rss_anon_bytes as f64)
    }

    pub(super) fn kernel_bytes_since(&self, earlier: &Memories) -> Option<f64> {
        Some(self.kernel.slab_bytes as f64 - earlier.kernel.slab_bytes as f64)
    }
}

/// The counters at one moment.
pub(super) struct Snapshot {
    at_ns: u64,
    published: u64,
    delivered: u64,
    bytes: u64,
    server: Option<(Usage, Memory)>,
    client: (Usage, Memory),
    kernel: KernelMemory,
}

impl Snapshot {
    pub(super) fn take(
        target: &Target,
        crew: &Crew,
        clock: Clock,
        published: u64,
    ) -> anyhow::Result<Snapshot> {
        let of = |pid| anyhow::Ok((Usage::of(pid)?, Memory::of(pid)?));
        Ok(Snapshot {
            at_ns: clock.now_ns(),
            published: published + crew.answered(),
            delivered: crew.delivered(),
            bytes: crew.bytes(),
            server: target.pid.map(of).transpose()?,
            client: of(std::process::id())?,
            kernel: KernelMemory::now(),
        })
    }

    /// The figures of the window that began at `earlier`.
    pub(super) fn turn_since(&self, earlier: &Snapshot) -> Turn {
        let server = self
            .server
            .zip(earlier.server)
            .map(|(after, before)| side(after, before));
        Turn {
            seconds: (self.at_ns - earlier.at_ns) as f64 / 1e9,
            publishes: self.published - earlier.published,
            deliveries: self.delivered - earlier.delivered,
            bytes: self.bytes - earlier.bytes,
            server,
            client: side(self.client, earlier.client),
            kernel: Kernel {
                tcp_sockets: self.kernel.tcp_sockets,
                tcp_buffer_bytes: self.kernel.tcp_buffer_bytes,
                slab_bytes: self.kernel.slab_bytes,
            },
            ..Turn::default()
        }
    }
}

fn side((usage, memory): (Usage, Memory), (before, _): (Usage, Memory)) -> Side {
    let used = usage.since(before);
    Side {
        cpu_ns: used.cpu_ns,
        switches_voluntary: used.switches_voluntary,
        switches_involuntary: used.switches_involuntary,
        rss_bytes: memory.rss_bytes,
        rss_anon_bytes: memory.rss_anon_bytes,
    }
}
