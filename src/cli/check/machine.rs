//! Whether this machine carries the wanted number of connections, and what to do where it does not.
//!
//! [`Machine::inspect`] reads facts, [`findings`] judges them: a function of facts alone, so that
//! every finding has a test on any machine.

use std::fmt;
use std::path::Path;

use crate::cli::units::ByteSize;
use crate::server::DESCRIPTORS_RESERVED;

/// What a connection costs in user space when idle, in bytes: `docs/benchmarks.md`, "Memory".
const USER_BYTES_PER_CONNECTION: u64 = 420;

/// What the kernel keeps for a server's end of an idle connection, in bytes, measured at 100,000:
/// half of what both ends took. `docs/benchmarks.md`, "Memory".
const KERNEL_BYTES_PER_CONNECTION: u64 = 4_200;

/// Descriptors that a core keeps back from connections.
const DESCRIPTORS_BESIDE: u64 = DESCRIPTORS_RESERVED as u64;

/// Clock sources that are read without a system call.
const QUICK_CLOCKS: [&str; 5] = [
    "tsc",
    "kvm-clock",
    "arch_sys_counter",
    "hyperv_clocksource_tsc_page",
    "timebase",
];

/// What is asked of the machine.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Connections at once.
    pub connections: u64,
    /// Cores, each with a descriptor table of its own.
    pub shards: u64,
    /// Connections that may wait for each core: `--backlog`.
    pub backlog: u64,
}

/// Facts about the machine; none where it does not say.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Machine {
    /// Descriptors that a table may hold: the hard limit (`RLIMIT_NOFILE`).
    pub descriptors: Option<u64>,
    /// What that limit may be raised to (`fs.nr_open`).
    pub descriptors_max: Option<u64>,
    /// Open files of the whole machine, and how many it allows (`fs.file-nr`).
    pub files: Option<(u64, u64)>,
    /// What the kernel lowers a larger backlog to (`net.core.somaxconn`).
    pub backlog_max: Option<u64>,
    /// Connections that may be half open (`net.ipv4.tcp_max_syn_backlog`).
    pub half_open_max: Option<u64>,
    /// Ports that a client of one address may connect from (`net.ipv4.ip_local_port_range`).
    pub ports: Option<(u64, u64)>,
    /// Tracked connections, and how many there may be (`nf_conntrack_count`, `nf_conntrack_max`).
    pub tracked: Option<(u64, u64)>,
    /// Bytes that TCP may hold on the machine (`net.ipv4.tcp_mem`, the last number).
    pub tcp_bytes_max: Option<u64>,
    /// Bytes of memory that this process may use.
    pub memory_bytes: Option<u64>,
    /// The clock source in use, and those there are.
    pub clock: Option<(String, Vec<String>)>,
}

impl Machine {
    /// Reads what `/proc` and `/sys` say under `root`, which is `/` outside of tests.
    pub fn inspect(root: &Path, descriptors: u64, memory_bytes: Option<u64>) -> Machine {
        let numbers = |path: &str| -> Option<Vec<u64>> {
            let text = std::fs::read_to_string(root.join(path)).ok()?;
            let numbers = text.split_whitespace().map(|word| word.parse().ok());
            numbers.collect()
        };
        let number = |path: &str| numbers(path)?.first().copied();
        let pair = |path: &str, one: usize, two: usize| {
            let numbers = numbers(path)?;
            Some((*numbers.get(one)?, *numbers.get(two)?))
        };
        let clock_source = |name: &str| {
            let path = format!("sys/devices/system/clocksource/clocksource0/{name}");
            std::fs::read_to_string(root.join(path)).ok()
        };
        let tracked = |name: &str| number(&format!("proc/sys/net/netfilter/nf_conntrack_{name}"));
        // A page is 4 KiB on every machine that this is told of; larger ones only allow more.
        let tcp_pages = numbers("proc/sys/net/ipv4/tcp_mem").and_then(|all| all.get(2).copied());
        Machine {
            descriptors: Some(descriptors),
            descriptors_max: number("proc/sys/fs/nr_open"),
            files: pair("proc/sys/fs/file-nr", 0, 2),
            backlog_max: number("proc/sys/net/core/somaxconn"),
            half_open_max: number("proc/sys/net/ipv4/tcp_max_syn_backlog"),
            ports: pair("proc/sys/net/ipv4/ip_local_port_range", 0, 1),
            tracked: tracked("count").zip(tracked("max")),
            tcp_bytes_max: tcp_pages.map(|pages| pages.saturating_mul(4_096)),
            memory_bytes,
            clock: clock_source("current_clocksource")
                .zip(clock_source("available_clocksource"))
                .map(|(current, all)| {
                    let all = all.split_whitespace().map(str::to_owned).collect();
                    (current.trim().to_owned(), all)
                }),
        }
    }
}

/// How much a finding matters.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Weight {
    /// It may cost speed, or matter behind a proxy.
    Advice,
    /// The wanted connections cannot all be had.
    Shortage,
}

/// Something about the machine that stands in the way, and the command that mends it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How much it matters.
    pub weight: Weight,
    /// What is, what is needed, and why.
    pub problem: String,
    /// What to run.
    pub mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weight = match self.weight {
            Weight::Advice => "advice",
            Weight::Shortage => "shortage",
        };
        write!(f, "{weight}: {}\n    {}", self.problem, self.mend)
    }
}

/// Everything about the machine that stands in the way of what is wanted.
pub fn findings(machine: &Machine, wanted: &Wanted) -> Vec<Finding> {
    let judges = [
        descriptors,
        files,
        backlog,
        half_open,
        tracked,
        memory,
        tcp_memory,
        ports,
        clock,
    ];
    judges
        .iter()
        .filter_map(|judge| judge(machine, wanted))
        .collect()
}

fn shortage(problem: String, mend: String) -> Option<Finding> {
    let weight = Weight::Shortage;
    Some(Finding {
        weight,
        problem,
        mend,
    })
}

fn advice(problem: String, mend: String) -> Option<Finding> {
    let weight = Weight::Advice;
    Some(Finding {
        weight,
        problem,
        mend,
    })
}

/// A number that an operator would write: rounded up to two leading digits.
fn rounded_up(number: u64) -> u64 {
    let step = 10_u64.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(1));
    number.checked_next_multiple_of(step).unwrap_or(u64::MAX)
}

fn descriptors(machine: &Machine, wanted: &Wanted) -> Option<Finding> {
    let limit = machine.descriptors?;
    let shards = wanted.shards.max(1);
    let each = wanted.connections.div_ceil(shards) + DESCRIPTORS_BESIDE;
    if each <= limit {
        return None;
    }
    let needed = rounded_up(each);
    let problem = format!(
        "a table holds {limit} open files; {} connections on {shards} shards take {each} in each",
        wanted.connections
    );
    let raise = format!(
        "ulimit -Hn {needed}   (systemd: LimitNOFILE={needed}; container: --ulimit nofile={needed})"
    );
    let mend = match machine.descriptors_max {
        Some(most) if most < needed => format!("sysctl -w fs.nr_open={needed} && {raise}"),
        _ => raise,
    };
    shortage(problem, mend)
}

fn files(machine: &Machine, wanted: &Wanted) -> Option<Finding> {
    let (open, most) = machine.files?;
    let needed = open + wanted.connections + DESCRIPTORS_BESIDE;
    if needed <= most {
        return None;
    }
    let problem = format!(
        "this machine allows {most} open files and has {open}; {} connections need {needed}",
        wanted.connections
    );
    shortage(
        problem,
        format!("sysctl -w fs.file-max={}", rounded_up(needed)),
    )
}

fn backlog(machine: &Machine, wanted: &Wanted) -> Option<Finding> {
    let most = machine.backlog_max?;
    let asked = wanted.backlog;
    if asked <= most {
        return None;
    }
    let problem = format!(
        "--backlog {asked} is lowered to {most} by net.core.somaxconn: a burst of connects beyond \
         it is dropped, and comes back a second later"
    );
    advice(problem, format!("sysctl -w net.core.somaxconn={asked}"))
}

fn half_open(machine: &Machine, wanted: &Wanted) -> Option<Finding> {
    let most = machine.half_open_max?;
    let asked = wanted.backlog;
    if asked <= most {
        return None;
    }
    let problem = format!(
        "net.ipv4.tcp_max_syn_backlog is {most}, below --backlog {asked}: a burst of connects from \
         far away is slowed by SYN cookies or dropped"
    );
    advice(
        problem,
        format!("sysctl -w net.ipv4.tcp_max_syn_backlog={asked}"),
    )
}

fn tracked(machine: &Machine, wanted: &Wanted) -> Option<Finding> {
    let (count, most) = machine.tracked?;
    let needed = count + wanted.connections;
    if needed <= most {
        return None;
    }
    let problem = format!(
        "the firewall tracks at most {most} connections and has {count}; {} more do not fit, and \
         new ones are dropped without a word (\"table full\" in dmesg)",
        wanted.connections
    );
    // A closed connection is tracked for two minutes more.
    let enough = rounded_up(needed.saturating_mul(2));
    shortage(
        problem,
        format!("sysctl -w net.netfilter.nf_conntrack_max={enough}"),
    )
}

fn memory(machine: &Machine, wanted: &Wanted) -> Option<Finding> {
    let most = machine.memory_bytes?;
    let each = USER_BYTES_PER_CONNECTION + KERNEL_BYTES_PER_CONNECTION;
    let needed = wanted.connections.saturating_mul(each);
    // What is left is for messages: a quarter at least.
    if needed <= most / 4 * 3 {
        return None;
    }
    let size = |bytes| ByteSize(usize::try_from(bytes).unwrap_or(usize::MAX));
    let problem = format!(
        "{} idle connections take some {}, kernel included, of {} of memory, which leaves too \
         little for messages",
        wanted.connections,
        size(rounded_up(needed)),
        size(most),
    );
    let fitting = most / 4 * 3 / each;
    shortage(
        problem,
        format!("more memory, or --max-connections {fitting}"),
    )
}

fn tcp_memory(machine: &Machine, wanted: &Wanted) -> Option<Finding> {
    /// A page in each direction.
    const BYTES_BUSY: u64 = 8_192;
    let most = machine.tcp_bytes_max?;
    let needed = wanted.connections.saturating_mul(BYTES_BUSY);
    if needed <= most {
        return None;
    }
    let pages = rounded_up(needed / 4_096);
    let problem = format!(
        "net.ipv4.tcp_mem lets TCP hold {most} bytes; {} connections with a page in each direction \
         need {needed}, and beyond it the kernel drops what arrives",
        wanted.connections
    );
    let (low, pressure) = (pages / 2, pages / 4 * 3);
    advice(
        problem,
        format!("sysctl -w net.ipv4.tcp_mem='{low} {pressure} {pages}'"),
    )
}

fn ports(machine: &Machine, wanted: &Wanted) -> Option<Finding> {
    let (first, last) = machine.ports?;
    let ports = last.saturating_sub(first) + 1;
    if wanted.connections <= ports {
        return None;
    }
    let addresses = wanted.connections.div_ceil(ports);
    let problem = format!(
        "a proxy with one address reaches this server from {ports} ports at most; {} connections \
         through a proxy need {addresses} addresses of it, or listeners here",
        wanted.connections
    );
    if (first, last) == (1_024, 65_535) {
        return advice(problem, "give the proxy more source addresses".to_owned());
    }
    let mend = "on the proxy: sysctl -w net.ipv4.ip_local_port_range='1024 65535', and more source \
                addresses";
    advice(problem, mend.to_owned())
}

fn clock(machine: &Machine, _wanted: &Wanted) -> Option<Finding> {
    let (current, all) = machine.clock.as_ref()?;
    if QUICK_CLOCKS.contains(&current.as_str()) {
        return None;
    }
    let problem =
        format!("the clock source is {current}: each look at the clock is a slow system call");
    let quick = all
        .iter()
        .find(|name| QUICK_CLOCKS.contains(&name.as_str()));
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let mend = match quick {
        Some(name) => format!("echo {name} > {path}"),
        None => format!(
            "this machine has no other ({}); see its hypervisor",
            all.join(", ")
        ),
    };
    advice(problem, mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roomy() -> Machine {
        Machine {
            descriptors: Some(1_048_576),
            descriptors_max: Some(1_048_576),
            files: Some((1_000, 10_000_000)),
            backlog_max: Some(4_096),
            half_open_max: Some(4_096),
            ports: Some((1_024, 65_535)),
            tracked: Some((10, 1_000_000)),
            tcp_bytes_max: Some(8 << 30),
            memory_bytes: Some(16 << 30),
            clock: Some(("tsc".into(), vec!["tsc".into()])),
        }
    }

    const WANTED: Wanted = Wanted {
        connections: 50_000,
        shards: 2,
        backlog: 4_096,
    };

    #[test]
    fn a_roomy_machine_has_no_findings() {
        assert_eq!(findings(&roomy(), &WANTED), []);
        assert_eq!(findings(&Machine::default(), &WANTED), []);
    }

    #[test]
    fn each_shortage_is_found_alone_and_comes_with_its_command() {
        type Case = (fn(&mut Machine), Weight, &'static str, &'static str);
        let cases: [Case; 11] = [
            (
                |m| m.descriptors = Some(20_000),
                Weight::Shortage,
                "take 25064",
                "ulimit -Hn 26000",
            ),
            (
                |m| (m.descriptors, m.descriptors_max) = (Some(1_024), Some(20_000)),
                Weight::Shortage,
                "holds 1024",
                "sysctl -w fs.nr_open=26000 && ulimit",
            ),
            (
                |m| m.files = Some((5_000, 50_000)),
                Weight::Shortage,
                "need 55064",
                "fs.file-max=56000",
            ),
            (
                |m| m.backlog_max = Some(128),
                Weight::Advice,
                "lowered to 128",
                "somaxconn=4096",
            ),
            (
                |m| m.half_open_max = Some(256),
                Weight::Advice,
                "is 256",
                "tcp_max_syn_backlog=4096",
            ),
            (
                |m| m.tracked = Some((100, 32_768)),
                Weight::Shortage,
                "tracks at most 32768",
                "nf_conntrack_max=110000",
            ),
            (
                |m| m.memory_bytes = Some(256 << 20),
                Weight::Shortage,
                "idle connections take",
                "--max-connections 43577",
            ),
            (
                |m| m.tcp_bytes_max = Some(64 << 20),
                Weight::Advice,
                "67108864",
                "tcp_mem='50000 75000 100000'",
            ),
            (
                |m| m.ports = Some((32_768, 60_999)),
                Weight::Advice,
                "from 28232 ports",
                "ip_local_port_range='1024 65535'",
            ),
            (
                |m| m.clock = Some(("hpet".into(), vec!["hpet".into(), "tsc".into()])),
                Weight::Advice,
                "is hpet",
                "echo tsc > ",
            ),
            (
                |m| m.clock = Some(("xen".into(), vec!["xen".into()])),
                Weight::Advice,
                "is xen",
                "no other (xen)",
            ),
        ];
        for (change, weight, problem, mend) in cases {
            let mut machine = roomy();
            change(&mut machine);
            let found = findings(&machine, &WANTED);
            assert_eq!(found.len(), 1, "{problem}: {found:?}");
            assert_eq!(found[0].weight, weight, "{problem}");
            assert!(found[0].problem.contains(problem), "{}", found[0]);
            assert!(found[0].mend.contains(mend), "{}", found[0]);
        }
    }

    #[test]
    fn a_machine_is_read_from_its_files() {
        let root = std::env::temp_dir().join(format!("tidewheel-machine-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/sys/fs/nr_open", "1048576\n");
        write("proc/sys/fs/file-nr", "521\t0\t2466177\n");
        write("proc/sys/net/core/somaxconn", "4096\n");
        write("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
        write("proc/sys/net/ipv4/tcp_mem", "1\t2\t3\n");
        write("proc/sys/net/ipv4/tcp_max_syn_backlog", "nonsense\n");
        let clock = "sys/devices/system/clocksource/clocksource0";
        write(&format!("{clock}/current_clocksource"), "tsc\n");
        write(
            &format!("{clock}/available_clocksource"),
            "tsc kvm-clock \n",
        );
        let machine = Machine::inspect(&root, 20_000, None);
        std::fs::remove_dir_all(&root).unwrap();
        let expected = Machine {
            descriptors: Some(20_000),
            descriptors_max: Some(1_048_576),
            files: Some((521, 2_466_177)),
            backlog_max: Some(4_096),
            ports: Some((32_768, 60_999)),
            tcp_bytes_max: Some(3 * 4_096),
            clock: Some(("tsc".into(), vec!["tsc".into(), "kvm-clock".into()])),
            ..Machine::default()
        };
        assert_eq!(machine, expected);
    }

    #[test]
    fn numbers_are_rounded_as_an_operator_would() {
        for (number, rounded) in [
            (0, 0),
            (7, 7),
            (26_024, 27_000),
            (100_000, 100_000),
            (101_001, 110_000),
        ] {
            assert_eq!(rounded_up(number), rounded);
        }
    }
}
