//! The desk, with a backend on a port of this machine and cores that only listen.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::thread;

use tokio::sync::mpsc::UnboundedSender;

use super::*;
use crate::address::{CoreId, Placement};
use crate::bus::{Order, OrderReply, Query};
use crate::metrics::SnapshotReply;
use crate::metrics::exposition::{Exposition, Format, Source};
use crate::protocol::ClientId;

/// Passes verdicts on.
struct Ear(UnboundedSender<(u32, Verdict)>);

impl Cores for Ear {
    fn count(&self) -> usize {
        1
    }

    fn request_snapshot(&self, _: usize, _: SnapshotReply) {}

    fn deliver_verdict(&self, connection: ConnectionRef, verdict: Verdict) {
        self.0.send((connection.index, verdict)).unwrap();
    }

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

/// What the backend does with a question.
#[derive(Copy, Clone)]
enum Reply {
    Answer(u16, &'static str),
    Long,
    Never,
    HangUp,
}

#[derive(Default)]
struct Backend {
    connections: AtomicUsize,
    asked: Mutex<Vec<String>>,
}

fn backend(reply: fn(&str) -> Reply) -> (SocketAddr, Arc<Backend>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let backend = Arc::new(Backend::default());
    let shared = Arc::clone(&backend);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            shared.connections.fetch_add(1, Ordering::Relaxed);
            let backend = Arc::clone(&shared);
            thread::spawn(move || converse(stream, &backend, reply));
        }
    });
    (address, backend)
}

fn converse(mut stream: TcpStream, backend: &Backend, reply: fn(&str) -> Reply) {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        let whole = text.split_once("\r\n\r\n").filter(|(head, body)| {
            let len = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            len.is_some_and(|len| len.parse() == Ok(body.len()))
        });
        let Some((_, body)) = whole else {
            match stream.read(&mut buffer) {
                Ok(count @ 1..) => received.extend_from_slice(&buffer[..count]),
                _ => return,
            }
            continue;
        };
        received.clear();
        backend.asked.lock().unwrap().push(text.clone());
        let long;
        let (status, body) = match reply(body) {
            Reply::Answer(status, body) => (status, body),
            Reply::Long => {
                long = format!("{{\"user_id\":\"ada\",\"x\":\"{}\"}}", "x".repeat(65_536));
                (200, long.as_str())
            }
            // Until the one who asked hangs up.
            Reply::Never => return drop(stream.read(&mut buffer)),
            Reply::HangUp => return,
        };
        let len = body.len();
        let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {len}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

struct Office {
    questions: Sender<Question>,
    verdicts: mpsc::UnboundedReceiver<(u32, Verdict)>,
    counters: Arc<Counters>,
    /// Lives as long as those who ask.
    asker: Arc<()>,
}

fn settings(address: SocketAddr) -> WebhookSettings {
    WebhookSettings {
        url: format!("http://{address}/auth"),
        timeout: Duration::from_millis(300),
        in_flight_max: 4,
        cache_ttl: Duration::ZERO,
        secret_file: None,
        ca_file: None,
    }
}

fn office(settings: &WebhookSettings) -> Office {
    let (questions, webhook) = Webhook::new(settings).unwrap();
    let counters = webhook.counters();
    let (sender, verdicts) = mpsc::unbounded_channel();
    tokio::spawn(webhook.serve(Arc::new(Ear(sender))));
    Office {
        questions,
        verdicts,
        counters,
        asker: Arc::default(),
    }
}

impl Office {
    fn put(&self, index: u32, token: &str) {
        let question = Question {
            connection: ConnectionRef {
                index,
                generation: 0,
                core: CoreId(0),
            },
            client_id: ClientId(index.into()),
            token: Some(token.into()),
            headers: Vec::new(),
            room: None,
            address: "127.0.0.2".into(),
            asker: Arc::downgrade(&self.asker),
        };
        self.questions.try_send(question).unwrap();
    }

    async fn next(&mut self) -> (u32, &'static str) {
        let (index, verdict) = self.verdicts.recv().await.unwrap();
        let verdict = match verdict {
            Verdict::Granted(_) => "granted",
            Verdict::Denied => "denied",
            Verdict::Unavailable => "unavailable",
        };
        (index, verdict)
    }

    async fn ask(&mut self, token: &str) -> &'static str {
        self.put(0, token);
        self.next().await.1
    }
}

/// Says what the question's token says.
fn by_token(body: &str) -> Reply {
    let token = body.split('"').nth(3).unwrap();
    match token.split('-').next().unwrap() {
        "no" => Reply::Answer(401, ""),
        "odd" => Reply::Answer(418, ""),
        "down" => Reply::Answer(503, ""),
        "garbage" => Reply::Answer(200, "<html>"),
        "long" => Reply::Long,
        "never" => Reply::Never,
        "hangup" => Reply::HangUp,
        _ => Reply::Answer(200, r#"{"user_id":"ada"}"#),
    }
}

#[tokio::test]
async fn only_a_good_answer_lets_in() {
    let (address, backend) = backend(by_token);
    let mut office = office(&settings(address));
    let table = [
        ("yes", "granted", Outcome::Granted),
        ("no", "denied", Outcome::Denied),
        ("odd", "unavailable", Outcome::BadStatus),
        ("garbage", "unavailable", Outcome::Malformed),
        ("long", "unavailable", Outcome::TooLarge),
        ("never", "unavailable", Outcome::TimedOut),
        ("hangup", "unavailable", Outcome::Unreachable),
        ("yes", "granted", Outcome::Granted),
    ];
    for (token, verdict, outcome) in table {
        let before = office.counters.of(outcome);
        assert_eq!(office.ask(token).await, verdict, "{token}");
        assert_eq!(office.counters.of(outcome), before + 1, "{token}");
    }
    let first = backend.asked.lock().unwrap()[0].clone();
    assert!(first.starts_with("POST /auth HTTP/1.1\r\n"), "{first}");
    assert!(first.contains("content-type: application/json") && !first.contains("signature"));
}

#[tokio::test]
async fn a_backend_that_is_not_there_lets_nobody_in() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut office = office(&settings(address));
    assert_eq!(office.ask("yes").await, "unavailable");
    assert_eq!(office.counters.of(Outcome::Unreachable), 1);
}

#[tokio::test]
async fn a_connection_to_the_backend_is_kept_for_the_next_question() {
    let (address, backend) = backend(by_token);
    let mut office = office(&settings(address));
    for n in 0..10 {
        assert_eq!(office.ask(&format!("yes-{n}")).await, "granted");
    }
    assert_eq!(backend.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_answer_holds_for_a_while_and_none_does_not() {
    let (address, backend) = backend(by_token);
    let mut office = office(&WebhookSettings {
        cache_ttl: Duration::from_secs(10),
        ..settings(address)
    });
    for (token, verdict, times) in [
        ("yes", "granted", 1),
        ("no", "denied", 1),
        ("down", "unavailable", 2),
    ] {
        let before = backend.asked.lock().unwrap().len();
        for _ in 0..2 {
            assert_eq!(office.ask(token).await, verdict);
        }
        assert_eq!(
            backend.asked.lock().unwrap().len() - before,
            times,
            "{token}"
        );
    }
    assert_eq!(office.counters.of(Outcome::Cached), 2);
}

#[tokio::test]
async fn the_same_question_is_asked_once_and_too_many_are_turned_away() {
    let (address, backend) = backend(by_token);
    let mut office = office(&settings(address));
    for index in 0..10 {
        office.put(index, "never");
    }
    for index in 0..10 {
        assert_eq!(office.next().await, (index, "unavailable"));
    }
    assert_eq!(backend.asked.lock().unwrap().len(), 1);
    assert_eq!(office.counters.of(Outcome::Shared), 9);

    // Four are asked and 64 may wait; the channel holds as many.
    for index in 0..64 {
        office.put(index, &format!("never-{index}"));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    for index in 64..70 {
        office.put(index, &format!("never-{index}"));
    }
    assert_eq!(office.next().await, (68, "unavailable"));
    assert_eq!(office.next().await, (69, "unavailable"));
    assert_eq!(office.counters.of(Outcome::TooMany), 2);
    let mut out = Exposition::new(Format::Prometheus);
    office.counters.write(&mut out);
    let text = out.finish();
    assert!(
        text.contains("in_flight 4\n") && text.contains("waiting 68\n"),
        "{text}"
    );
}

#[tokio::test]
async fn those_who_went_are_not_asked_about_and_hold_no_place() {
    let (address, backend) = backend(by_token);
    let mut office = office(&settings(address));
    // Four are asked, and 64 wait; then all of these go.
    for index in 0..68 {
        office.put(index, &format!("never-{index}"));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    office.asker = Arc::default();
    office.put(100, "yes");
    while office.next().await != (100, "granted") {}
    assert_eq!(office.counters.of(Outcome::TooMany), 0);
    assert_eq!(office.counters.of(Outcome::Withdrawn), 64);
    assert_eq!(backend.asked.lock().unwrap().len(), 5);
    assert_eq!(office.ask("yes").await, "granted", "nothing is left over");
}

#[tokio::test]
async fn a_backend_that_fails_is_left_alone_and_nobody_waits_for_it() {
    let (address, backend) = backend(by_token);
    let mut office = office(&settings(address));
    for n in 0..20 {
        assert_eq!(office.ask(&format!("down-{n}")).await, "unavailable");
    }
    assert_eq!(backend.asked.lock().unwrap().len(), 8);
    assert_eq!(office.counters.of(Outcome::CircuitOpen), 12);
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert_eq!(office.ask("yes").await, "granted");
    assert_eq!(office.ask("yes").await, "granted");
    // What only odd questions bring about shuts nobody else out.
    for n in 0..20 {
        office.ask(&format!("garbage-{n}")).await;
        office.ask(&format!("odd-{n}")).await;
    }
    assert_eq!(office.ask("yes").await, "granted");
}

#[test]
fn files_that_cannot_be_used_are_said_with_what_to_do() {
    let folder = std::env::temp_dir().join(format!("tidewheel-webhook-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let good = settings(([127, 0, 0, 1], 1).into());
    let secret = |secret_file| WebhookSettings {
        secret_file,
        ..good.clone()
    };
    let roots = |ca_file| WebhookSettings {
        ca_file,
        ..good.clone()
    };
    let table = [
        (
            secret(Some("/nowhere".into())),
            "could not read --auth-webhook-secret-file",
        ),
        (secret(file("short", "hunter2\n")), "has 7 bytes"),
        (
            roots(Some("/nowhere".into())),
            "could not read --auth-webhook-ca-file",
        ),
        (roots(file("empty", "")), "no certificate in PEM"),
        (
            WebhookSettings {
                url: "nowhere at all".into(),
                ..good.clone()
            },
            "is not a URL",
        ),
    ];
    for (settings, expected) in table {
        let text = Webhook::new(&settings).map(|_| ()).unwrap_err().to_string();
        assert!(
            text.contains(expected) && !text.contains("hunter2"),
            "{text}"
        );
    }
    assert!(Webhook::new(&secret(file("good", "0123456789abcdef\n"))).is_ok());
    std::fs::remove_dir_all(folder).unwrap();
}
