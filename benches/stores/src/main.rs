//! Holds fjall, redb and SQLite against each other on what a node keeps: many small messages of
//! many rooms, committed in groups.
//!
//! ```sh
//! cargo run --release -- speed FOLDER     # commits by group size; tail, load, expiry, file size
//! cargo run --release -- crash FOLDER     # kill -9 under load, then what was acknowledged
//! cargo run --release -- full FOLDER      # no more room in the middle, then room again
//! cargo run --release -- damage FOLDER    # one flipped byte, or the end cut off
//! ```
//! The other commands (`write`, `starve`, `read`) are the children of these.

mod engine;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use engine::{Engine, Fault, Message, NAMES};

const ROOMS: u32 = 10_000;

fn main() -> Result<(), Fault> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["speed", folder] => speed(Path::new(folder)),
        ["crash", folder] => crash(Path::new(folder)),
        ["full", folder] => full(Path::new(folder)),
        ["damage", folder] => damage(Path::new(folder)),
        ["write", name, folder] => write(name, Path::new(folder)),
        ["starve", name, folder] => starve(name, Path::new(folder)),
        ["read", name, folder] => read(name, Path::new(folder)),
        _ => Err("speed|crash|full|damage FOLDER".into()),
    }
}

/// Messages of 200 to 300 bytes for random rooms, with offsets that follow on.
struct Source {
    random: fastrand::Rng,
    offsets: HashMap<u32, u64>,
    rooms: u32,
}

impl Source {
    fn new(rooms: u32) -> Source {
        Source {
            random: fastrand::Rng::with_seed(7),
            offsets: HashMap::new(),
            rooms,
        }
    }

    fn group(&mut self, len: usize) -> Vec<Message> {
        (0..len).map(|_| self.message()).collect()
    }

    fn message(&mut self) -> Message {
        let room = self.random.u32(0..self.rooms);
        let offset = self.offsets.entry(room).or_default();
        *offset += 1;
        let len = self.random.usize(196..296);
        // Compresses as JSON does: some, not much.
        let mut body: Vec<u8> = (0..len).map(|_| self.random.u8(b'a'..b'q')).collect();
        let sum = crc32fast::hash(&body).to_le_bytes();
        body.extend_from_slice(&sum);
        Message {
            room,
            offset: *offset,
            body,
        }
    }
}

fn is_whole(body: &[u8]) -> bool {
    body.split_last_chunk::<4>()
        .is_some_and(|(body, sum)| crc32fast::hash(body).to_le_bytes() == *sum)
}

fn fresh(folder: &Path, name: &str) -> Result<PathBuf, Fault> {
    let folder = folder.join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size(&entry.path()),
        // What the file occupies, not how long it is: a journal may be set aside in advance.
        Ok(meta) => std::os::unix::fs::MetadataExt::blocks(&meta) * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

fn cpu() -> Duration {
    // SAFETY: all of the struct is written by the call, and zeros are valid before.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let of = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

fn written() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn speed(folder: &Path) -> Result<(), Fault> {
    println!("store group commits/s p50_ms p99_ms messages/s cpu_us/message written/message");
    for round in 0..3 {
        for (group, commits) in [(1, 300), (16, 300), (256, 150), (4096, 40)] {
            for name in NAMES {
                one_speed(name, &fresh(folder, name)?, group, commits, round)?;
            }
        }
    }
    println!("\nstore load_ms messages tail_us expire_ms size_MB size_after_refill_MB");
    for _ in 0..2 {
        for name in NAMES {
            one_life(name, &fresh(folder, name)?)?;
        }
    }
    Ok(())
}

fn one_speed(
    name: &str,
    folder: &Path,
    group: usize,
    commits: usize,
    round: usize,
) -> Result<(), Fault> {
    let mut engine = engine::open(name, folder)?;
    let mut source = Source::new(ROOMS);
    // A store that is not empty: four messages in each room on average.
    for _ in 0..10 {
        engine.append(&source.group(4000))?;
    }
    let groups: Vec<_> = (0..commits).map(|_| source.group(group)).collect();
    let mut times = Vec::new();
    let (began, cpu_before, written_before) = (Instant::now(), cpu(), written());
    for group in &groups {
        let at = Instant::now();
        engine.append(group)?;
        times.push(at.elapsed());
    }
    let took = began.elapsed();
    let messages = (group * commits) as f64;
    times.sort();
    let ms = |index: usize| times[index.min(times.len() - 1)].as_secs_f64() * 1e3;
    println!(
        "{name} {group} {:.0} {:.2} {:.2} {:.0} {:.1} {:.0} #{round}",
        commits as f64 / took.as_secs_f64(),
        ms(commits / 2),
        ms(commits * 99 / 100),
        messages / took.as_secs_f64(),
        (cpu() - cpu_before).as_secs_f64() * 1e6 / messages,
        (written() - written_before) as f64 / messages,
    );
    Ok(())
}

/// A million messages, read at a start, by room, then expired and written again.
fn one_life(name: &str, folder: &Path) -> Result<(), Fault> {
    let mut engine = engine::open(name, folder)?;
    let mut source = Source::new(ROOMS);
    for _ in 0..250 {
        engine.append(&source.group(4000))?;
    }
    drop(engine);
    let before = size(folder);
    let at = Instant::now();
    let mut engine = engine::open(name, folder)?;
    let mut count = 0;
    engine.load(&mut |_, _, body| count += usize::from(is_whole(body)))?;
    let load = at.elapsed();
    let at = Instant::now();
    let mut found = 0;
    for room in (0..ROOMS).step_by(50) {
        found += engine.tail(room, source.offsets[&room], 100)?;
    }
    assert!(found > 15_000);
    let tail = at.elapsed() / (ROOMS / 50);
    let at = Instant::now();
    engine.expire(ROOMS, 51)?;
    let expire = at.elapsed();
    // Half is gone: as much again should find its room.
    for _ in 0..125 {
        engine.append(&source.group(4000))?;
    }
    drop(engine);
    println!(
        "{name} {} {count} {} {} {} {}",
        load.as_millis(),
        tail.as_micros(),
        expire.as_millis(),
        before >> 20,
        size(folder) >> 20
    );
    Ok(())
}

fn child(command: &str, name: &str, folder: &Path) -> Result<Command, Fault> {
    let mut child = Command::new(std::env::current_exe()?);
    child.args([command, name]).arg(folder);
    Ok(child)
}

/// Writes groups of 16 without end and says after each what is on disk.
fn write(name: &str, folder: &Path) -> Result<(), Fault> {
    let mut engine = engine::open(name, folder)?;
    let mut source = Source::new(100);
    let mut total = 0;
    engine.load(&mut |room, offset, _| {
        let known = source.offsets.entry(room).or_default();
        *known = offset.max(*known);
        total += 1;
    })?;
    let mut out = std::io::stdout();
    loop {
        engine.append(&source.group(16))?;
        total += 16;
        writeln!(out, "{total}")?;
    }
}

fn crash(folder: &Path) -> Result<(), Fault> {
    println!("store kills lost_messages faults reopen_ms_max");
    for name in NAMES {
        let folder = fresh(folder, name)?;
        let mut random = fastrand::Rng::with_seed(3);
        let (mut lost, mut faults, mut slowest) = (0, 0, Duration::ZERO);
        let kills = 40;
        for _ in 0..kills {
            let mut writer = child("write", name, &folder)?
                .stdout(Stdio::piped())
                .spawn()?;
            let out = writer.stdout.take().ok_or("no output")?;
            let reader = std::thread::spawn(move || {
                let lines = BufReader::new(out).lines().map_while(Result::ok);
                lines.filter_map(|l| l.parse::<usize>().ok()).last()
            });
            std::thread::sleep(Duration::from_millis(random.u64(50..400)));
            writer.kill()?;
            writer.wait()?;
            let acknowledged = reader.join().map_err(|_| "reader")?.unwrap_or(0);
            let at = Instant::now();
            let mut count = 0;
            let mut look = || -> Result<(), Fault> {
                engine::open(name, &folder)?.load(&mut |_, _, b| count += usize::from(is_whole(b)))
            };
            faults += usize::from(look().is_err());
            slowest = slowest.max(at.elapsed());
            lost += acknowledged.saturating_sub(count);
        }
        println!("{name} {kills} {lost} {faults} {}", slowest.as_millis());
    }
    Ok(())
}

fn limit_files(bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: both calls take plain values.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
    }
}

/// Writes until no file may grow any more, tries again, then has room again: with the same handle,
/// and with a new one.
fn starve(name: &str, folder: &Path) -> Result<(), Fault> {
    let mut engine = engine::open(name, folder)?;
    let mut source = Source::new(100);
    for _ in 0..50 {
        engine.append(&source.group(256))?;
    }
    limit_files(3 << 20);
    let mut committed = 50 * 256;
    let mut first = None;
    for _ in 0..2000 {
        match engine.append(&source.group(256)) {
            Ok(()) => committed += 256,
            Err(fault) => {
                first = Some(fault.to_string());
                break;
            }
        }
    }
    println!("  at the limit: {first:?}");
    let again = engine.append(&source.group(256));
    println!("  once more: {:?}", again.map_err(|e| e.to_string()));
    limit_files(libc::RLIM_INFINITY);
    let after = engine.append(&source.group(256));
    committed += if after.is_ok() { 256 } else { 0 };
    println!(
        "  with room again, same handle: {:?}",
        after.map_err(|e| e.to_string())
    );
    drop(engine);
    let mut engine = engine::open(name, folder)?;
    let mut count = 0;
    engine.load(&mut |_, _, body| count += usize::from(is_whole(body)))?;
    println!("  a new handle: {count} messages, {committed} were acknowledged");
    engine.append(&source.group(256))?;
    println!("  a new handle writes");
    Ok(())
}

fn full(folder: &Path) -> Result<(), Fault> {
    for name in NAMES {
        println!("{name}");
        let folder = fresh(folder, name)?;
        let status = child("starve", name, &folder)?.status()?;
        println!("  {status}");
    }
    Ok(())
}

/// Reads everything; the exit code says what came of it.
fn read(name: &str, folder: &Path) -> Result<(), Fault> {
    let (mut whole, mut broken) = (0, 0);
    let mut count = |body: &[u8]| match is_whole(body) {
        true => whole += 1,
        false => broken += 1,
    };
    let mut look = || -> Result<Box<dyn Engine>, Fault> {
        let mut engine = engine::open(name, folder)?;
        engine.load(&mut |_, _, body| count(body))?;
        Ok(engine)
    };
    let result = look();
    println!("{whole} {broken}");
    match result {
        Ok(engine) => drop(engine),
        Err(_) => std::process::exit(3),
    }
    Ok(())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.path() {
        path if path.is_dir() => files(&path),
        path => vec![path],
    };
    entries.flat_map(of).collect()
}

fn damage(folder: &Path) -> Result<(), Fault> {
    println!(
        "store kind trials unnoticed all_there wrong_bytes less_without_error error crash kept_after_error%"
    );
    const TOTAL: usize = 20_000;
    for name in NAMES {
        let original = fresh(folder, name)?;
        let mut engine = engine::open(name, &original)?;
        let mut source = Source::new(200);
        for _ in 0..TOTAL / 200 {
            engine.append(&source.group(200))?;
        }
        drop(engine);
        // Opened once more, as a node that was started twice: what lay in a journal may move.
        drop(engine::open(name, &original)?);
        for kind in ["flip", "cut"] {
            let mut random = fastrand::Rng::with_seed(11);
            let mut seen = [0_usize; 5];
            let mut kept = 0;
            let trials = if kind == "flip" { 150 } else { 40 };
            for _ in 0..trials {
                let copy = fresh(folder, "copy")?;
                copy_all(&original, &copy)?;
                spoil(&copy, kind, &mut random)?;
                let out = child("read", name, &copy)?.stderr(Stdio::null()).output()?;
                let text = String::from_utf8_lossy(&out.stdout);
                let mut numbers = text.split_whitespace().map(|n| n.parse().unwrap_or(0));
                let whole: usize = numbers.next().unwrap_or(0);
                let broken: usize = numbers.next().unwrap_or(0);
                let class = match out.status.code() {
                    Some(0) if broken > 0 => 1,
                    Some(0) if whole < TOTAL => 2,
                    Some(0) => 0,
                    Some(3) => 3,
                    _ => 4,
                };
                if class == 3 {
                    kept += whole;
                }
                seen[class] += 1;
            }
            let [all, wrong, less, error, crash] = seen;
            println!(
                "{name} {kind} {trials} all={all} wrong={wrong} less={less} error={error} crash={crash} read_before_error={}%",
                kept * 100 / (error.max(1) * TOTAL)
            );
        }
    }
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> Result<(), Fault> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target)?;
            copy_all(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Spoils one file, chosen by its weight: a byte of what is not zero, or the end cut off.
fn spoil(folder: &Path, kind: &str, random: &mut fastrand::Rng) -> Result<(), Fault> {
    let mut candidates = Vec::new();
    for path in files(folder) {
        let bytes = fs::read(&path)?;
        let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        candidates.push((path, bytes, used));
    }
    let total: usize = candidates.iter().map(|(_, _, used)| used).sum();
    let mut at = random.usize(0..total);
    for (path, mut bytes, used) in candidates {
        if at < used {
            if kind == "flip" {
                bytes[at] ^= 1 << random.u8(0..8);
            } else {
                bytes.truncate(at);
            }
            fs::write(path, bytes)?;
            return Ok(());
        }
        at -= used;
    }
    Ok(())
}
