//! The operator's page, as it was built in: nothing of it comes from elsewhere.

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// What the page may do: its own script and style, its own listener, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// A file of the page.
struct File {
    path: &'static str,
    kind: &'static str,
    body: &'static [u8],
}

macro_rules! file {
    ($path:literal, $kind:expr, $name:literal) => {
        File {
            path: $path,
            kind: $kind,
            body: include_bytes!(concat!("../page/dashboard/", $name)),
        }
    };
}

static FILES: [File; 9] = [
    file!("/", HTML, "dashboard.html"),
    file!("/dashboard/style.css", STYLE, "style.css"),
    file!("/dashboard/app.js", SCRIPT, "app.js"),
    file!("/dashboard/base.js", SCRIPT, "base.js"),
    file!("/dashboard/chart.js", SCRIPT, "chart.js"),
    file!("/dashboard/overview.js", SCRIPT, "overview.js"),
    file!("/dashboard/live.js", SCRIPT, "live.js"),
    file!("/dashboard/rooms.js", SCRIPT, "rooms.js"),
    file!("/dashboard/users.js", SCRIPT, "users.js"),
];

/// The page's paths.
pub(super) fn routes() -> Router {
    FILES.iter().fold(Router::new(), |router, file| {
        let tag = tag(file.body);
        router.route(
            file.path,
            get(move |headers: HeaderMap| async move { answer(file, &tag, &headers) }),
        )
    })
}

/// It is asked for each time, and sent only where it is another.
fn answer(file: &'static File, tag: &str, headers: &HeaderMap) -> Response {
    let described = [
        (header::ETAG, tag),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut known = known
        .filter_map(|tags| tags.to_str().ok())
        .flat_map(|tags| tags.split(','));
    // RFC 9110 §13.1.2: a weak comparison, because a proxy may have made the tag weak.
    let is_known = known.any(|it| it.trim().trim_start_matches("W/") == tag);
    if is_known {
        return (StatusCode::NOT_MODIFIED, described).into_response();
    }
    (described, [(header::CONTENT_TYPE, file.kind)], file.body).into_response()
}

/// RFC 9110 §8.8.3: an entity tag is a quoted string.
fn tag(body: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body);
    let short = digest.as_ref().get(..12).unwrap_or_default();
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(short))
}
