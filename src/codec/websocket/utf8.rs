//! UTF-8 of text messages (RFC 6455 §8.1), also while they are still arriving.
//!
//! The message's own buffer is the only memory: [`Checked`] remembers how much of it is known to
//! be good, and the next look starts there. At most three octets, an unfinished character, are
//! looked at again, so the cost is linear however the message is chopped.

/// How much of a growing text is known to be whole, valid characters.
#[derive(Copy, Clone, Default, Debug)]
pub(super) struct Checked(usize);

impl Checked {
    /// Checks what was appended to `text` since the last call. An unfinished character at the end
    /// is left for later, unless no octet could finish it.
    ///
    /// The error is where the first bad sequence starts.
    pub(super) fn advance(&mut self, text: &[u8]) -> Result<(), usize> {
        let fresh = text.get(self.0..).unwrap_or_default();
        let (whole, unfinished) = fresh.split_at(fresh.len() - unfinished_bytes(fresh));
        check(whole).map_err(|at| self.0 + at)?;
        self.0 += whole.len();
        match std::str::from_utf8(unfinished) {
            // Such as ED A0, a surrogate: too short to be a character, and already wrong.
            Err(error) if error.error_len().is_some() => Err(self.0),
            _ => Ok(()),
        }
    }

    /// Checks that `text`, of which everything went through [`Checked::advance`], ends with a
    /// whole character.
    pub(super) fn finish(self, text: &[u8]) -> Result<(), usize> {
        if self.0 == text.len() {
            Ok(())
        } else {
            Err(self.0)
        }
    }
}

/// A whole text as such. The error is where the first bad sequence starts.
#[inline]
pub(super) fn check(text: &[u8]) -> Result<&str, usize> {
    match simdutf8::basic::from_utf8(text) {
        Ok(text) => Ok(text),
        // The quick check does not say where; a text is bad only once, so the slow one may.
        Err(_) => Err(std::str::from_utf8(text).map_or_else(|error| error.valid_up_to(), str::len)),
    }
}

/// How many octets at the end of `text` belong to a character that is not all there: 0 to 3.
fn unfinished_bytes(text: &[u8]) -> usize {
    for (behind, octet) in text.iter().rev().take(3).enumerate() {
        let needed = match octet {
            0x80..=0xbf => continue,
            0x00..=0x7f => 1,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
        };
        return if behind + 1 < needed { behind + 1 } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in chunks of `chunk` octets; says where it failed, and after how many octets.
    fn feed(text: &[u8], chunk: usize) -> Result<(), (usize, usize)> {
        let mut checked = Checked::default();
        for end in (0..=text.len()).step_by(chunk).chain([text.len()]) {
            checked.advance(&text[..end]).map_err(|at| (at, end))?;
        }
        checked.finish(text).map_err(|at| (at, text.len()))
    }

    #[test]
    fn good_text_passes_in_any_chunks() {
        let text =
            "κόσμε ÿ \u{800} \u{ffff} \u{10000} \u{10ffff} \u{d7ff} \u{e000} 😀 and ASCII \0";
        for chunk in 1..=text.len() {
            assert_eq!(feed(text.as_bytes(), chunk), Ok(()), "chunks of {chunk}");
        }
    }

    #[test]
    fn bad_text_fails_at_its_first_bad_octet() {
        // (text, where the bad sequence starts, octets after which it is known to be bad)
        let cases: &[(&[u8], usize, usize)] = &[
            (b"ab\x80", 2, 3),
            (b"ab\xbfcd", 2, 3),
            (b"\xc0\xaf", 0, 1),
            (b"\xc1\xbf", 0, 1),
            (b"\xc3a", 0, 2),
            (b"\xe0\x80\x80", 0, 2),
            (b"\xed\xa0\x80", 0, 2),
            (b"\xed\xaf\xbf\xed\xb0\x80", 0, 2),
            (b"ok\xf0\x80\x80\x80", 2, 4),
            (b"\xf4\x90\x80\x80", 0, 2),
            (b"\xf5\x80\x80\x80", 0, 1),
            (b"\xfe", 0, 1),
            (b"\xff", 0, 1),
            (b"\xe2\x82\xac\xe2\x82a", 3, 6),
            (
                b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
                11,
                13,
            ),
        ];
        for (text, at, known) in cases {
            assert_eq!(feed(text, 1), Err((*at, *known)), "{text:x?}");
            assert_eq!(check(text), Err(*at), "{text:x?}");
            for chunk in 1..=text.len() {
                assert_eq!(
                    feed(text, chunk).map_err(|(at, _)| at),
                    Err(*at),
                    "{text:x?}"
                );
            }
        }
    }

    #[test]
    fn a_text_that_ends_inside_a_character_fails_at_the_end_only() {
        for text in [
            &b"a\xc3"[..],
            b"a\xe2\x82",
            b"a\xf0\x9f\x98",
            b"a\xf0\x9f",
            b"a\xf0",
        ] {
            let mut checked = Checked::default();
            assert_eq!(checked.advance(text), Ok(()));
            assert_eq!(checked.finish(text), Err(1));
        }
    }

    #[test]
    fn every_pair_and_every_triple_with_a_lead_agrees_with_the_standard_library() {
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                for third in [0x00, 0x7f, 0x80, 0x8f, 0x90, 0xa0, 0xbf, 0xc2, 0xff] {
                    let text = [b'x', first, second, third];
                    let expected = std::str::from_utf8(&text).map_err(|e| e.valid_up_to());
                    assert_eq!(feed(&text, 1).map_err(|(at, _)| at), expected.map(|_| ()));
                }
            }
        }
    }
}
