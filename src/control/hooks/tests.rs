//! The desk, with a backend on a port of this machine.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;

use aws_lc_rs::hmac;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::address::Placement;
use crate::bus::Noticed;
use crate::control::hooks::counters::Failure;
use crate::metrics::exposition::{Exposition, Format, Source};
use crate::protocol::UserId;

/// What the backend does with a request; 200 where nothing is prescribed.
#[derive(Copy, Clone)]
enum Reply {
    Status(u16, &'static str),
    HangUp,
    Never,
    Slowly(u64),
}

const GOOD: Reply = Reply::Status(200, "");

/// A request: its head and its body.
type Request = (String, String);

fn converse(
    mut stream: TcpStream,
    replies: &Mutex<VecDeque<Reply>>,
    requests: &mpsc::UnboundedSender<Request>,
) {
    let mut received = Vec::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        let whole = text.split_once("\r\n\r\n").filter(|(head, body)| {
            let len = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            len.is_some_and(|len| len.parse() == Ok(body.len()))
        });
        let Some((head, body)) = whole else {
            match stream.read(&mut buffer) {
                Ok(count @ 1..) => received.extend_from_slice(&buffer[..count]),
                _ => return,
            }
            continue;
        };
        received.clear();
        // A test that is over asks no more.
        let _over = requests.send((head.to_owned(), body.to_owned()));
        let reply = replies.lock().unwrap().pop_front().unwrap_or(GOOD);
        let (status, field) = match reply {
            Reply::Status(status, field) => (status, field),
            Reply::HangUp => return,
            // Until the other side hangs up.
            Reply::Never => return drop(stream.read(&mut buffer)),
            Reply::Slowly(ms) => {
                // Nothing comes before the answer.
                stream
                    .set_read_timeout(Some(Duration::from_millis(ms)))
                    .unwrap();
                drop(stream.read(&mut buffer));
                stream.set_read_timeout(None).unwrap();
                (200, "")
            }
        };
        let answer = format!("HTTP/1.1 {status} x\r\n{field}content-length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

struct Stand {
    sender: NoticeSender,
    requests: mpsc::UnboundedReceiver<Request>,
    stage: watch::Sender<Stage>,
    counters: Arc<Counters>,
    serving: JoinHandle<()>,
}

fn settings(url: String) -> HookSettings {
    HookSettings {
        url,
        timeout: Duration::from_millis(300),
        secret_file: None,
        ca_file: None,
        node: "edge-1".to_owned(),
        rooms: true,
        users: true,
        arrival_delay: Duration::ZERO,
        departure_delay: Duration::from_millis(400),
        batch_max: 100,
        queue_max: 1_000,
    }
}

const SHORT: Patience = Patience {
    batch: Duration::from_secs(20),
    pause: Duration::from_millis(20),
    refused: Duration::from_millis(50),
    end: Duration::from_millis(500),
};

fn stand(replies: &[Reply], patience: Patience, change: impl FnOnce(&mut HookSettings)) -> Stand {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/events", listener.local_addr().unwrap());
    let replies: VecDeque<Reply> = replies.iter().copied().collect();
    let replies = Arc::new(Mutex::new(replies));
    let (seen, requests) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (replies, seen) = (Arc::clone(&replies), seen.clone());
            thread::spawn(move || converse(stream, &replies, &seen));
        }
    });
    let mut settings = settings(url);
    change(&mut settings);
    let (sender, hooks) = Hooks::with(&settings, patience).unwrap();
    let (stage, staged) = watch::channel(Stage::Serving);
    Stand {
        sender,
        requests,
        stage,
        counters: hooks.counters(),
        serving: tokio::spawn(hooks.serve(staged, 42)),
    }
}

impl Stand {
    fn tell(&self, changes: &[(&str, bool)]) {
        let notice = |(name, is_there): &(&str, bool)| {
            let room = |name| Placement::new(7, 1).room(name);
            let user = UserId::from_name;
            let what = match (name.strip_prefix('#'), *is_there) {
                (Some(name), true) => Noticed::RoomOccupied(room(name)),
                (Some(name), false) => Noticed::RoomVacated(room(name)),
                (None, true) => Noticed::UserConnected(user(name)),
                (None, false) => Noticed::UserDisconnected(user(name)),
            };
            let unix_ms = 1_800_000_000_000;
            Notice { unix_ms, what }
        };
        self.sender.send(changes.iter().map(notice).collect());
    }

    async fn request(&mut self) -> Request {
        let next = tokio::time::timeout(Duration::from_secs(20), self.requests.recv());
        next.await.expect("a request in time").unwrap()
    }

    /// The next request's number, and its events: type, name or count.
    async fn batch(&mut self) -> (u64, Vec<String>) {
        let (_, body) = self.request().await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["node"], "edge-1");
        assert_eq!(body["epoch"].as_str().unwrap(), "000000000000002a");
        let text = |event: &serde_json::Value| {
            let about = ["room", "user_id", "count"];
            let about = about.iter().find_map(|name| event.get(*name));
            let about = about.map_or(String::new(), |about| format!(" {about}"));
            format!("{}{about}", event["type"].as_str().unwrap()).replace('"', "")
        };
        let events = body["events"].as_array().unwrap().iter().map(text);
        (body["sequence"].as_u64().unwrap(), events.collect())
    }

    async fn started(&mut self) {
        let started = vec!["node_started".to_owned()];
        assert_eq!(self.batch().await, (1, started));
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test]
async fn a_start_is_told_first_and_what_happens_in_order_and_signed() {
    let path = std::env::temp_dir().join(format!("tidewheel-hooks-{}", std::process::id()));
    std::fs::write(&path, "0123456789abcdef\n").unwrap();
    let secret_file = Some(path.clone());
    let mut stand = stand(&[], SHORT, |it| it.secret_file = secret_file);
    std::fs::remove_file(path).unwrap();
    stand.started().await;
    stand.tell(&[("ann", true), ("#lobby", true), ("bob", true)]);
    let (head, body) = stand.request().await;
    assert!(head.starts_with("POST /events HTTP/1.1\r\n"), "{head}");
    let signature = head
        .lines()
        .find_map(|line| line.strip_prefix("tidewheel-signature: t="));
    let (time, hex) = signature.unwrap().split_once(",v1=").unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
    let tag = hmac::sign(&key, format!("{time}.{body}").as_bytes());
    let expected: String = tag.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, expected);
    let expected = r#""events":[{"type":"user_connected","at":"2027-01-15T08:00:00.000Z","user_id":"ann"},{"type":"room_occupied","at":"2027-01-15T08:00:00.000Z","room":"lobby"},{"type":"user_connected","at":"2027-01-15T08:00:00.000Z","user_id":"bob"}]}"#;
    assert!(body.ends_with(expected), "{body}");
    assert!(body.contains("\"sequence\":2,"));
}

#[tokio::test]
async fn who_is_back_at_once_was_never_away() {
    let mut stand = stand(&[], SHORT, |_| {});
    stand.started().await;
    stand.tell(&[("ann", true), ("bob", true), ("ann", false)]);
    let both = texts(&["user_connected ann", "user_connected bob"]);
    assert_eq!(stand.batch().await, (2, both));
    stand.tell(&[("ann", true), ("bob", false)]);
    let gone = texts(&["user_disconnected bob"]);
    assert_eq!(stand.batch().await, (3, gone));
    let mut out = Exposition::new(Format::Prometheus);
    stand.counters.write(&mut out);
    let text = out.finish();
    assert!(
        text.contains("tidewheel_hook_coalesced_total 2\n"),
        "{text}"
    );
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_told() {
    let mut stand = stand(&[], SHORT, |it| it.users = false);
    stand.started().await;
    stand.tell(&[("ann", true), ("#lobby", true)]);
    assert_eq!(stand.batch().await.1, texts(&["room_occupied lobby"]));
}

#[tokio::test]
async fn a_batch_is_sent_again_until_it_is_taken_and_order_holds() {
    let replies = [
        GOOD,
        Reply::Status(503, ""),
        Reply::HangUp,
        Reply::Never,
        Reply::Status(429, "retry-after: 1\r\n"),
        Reply::Slowly(200),
    ];
    let mut stand = stand(&replies, SHORT, |_| {});
    stand.started().await;
    stand.tell(&[("ann", true)]);
    let first = stand.request().await.1;
    stand.tell(&[("bob", true)]);
    for _ in 0..3 {
        assert_eq!(stand.request().await.1, first, "the same bytes");
    }
    let told_off = Instant::now();
    assert_eq!(stand.request().await.1, first);
    assert!(
        told_off.elapsed() >= Duration::from_millis(900),
        "it waited"
    );
    let answered = Instant::now();
    assert_eq!(stand.batch().await, (3, texts(&["user_connected bob"])));
    assert!(
        answered.elapsed() >= Duration::from_millis(190),
        "one at a time"
    );
    for (failure, times) in [
        (Failure::Unwell, 2),
        (Failure::Unreachable, 1),
        (Failure::TimedOut, 1),
        (Failure::Refused, 0),
    ] {
        assert_eq!(stand.counters.failed(failure), times, "{failure:?}");
    }
}

#[tokio::test]
async fn what_is_refused_or_given_up_is_told_of() {
    for (reply, patience, loss) in [
        (Reply::Status(410, ""), SHORT, Loss::Refused),
        (Reply::Status(302, ""), SHORT, Loss::Refused),
        (
            Reply::Status(500, ""),
            Patience {
                batch: Duration::ZERO,
                ..SHORT
            },
            Loss::GivenUp,
        ),
    ] {
        let mut stand = stand(&[GOOD, reply], patience, |_| {});
        stand.started().await;
        stand.tell(&[("ann", true), ("bob", true)]);
        assert_eq!(stand.batch().await.0, 2);
        stand.tell(&[("cy", true)]);
        let next = texts(&["events_dropped 2", "user_connected cy"]);
        assert_eq!(stand.batch().await, (3, next));
        assert_eq!(stand.counters.lost(loss), 2);
    }
}

#[tokio::test]
async fn a_backend_that_hangs_costs_the_oldest_events_and_hears_how_many() {
    let replies = [GOOD, Reply::Slowly(250)];
    let mut stand = stand(&replies, SHORT, |it| {
        (it.batch_max, it.queue_max) = (10, 20);
    });
    stand.started().await;
    let names: Vec<String> = (0..60).map(|n| format!("u{n}")).collect();
    let all: Vec<(&str, bool)> = names.iter().map(|name| (name.as_str(), true)).collect();
    stand.tell(&all[..10]);
    assert_eq!(stand.batch().await.1.len(), 10);
    // The batch under way waits, too, until it is over.
    let mut out = Exposition::new(Format::Prometheus);
    stand.counters.write(&mut out);
    let text = out.finish();
    assert!(
        text.contains("\ntidewheel_hook_queue_events 10\n"),
        "{text}"
    );
    stand.tell(&all[10..]);
    let (sequence, events) = stand.batch().await;
    assert_eq!((sequence, events.len()), (3, 11));
    assert_eq!(
        events[..2],
        texts(&["events_dropped 30", "user_connected u40"])
    );
    assert_eq!(stand.batch().await.1.last().unwrap(), "user_connected u59");
    assert_eq!(stand.counters.lost(Loss::Queue), 30);
}

#[tokio::test]
async fn what_a_core_could_not_give_away_is_told_of_and_nothing_is_held_back_after_it() {
    let mut stand = stand(&[], SHORT, |it| {
        it.departure_delay = Duration::from_secs(60);
    });
    stand.started().await;
    stand.tell(&[("ann", false)]);
    let flood = vec![("x", false); NOTICES_MAX + 5];
    stand.tell(&flood);
    // What was held back comes with it.
    let (_, events) = stand.batch().await;
    assert_eq!(events[0], "events_dropped 6");
    assert_eq!(
        events[1..],
        texts(&["user_disconnected ann", "user_disconnected x"])
    );
    stand.tell(&[("bob", false)]);
    assert_eq!(stand.batch().await.1, texts(&["user_disconnected bob"]));
    assert_eq!(stand.counters.lost(Loss::Core), 6);
}

#[tokio::test]
async fn a_backend_that_lost_its_picture_is_told_everything_as_it_happens() {
    let replies = [Reply::Status(205, "")];
    let mut stand = stand(&replies, SHORT, |it| {
        it.departure_delay = Duration::from_secs(60);
    });
    stand.tell(&[("ann", false)]);
    stand.started().await;
    assert_eq!(stand.batch().await.1, texts(&["user_disconnected ann"]));
    stand.tell(&[("bob", false), ("bob", true)]);
    let both = texts(&["user_disconnected bob", "user_connected bob"]);
    assert_eq!(stand.batch().await.1, both);
}

#[tokio::test]
async fn a_drain_is_told_once_and_the_end_waits_for_what_is_on_the_way() {
    let replies = [GOOD, Reply::Slowly(100)];
    let mut stand = stand(&replies, SHORT, |_| {});
    stand.started().await;
    stand.tell(&[("ann", true), ("cy", false)]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    stand.stage.send_replace(Stage::Draining);
    tokio::time::sleep(Duration::from_millis(20)).await;
    stand.tell(&[("ann", false), ("bob", false)]);
    stand.stage.send_replace(Stage::Stopping);
    let last = texts(&["user_connected ann", "node_stopping"]);
    assert_eq!(stand.batch().await, (2, last));
    stand.serving.await.unwrap();
    assert!(stand.requests.try_recv().is_err(), "nothing after it");
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_backend_that_hangs() {
    let replies = [GOOD, Reply::Never, Reply::Never, Reply::Never];
    let mut stand = stand(&replies, SHORT, |_| {});
    stand.started().await;
    stand.tell(&[("ann", true), ("bob", true)]);
    assert_eq!(stand.batch().await.0, 2);
    let began = Instant::now();
    stand.stage.send_replace(Stage::Stopping);
    stand.serving.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(stand.counters.lost(Loss::Stopped), 3);
}
