//! The paths of the admin listener.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::control::access::{Access, Scope};
use crate::control::api::{bad_name, shortened};
use crate::control::problem::Problem;
use crate::control::readiness::{Phase, Readiness};
use crate::control::scrape::Scraper;
use crate::metrics::exposition::Format;

const PLAIN: [(header::HeaderName, &str); 1] =
    [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];

pub(super) fn router(access: Access, scraper: Arc<Scraper>, readiness: Arc<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(metrics).with_state((access, scraper)))
}

/// The router with problems for what leads nowhere: it has to have all its paths already. Where keys are
/// asked for, whoever shows none keeps no connection: one small request a minute would hold a place.
pub(super) fn with_fallbacks(router: Router, access: Access) -> Router {
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(access, close_behind_strangers))
}

async fn close_behind_strangers(
    State(access): State<Access>,
    request: Request,
    next: Next,
) -> Response {
    let is_known = access.knows(request.headers());
    let mut response = next.run(request).await;
    if !is_known {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// The control plane runs; it says nothing about the cores.
async fn healthz() -> impl IntoResponse {
    (PLAIN, "ok\n")
}

async fn readyz(State(readiness): State<Arc<Readiness>>) -> Result<impl IntoResponse, Problem> {
    let unavailable = |detail| {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        Err(problem.with_header(header::RETRY_AFTER, HeaderValue::from_static("1")))
    };
    match readiness.phase() {
        Phase::Ready => Ok((PLAIN, "ready\n")),
        Phase::Starting => unavailable("the node is starting"),
        Phase::Draining => unavailable("the node is draining"),
    }
}

/// OpenMetrics for those who ask for it, and Prometheus' older text for all others.
async fn metrics(
    State((access, scraper)): State<(Access, Arc<Scraper>)>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    // Without keys a scraper may call the listener by any name: numbers are all that there is to see.
    if access.asks_for_keys() && !access.is_metrics_open() {
        access.admit(&headers, Scope::Read)?;
    }
    let accepts = headers.get_all(header::ACCEPT).iter();
    let accepts: Vec<&str> = accepts.filter_map(|accept| accept.to_str().ok()).collect();
    let format = Format::accepted(&accepts.join(","));
    let described = [
        (header::CONTENT_TYPE, format.content_type()),
        (header::VARY, "Accept"),
    ];
    Ok((described, scraper.text(format).await))
}

async fn unknown_path(uri: Uri) -> Problem {
    // A router finds no empty name.
    let empty = [("/api/v1/rooms/", "room"), ("/api/v1/users/", "user")];
    for (prefix, what) in empty {
        let rest = uri.path().strip_prefix(prefix);
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return bad_name(what);
        }
    }
    Problem::new(
        StatusCode::NOT_FOUND,
        format!(
            "this listener has nothing at {}; /api/openapi.json says what it has",
            shortened(uri.path())
        ),
    )
}

/// RFC 9110 §15.5.6 asks for `Allow`, which the router adds.
async fn wrong_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "that path has other methods, see Allow",
    )
}
