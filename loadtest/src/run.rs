//! A scenario from its settings to its outcome: servers by turns, medians, the files.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::bars::Bars;
use crate::baseline_server;
use crate::engine;
use crate::html;
use crate::machine;
use crate::message::{self, PAYLOAD_BYTES_MIN};
use crate::outcome::{Outcome, Turn, VERSION};
use crate::report::{self, Verdict};
use crate::settings::{Profile, Settings};
use crate::socket;
use crate::target::Target;
use crate::watch::Watch;

/// Runs a scenario and reports it.
pub fn run(name: &str, about: &str, settings: &Settings) -> anyhow::Result<Verdict> {
    anyhow::ensure!(
        !settings.against_baseline || (settings.rooms == 1 && !settings.clients_speak()),
        "the bare loop has one room and takes publishes of --publishers only: give --rooms 1"
    );
    // Not to be found out after an hour.
    for path in settings.json.iter().chain(&settings.report) {
        report::check_writable(path)?;
    }
    let mut outcome = begin(name, about, settings)?;
    let bars = Bars::new(settings.quiet);
    for _ in 0..settings.repeat {
        let is_bare = settings.target == Profile::BareLoop;
        let turns = measure(settings, None, &bars)?;
        let frame_bytes = turns.last().map(|turn| turn.frame_bytes as usize);
        note(&mut outcome, turns);
        for uring in [false, true] {
            if is_bare || !settings.against_baseline || (uring && !settings.uring) {
                continue;
            }
            let bare = Settings {
                target: Profile::BareLoop,
                uring,
                ..settings.clone()
            };
            note(&mut outcome, measure(&bare, frame_bytes, &bars)?);
        }
    }
    print!("{}", report::summary(&outcome));
    report::write_json(settings.json.as_deref(), &outcome)?;
    if let Some(path) = &settings.report {
        html::write(path, &outcome)?;
    }
    Ok(Verdict::of(&outcome.failures))
}

#[allow(clippy::disallowed_methods, reason = "a run has a date")]
fn begin(name: &str, about: &str, settings: &Settings) -> anyhow::Result<Outcome> {
    let began = SystemTime::now().duration_since(UNIX_EPOCH);
    let serde_json::Value::Object(values) = serde_json::to_value(settings)? else {
        anyhow::bail!("the settings are no object");
    };
    Ok(Outcome {
        version: VERSION,
        scenario: name.to_owned(),
        about: about.to_owned(),
        command: env::args().collect::<Vec<_>>().join(" "),
        began_unix_ms: began.map_or(0, |it| it.as_millis() as u64),
        machine: machine::this_machine(),
        settings: values.into_iter().collect(),
        turns: Vec::new(),
        failures: Vec::new(),
    })
}

fn note(outcome: &mut Outcome, turns: Vec<Turn>) {
    for turn in turns {
        println!("{}", report::turn(&turn));
        outcome.failures.extend(turn.failures.iter().cloned());
        outcome.turns.push(turn);
    }
}

fn measure(
    settings: &Settings,
    frame_bytes: Option<usize>,
    bars: &Bars,
) -> anyhow::Result<Vec<Turn>> {
    let target = open(settings, frame_bytes)?;
    if target.is_tls {
        anyhow::ensure!(
            settings.tls_insecure,
            "the server speaks TLS: --tls-insecure takes whatever certificate it shows"
        );
        socket::speak_tls(settings.tls_resume)?;
    }
    let turns = engine::measure(settings, &target, &mut Watch::new(bars.clone()));
    bars.clear();
    turns
}

/// Starts the server, or finds the one that runs.
fn open(settings: &Settings, frame_bytes: Option<usize>) -> anyhow::Result<Target> {
    if settings.target == Profile::BareLoop {
        return open_bare_loop(settings, frame_bytes.or(settings.frame_bytes));
    }
    let Some(program) = &settings.server_bin else {
        let admin = Some(settings.admin_url.as_str());
        let admin = admin.filter(|_| settings.target == Profile::Tidewheel);
        return Target::running(&settings.url, admin, settings.server_pid);
    };
    let args: Vec<String> = settings
        .server_args
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let has_admin = args.iter().any(|arg| arg.starts_with("--admin-listen"));
    let mut target = Target::spawn(program, &args, settings.server_log.as_deref(), has_admin)?;
    if settings.target == Profile::Echo {
        "/echo".clone_into(&mut target.path);
    }
    Ok(target)
}

/// Starts the bare loop as a process of its own, so that its CPU time is counted apart.
fn open_bare_loop(settings: &Settings, frame_bytes: Option<usize>) -> anyhow::Result<Target> {
    let least = message::bare_bytes(&settings.room, settings.payload.max(PAYLOAD_BYTES_MIN)) + 4;
    let frame_bytes = frame_bytes
        .unwrap_or_else(|| message::frame_bytes(&settings.room, settings.payload).max(least));
    anyhow::ensure!(
        frame_bytes >= least,
        "--frame-bytes {least} or more, for this payload"
    );
    if settings.uring {
        // Its own complaint would go unheard.
        baseline_server::check_uring()?;
    }
    let program = env::current_exe().context("find this program")?;
    // As few loops as descriptors allow: with one, nothing is handed between threads.
    let loops = settings
        .connections()
        .div_ceil(baseline_server::RECEIVERS_PER_LOOP);
    let (frame_bytes, loops) = (frame_bytes.to_string(), loops.to_string());
    let mut args = vec!["serve-baseline", "--frame-bytes", &frame_bytes];
    args.extend(["--loops", &loops]);
    args.extend(settings.uring.then_some("--uring"));
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    Target::spawn(&program, &args, None, false)
}
