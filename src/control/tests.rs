//! The control plane over loopback, with cores that answer, are stuck or are gone.
#![expect(clippy::disallowed_methods, reason = "time-outs are what is tested")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{LazyLock, Mutex, mpsc};
use std::time::Instant;

use super::*;
use crate::address::{ConnectionRef, CoreId, Placement};
use crate::bus::{Order, OrderReply, Query};
use crate::gate::Verdict;
use crate::metrics::exposition::Format;
use crate::metrics::{Metrics, SnapshotReply, lint};

const SNAPSHOT_TIMEOUT: Duration = Duration::from_millis(500);
/// Far above what anything here takes: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Core 0 answers from its own thread; core 1 keeps the requests until the test takes them; core 2
/// drops them.
struct FakeCores {
    answering: Mutex<mpsc::Sender<SnapshotReply>>,
    kept: Mutex<Vec<SnapshotReply>>,
}

impl Cores for FakeCores {
    fn count(&self) -> usize {
        3
    }

    fn request_snapshot(&self, core: usize, reply: SnapshotReply) {
        match core {
            0 => self.answering.lock().unwrap().send(reply).unwrap(),
            1 => self.kept.lock().unwrap().push(reply),
            _ => drop(reply),
        }
    }

    fn deliver_verdict(&self, _: ConnectionRef, _: Verdict) {}

    fn order(&self, _core: usize, _order: Order, reply: OrderReply) {
        drop(reply);
    }

    fn query(&self, _core: CoreId, _query: Query, _weight_bytes: usize) -> bool {
        false
    }

    fn backlog_bytes(&self, _core: CoreId) -> usize {
        0
    }

    fn placement(&self) -> &Placement {
        static PLACEMENT: LazyLock<Placement> = LazyLock::new(|| Placement::new(7, 1));
        &PLACEMENT
    }
}

impl FakeCores {
    fn new() -> Arc<FakeCores> {
        let (answering, requests) = mpsc::channel::<SnapshotReply>();
        thread::spawn(move || {
            // Accepts one connection more before each answer: the text tells how often it was asked.
            let mut metrics = Metrics::default();
            for reply in requests {
                metrics.connections.accepted += 1;
                reply.answer(&metrics);
            }
        });
        Arc::new(FakeCores {
            answering: Mutex::new(answering),
            kept: Mutex::default(),
        })
    }

    fn take_kept(&self) -> Vec<SnapshotReply> {
        std::mem::take(&mut self.kept.lock().unwrap())
    }
}

struct Plane {
    cores: Arc<FakeCores>,
    readiness: Arc<Readiness>,
    handle: ControlHandle,
}

impl Plane {
    fn new(limits: Limits) -> Plane {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (cores, readiness) = (FakeCores::new(), Arc::new(Readiness::new()));
        let limits = Limits {
            snapshot_timeout: SNAPSHOT_TIMEOUT,
            ..limits
        };
        let plane = super::Plane::new().unwrap();
        let handle = plane
            .spawn(listener, cores.clone(), readiness.clone(), limits)
            .unwrap();
        Plane {
            cores,
            readiness,
            handle,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.handle.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ask(&self, request_line: &str) -> Answer {
        self.ask_with(request_line, "")
    }

    fn ask_with(&self, request_line: &str, fields: &str) -> Answer {
        let mut stream = self.connect();
        send_with(&mut stream, request_line, fields);
        Answer::read(stream)
    }

    fn scrape(&self) -> String {
        let answer = self.ask("GET /metrics");
        assert_eq!(answer.status(), 200);
        answer.body().to_owned()
    }
}

fn send(stream: &mut TcpStream, request_line: &str) {
    send_with(stream, request_line, "");
}

fn send_with(stream: &mut TcpStream, request_line: &str, fields: &str) {
    let head =
        format!("{request_line} HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
}

/// A whole answer as text.
struct Answer(String);

impl Answer {
    fn read(mut stream: TcpStream) -> Answer {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        Answer(text)
    }

    fn status(&self) -> u16 {
        self.0.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> &str {
        let lines = self.0.lines().take_while(|line| !line.is_empty());
        let mut fields = lines.filter_map(|line| line.split_once(": "));
        fields
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .unwrap()
            .1
    }

    fn body(&self) -> &str {
        self.0.split_once("\r\n\r\n").unwrap().1
    }

    fn problem(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem: serde_json::Value = serde_json::from_str(self.body()).unwrap();
        assert_eq!(problem["status"], self.status());
        problem
    }
}

#[test]
fn readiness_follows_the_node_and_liveness_does_not() {
    let plane = Plane::new(Limits::default());
    for (phase, status) in [
        (Phase::Starting, 503),
        (Phase::Ready, 200),
        (Phase::Draining, 503),
    ] {
        plane.readiness.set(phase);
        assert_eq!(plane.ask("GET /readyz").status(), status);
        let alive = plane.ask("GET /healthz");
        assert_eq!((alive.status(), alive.body()), (200, "ok\n"));
    }
    assert_eq!(
        plane.ask("GET /readyz").problem()["detail"],
        "the node is draining"
    );
}

#[test]
fn an_unknown_path_and_a_wrong_method_are_problems() {
    let plane = Plane::new(Limits::default());
    for request in ["GET /nowhere", "POST /nowhere", "GET /healthz/", "GET /%ff"] {
        let answer = plane.ask(request);
        assert_eq!(
            (answer.status(), &answer.problem()["title"]),
            (404, &"Not Found".into())
        );
    }
    for request in ["POST /metrics", "DELETE /healthz", "PUT /readyz"] {
        let answer = plane.ask(request);
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.header("allow"), "GET,HEAD");
        assert_eq!(answer.problem()["title"], "Method Not Allowed");
    }
    let head = plane.ask("HEAD /healthz");
    assert_eq!((head.status(), head.body()), (200, ""));
}

#[test]
fn a_stuck_core_is_told_as_down_and_holds_up_nobody_for_long() {
    let plane = Plane::new(Limits::default());
    let begun = Instant::now();
    let text = plane.scrape();
    assert!((SNAPSHOT_TIMEOUT..PATIENCE).contains(&begun.elapsed()));
    for line in ["{core=\"0\"} 1", "{core=\"1\"} 0", "{core=\"2\"} 0"] {
        assert!(
            text.contains(&format!("tidewheel_core_up{line}\n")),
            "{text}"
        );
    }
    // It owes an answer, so it is not asked again.
    plane.scrape();
    let kept = plane.cores.take_kept();
    assert_eq!(kept.len(), 1);

    // When it comes back, what it says next is current: the late answer is not told.
    let metrics = Metrics {
        timers: 77,
        ..Metrics::default()
    };
    kept.into_iter().for_each(|reply| reply.answer(&metrics));
    thread::scope(|scope| {
        let scrape = scope.spawn(|| plane.scrape());
        let metrics = Metrics {
            timers: 78,
            ..Metrics::default()
        };
        while !scrape.is_finished() {
            plane
                .cores
                .take_kept()
                .into_iter()
                .for_each(|reply| reply.answer(&metrics));
            thread::yield_now();
        }
        let text = scrape.join().unwrap();
        assert!(text.contains("tidewheel_core_up{core=\"1\"} 1\n"), "{text}");
        assert!(
            text.contains("tidewheel_core_timers{core=\"1\"} 78\n"),
            "{text}"
        );
    });

    // Silent again: its counters stand still instead of starting anew.
    let text = plane.scrape();
    assert!(text.contains("tidewheel_core_up{core=\"1\"} 0\n"), "{text}");
    assert!(
        text.contains("tidewheel_core_timers{core=\"1\"} 78\n"),
        "{text}"
    );
}

#[test]
fn the_metrics_say_what_they_are() {
    let plane = Plane::new(Limits::default());
    let answer = plane.ask("GET /metrics");
    assert_eq!(
        answer.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    assert_eq!(answer.header("vary"), "Accept");
    assert!(answer.body().starts_with("# HELP tidewheel_core_up "));
    lint::check(answer.body(), Format::Prometheus);
    lint::check_documented(answer.body());
}

#[test]
fn a_scraper_that_asks_for_open_metrics_gets_them() {
    let plane = Plane::new(Limits::default());
    let answer = plane.ask_with("GET /metrics", "Accept: application/openmetrics-text\r\n");
    assert_eq!(
        answer.header("content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    lint::check(answer.body(), Format::OpenMetrics);
    lint::check_documented(answer.body());
}

#[test]
fn scrapes_at_the_same_time_share_the_cores_answers() {
    let plane = Plane::new(Limits::default());
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| plane.scrape());
        }
    });
    assert!(
        begun.elapsed() < SNAPSHOT_TIMEOUT * 10,
        "{:?}",
        begun.elapsed()
    );
    // Core 0 counts how often it was asked; the scrape that reads it is one more.
    let text = plane.scrape();
    let (_, asked) = text
        .split_once("\ntidewheel_connections_accepted_total ")
        .unwrap();
    let asked: u32 = asked.split_once('\n').unwrap().0.parse().unwrap();
    assert!((2..=8).contains(&asked), "asked {asked} times");
}

#[test]
fn a_scrape_that_is_given_up_leaves_no_empty_text_behind() {
    let plane = Plane::new(Limits::default());
    thread::scope(|scope| {
        let mut given_up = plane.connect();
        send(&mut given_up, "GET /metrics");
        let waiting = scope.spawn(|| plane.scrape());
        drop(given_up);
        assert!(
            waiting
                .join()
                .unwrap()
                .contains("tidewheel_core_up{core=\"0\"} 1\n")
        );
    });
}

#[test]
fn a_slow_head_is_cut_off_and_others_do_not_wait_for_it() {
    let head_timeout = Duration::from_millis(300);
    let plane = Plane::new(Limits {
        head_timeout,
        ..Limits::default()
    });
    let mut slow = plane.connect();
    let silent = plane.connect();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: l").unwrap();
    assert_eq!(plane.ask("GET /healthz").status(), 200);
    let begun = Instant::now();
    for mut stream in [slow, silent] {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[test]
fn a_head_beyond_the_limit_is_refused() {
    let plane = Plane::new(Limits {
        head_bytes_max: 4096,
        ..Limits::default()
    });
    let mut stream = plane.connect();
    let filler = "x".repeat(4096);
    write!(
        stream,
        "GET /healthz HTTP/1.1\r\nHost: l\r\nFiller: {filler}\r\n\r\n"
    )
    .unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 431");
}

#[test]
fn connections_beyond_the_limit_wait_for_a_place() {
    let limits = Limits {
        connections_max: 2,
        head_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let plane = Plane::new(limits);
    let begun = Instant::now();
    let holding = [plane.connect(), plane.connect()];
    assert_eq!(plane.ask("GET /healthz").status(), 200);
    assert!((limits.head_timeout..PATIENCE).contains(&begun.elapsed()));
    drop(holding);
}

#[test]
fn a_connection_ends_with_its_age_whatever_it_does() {
    let limits = Limits {
        age_max: Duration::from_millis(500),
        close_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let plane = Plane::new(limits);
    let mut stream = plane.connect();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: l\r\n\r\nGET /heal")
        .unwrap();
    let mut all = Vec::new();
    // The second request never ends; the end of the stream may come as a reset.
    let _ = stream.read_to_end(&mut all);
    assert!(String::from_utf8(all).unwrap().ends_with("ok\n"));
}

#[test]
fn a_stop_finishes_the_answers_under_way() {
    let plane = Plane::new(Limits::default());
    let (mut under_way, mut idle) = (plane.connect(), plane.connect());
    send(&mut under_way, "GET /metrics");
    while plane.cores.kept.lock().unwrap().is_empty() {
        thread::yield_now();
    }
    let begun = Instant::now();
    plane.handle.stop().unwrap();
    assert!(begun.elapsed() < Limits::default().close_timeout);
    assert_eq!(Answer::read(under_way).status(), 200);
    assert_eq!(idle.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn a_dropped_handle_stops_the_thread() {
    let plane = Plane::new(Limits::default());
    let mut stream = plane.connect();
    drop(plane.handle);
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}

mod live;
