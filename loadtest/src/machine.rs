//! The machine a run was made on, as the kernel describes it.

use std::fs;
use std::thread;

use crate::outcome::Machine;

/// This machine; what cannot be read stays empty.
pub fn this_machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    Machine {
        processor: processor(&read("/proc/cpuinfo")),
        // Counts the affinity mask and the quota of the control group.
        cores: thread::available_parallelism().map_or(0, usize::from),
        memory_bytes: memory_bytes(&read("/proc/meminfo")),
        kernel: kernel(
            &read("/proc/sys/kernel/ostype"),
            &read("/proc/sys/kernel/osrelease"),
        ),
    }
}

/// The model of the first processor. x86 says `model name`; ARM has only numbers, unless the board
/// gives its name under `Model`.
fn processor(cpuinfo: &str) -> String {
    let value = |names: &[&str]| {
        let mut pairs = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        let pair = pairs.find(|(name, value)| names.contains(&name.trim()) && !value.is_empty());
        pair.map(|(_, value)| value.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let by_numbers = || {
        let (maker, part) = (value(&["CPU implementer"])?, value(&["CPU part"])?);
        Some(format!("implementer {maker} part {part}"))
    };
    value(&["model name", "Model", "cpu model"])
        .or_else(by_numbers)
        .unwrap_or_default()
}

fn memory_bytes(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

fn kernel(kind: &str, release: &str) -> String {
    format!("{} {}", kind.trim(), release.trim())
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described_in_full() {
        let machine = this_machine();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20);
        assert!(machine.kernel.starts_with("Linux "), "{}", machine.kernel);
    }

    #[test]
    fn a_processor_has_its_name_by_either_family() {
        let cases = [
            (
                "processor\t: 0\nmodel\t\t: 7\nmodel name\t: Intel(R)  Xeon(R) @ 2 GHz\n",
                "Intel(R) Xeon(R) @ 2 GHz",
            ),
            (
                "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n",
                "implementer 0x41 part 0xd0c",
            ),
            (
                "processor\t: 0\nCPU part\t: 0xd08\nModel\t\t: Some Board 4\n",
                "Some Board 4",
            ),
            ("", ""),
        ];
        for (cpuinfo, name) in cases {
            assert_eq!(processor(cpuinfo), name);
        }
    }

    #[test]
    fn memory_is_in_bytes_and_absent_is_zero() {
        assert_eq!(memory_bytes("MemTotal:       1024 kB\n"), 1 << 20);
        assert_eq!(memory_bytes("MemFree: 1 kB\n"), 0);
        assert_eq!(kernel("Linux\n", "6.1.0\n"), "Linux 6.1.0");
        assert_eq!(kernel("", ""), "");
    }
}
