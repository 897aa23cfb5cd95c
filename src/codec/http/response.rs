//! Small answers, after each of which the connection closes.

/// An answer that is known as a whole.
#[derive(Copy, Clone, Debug)]
pub struct Response<'a> {
    /// The status code.
    pub status: u16,
    /// `Content-Type`; left out where empty.
    pub content_type: &'a str,
    /// Fields beside those that every answer has.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

/// Appends `response`. With `head_only`, the answer to HEAD, the body is counted and not written
/// (RFC 9110 §9.3.2).
pub fn encode_response(response: &Response<'_>, head_only: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(response.status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason_phrase(response.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    if !response.content_type.is_empty() {
        encode_field("Content-Type", response.content_type, out);
    }
    let mut digits = itoa::Buffer::new();
    encode_field("Content-Length", digits.format(response.body.len()), out);
    for (name, value) in response.headers {
        encode_field(name, value, out);
    }
    // A body is what its type says and nothing a browser guesses; an answer is for now.
    out.extend_from_slice(
        b"Connection: close\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n\r\n",
    );
    if !head_only {
        out.extend_from_slice(response.body);
    }
}

/// Appends one field. A control character becomes a space, so that no value starts a new field.
fn encode_field(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(|octet| {
        if octet.is_ascii_control() {
            b' '
        } else {
            octet
        }
    }));
    out.extend_from_slice(b"\r\n");
}

/// The words for a status (RFC 9110 §15); empty, as is allowed, for one that we do not send.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_counts_its_body_and_closes() {
        let response = Response {
            status: 503,
            content_type: "text/plain; charset=utf-8",
            headers: &[("Retry-After", "1"), ("X-Echo", "a\r\nSet-Cookie: b")],
            body: b"full\n",
        };
        let head = "HTTP/1.1 503 Service Unavailable\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\
            Content-Length: 5\r\n\
            Retry-After: 1\r\n\
            X-Echo: a  Set-Cookie: b\r\n\
            Connection: close\r\n\
            X-Content-Type-Options: nosniff\r\n\
            Cache-Control: no-store\r\n\r\n";
        for (head_only, body) in [(true, ""), (false, "full\n")] {
            let mut out = Vec::new();
            encode_response(&response, head_only, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), head.to_owned() + body);
        }
    }
}
