//! What the system says about this process, under the names that all Prometheus clients use.
//!
//! Files of Linux, read on the control plane's thread when somebody asks. Elsewhere nothing is told.
//! Each core may have a table of descriptors of its own, which the process's does not show: those are
//! told apart, by the names of the cores' threads.

use std::fs;
use std::path::Path;

use crate::metrics::exposition::{Exposition, Source, Type};

/// Ticks of `/proc/self/stat` in a second: `USER_HZ`, 100 on every Linux that matters here.
const TICKS_PER_SECOND: f64 = 100.0;

/// The kernel's page, in bytes, in which `/proc/self/statm` counts.
const PAGE_BYTES: u64 = 4096;

/// Descriptors that are counted one by one at most, where the kernel does not know their number.
const COUNTED_MAX: usize = 10_000;

/// The process.
#[derive(Copy, Clone, Debug)]
pub(super) struct Process;

impl Source for Process {
    fn write(&self, out: &mut Exposition) {
        write_time(out);
        write_memory(out);
        write_descriptors(out);
    }
}

/// What `/proc/self/stat` says.
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    /// Since the machine started.
    began_seconds: f64,
}

fn write_time(out: &mut Exposition) {
    let Some(stat) = read("/proc/self/stat").and_then(|text| stat(&text)) else {
        return;
    };
    let help = "Processor time of all threads, in the program and in the kernel.";
    out.counter("process_cpu_seconds_total", help, stat.cpu_seconds);
    out.gauge("process_threads", "Threads of the process.", stat.threads);
    if let Some(booted) = read("/proc/stat").and_then(|text| field(&text, "btime")) {
        let help = "When the process started, in seconds since 1970 (UTC).";
        let started = booted as f64 + stat.began_seconds;
        out.gauge("process_start_time_seconds", help, started);
    }
}

fn write_memory(out: &mut Exposition) {
    let text = read("/proc/self/statm").unwrap_or_default();
    let mut pages = text.split(' ').map(|number| number.parse::<u64>().ok());
    let (Some(Some(size)), Some(Some(resident))) = (pages.next(), pages.next()) else {
        return;
    };
    let help = "Resident memory of the process.";
    out.gauge("process_resident_memory_bytes", help, resident * PAGE_BYTES);
    let help = "Address space of the process.";
    out.gauge("process_virtual_memory_bytes", help, size * PAGE_BYTES);
}

fn write_descriptors(out: &mut Exposition) {
    if let Some(max) = read("/proc/self/limits").and_then(|text| descriptors_max(&text)) {
        let help = "Descriptors that one table may hold.";
        out.gauge("process_max_fds", help, max);
    }
    if let Some(open) = open_descriptors(Path::new("/proc/thread-self/fd")) {
        let help =
            "Open descriptors in the table of the process; cores may have tables of their own.";
        out.gauge("process_open_fds", help, open);
    }
    let cores = core_descriptors();
    if !cores.is_empty() {
        let help = "Open descriptors in the table that the core's thread uses; process_max_fds holds \
                    for each table.";
        out.family("tidewheel_core_open_fds", Type::Gauge, help);
    }
    for (core, open) in cores {
        out.sample(&[("core", &core)], open);
    }
}

/// The cores' threads, by their names, and how many descriptors each sees.
fn core_descriptors() -> Vec<(u16, u64)> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    let of_core = |thread: fs::DirEntry| {
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        let core = name.trim_end().strip_prefix("core-")?.parse().ok()?;
        Some((core, open_descriptors(&thread.path().join("fd"))?))
    };
    let mut cores: Vec<(u16, u64)> = threads.flatten().filter_map(of_core).collect();
    cores.sort_unstable();
    // Tests run several servers in one process.
    cores.dedup_by_key(|(core, _)| *core);
    cores
}

/// How many descriptors a table has. Since Linux 6.2 the folder's size says it; before, they are
/// counted, up to a bound.
fn open_descriptors(folder: &Path) -> Option<u64> {
    match fs::metadata(folder).ok()?.len() {
        0 => Some(fs::read_dir(folder).ok()?.take(COUNTED_MAX).count() as u64),
        open => Some(open),
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn stat(text: &str) -> Option<Stat> {
    // The name in parentheses may hold anything; what follows begins with the third field.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |place: usize| fields.get(place - 3)?.parse::<u64>().ok();
    let ticks = number(14)? + number(15)?;
    Some(Stat {
        cpu_seconds: ticks as f64 / TICKS_PER_SECOND,
        threads: number(20)?,
        began_seconds: number(22)? as f64 / TICKS_PER_SECOND,
    })
}

/// The number behind a word at the beginning of a line.
fn field(text: &str, word: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(word))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The soft limit of open files; none where there is no limit.
fn descriptors_max(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::metrics::exposition::Format;
    use crate::metrics::lint;

    #[test]
    fn a_process_is_told_as_every_prometheus_client_tells_it() {
        // It has its name from its own beginning on.
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let core = std::thread::Builder::new().name("core-7".to_owned());
        let core = core.spawn(move || {
            begun.send(()).unwrap();
            let _ended = is_done.recv();
        });
        has_begun.recv().unwrap();
        for format in [Format::Prometheus, Format::OpenMetrics] {
            let mut out = Exposition::new(format);
            Process.write(&mut out);
            let text = out.finish();
            let series = lint::check(&text, format);
            lint::check_documented(&text);
            assert!(series["process_resident_memory_bytes"] > 1e6);
            assert!(series["process_threads"] >= 1.0);
            assert!(series["process_start_time_seconds"] > 1.7e9);
            let (open, max) = (series["process_open_fds"], series["process_max_fds"]);
            assert!(2.0 < open && open <= max, "{open} of {max}");
            assert!(series["tidewheel_core_open_fds{core=\"7\"}"] > 2.0);
        }
        drop(done);
        core.unwrap().join().unwrap();
    }

    #[test]
    fn a_thread_s_name_with_blanks_does_not_move_the_fields() {
        let text = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 4200 1 1\n";
        let told = stat(text).unwrap();
        assert_eq!(
            (told.cpu_seconds, told.threads, told.began_seconds),
            (3.0, 9, 42.0)
        );
        assert!(stat("").is_none() && stat("1 (x) S 1").is_none());
    }

    #[test]
    fn limits_and_fields_are_found_in_their_lines() {
        let limits = "Limit Soft Limit Hard Limit Units\nMax open files  1024  524288  files\n";
        assert_eq!(descriptors_max(limits), Some(1024));
        assert_eq!(
            descriptors_max("Max open files unlimited unlimited files"),
            None
        );
        assert_eq!(
            field("cpu 1 2\nbtime 1700000000\n", "btime"),
            Some(1_700_000_000)
        );
    }
}
