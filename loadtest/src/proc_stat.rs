//! What the kernel knows about a process: CPU, memory, context switches.

use std::fs;

use anyhow::Context;
use serde::Serialize;

/// What a process has used since its start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// CPU time of all its threads, user and system.
    pub cpu_ns: u64,
    /// Times its threads gave the processor up.
    pub switches_voluntary: u64,
    /// Times it was taken from them.
    pub switches_involuntary: u64,
}

impl Usage {
    /// Sums over the threads that live now; one that ended is lost.
    pub fn of(pid: u32) -> anyhow::Result<Usage> {
        let mut usage = Usage::default();
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .with_context(|| format!("read the threads of process {pid}"))?;
        for task in tasks.flatten() {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let cpu = read("schedstat");
            usage.cpu_ns += cpu
                .split(' ')
                .next()
                .and_then(|ns| ns.parse().ok())
                .unwrap_or(0);
            let status = read("status");
            usage.switches_voluntary += field(&status, "voluntary_ctxt_switches:");
            usage.switches_involuntary += field(&status, "nonvoluntary_ctxt_switches:");
        }
        Ok(usage)
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            switches_voluntary: self
                .switches_voluntary
                .saturating_sub(earlier.switches_voluntary),
            switches_involuntary: self
                .switches_involuntary
                .saturating_sub(earlier.switches_involuntary),
        }
    }
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident, in bytes.
    pub rss_bytes: u64,
    /// Resident and its own: neither files nor shared.
    pub rss_anon_bytes: u64,
}

impl Memory {
    /// As it stands now.
    pub fn of(pid: u32) -> anyhow::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("read the memory of process {pid}"))?;
        Ok(Memory {
            rss_bytes: field(&status, "VmRSS:") * 1024,
            rss_anon_bytes: field(&status, "RssAnon:") * 1024,
        })
    }
}

/// What sockets take in the kernel, of all processes together.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct KernelMemory {
    /// TCP sockets in use.
    pub tcp_sockets: u64,
    /// Bytes in TCP buffers.
    pub tcp_buffer_bytes: u64,
    /// The kernel's own objects, sockets among them.
    pub slab_bytes: u64,
}

impl KernelMemory {
    /// As it stands now; zero where it cannot be read.
    pub fn now() -> KernelMemory {
        let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let tcp = sockets
            .lines()
            .find(|line| line.starts_with("TCP:"))
            .unwrap_or_default();
        let words: Vec<&str> = tcp.split_whitespace().collect();
        let after = |name: &str| -> u64 {
            let pair = words.windows(2).find(|pair| pair.first() == Some(&name));
            pair.and_then(|pair| pair.last()?.parse().ok()).unwrap_or(0)
        };
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        KernelMemory {
            tcp_sockets: after("inuse"),
            tcp_buffer_bytes: after("mem") * 4096,
            slab_bytes: field(&memory, "Slab:") * 1024,
        }
    }
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let pid = std::process::id();
        assert!(Usage::of(pid).unwrap().cpu_ns > 0);
        let memory = Memory::of(pid).unwrap();
        assert!(memory.rss_bytes >= memory.rss_anon_bytes && memory.rss_anon_bytes > 0);
        assert!(KernelMemory::now().slab_bytes > 0);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t5\n";
        assert_eq!(field(text, "voluntary_ctxt_switches:"), 5);
    }
}
