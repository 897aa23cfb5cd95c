//! Pieces of compact JSON, appended to a buffer.

use super::scan::plain_len;
use crate::protocol::ids::{MessageId, UserId};
use crate::protocol::timestamp::Timestamp;

/// Appends JSON to `out`. What it writes is valid where the calls make sense together.
pub(super) struct Writer<'o> {
    pub(super) out: &'o mut Vec<u8>,
}

/// Appends a string in quotes.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    Writer { out }.string(text);
}

impl Writer<'_> {
    /// Bytes as they are: punctuation, or JSON that is known to be valid.
    pub(super) fn raw(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.out.extend_from_slice(bytes.as_ref());
        self
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Self {
        self.raw(itoa::Buffer::new().format(number))
    }

    pub(super) fn boolean(&mut self, boolean: bool) -> &mut Self {
        self.raw(if boolean { "true" } else { "false" })
    }

    /// A string in quotes, with what has to be escaped escaped and nothing else.
    pub(super) fn string(&mut self, text: &str) -> &mut Self {
        self.raw("\"");
        let mut rest = text.as_bytes();
        loop {
            let (plain, tail) = rest
                .split_at_checked(plain_len(rest))
                .unwrap_or((rest, &[]));
            self.raw(plain);
            let Some((&special, tail)) = tail.split_first() else {
                break;
            };
            self.escaped(special);
            rest = tail;
        }
        self.raw("\"")
    }

    /// RFC 8259 §7: the short escape where there is one.
    fn escaped(&mut self, byte: u8) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        match byte {
            b'"' => self.raw("\\\""),
            b'\\' => self.raw("\\\\"),
            b'\n' => self.raw("\\n"),
            b'\r' => self.raw("\\r"),
            b'\t' => self.raw("\\t"),
            0x08 => self.raw("\\b"),
            0x0c => self.raw("\\f"),
            _ => {
                let [high, low] = [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
                self.raw([b'\\', b'u', b'0', b'0', high, low])
            }
        };
    }

    pub(super) fn user_id(&mut self, user_id: &UserId) -> &mut Self {
        match user_id {
            UserId::Named(name) => self.string(name),
            UserId::Anonymous(_) => {
                self.raw("\"");
                user_id.write_to(self.out);
                self.raw("\"")
            }
        }
    }

    pub(super) fn message_id(&mut self, message_id: MessageId<'_>) -> &mut Self {
        match message_id {
            MessageId::Given(id) => self.string(id),
            MessageId::Generated(epoch, offset) => self
                .raw("\"")
                .raw(epoch.text().as_bytes())
                .raw("-")
                .number(offset.0)
                .raw("\""),
        }
    }

    pub(super) fn timestamp(&mut self, unix_ms: u64) -> &mut Self {
        self.raw("\"")
            .raw(Timestamp::from_unix_ms(unix_ms).as_bytes())
            .raw("\"")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        Writer { out: &mut out }.string(text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn quotes_backslashes_and_control_characters_are_escaped() {
        assert_eq!(
            written("a\"b\\c\n\u{1}\u{1f}\u{7f}/é"),
            r#""a\"b\\c\n\u0001\u001f"#.to_owned() + "\u{7f}/é\""
        );
        assert_eq!(written(""), "\"\"");
    }

    proptest! {
        #[test]
        fn a_string_is_written_as_serde_json_writes_it(text in "[\\x00-\\x7fé🙂]{0,60}") {
            assert_eq!(written(&text), serde_json::to_string(&text).unwrap());
        }
    }
}
