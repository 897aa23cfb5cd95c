//! The PROXY protocol, versions 1 and 2: what a proxy says first about whose connection it passes on.
//!
//! ```text
//!   1: PROXY TCP4 203.0.113.7 10.0.0.1 51234 443\r\n                  at most 107 octets
//!   2: signature (12) · version, command · family · length · addresses · more
//! ```
//!
//! Written from the specification (haproxy, doc/proxy-protocol.txt, 2020/03/05). What stands behind
//! the addresses in version 2 is passed over. Nothing is kept: the caller hands in what has come so
//! far, from its first octet, and takes away what the header is long.

use thiserror::Error;

use crate::address::PeerAddress;

/// The longest header that is taken: a version 2 with 520 octets behind its first sixteen. Addresses
/// are at most 216 of them (§2.2); the rest leaves room for what proxies add.
pub const HEADER_BYTES_MAX: usize = 16 + 520;

/// §2.1: a buffer of so many octets holds any header of version 1 with its CRLF.
const V1_BYTES_MAX: usize = 107;

/// §2.2.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

const V1_PREFIX: &[u8; 6] = b"PROXY ";

/// What a header says.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ProxyHeader {
    /// Where the client is. None where the proxy speaks for itself (`LOCAL`, a health check), or
    /// does not know (`UNKNOWN`, `UNSPEC`, a socket of its own machine).
    pub source: Option<PeerAddress>,
    /// How long the header is.
    pub bytes: usize,
}

/// Why a header is refused.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Error)]
pub enum ProxyFault {
    /// It begins like neither version.
    #[error("the connection does not begin with a PROXY header")]
    NotProxy,
    /// Version 1 without its end within 107 octets, or version 2 that claims more than is taken.
    #[error("the PROXY header is too long")]
    TooLong,
    /// Its fields are not as the specification has them.
    #[error("the PROXY header is malformed")]
    Malformed,
}

/// Reads the header from the first octets of a connection; none while it is incomplete.
///
/// # Errors
/// [`ProxyFault`] as soon as it can be no header.
pub fn decode_proxy(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyFault> {
    if begins_like(bytes, V2_SIGNATURE) {
        decode_v2(bytes)
    } else if begins_like(bytes, V1_PREFIX) {
        decode_v1(bytes)
    } else {
        Err(ProxyFault::NotProxy)
    }
}

/// Whether `bytes` may be, or go on from, a beginning of `prefix`.
fn begins_like(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(a, b)| a == b)
}

fn decode_v1(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyFault> {
    let within = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    // Whatever comes first decides, so that a header in pieces is judged as one in one piece.
    let first = within.iter().position(|octet| matches!(octet, b'\n' | 0));
    let end = match first {
        Some(at)
            if within
                .get(..=at)
                .is_some_and(|line| line.ends_with(b"\r\n")) =>
        {
            at - 1
        }
        Some(_) => return Err(ProxyFault::Malformed),
        None if within.len() == V1_BYTES_MAX => return Err(ProxyFault::TooLong),
        None => return Ok(None),
    };
    let line = within.get(V1_PREFIX.len()..end).unwrap_or_default();
    let line = str::from_utf8(line).map_err(|_| ProxyFault::Malformed)?;
    let source = v1_source(line).ok_or(ProxyFault::Malformed)?;
    Ok(Some(ProxyHeader {
        source,
        bytes: end + 2,
    }))
}

/// The outer option: whether the line is as it should be.
fn v1_source(line: &str) -> Option<Option<PeerAddress>> {
    let mut fields = line.split(' ');
    let is_v4 = match fields.next()? {
        // §2.1: whatever follows on UNKNOWN is to be ignored.
        "UNKNOWN" => return Some(None),
        "TCP4" => true,
        "TCP6" => false,
        _ => return None,
    };
    let [source, destination, from, to] = std::array::from_fn(|_| fields.next());
    let address = |text: Option<&str>| {
        let text = text?;
        let is_right = text.contains(':') != is_v4;
        text.parse::<PeerAddress>().ok().filter(|_| is_right)
    };
    let is_port = |text: Option<&str>| {
        let text = text.unwrap_or_default();
        let is_canonical = text == "0" || !text.starts_with(['0', '+']);
        is_canonical && text.parse::<u16>().is_ok()
    };
    let source = address(source)?;
    let is_whole =
        address(destination).is_some() && is_port(from) && is_port(to) && fields.next().is_none();
    is_whole.then_some(Some(source))
}

fn decode_v2(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyFault> {
    let Some((version, rest)) = bytes
        .get(V2_SIGNATURE.len()..)
        .and_then(<[u8]>::split_first)
    else {
        return Ok(None);
    };
    // §2.2: the version is 2, and there are two commands.
    let is_local = match version {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyFault::Malformed),
    };
    let [family, high, low, rest @ ..] = rest else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    let whole = V2_SIGNATURE.len() + 4 + len;
    if whole > HEADER_BYTES_MAX {
        return Err(ProxyFault::TooLong);
    }
    let need = v2_address_bytes(*family).ok_or(ProxyFault::Malformed)?;
    // §2.2: a receiver ignores the family of LOCAL, and skips what follows.
    if !is_local && len < need {
        return Err(ProxyFault::Malformed);
    }
    let Some(addresses) = rest.get(..len) else {
        return Ok(None);
    };
    let source = if is_local {
        None
    } else {
        v2_source(*family, addresses)
    };
    Ok(Some(ProxyHeader {
        source,
        bytes: whole,
    }))
}

/// §2.2: how many octets the addresses of a family take.
fn v2_address_bytes(family: u8) -> Option<usize> {
    match (family >> 4, family & 0x0f) {
        (0, 0..=2) => Some(0),
        (1, 0..=2) => Some(12),
        (2, 0..=2) => Some(36),
        (3, 0..=2) => Some(216),
        _ => None,
    }
}

fn v2_source(family: u8, addresses: &[u8]) -> Option<PeerAddress> {
    match family >> 4 {
        1 => {
            let octets: [u8; 4] = addresses.get(..4)?.try_into().ok()?;
            Some(core::net::IpAddr::from(octets).into())
        }
        2 => {
            let octets: [u8; 16] = addresses.get(..16)?.try_into().ok()?;
            Some(PeerAddress::from_bytes(octets))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(version: u8, family: u8, claimed: usize, body: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([version, family]);
        header.extend((claimed as u16).to_be_bytes());
        header.extend(body);
        header
    }

    /// Where the client is, and what was left over; checked to be the same in pieces.
    fn decoded(bytes: &[u8]) -> Result<Option<(String, usize)>, ProxyFault> {
        let whole = decode_proxy(bytes);
        let trickled = (0..=bytes.len())
            .map(|end| decode_proxy(&bytes[..end]))
            .find(|result| !matches!(result, Ok(None)));
        assert_eq!(trickled.unwrap_or(Ok(None)), whole, "{bytes:?}");
        let said = |header: ProxyHeader| {
            let source = header.source.map_or("none".into(), |s| s.to_string());
            (source, bytes.len() - header.bytes)
        };
        whole.map(|header| header.map(said))
    }

    #[test]
    fn headers_of_both_versions_say_where_the_client_is() {
        let six = {
            let mut body = [0; 36];
            body[..2].copy_from_slice(&[0x20, 0x01]);
            body[15] = 1;
            body
        };
        let mapped = {
            let mut body = [0; 36];
            body[10..16].copy_from_slice(&[0xff, 0xff, 1, 2, 3, 4]);
            body
        };
        let four = [1, 2, 3, 4, 10, 0, 0, 1, 0, 80, 1, 187];
        let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
        let table: Vec<(Vec<u8>, &str, usize)> = vec![
            (
                b"PROXY TCP4 1.2.3.4 10.0.0.1 5 443\r\nGET".into(),
                "1.2.3.4",
                3,
            ),
            (b"PROXY TCP6 2001::1 ::1 0 65535\r\n".into(), "2001::1", 0),
            (b"PROXY UNKNOWN\r\n\x16".into(), "none", 1),
            (longest.into(), "none", 0),
            (v2(0x21, 0x11, 12, &four), "1.2.3.4", 0),
            (
                v2(0x21, 0x11, 15, &[&four[..], b"\x04\0\0GET"].concat()),
                "1.2.3.4",
                3,
            ),
            (v2(0x21, 0x21, 36, &six), "2001::1", 0),
            (v2(0x21, 0x21, 36, &mapped), "1.2.3.4", 0),
            (v2(0x21, 0x31, 216, &[0; 216]), "none", 0),
            (v2(0x21, 0x00, 0, b"x"), "none", 1),
            (v2(0x20, 0x00, 0, b""), "none", 0),
            (v2(0x20, 0x11, 12, &four), "none", 0),
        ];
        for (bytes, source, left) in table {
            let expected = Ok(Some((source.to_owned(), left)));
            assert_eq!(decoded(&bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_that_is_known() {
        use ProxyFault::{Malformed, NotProxy, TooLong};
        let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
        let table: Vec<(Vec<u8>, ProxyFault)> = vec![
            (b"GET / HTTP/1.1\r\n".into(), NotProxy),
            (b"\x16\x03\x01".into(), NotProxy),
            (b"PROXI".into(), NotProxy),
            (b"proxy TCP4".into(), NotProxy),
            (b"\r\n\r\n\0\r\nQUIZ".into(), NotProxy),
            (endless, TooLong),
            (b"PROXY TCP4 1.2.3.4\n".into(), Malformed),
            (b"PROXY TCP4\r\n".into(), Malformed),
            (b"PROXY TCP4 1.2.3.4 1.1.1.1 1\r\n".into(), Malformed),
            (b"PROXY TCP4 1.2.3.4 1.1.1.1 1 2 3\r\n".into(), Malformed),
            (b"PROXY TCP4  1.2.3.4 1.1.1.1 1 2\r\n".into(), Malformed),
            (b"PROXY TCP4 ::1 1.1.1.1 1 2\r\n".into(), Malformed),
            (b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n".into(), Malformed),
            (b"PROXY TCP4 1.2.3.4 1.1.1.1 65536 2\r\n".into(), Malformed),
            (b"PROXY TCP4 1.2.3.4 1.1.1.1 +1 2\r\n".into(), Malformed),
            (b"PROXY TCP4 1.2.3.4 1.1.1.1 01 2\r\n".into(), Malformed),
            (b"PROXY TCP5 1.2.3.4 1.1.1.1 1 2\r\n".into(), Malformed),
            (b"PROXY TCP4 \xff 1.1.1.1 1 2\r\n".into(), Malformed),
            (v2(0x11, 0x11, 12, &[0; 12]), Malformed),
            (v2(0x22, 0x11, 12, &[0; 12]), Malformed),
            (v2(0x21, 0x41, 12, &[0; 12]), Malformed),
            (v2(0x21, 0x13, 12, &[0; 12]), Malformed),
            (v2(0x21, 0x11, 11, &[0; 11]), Malformed),
            (v2(0x21, 0x21, 35, &[0; 35]), Malformed),
            (v2(0x21, 0x11, 521, &[]), TooLong),
            (v2(0x20, 0x00, 65_535, &[]), TooLong),
        ];
        for (bytes, fault) in table {
            assert_eq!(decoded(&bytes), Err(fault), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn what_is_cut_off_is_awaited() {
        for bytes in [
            &b""[..],
            b"PRO",
            b"PROXY TCP4 1.2.3.4 1.1.1.1 1 2\r",
            b"\r\n\r\n",
            &v2(0x21, 0x11, 12, &[0; 11]),
            &v2(0x20, 0x00, 520, &[0; 519]),
        ] {
            assert_eq!(decoded(bytes), Ok(None), "{bytes:?}");
        }
    }
}
