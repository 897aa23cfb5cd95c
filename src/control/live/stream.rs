//! Watchers: `GET /api/v1/live` is an event stream that one reads with `fetch`, so that a key can go
//! in a header.
//!
//! `key` says who watches and what it may do, `past` is an array of points that the watcher does not
//! know so far, `now` is the newest event. A watcher that is slow is given the newest event when it comes back, not each that it missed. The
//! stream ends in good order before the listener's age limit would cut it; the page comes again, shows
//! its key again, and says in `since` what it has.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRef, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout_at};

use crate::control::access::{Access, Caller, Granted, Reading, Scope};
use crate::control::live::{Live, WATCHERS_MAX};
use crate::control::problem::Problem;

/// How long a stream lasts: less than the age of a connection (`Limits::age_max`).
const AGE_MAX: Duration = Duration::from_secs(50);

/// After this long without an event a watcher is told that the stream lives.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What a watcher already has.
#[derive(Deserialize)]
struct Since {
    /// The `unix_ms` of its newest point.
    #[serde(default)]
    since: u64,
}

/// The routes' state.
#[derive(Clone)]
pub(super) struct Doors {
    access: Access,
    pub(super) live: Arc<Live>,
}

impl FromRef<Doors> for Access {
    fn from_ref(doors: &Doors) -> Access {
        doors.access.clone()
    }
}

/// Who watches.
#[derive(Serialize)]
struct Key<'a> {
    name: &'a str,
    scopes: Vec<&'static str>,
    /// Whether it showed a key: without keys everybody may do everything.
    is_asked: bool,
}

/// The routes, to be merged into the listener's.
pub(in crate::control) fn routes(access: Access, live: Arc<Live>) -> Router {
    Router::new()
        .route("/api/v1/live", get(watch))
        .with_state(Doors { access, live })
}

async fn watch(
    Granted(caller, ..): Granted<Reading>,
    State(Doors { access, live }): State<Doors>,
    since: Result<Query<Since>, QueryRejection>,
) -> Result<Response, Problem> {
    let Ok(Query(Since { since })) = since else {
        let detail = "since is no time of a point: a whole number of milliseconds";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    };
    let Ok(place) = Arc::clone(&live.places).try_acquire_owned() else {
        let detail = format!("{WATCHERS_MAX} watch already; close a dashboard, or try again later");
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        return Err(problem.with_header(header::RETRY_AFTER, HeaderValue::from_static("5")));
    };
    // One that waits: whoever does not read holds two events, no more.
    let (sender, receiver) = mpsc::channel(1);
    let key = named("key", &key(&caller, access.asks_for_keys()));
    tokio::spawn(feed(live, since, key, sender));
    let described = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // The next stream begins on a connection that is as young.
        (header::CONNECTION, "close"),
    ];
    let body = Body::new(Watched {
        receiver,
        _place: place,
    });
    Ok((described, body).into_response())
}

/// Tells one watcher until it goes, its time is over, or the control plane stops.
async fn feed(live: Arc<Live>, since: u64, key: Bytes, sender: mpsc::Sender<Bytes>) {
    let ends_at = Instant::now() + AGE_MAX;
    let mut stopped = live.stopped.clone();
    let telling = async {
        if sender.send(key).await.is_ok() {
            tell(&live, since, &sender, ends_at).await;
        }
    };
    tokio::select! {
        () = telling => {}
        () = sender.closed() => {}
        _ = stopped.wait_for(|is_stopped| *is_stopped) => {}
    }
}

async fn tell(live: &Live, mut since: u64, sender: &mpsc::Sender<Bytes>, ends_at: Instant) {
    let mut newest = live.newest.subscribe();
    // What somebody else was told before may be long ago; there is another within a second.
    newest.mark_unchanged();
    if sender
        .send(Bytes::from_static(b"retry: 1000\n\n"))
        .await
        .is_err()
    {
        return;
    }
    while Instant::now() < ends_at {
        let past = live.past().since(since);
        if let Some((points, until)) = past {
            since = until;
            if sender.send(named("past", &points)).await.is_err() {
                return;
            }
        }
        let until = ends_at.min(Instant::now() + HEARTBEAT);
        let message = match timeout_at(until, newest.changed()).await {
            Ok(Ok(())) => {
                let json = newest.borrow_and_update().clone();
                named("now", &json)
            }
            Ok(Err(_)) => return,
            Err(_) => Bytes::from_static(b": alive\n\n"),
        };
        if sender.send(message).await.is_err() {
            return;
        }
    }
}

fn key(caller: &Caller, is_asked: bool) -> Vec<u8> {
    let may = |scope: &Scope| caller.scopes.allow(*scope);
    let scopes = Scope::ALL.into_iter().filter(may).map(Scope::text);
    let key = Key {
        name: &caller.name,
        scopes: scopes.collect(),
        is_asked,
    };
    serde_json::to_vec(&key).unwrap_or_default()
}

/// An event. JSON has no line breaks outside of strings, and none inside either.
fn named(event: &str, json: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(json.len() + 32);
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(event.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    out.extend_from_slice(json);
    out.extend_from_slice(b"\n\n");
    out.into()
}

/// An answer that goes on; it holds its place among the watchers.
struct Watched {
    receiver: mpsc::Receiver<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.receiver.poll_recv(context);
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
