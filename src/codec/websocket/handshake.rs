//! The server's side of the opening handshake, RFC 6455 §4.2.2. The request is judged by
//! [`websocket_upgrade`](crate::codec::http::websocket_upgrade).

/// The value of `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`.
pub fn accept_key(key: &str) -> String {
    tungstenite::handshake::derive_accept_key(key.as_bytes())
}

/// Appends the 101 response. `key` is the client's `Sec-WebSocket-Key`; `subprotocol` the one that
/// was selected among those it offered.
pub fn encode_upgrade(key: &str, subprotocol: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\n\
          Upgrade: websocket\r\n\
          Connection: Upgrade\r\n\
          Sec-WebSocket-Accept: ",
    );
    out.extend_from_slice(accept_key(key).as_bytes());
    if let Some(subprotocol) = subprotocol {
        // RFC 6455 §4.2.2: one of those that the client offered, or no such field at all.
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(subprotocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_response_of_the_rfc_is_written() {
        let mut out = Vec::new();
        encode_upgrade("dGhlIHNhbXBsZSBub25jZQ==", Some("chat"), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
             Sec-WebSocket-Protocol: chat\r\n\r\n"
        );
    }
}
