//! The JSON body of a request: bounded in size and time, an object, each name once.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use axum::body::{Body as HttpBody, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;

use super::Api;
use super::names::bad_request;
use crate::control::Problem;
use crate::protocol::Code;
use crate::protocol::ids::is_key;
use crate::protocol::json::{BadObject, Member, members, string};

/// A body that is text. An empty one has no content type to have.
pub(super) struct Body(Bytes);

impl FromRequest<Api> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Body, Problem> {
        let (parts, body) = request.into_parts();
        let (max, patience) = (api.limits.body_bytes_max, api.limits.body_timeout);
        let announced = announced_bytes(&parts.headers);
        if announced.is_some_and(|bytes| bytes > max as u64) {
            return Err(too_large(max));
        }
        let is_empty =
            announced.unwrap_or(0) == 0 && !parts.headers.contains_key(header::TRANSFER_ENCODING);
        if is_empty {
            return Ok(Body(Bytes::new()));
        }
        expect_json(&parts.headers)?;
        Ok(Body(collect(body, max, patience).await?))
    }
}

fn announced_bytes(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Browsers send what claims to be JSON to another origin only after asking, and nobody here says
/// yes.
fn expect_json(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported = |detail| Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    let content_type = headers.get(header::CONTENT_TYPE);
    let media = content_type.and_then(|it| it.to_str().ok()).unwrap_or("");
    let (media, parameter) = media.split_once(';').unwrap_or((media, ""));
    let parameter = parameter.trim().to_ascii_lowercase();
    let is_utf8 = matches!(&*parameter, "" | "charset=utf-8" | "charset=\"utf-8\"");
    if !media.trim().eq_ignore_ascii_case("application/json") || !is_utf8 {
        return unsupported("a body is JSON in UTF-8: send Content-Type: application/json");
    }
    let coding = headers.get(header::CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return unsupported("a body is taken as it is: send no Content-Encoding");
    }
    Ok(())
}

async fn collect(body: HttpBody, max: usize, patience: Duration) -> Result<Bytes, Problem> {
    let collected = timeout(patience, Limited::new(body, max).collect()).await;
    let Ok(collected) = collected else {
        let detail = format!("the body did not come within {patience:?}");
        return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail).closing());
    };
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if is_too_long(&*error) => Err(too_large(max)),
        Err(_) => Err(bad_request("the body ends before its end").closing()),
    }
}

fn is_too_long(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    error.is::<LengthLimitError>()
}

fn too_large(max: usize) -> Problem {
    let detail = format!("a body has at most {max} bytes (--api-body-bytes)");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).closing()
}

/// A request that is not of the documented form.
pub(super) fn malformed(detail: impl Into<Cow<'static, str>>) -> Problem {
    bad_request(detail).with_code(Code::InvalidMessageFormat)
}

impl Body {
    /// The members of the object that it is.
    pub(super) fn object(&self) -> Result<Object<'_>, Problem> {
        let text =
            simdutf8::basic::from_utf8(&self.0).map_err(|_| malformed("the body is not UTF-8"))?;
        if text.is_empty() {
            return Err(malformed("a body is missing: send a JSON object"));
        }
        Object::read(text, None)
    }

    /// The same, where there need not be one.
    pub(super) fn object_if_any(&self) -> Result<Object<'_>, Problem> {
        if self.0.is_empty() {
            return Ok(Object::default());
        }
        self.object()
    }
}

/// Characters of a value that a problem names.
const SHOWN_CHARS_MAX: usize = 100;

/// The beginning of `text`, for a problem to name it.
pub(in crate::control) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", text.get(..end).unwrap_or_default())),
    }
}

/// The members of a JSON object, each as it stands in the text.
#[derive(Default)]
pub(super) struct Object<'a> {
    members: Vec<Member<'a>>,
    /// Its place where it is one of a batch's messages.
    place: Option<usize>,
}

impl<'a> Object<'a> {
    /// Reads `text`, which is the body, or the element at `place` of its messages.
    pub(super) fn read(text: &'a str, place: Option<usize>) -> Result<Object<'a>, Problem> {
        match members(text) {
            Ok(members) => Ok(Object { members, place }),
            Err(bad) => {
                let what = match place {
                    None => "the body".to_owned(),
                    Some(place) => format!("messages[{place}]"),
                };
                let fault = match bad {
                    BadObject::Repeated => "has",
                    BadObject::NotJson(_) | BadObject::NameNotUnicode { .. } => {
                        "is not a JSON object:"
                    }
                };
                Err(malformed(format!("{what} {fault} {bad}")))
            }
        }
    }

    /// What is wrong with a member, and in a batch with whose.
    pub(super) fn fault(&self, detail: &str) -> Problem {
        match self.place {
            None => malformed(detail.to_owned()),
            Some(place) => malformed(format!("messages[{place}]: {detail}")),
        }
    }

    /// That no member is there but these: where each may be left out, a misspelt one would be taken for
    /// none.
    pub(super) fn only(&self, names: &[&str]) -> Result<(), Problem> {
        let strange = self
            .members
            .iter()
            .find(|member| !names.contains(&&*member.name));
        strange.map_or(Ok(()), |member| {
            let name: String = member.name.chars().take(100).collect();
            let known = names.join(", ");
            Err(malformed(format!(
                "there is no member {name:?}; known are: {known}"
            )))
        })
    }

    /// A member's value as it stands in the text.
    pub(super) fn value(&self, name: &str) -> Option<&'a str> {
        let found = self.members.iter().find(|member| member.name == name);
        found.map(|member| member.value)
    }

    /// A member that has to be there.
    pub(super) fn needed(&self, name: &str) -> Result<&'a str, Problem> {
        let missing = || self.fault(&format!("the member {name} is missing"));
        self.value(name).ok_or_else(missing)
    }

    /// A member that is a text, where it is there.
    pub(super) fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, Problem> {
        let read = |value: &'a str| {
            let wrong = || {
                let shown = shortened(value);
                self.fault(&format!(
                    "{name} is {shown}, and has to be a text in quotes"
                ))
            };
            string(value).ok_or_else(wrong)
        };
        self.value(name).map(read).transpose()
    }

    /// A member that is a whole number from `min` to `max`, where it is there.
    pub(super) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match whole(value) {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(self.fault(&format!(
                "{name} is {}, and has to be a whole number from {min} to {max}",
                shortened(value)
            ))),
        }
    }

    /// The idempotency key.
    pub(super) fn message_id(&self) -> Result<Option<Cow<'a, str>>, Problem> {
        let id = self.text("message_id")?;
        match id.as_deref().filter(|id| !is_key(id)) {
            None => Ok(id),
            Some(bad) => Err(self.fault(&format!(
                "message_id is {:?} with {} bytes, and has to have 1 to 64 bytes",
                shortened(bad),
                bad.len()
            ))),
        }
    }
}

/// A whole number, which JSON may also write with a fraction of nothing: `60`, `60.0`, `6e1`.
fn whole(value: &str) -> Option<u64> {
    if let Ok(number) = value.parse() {
        return Some(number);
    }
    let number: f64 = value.parse().ok()?;
    // Up to here every whole number has one of its own.
    let is_whole = number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number);
    is_whole.then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &'static str) -> Body {
        Body(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn values_are_taken_as_they_stand() {
        let body = body(r#" {"payload": {"a" :1.0e999,"a":[ ]} ,"message_id":"\u0061","x":0} "#);
        let object = body.object().unwrap();
        assert_eq!(object.value("payload"), Some(r#"{"a" :1.0e999,"a":[ ]}"#));
        assert_eq!(object.message_id().unwrap().as_deref(), Some("a"));
        assert_eq!(object.number("x", 0, 1), Ok(Some(0)));
        assert_eq!(object.number("y", 0, 1), Ok(None));
    }

    #[test]
    fn what_is_not_of_the_form_is_refused() {
        for text in [
            "",
            "[]",
            "{",
            "{}x",
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
        ] {
            assert!(body(text).object().is_err(), "{text}");
        }
        assert!(
            Body(Bytes::from_static(b"{\"a\":\"\xff\"}"))
                .object()
                .is_err()
        );
        assert!(body("").object_if_any().is_ok());
        let deep = |levels: usize| {
            format!(
                "{{\"payload\":{}{}}}",
                "[".repeat(levels),
                "]".repeat(levels)
            )
        };
        assert!(Body(deep(512).into()).object().is_ok());
        assert!(Body(deep(513).into()).object().is_err());
        let body = body(r#"{"message_id":"","n":"1","f":1.5,"w":1.0,"t":1}"#);
        let object = body.object().unwrap();
        assert!(object.message_id().is_err());
        assert!(object.number("n", 0, 9).is_err() && object.number("f", 0, 9).is_err());
        assert_eq!(object.number("w", 0, 9), Ok(Some(1)));
        assert!(object.text("t").is_err() && object.needed("payload").is_err());
    }

    #[test]
    fn a_problem_names_the_value_and_whose_it_is() {
        let detail = |problem: Problem| format!("{problem:?}");
        let long = format!(r#"{{"ttl_s":"{}"}}"#, "é".repeat(500));
        let object = Object::read(&long, None).unwrap();
        let found = detail(object.number("ttl_s", 1, 9).unwrap_err());
        let shown = format!("{}…, and has to be a whole", "é".repeat(99));
        assert!(found.contains(&shown), "{found}");
        let object = Object::read(r#"{"message_id":7}"#, Some(3)).unwrap();
        let found = detail(object.message_id().unwrap_err());
        let expected = "messages[3]: message_id is 7, and has to be a text in quotes";
        assert!(found.contains(expected), "{found}");
        let found = detail(object.needed("payload").unwrap_err());
        assert!(found.contains("messages[3]: the member payload is missing"));
        let found = |text| detail(Object::read(text, None).err().unwrap());
        assert!(found("[]").contains("the body is not a JSON object: "));
        assert!(found(r#"{"a":1,"a":1}"#).contains("the body has two members with the same name"));
    }

    #[test]
    fn only_json_in_utf8_is_taken() {
        let headers = |fields: &[(header::HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, header::HeaderValue::from_static(value));
            }
            headers
        };
        use header::{CONTENT_ENCODING, CONTENT_TYPE};
        for good in ["application/json", "Application/JSON; charset=UTF-8"] {
            assert!(
                expect_json(&headers(&[(CONTENT_TYPE, good)])).is_ok(),
                "{good}"
            );
        }
        for bad in [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/json; charset=latin-1",
            "application/problem+json",
        ] {
            assert!(
                expect_json(&headers(&[(CONTENT_TYPE, bad)])).is_err(),
                "{bad}"
            );
        }
        assert!(expect_json(&HeaderMap::new()).is_err());
        let zipped = [
            (CONTENT_TYPE, "application/json"),
            (CONTENT_ENCODING, "gzip"),
        ];
        assert!(expect_json(&headers(&zipped)).is_err());
    }
}
