//! The close frame's payload, RFC 6455 §5.5.1 and §7.4.

use tungstenite::protocol::frame::coding::CloseCode;

use super::fault::Fault;
use super::item::ControlPayload;

/// A close code, and the reason given with it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct CloseFrame {
    /// Why the peer closes. [`u16::from`] gives the number.
    pub code: CloseCode,
    /// Invariant: UTF-8.
    reason: ControlPayload,
}

impl CloseFrame {
    /// The reason; empty where the peer gave none. A peer's words: not for a log as they stand.
    pub fn reason(&self) -> &str {
        std::str::from_utf8(&self.reason).unwrap_or_default()
    }

    /// Reads a close frame's unmasked payload; `None` where it is empty.
    pub(super) fn parse(payload: &[u8]) -> Result<Option<CloseFrame>, Fault> {
        let (code, reason) = match payload {
            [] => return Ok(None),
            // RFC 6455 §5.5.1: where there is a body, its first two bytes are the code.
            [_] => return Err(Fault::BadClosePayload),
            [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        };
        if !may_be_sent(code) {
            return Err(Fault::BadCloseCode(code));
        }
        // RFC 6455 §5.5.1 and §8.1: the reason is UTF-8.
        if simdutf8::basic::from_utf8(reason).is_err() {
            return Err(Fault::ReasonNotUtf8);
        }
        Ok(Some(CloseFrame {
            code: CloseCode::from(code),
            reason: ControlPayload::new(reason),
        }))
    }
}

/// Whether an endpoint may put `code` into a close frame.
fn may_be_sent(code: u16) -> bool {
    match code {
        // RFC 6455 §7.4.2: 0–999 are not used, 5000 and above nobody defined. §7.4.1: 1004 is
        // reserved; 1005, 1006 and 1015 are for reports to the application, never on the wire.
        // The table knows all of them, but not 1014, which IANA lists as "bad gateway".
        1014 => true,
        code => CloseCode::from(code).is_allowed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(code: u16, reason: &[u8]) -> Vec<u8> {
        [&code.to_be_bytes(), reason].concat()
    }

    #[test]
    fn every_code_is_judged_as_the_registry_says() {
        for code in 0..=u16::MAX {
            let allowed = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            let verdict = CloseFrame::parse(&payload(code, b""));
            match verdict {
                Ok(Some(close)) => assert!(allowed && u16::from(close.code) == code, "{code}"),
                Ok(None) => panic!("{code} was not seen"),
                Err(fault) => {
                    assert!(!allowed && fault == Fault::BadCloseCode(code), "{code}");
                    assert_eq!(fault.close_code(), 1002);
                }
            }
        }
    }

    #[test]
    fn a_reason_is_kept_and_must_be_utf8() {
        assert_eq!(CloseFrame::parse(b""), Ok(None));
        assert_eq!(CloseFrame::parse(b"\x03"), Err(Fault::BadClosePayload));
        let longest = "é".repeat(61) + "!";
        let close = CloseFrame::parse(&payload(1000, longest.as_bytes()))
            .unwrap()
            .unwrap();
        assert_eq!(close.reason(), longest);
        let fault = CloseFrame::parse(&payload(1000, b"caf\xc3")).unwrap_err();
        assert_eq!((fault, fault.close_code()), (Fault::ReasonNotUtf8, 1007));
    }
}
