//! What the run was on.

use std::fs;
use std::thread;

use crate::outcome::Machine;

/// The facts of this machine; what cannot be read is left empty.
pub fn facts() -> Machine {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let processor = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, name)| name.trim().to_owned());
    let meminfo = read("/proc/meminfo");
    let memory_kb: Option<u64> = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    Machine {
        processor: processor.unwrap_or_default(),
        cores: thread::available_parallelism().map_or(0, usize::from),
        memory_bytes: memory_kb.unwrap_or(0) * 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_machine_has_cores_memory_and_a_kernel() {
        let facts = super::facts();
        assert!(facts.cores > 0 && facts.memory_bytes > 0 && !facts.kernel.is_empty());
    }
}
