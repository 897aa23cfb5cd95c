//! The dashboard's files and its stream.

use std::io::{BufRead, BufReader};

use super::*;

fn ask_with(plane: &Plane, request_line: &str, fields: &str) -> Answer {
    let mut stream = plane.connect();
    let head =
        format!("{request_line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    Answer::read(stream)
}

/// One who watches: the answer's head, then its events.
struct Watcher(BufReader<TcpStream>);

impl Watcher {
    fn new(plane: &Plane, query: &str) -> Watcher {
        let mut stream = plane.connect();
        send(&mut stream, &format!("GET /api/v1/live{query}"));
        Watcher(BufReader::new(stream))
    }

    /// A line, or nothing at the end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let _end = self.0.read_line(&mut line);
        line.trim_end().to_owned()
    }

    /// The next event, and its name.
    fn next(&mut self) -> (String, serde_json::Value) {
        let begun = Instant::now();
        loop {
            // Between them there are the sizes of chunks.
            if let Some(name) = self.line().strip_prefix("event: ") {
                let data = self.line();
                let json = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
                return (name.to_owned(), json);
            }
            assert!(begun.elapsed() < PATIENCE, "no event");
        }
    }

    /// The next event of this name.
    fn event(&mut self, name: &str) -> serde_json::Value {
        loop {
            let (found, json) = self.next();
            if found == name {
                return json;
            }
        }
    }

    fn status(&mut self) -> String {
        self.line()
    }
}

#[test]
fn the_page_comes_with_a_strict_policy_and_is_not_sent_twice() {
    let plane = Plane::new(Limits::default());
    let page = plane.ask("GET /");
    assert_eq!(page.status(), 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("cache-control"), "no-cache");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"));
    assert!(!policy.contains("unsafe"));

    let tag = page.header("etag").to_owned();
    for (known, status) in [
        (tag.clone(), 304),
        (format!("W/{tag}"), 304),
        (format!("\"other\", {tag}"), 304),
        ("\"other\"".to_owned(), 200),
    ] {
        let again = ask_with(&plane, "GET /", &format!("If-None-Match: {known}\r\n"));
        assert_eq!(again.status(), status, "{known}");
        assert_eq!(again.header("etag"), tag);
        assert_eq!(again.body().is_empty(), status == 304);
    }
}

#[test]
fn every_file_that_the_page_names_is_there() {
    let plane = Plane::new(Limits::default());
    let (mut wanted, mut seen) = (vec!["/".to_owned()], Vec::new());
    while let Some(path) = wanted.pop() {
        if seen.contains(&path) {
            continue;
        }
        let answer = plane.ask(&format!("GET {path}"));
        assert_eq!(answer.status(), 200, "{path}");
        for name in answer.body().split(['"', '\'']) {
            let is_file = name.ends_with(".js") || name.ends_with(".css");
            let name = name
                .trim_start_matches("./")
                .trim_start_matches("dashboard/");
            if is_file && !name.contains('/') {
                wanted.push(format!("/dashboard/{name}"));
            }
        }
        seen.push(path);
    }
    assert!(seen.len() >= 8, "{seen:?}");
}

#[test]
fn a_watcher_is_told_each_second_and_a_stuck_core_does_not_hide_the_others() {
    let plane = Plane::new(Limits::default());
    plane.readiness.set(Phase::Draining);
    let mut watcher = Watcher::new(&plane, "");
    assert_eq!(watcher.status(), "HTTP/1.1 200 OK");
    let key = watcher.event("key");
    assert_eq!(
        (&key["name"], &key["is_asked"]),
        (&"local".into(), &false.into())
    );
    assert_eq!(key["scopes"].as_array().unwrap().len(), 3);
    let (one, two) = (watcher.event("now"), watcher.event("now"));
    assert!(two["unix_ms"].as_u64() > one["unix_ms"].as_u64());
    assert_eq!(two["node"]["phase"], "draining");
    let cores = two["digest"]["cores"].as_array().unwrap();
    let is_up: Vec<bool> = cores.iter().map(|it| it["is_up"] == true).collect();
    assert_eq!(is_up, [true, false, false]);
    assert_eq!(two["ledger"]["message"]["pending"], 0);
}

#[test]
fn the_past_is_kept_while_nobody_watches() {
    let plane = Plane::new(Limits::default());
    // By the ring's own pace, without a watcher.
    thread::sleep(Duration::from_secs(7));
    let mut watcher = Watcher::new(&plane, "");
    assert_eq!(watcher.next().0, "key");
    let (name, points) = watcher.next();
    assert_eq!(
        (name.as_str(), points.as_array().unwrap().len()),
        ("past", 1)
    );
    let known = points[0]["unix_ms"].as_u64().unwrap();
    let mut later = Watcher::new(&plane, &format!("?since={known}"));
    assert_eq!(later.next().0, "key");
    assert_ne!(later.next().0, "past");
}

#[test]
fn watchers_are_bounded_and_a_place_is_free_when_one_goes() {
    let plane = Plane::new(Limits::default());
    let mut watchers: Vec<Watcher> = (0..32).map(|_| Watcher::new(&plane, "")).collect();
    for watcher in &mut watchers {
        assert_eq!(watcher.status(), "HTTP/1.1 200 OK");
    }
    let refused = plane.ask("GET /api/v1/live");
    assert_eq!(refused.status(), 503);
    assert!(refused.problem()["detail"].as_str().unwrap().contains("32"));
    drop(watchers.pop());
    let begun = Instant::now();
    while Watcher::new(&plane, "").status() != "HTTP/1.1 200 OK" {
        assert!(begun.elapsed() < PATIENCE);
    }
}

#[test]
fn a_stop_does_not_wait_for_watchers() {
    let plane = Plane::new(Limits::default());
    let mut watcher = Watcher::new(&plane, "");
    watcher.event("now");
    let begun = Instant::now();
    plane.handle.stop().unwrap();
    assert!(begun.elapsed() < Limits::default().close_timeout);
    while !watcher.line().is_empty() || !watcher.line().is_empty() {}
}
