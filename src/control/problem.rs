//! Errors of the admin API: RFC 9457 problem details.

use std::borrow::Cow;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use simd_json::OwnedValue;
use simd_json::prelude::Writable;

/// A problem with a request, as `application/problem+json`.
///
/// Its type is `about:blank` (RFC 9457 §4.2.1): the status says what kind of problem it is, and
/// `detail` what is wrong this time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
}

impl Problem {
    /// A problem for an answer with `status`.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem {
            status,
            detail: detail.into(),
        }
    }

    fn json(&self) -> String {
        let title = self.status.canonical_reason().unwrap_or("Unknown");
        let text = |text: &str| OwnedValue::from(text).encode();
        format!(
            r#"{{"type":"about:blank","title":{},"status":{},"detail":{}}}"#,
            text(title),
            self.status.as_u16(),
            text(&self.detail)
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        (self.status, content_type, self.json()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_with_any_character_is_valid_json() {
        let detail = "a \"room\" named \\ \u{1}\n\u{2028} é";
        let problem = Problem::new(StatusCode::NOT_FOUND, detail);
        let json: serde_json::Value = serde_json::from_str(&problem.json()).unwrap();
        assert_eq!(json["type"], "about:blank");
        assert_eq!(json["title"], "Not Found");
        assert_eq!(json["status"], 404);
        assert_eq!(json["detail"], detail);
    }
}
