//! The admin listener's connections, bounded in number, in the time for a request's head and in
//! age: whoever is slow holds one place for a while, and nothing else.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time;

use crate::control::{Limits, Secured};

/// The pause after a failed `accept`, most likely for want of descriptors, which it does not free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections until `stopped` says so, or nobody is left to say it.
pub(super) async fn serve(
    (listener, secured): (TcpListener, Secured),
    router: Router,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max as usize));
    loop {
        let next = tokio::select! {
            biased;
            _ = stopped.wait_for(|is_stopped| *is_stopped) => break,
            next = accept(&listener, &places) => next,
        };
        if let Some((stream, place)) = next {
            let router = router.clone();
            let stopped = stopped.clone();
            match secured.acceptor() {
                None => drop(tokio::spawn(converse(
                    stream, router, limits, stopped, place,
                ))),
                Some(acceptor) => drop(tokio::spawn(async move {
                    // A handshake has as long as a request's head, and one that fails is the
                    // caller's own affair.
                    let handshake = acceptor.accept(stream);
                    match time::timeout(limits.head_timeout, handshake).await {
                        Ok(Ok(stream)) => converse(stream, router, limits, stopped, place).await,
                        Ok(Err(error)) => tracing::debug!(%error, "admin TLS handshake failed"),
                        Err(_) => tracing::debug!("admin TLS handshake took too long"),
                    }
                })),
            }
        }
    }
    drop(listener);
    // All places are free once every connection has ended. Each ends within `close_timeout`.
    let all = places.acquire_many(limits.connections_max);
    if time::timeout(limits.close_timeout * 2, all).await.is_err() {
        tracing::warn!("admin connections were cut off");
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are small, and whoever publishes waits for them. Where it cannot be set, they
            // are slower.
            let _slower = stream.set_nodelay(true);
            Some((stream, place))
        }
        Err(error) => {
            tracing::warn!(%error, "admin listener cannot accept");
            time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// One connection, from its first request to its close.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    let has_asked = Arc::new(AtomicBool::new(false));
    let service = {
        let (router, has_asked) = (TowerToHyperService::new(router), Arc::clone(&has_asked));
        service_fn(move |request| {
            has_asked.store(true, Ordering::Relaxed);
            router.call(request)
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_header_size(limits.head_bytes_max)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let late = async {
        time::sleep(limits.head_timeout).await;
        if has_asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        // A caller that goes away or sends nonsense is its own affair.
        _ = connection.as_mut() => return,
        // Nothing was asked, so there is nothing to finish.
        () = late => return,
        _ = stopped.wait_for(|is_stopped| *is_stopped) => {}
        () = time::sleep(limits.age_max) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = time::timeout(limits.close_timeout, connection).await;
}
