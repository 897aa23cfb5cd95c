//! The first octets of a connection behind a proxy: the same verdict in one piece and in many, never
//! later than the longest header, and nothing of what follows it.

use tidewheel::address::PeerAddress;
use tidewheel::codec::proxy::{HEADER_BYTES_MAX, ProxyFault, ProxyHeader, decode_proxy};

/// Reads `data` as the start of a connection.
pub fn run(data: &[u8]) {
    let whole = decode_proxy(data);
    let trickled = (0..=data.len())
        .map(|end| decode_proxy(&data[..end]))
        .find(|result| !matches!(result, Ok(None)));
    assert_eq!(trickled.unwrap_or(Ok(None)), whole);
    match whole {
        Ok(None) => assert!(data.len() < HEADER_BYTES_MAX, "it must be known by now"),
        Ok(Some(header)) => judge(data, header),
        Err(ProxyFault::NotProxy) => {
            assert!(!data.starts_with(b"PROXY ") && !data.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
        }
        Err(ProxyFault::TooLong | ProxyFault::Malformed) => {}
    }
}

fn judge(data: &[u8], header: ProxyHeader) {
    assert!(header.bytes <= data.len() && header.bytes <= HEADER_BYTES_MAX);
    let (own, _) = data.split_at(header.bytes);
    assert_eq!(decode_proxy(own), Ok(Some(header)), "it needs nothing more");
    let followed = [own, b"\x16\x03\x01\r\nPROXY "].concat();
    assert_eq!(decode_proxy(&followed), Ok(Some(header)));
    if data.starts_with(b"PROXY ") {
        assert!(own.len() <= 107 && own.ends_with(b"\r\n"));
    } else {
        assert_eq!(own[12] >> 4, 2);
        assert!(
            own[12] & 1 == 1 || header.source.is_none(),
            "LOCAL says nothing"
        );
    }
    if let Some(source) = header.source {
        let text = source.to_string();
        assert_eq!(text.parse::<PeerAddress>(), Ok(source));
        assert_eq!(
            text.parse::<PeerAddress>().map(PeerAddress::place),
            Ok(source.place())
        );
    }
}
