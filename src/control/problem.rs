//! Errors of the admin API: RFC 9457 problem details.

use std::borrow::Cow;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::protocol::Code;
use crate::protocol::json::write_string;

/// A problem with a request, as `application/problem+json`.
///
/// Its type is `about:blank` (RFC 9457 §4.2.1): the status says what kind of problem it is, and
/// `detail` what is wrong this time. Where a code of the protocol says more than the status, it
/// stands beside them as `code`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    code: Option<Code>,
    header: Option<(HeaderName, HeaderValue)>,
    closes: bool,
}

impl Problem {
    /// A problem for an answer with `status`.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem {
            status,
            detail: detail.into(),
            code: None,
            header: None,
            closes: false,
        }
    }

    /// With more about what is wrong.
    #[must_use]
    pub fn with_more(self, more: &str) -> Problem {
        let detail = Cow::Owned(self.detail.into_owned() + more);
        Problem { detail, ..self }
    }

    /// With the protocol's code for it.
    #[must_use]
    pub fn with_code(self, code: Code) -> Problem {
        let code = Some(code);
        Problem { code, ..self }
    }

    /// With a header field that belongs to the status, such as `Retry-After`.
    #[must_use]
    pub fn with_header(self, name: HeaderName, value: HeaderValue) -> Problem {
        let header = Some((name, value));
        Problem { header, ..self }
    }

    /// After which the connection closes: whoever may not enter holds no place, and the rest of a body
    /// that is not wanted is not read.
    #[must_use]
    pub fn closing(self) -> Problem {
        let closes = true;
        Problem { closes, ..self }
    }

    fn json(&self) -> Vec<u8> {
        let title = self.status.canonical_reason().unwrap_or("Unknown");
        let mut out = Vec::with_capacity(96 + title.len() + self.detail.len());
        out.extend_from_slice(br#"{"type":"about:blank","title":"#);
        write_string(title, &mut out);
        out.extend_from_slice(br#","status":"#);
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.extend_from_slice(br#","detail":"#);
        write_string(&self.detail, &mut out);
        if let Some(code) = self.code {
            out.extend_from_slice(br#","code":"#);
            out.extend_from_slice(itoa::Buffer::new().format(code.number()).as_bytes());
        }
        out.push(b'}');
        out
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, content_type, self.json()).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        if self.closes {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_with_any_character_is_valid_json() {
        let detail = "a \"room\" named \\ \u{1}\n\u{2028} é";
        let problem = Problem::new(StatusCode::NOT_FOUND, detail);
        let json: serde_json::Value = serde_json::from_slice(&problem.json()).unwrap();
        assert_eq!(json["type"], "about:blank");
        assert_eq!(json["title"], "Not Found");
        assert_eq!(json["status"], 404);
        assert_eq!(json["detail"], detail);
        assert!(json.get("code").is_none());
        let problem = problem.with_code(Code::RoomNotFound);
        let json: serde_json::Value = serde_json::from_slice(&problem.json()).unwrap();
        assert_eq!(json["code"], 4007);
    }
}
