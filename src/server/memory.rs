//! What the system says about memory: how much there is, how much this process may have, how much it
//! has. Files of Linux; elsewhere nothing is known, and nothing is done about it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::bus::Outlet;
use crate::reactor::{Mail, Measured, NodeMemory};

/// How often memory is measured.
const MEASURE_EVERY: Duration = Duration::from_millis(250);

/// How many measurements long it is less short before that is said: 5 seconds. Near a threshold the
/// level goes to and fro.
const CALM_AFTER: u32 = 20;

/// How many measurements lie between two requests to the allocator at least: 5 seconds.
const COLLECT_EVERY: u32 = 20;

/// From which part on the system counts as near its end, and up to which part again, in percent.
const NEAR_END_PERCENT: (usize, usize) = (97, 94);

/// The kernel's page, in bytes, where `sockstat` counts in pages.
const PAGE_BYTES: usize = 4096;

/// Memory that this process may have.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Available {
    /// Of the machine.
    pub machine: Option<usize>,
    /// Of the control group, and those above it.
    pub group: Option<usize>,
}

impl Available {
    /// Asks the system.
    pub fn inspect() -> Available {
        Available {
            machine: field_of("/proc/meminfo", "MemTotal:").map(|kib| kib * 1024),
            group: Group::inspect().and_then(|group| group.limit()),
        }
    }

    /// The smaller of the two; none where neither is known.
    pub fn bytes(self) -> Option<usize> {
        self.machine.into_iter().chain(self.group).min()
    }
}

/// The control group that this process's memory is charged to.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Group {
    /// Its folder.
    folder: PathBuf,
    /// Where the hierarchy is mounted: not above it.
    root: PathBuf,
    is_v2: bool,
}

impl Group {
    fn inspect() -> Option<Group> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        Group::find(&groups, Path::new("/sys/fs/cgroup"))
    }

    /// The memory group in the text of `/proc/self/cgroup`; version 1 where it has that controller.
    fn find(groups: &str, mount: &Path) -> Option<Group> {
        let lines = || {
            groups
                .lines()
                .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        };
        let of_v1 = lines().find(|(names, _)| names.split(',').any(|name| name == "memory"));
        let of_v2 = || lines().find(|(names, _)| names.is_empty());
        let is_v2 = of_v1.is_none();
        let (_, path) = of_v1.or_else(of_v2)?;
        let root = if is_v2 {
            mount.to_owned()
        } else {
            mount.join("memory")
        };
        let mut folder = root.join(path.trim_start_matches('/'));
        // In a container the path may be the host's, and what is mounted begins further down.
        if !folder.is_dir() {
            folder.clone_from(&root);
        }
        Some(Group {
            folder,
            root,
            is_v2,
        })
    }

    /// The least limit of the group and those above it.
    fn limit(&self) -> Option<usize> {
        let name = if self.is_v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        let folders = self
            .folder
            .ancestors()
            .take_while(|folder| folder.starts_with(&self.root));
        // Version 1 writes «no limit» as a number near 2⁶³.
        let limits = folders.filter_map(|folder| number_in(&folder.join(name)));
        limits.filter(|limit| *limit < 1 << 60).min()
    }

    /// Bytes of sockets, and all bytes but those of files that can be read again.
    fn usage(&self) -> Option<(usize, usize)> {
        let file = |name: &str| self.folder.join(name);
        let stat = fs::read_to_string(file("memory.stat")).ok()?;
        let (current, sockets) = if self.is_v2 {
            (number_in(&file("memory.current"))?, field(&stat, "sock"))
        } else {
            (
                number_in(&file("memory.usage_in_bytes"))?,
                number_in(&file("memory.kmem.tcp.usage_in_bytes")),
            )
        };
        let cache = field(
            &stat,
            if self.is_v2 {
                "inactive_file"
            } else {
                "total_inactive_file"
            },
        );
        Some((
            sockets.unwrap_or_default(),
            current.saturating_sub(cache.unwrap_or_default()),
        ))
    }
}

fn number_in(file: &Path) -> Option<usize> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number that follows a name at the start of a line.
fn field(text: &str, name: &str) -> Option<usize> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines.find_map(|mut words| (words.next()? == name).then(|| words.next()?.parse().ok())?)
}

fn field_of(file: &str, name: &str) -> Option<usize> {
    field(&fs::read_to_string(file).ok()?, name)
}

/// Sockets' memory in the kernel, of everyone: the number behind `mem` in the line of TCP.
fn sockets_of_machine(sockstat: &str) -> usize {
    let line = sockstat.lines().find(|line| line.starts_with("TCP:"));
    let mut words = line.unwrap_or_default().split_whitespace();
    let pages = words.find(|word| *word == "mem").and_then(|_| words.next());
    pages
        .and_then(|pages| pages.parse::<usize>().ok())
        .unwrap_or_default()
        * PAGE_BYTES
}

/// Measures again and again, tells the cores, and says so when memory gets short or is not short any
/// more. Ends when `stop` does.
pub(super) struct Monitor {
    node: Arc<NodeMemory>,
    outlets: Vec<Outlet<Mail>>,
    group: Option<(Group, usize)>,
    is_near_end: bool,
    /// The level that was told last, and for how long it has been lower.
    told: u8,
    calmer_for: u32,
    since_collect: u32,
}

impl Monitor {
    pub(super) fn new(node: Arc<NodeMemory>, outlets: Vec<Outlet<Mail>>) -> Monitor {
        let group = Group::inspect().and_then(|group| Some((group.clone(), group.limit()?)));
        Monitor {
            node,
            outlets,
            group,
            is_near_end: false,
            told: 0,
            calmer_for: 0,
            since_collect: 0,
        }
    }

    pub(super) fn run(mut self, stop: &Receiver<()>) {
        while stop.recv_timeout(MEASURE_EVERY) == Err(RecvTimeoutError::Timeout) {
            let measured = self.measure();
            self.node.measure(measured);
            if self.node.budget_bytes() > 0 {
                self.look(measured);
            }
        }
    }

    fn measure(&mut self) -> Measured {
        let resident = field_of("/proc/self/status", "VmRSS:").unwrap_or_default() * 1024;
        let usage = self.group.as_ref().and_then(|(group, limit)| {
            let (sockets, used) = group.usage()?;
            Some((sockets, sockets, used, *limit))
        });
        let (sockets, charged, used, limit) = usage.unwrap_or_else(|| {
            let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
            let all = field_of("/proc/meminfo", "MemTotal:").unwrap_or_default();
            let free = field_of("/proc/meminfo", "MemAvailable:").unwrap_or(all);
            (
                sockets_of_machine(&sockstat),
                0,
                all.saturating_sub(free),
                all,
            )
        });
        let (from, until) = NEAR_END_PERCENT;
        let percent = if self.is_near_end { until } else { from };
        let is_near_end = limit > 0 && used as u128 * 100 >= limit as u128 * percent as u128;
        if is_near_end != self.is_near_end {
            self.is_near_end = is_near_end;
            if is_near_end {
                tracing::warn!(
                    used,
                    limit,
                    "the system's memory is nearly used up: no new connections"
                );
            } else {
                tracing::info!(used, limit, "the system has memory again");
            }
        }
        Measured {
            resident,
            sockets,
            charged,
            is_near_end,
        }
    }

    fn look(&mut self, measured: Measured) {
        let (level, peak) = self.node.levels();
        let (held, budget) = (self.node.held_bytes(), self.node.budget_bytes());
        let resident = measured.resident;
        if peak > self.told {
            let doing = DOING.get(usize::from(peak)).copied().unwrap_or_default();
            tracing::warn!(
                level = peak,
                held,
                resident,
                budget,
                doing,
                "memory is short"
            );
            self.told = peak;
        }
        self.calmer_for = if peak < self.told {
            self.calmer_for + 1
        } else {
            0
        };
        if self.calmer_for >= CALM_AFTER {
            self.calmer_for = 0;
            self.told = peak;
            tracing::info!(level = peak, held, resident, budget, "memory is less short");
        }
        // Pages that are free stay with the allocator for a while. That is no reason to close anybody,
        // but it may be given back.
        self.since_collect = self.since_collect.saturating_add(1);
        let is_idle = measured.resident > budget && held < measured.resident / 2;
        let collect = (is_idle || self.is_near_end) && self.since_collect >= COLLECT_EVERY;
        if collect {
            self.since_collect = 0;
        }
        if level > 0 || collect {
            for outlet in &self.outlets {
                // A core that sleeps has to give back its part too. One that is gone has nothing.
                outlet.send(Mail::Memory { collect }, 0);
            }
        }
    }
}

/// What is done at each level.
const DOING: [&str; 5] = [
    "",
    "rooms let go of history",
    "slow readers have a quarter of their bounds, keys of accepted publishes go",
    "those who hold the most are closed with 4100",
    "new connections get 503, new rooms 4100",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let mount = std::env::temp_dir().join(format!("tidewheel-{name}-{}", std::process::id()));
        for (file, text) in files {
            let file = mount.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        mount
    }

    #[test]
    fn the_least_limit_of_a_group_and_those_above_it_holds_in_version_2() {
        let mount = group(
            "v2",
            &[
                ("a/memory.max", "1000000\n"),
                ("a/b/memory.max", "max\n"),
                ("a/b/memory.current", "5000\n"),
                ("a/b/memory.stat", "anon 1\nsock 700\ninactive_file 1000\n"),
            ],
        );
        let found = Group::find("0::/a/b\n", &mount).unwrap();
        assert_eq!(
            (found.limit(), found.usage()),
            (Some(1_000_000), Some((700, 4_000)))
        );
        let elsewhere = Group::find("0::/of/the/host\n", &mount).unwrap();
        assert_eq!((elsewhere.limit(), elsewhere.folder), (None, mount.clone()));
        fs::remove_dir_all(mount).unwrap();
    }

    #[test]
    fn version_1_writes_no_limit_as_a_number() {
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712"),
            ("memory/x/memory.limit_in_bytes", "2000000"),
            ("memory/x/memory.usage_in_bytes", "9000"),
            ("memory/x/memory.kmem.tcp.usage_in_bytes", "40"),
            ("memory/x/memory.stat", "total_inactive_file 2000\n"),
        ];
        let mount = group("v1", &files);
        let groups = "8:pids:/x\n4:memory:/x\n0::/\n";
        let found = Group::find(groups, &mount).unwrap();
        assert_eq!(
            (found.limit(), found.usage()),
            (Some(2_000_000), Some((40, 7_000)))
        );
        let root = Group::find("4:memory:/\n", &mount).unwrap();
        assert_eq!(root.limit(), None);
        fs::remove_dir_all(mount).unwrap();
    }

    #[test]
    fn the_memory_of_sockets_is_counted_in_pages() {
        let sockstat = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 7 mem 3\nUDP: mem 1\n";
        assert_eq!(sockets_of_machine(sockstat), 3 * PAGE_BYTES);
        assert_eq!(sockets_of_machine(""), 0);
    }

    #[test]
    fn this_machine_says_how_much_it_has() {
        if cfg!(target_os = "linux") {
            assert!(
                Available::inspect()
                    .bytes()
                    .is_some_and(|bytes| bytes > 1 << 24)
            );
        }
    }
}
