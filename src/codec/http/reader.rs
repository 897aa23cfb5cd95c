//! From bytes to a head: where it ends, and whether every octet up to there may be in one.
//!
//! The end is looked for before anything is parsed, from where the last look stopped. So a head
//! that trickles in costs one look at each octet and one parse, and an endless one costs no parse.

use std::mem::MaybeUninit;

use httparse::{Error, Request, Status};

use super::head::{Head, HeadFault};

/// What a request head may cost.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct HeadLimits {
    /// Request line, headers and the empty line, in bytes.
    pub bytes_max: usize,
    /// Header fields, at most [`HEADERS_MOST`].
    pub headers_max: usize,
}

/// More header fields than this are never read.
pub const HEADERS_MOST: usize = 128;

/// Reads one request head from a buffer that grows.
#[derive(Copy, Clone, Default, Debug)]
pub struct HeadReader {
    /// Octets at the start of the buffer that are known to be allowed, and not to end the head.
    scanned: usize,
}

/// Reads a request head from the start of `bytes`, with its length; `None` while it is incomplete.
///
/// Where `bytes` is a buffer that grows, a [`HeadReader`] does not look at octets twice.
pub fn parse_head<'a>(
    bytes: &'a [u8],
    limits: &HeadLimits,
) -> Result<Option<(Head<'a>, usize)>, HeadFault> {
    HeadReader::default().read(bytes, limits)
}

impl HeadReader {
    /// Reads a head from the start of `bytes`, with its length; `None` while it is incomplete.
    ///
    /// `bytes` starts with what it was at the last call, and may have more at the end.
    pub fn read<'a>(
        &mut self,
        bytes: &'a [u8],
        limits: &HeadLimits,
    ) -> Result<Option<(Head<'a>, usize)>, HeadFault> {
        let Some(end) = self.find_end(bytes, limits.bytes_max)? else {
            return Ok(None);
        };
        let mut places = [const { MaybeUninit::uninit() }; HEADERS_MOST];
        let places = places
            .get_mut(..limits.headers_max.min(HEADERS_MOST))
            .unwrap_or_default();
        let mut request = Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes.get(..end).unwrap_or_default(), places) {
            Ok(Status::Complete(_)) => {}
            // The end is there, so the parser found nothing before it. RFC 9112 §2.2: it ignores an
            // empty line before the request line, but we do not wait behind two of them.
            Ok(Status::Partial) => return Err(HeadFault::Malformed),
            Err(Error::TooManyHeaders) => return Err(HeadFault::TooManyHeaders),
            Err(Error::Version) => return Err(HeadFault::UnsupportedVersion),
            Err(_) => return Err(HeadFault::Malformed),
        }
        let (Some(method), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(HeadFault::Malformed);
        };
        let headers = request.headers.to_vec();
        Ok(Some((Head::new(method, target, minor == 1, headers)?, end)))
    }

    /// Where the head ends, behind its empty line.
    fn find_end(&mut self, bytes: &[u8], bytes_max: usize) -> Result<Option<usize>, HeadFault> {
        let before = self.scanned.checked_sub(1).and_then(|at| bytes.get(at));
        let mut before = before.copied().unwrap_or_default();
        // Nothing below the bound is passed over: where it is reached, that octet is looked at.
        let within = bytes.get(..bytes_max).unwrap_or(bytes);
        while let Some(octet) = bytes.get(self.scanned) {
            let at = self.scanned;
            if at >= bytes_max {
                return Err(HeadFault::TooLong);
            }
            if before != b'\r' {
                let plain = plain_len(within.get(at..).unwrap_or_default());
                if plain > 0 {
                    before = b' ';
                    self.scanned = at + plain;
                    continue;
                }
            }
            match (before, octet) {
                (b'\r', b'\n') if bytes.get(..=at).is_some_and(|b| b.ends_with(b"\r\n\r\n")) => {
                    return Ok(Some(at + 1));
                }
                (b'\r', b'\n') => {}
                // RFC 9112 §2.2: a bare CR is invalid. A bare LF may be taken for the end of a
                // line, but need not, and not everyone does.
                (b'\r', _) | (_, b'\n') => return Err(HeadFault::Malformed),
                // RFC 9110 §5.5: no other control character has a place in a head.
                (_, 0..=8 | 11 | 12 | 14..=31 | 127) => return Err(HeadFault::Malformed),
                _ => {}
            }
            before = *octet;
            self.scanned = at + 1;
        }
        Ok(None)
    }
}

/// How many octets at the start of `bytes` mean nothing here, by eights: no control characters.
#[inline]
fn plain_len(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<8>();
    let is_plain = |word: &&[u8; 8]| !has_control(u64::from_le_bytes(**word));
    words.iter().take_while(is_plain).count() * 8
}

/// Whether some octet of `word` is below 0x20 or 0x7f; true, too, for some octets above 0x7f.
fn has_control(word: u64) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = u64::from_le_bytes([0x80; 8]);
    let below_space = word.wrapping_sub(ONES * 0x20);
    let del = (word ^ (ONES * 0x7f)).wrapping_sub(ONES);
    (below_space | del | word) & TOPS != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        bytes_max: 8192,
        headers_max: 64,
    };
    const REQUEST: &[u8] = b"GET /ws?x=1 HTTP/1.1\r\nHost: a\r\nA: 1\r\nB:\r\n\r\n";

    #[test]
    fn a_head_in_pieces_is_read_once_it_is_whole() {
        let stream = [REQUEST, b"\x81\x80"].concat();
        let mut reader = HeadReader::default();
        for end in 0..REQUEST.len() {
            assert!(
                reader.read(&stream[..end], &LIMITS).unwrap().is_none(),
                "{end} bytes"
            );
            assert!(
                parse_head(&stream[..end], &LIMITS).unwrap().is_none(),
                "{end} bytes"
            );
        }
        for mut reader in [reader, HeadReader::default()] {
            let (head, consumed) = reader.read(&stream, &LIMITS).unwrap().unwrap();
            assert_eq!(
                (head.path, head.query, consumed),
                ("/ws", Some("x=1"), REQUEST.len())
            );
        }
    }

    #[test]
    fn one_empty_line_before_the_request_is_ignored() {
        for (before, fault) in [("\r\n", None), ("\r\n\r\n", Some(HeadFault::Malformed))] {
            let stream = [before.as_bytes(), REQUEST].concat();
            let mut reader = HeadReader::default();
            let found =
                (0..=stream.len()).find_map(|end| match reader.read(&stream[..end], &LIMITS) {
                    Ok(None) => None,
                    Ok(Some((_, consumed))) => Some(Ok(consumed)),
                    Err(fault) => Some(Err(fault)),
                });
            assert_eq!(found, Some(fault.map_or(Ok(stream.len()), Err)));
        }
    }

    #[test]
    fn octets_that_do_not_belong_are_refused_when_they_arrive() {
        for start in [
            &b"\x16\x03\x01"[..],
            b"\0",
            b"GET /\n",
            b"\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nA: b\rc",
            b"GET / HTTP/1.1\r\nHost: a\nA",
            b"GET / HTTP/1.1\r\nHost: a\r\nA: \x00",
            b"GET / HTTP/1.1\r\nHost: a\r\nA: \x7f",
            b"GET /\r\r\n",
        ] {
            assert_eq!(
                parse_head(start, &LIMITS).unwrap_err(),
                HeadFault::Malformed,
                "{start:?}"
            );
        }
    }

    #[test]
    fn an_endless_head_is_refused_at_the_limit_and_costs_one_look() {
        let mut stream = b"GET / HTTP/1.1\r\n".to_vec();
        let mut reader = HeadReader::default();
        while stream.len() < 8192 {
            stream.push(b'a');
            assert!(reader.read(&stream, &LIMITS).unwrap().is_none());
            assert_eq!(reader.scanned, stream.len());
        }
        stream.push(b'a');
        assert_eq!(
            reader.read(&stream, &LIMITS).unwrap_err(),
            HeadFault::TooLong
        );
        let exact = HeadLimits {
            bytes_max: REQUEST.len(),
            ..LIMITS
        };
        assert!(parse_head(REQUEST, &exact).unwrap().is_some());
        let short = HeadLimits {
            bytes_max: REQUEST.len() - 1,
            ..LIMITS
        };
        assert_eq!(parse_head(REQUEST, &short).unwrap_err(), HeadFault::TooLong);
    }

    #[test]
    fn headers_are_counted() {
        let limits = HeadLimits {
            headers_max: 2,
            ..LIMITS
        };
        assert_eq!(
            parse_head(REQUEST, &limits).unwrap_err(),
            HeadFault::TooManyHeaders
        );
        assert!(
            parse_head(
                REQUEST,
                &HeadLimits {
                    headers_max: 3,
                    ..LIMITS
                }
            )
            .is_ok()
        );
    }

    #[test]
    fn a_control_character_is_found_wherever_it_stands_in_a_word() {
        for octet in 0..=255_u8 {
            for place in 0..24 {
                let mut line = vec![b'x'; 24];
                line[place] = octet;
                let is_control = matches!(octet, 0..=8 | 10..=31 | 127);
                let found = HeadReader::default().find_end(&line, 4096);
                // A CR waits for what follows it at the end, and is wrong before that.
                let is_wrong = is_control && !(octet == b'\r' && place == 23);
                assert_eq!(found.is_err(), is_wrong, "{octet} at {place}");
            }
        }
    }
}
