//! A strict JSON scanner (RFC 8259) that looks but does not touch.
//!
//! It says where a value ends and whether it is valid, and keeps nothing else: no tree, no
//! numbers, no recursion. The cost is linear in the bytes and the memory constant, whatever they
//! are.

use std::ops::Range;

/// How deep arrays and objects may nest within one value.
pub const DEPTH_MAX: usize = 512;

/// Why a text is not JSON, or not JSON of ours.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotJson {
    /// Something else stood there, or nothing.
    #[error("expected {expected} at byte {at}")]
    Unexpected {
        /// Where.
        at: usize,
        /// What should have stood there.
        expected: &'static str,
    },
    /// A control character within a string must be escaped.
    #[error("control character in a string at byte {at}")]
    ControlCharacter {
        /// Where.
        at: usize,
    },
    /// A backslash that begins none of the escapes.
    #[error("unknown escape in a string at byte {at}")]
    UnknownEscape {
        /// Where the backslash stands.
        at: usize,
    },
    /// More than [`DEPTH_MAX`] levels.
    #[error("nested more than {DEPTH_MAX} levels deep at byte {at}")]
    TooDeep {
        /// Where the level too many begins.
        at: usize,
    },
}

impl NotJson {
    /// The byte at which the scanner stopped.
    pub fn at(&self) -> usize {
        match *self {
            NotJson::Unexpected { at, .. }
            | NotJson::ControlCharacter { at }
            | NotJson::UnknownEscape { at }
            | NotJson::TooDeep { at } => at,
        }
    }
}

/// Checks that `text` is one JSON value, with nothing but white space around it.
///
/// For application data that comes by another way than a WebSocket message.
///
/// # Errors
/// What is wrong and where, if it is not, or if it is nested too deep.
pub fn validate(text: &str) -> Result<(), NotJson> {
    let mut scanner = Scanner::new(text);
    scanner.space();
    scanner.value()?;
    scanner.space();
    scanner.end()
}

/// How a name or a string is written.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Spelling {
    /// As it is.
    Plain,
    /// With escapes.
    Escaped,
    /// With the escape of half a surrogate pair, which RFC 8259 §8.2 allows and no text can hold.
    NotUnicode,
}

/// A place in a text, and what may come next.
pub(super) struct Scanner<'a> {
    whole: &'a str,
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Scanner<'a> {
        Scanner {
            whole: text,
            text: text.as_bytes(),
            at: 0,
        }
    }

    /// The bytes scanned so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &'a [u8] {
        self.text.get(range).unwrap_or_default()
    }

    pub(super) fn text(&self, range: Range<usize>) -> &'a str {
        self.whole.get(range).unwrap_or_default()
    }

    /// Skips white space.
    #[inline]
    pub(super) fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Takes `byte` if it is next.
    #[inline]
    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), NotJson> {
        if self.eat(byte) {
            Ok(())
        } else {
            self.unexpected(expected)
        }
    }

    pub(super) fn end(&self) -> Result<(), NotJson> {
        if self.at == self.text.len() {
            Ok(())
        } else {
            self.unexpected("the end of the text")
        }
    }

    #[cold]
    fn unexpected<T>(&self, expected: &'static str) -> Result<T, NotJson> {
        Err(NotJson::Unexpected {
            at: self.at,
            expected,
        })
    }

    /// Takes a member's name and the colon after it, with the white space around them. Returns
    /// where the name stands between its quotes, and how it is written.
    #[inline]
    pub(super) fn name(&mut self) -> Result<(Range<usize>, Spelling), NotJson> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return self.unexpected("a member name in quotes");
        }
        let spelling = self.string()?;
        let name = start + 1..self.at - 1;
        self.space();
        self.expect(b':', "a colon")?;
        self.space();
        Ok((name, spelling))
    }

    /// Takes a string; the opening quote is next.
    #[inline]
    pub(super) fn string(&mut self) -> Result<Spelling, NotJson> {
        self.at += 1;
        let mut spelling = Spelling::Plain;
        loop {
            self.at += plain_len(self.text.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(spelling);
                }
                Some(b'\\') => {
                    let is_unicode = self.escape()?;
                    spelling = match spelling {
                        Spelling::Plain | Spelling::Escaped if is_unicode => Spelling::Escaped,
                        _ => Spelling::NotUnicode,
                    };
                }
                Some(_) => return Err(NotJson::ControlCharacter { at: self.at }),
                None => return self.unexpected("the end of the string"),
            }
        }
    }

    /// Takes an escape; the backslash is next. False where it is half a surrogate pair.
    fn escape(&mut self) -> Result<bool, NotJson> {
        let unknown = NotJson::UnknownEscape { at: self.at };
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(true)
            }
            Some(b'u') => {
                let unit = self.utf16_unit().ok_or(unknown)?;
                self.at += 6;
                match unit {
                    0xd800..0xdc00 => {
                        let is_pair = matches!(self.utf16_unit(), Some(0xdc00..0xe000));
                        self.at += if is_pair { 6 } else { 0 };
                        Ok(is_pair)
                    }
                    0xdc00..0xe000 => Ok(false),
                    _ => Ok(true),
                }
            }
            _ => Err(unknown),
        }
    }

    /// The code unit that `\uXXXX` stands for, if that is next.
    fn utf16_unit(&self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |unit, &digit| {
            Some(unit << 4 | char::from(digit).to_digit(16)?)
        })
    }

    /// `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`
    fn number(&mut self) -> Result<(), NotJson> {
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            self.unexpected("a digit")
        } else {
            Ok(())
        }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), NotJson> {
        if self
            .text
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(word.as_bytes()))
        {
            self.at += word.len();
            Ok(())
        } else {
            self.unexpected(word)
        }
    }

    /// Takes one value, however deep, and returns where it stands. No white space before it.
    pub(super) fn value(&mut self) -> Result<Range<usize>, NotJson> {
        let start = self.at;
        let mut open = Nesting::default();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(bracket @ (b'{' | b'[')) => {
                    open.push(bracket == b'{')
                        .ok_or(NotJson::TooDeep { at: self.at })?;
                    self.at += 1;
                    self.space();
                    if bracket == b'{' {
                        if self.peek() != Some(b'}') {
                            self.name()?;
                            continue;
                        }
                    } else if self.peek() != Some(b']') {
                        continue;
                    }
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.literal("true")?,
                Some(b'f') => self.literal("false")?,
                Some(b'n') => self.literal("null")?,
                _ => return self.unexpected("a value"),
            }
            if !self.next_within(&mut open)? {
                return Ok(start..self.at);
            }
        }
    }

    /// After a value, or after the bracket that opens an empty one: closes what ends here and
    /// goes to where the next value begins. False when nothing is open any more.
    #[inline]
    fn next_within(&mut self, open: &mut Nesting) -> Result<bool, NotJson> {
        while let Some(in_object) = open.innermost() {
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.space();
                    if in_object {
                        self.name()?;
                    }
                    return Ok(true);
                }
                Some(b'}') if in_object => self.at += 1,
                Some(b']') if !in_object => self.at += 1,
                _ if in_object => return self.unexpected("a comma or a closing brace"),
                _ => return self.unexpected("a comma or a closing bracket"),
            }
            open.pop();
        }
        Ok(false)
    }
}

/// Which brackets are open: a stack of [`DEPTH_MAX`] bits.
#[derive(Default)]
struct Nesting {
    bits: [u64; DEPTH_MAX / 64],
    depth: usize,
}

impl Nesting {
    /// `None` if there is no room for one more.
    fn push(&mut self, is_object: bool) -> Option<()> {
        let word = self.bits.get_mut(self.depth / 64)?;
        let bit = 1 << (self.depth % 64);
        *word = if is_object { *word | bit } else { *word & !bit };
        self.depth += 1;
        Some(())
    }

    /// Whether the innermost is an object; `None` if nothing is open.
    fn innermost(&self) -> Option<bool> {
        let top = self.depth.checked_sub(1)?;
        Some(self.bits.get(top / 64)? >> (top % 64) & 1 == 1)
    }

    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }
}

/// How many bytes at the start of `bytes` stand for themselves in a JSON string: everything but
/// the quote, the backslash and the control characters below U+0020.
///
/// Names and short strings end within the first two words, which is decided in line.
#[inline]
pub(super) fn plain_len(bytes: &[u8]) -> usize {
    let mut done = 0;
    for word in bytes.as_chunks::<8>().0.iter().take(2) {
        let found = special_bytes(u64::from_le_bytes(*word));
        if found != 0 {
            return done + found.trailing_zeros() as usize / 8;
        }
        done += 8;
    }
    done + long_plain_len(bytes.get(done..).unwrap_or_default())
}

/// The same for long strings and for the end of the text: by blocks, which the compiler turns
/// into vector instructions, then by words, then by bytes.
fn long_plain_len(bytes: &[u8]) -> usize {
    let (blocks, _) = bytes.as_chunks::<64>();
    let is_plain = |block: &&[u8; 64]| {
        !block
            .iter()
            .fold(false, |any, &byte| any | is_special(byte))
    };
    let mut done = blocks.iter().take_while(is_plain).count() * 64;
    let (words, tail) = bytes.get(done..).unwrap_or_default().as_chunks::<8>();
    for word in words {
        let found = special_bytes(u64::from_le_bytes(*word));
        if found != 0 {
            return done + found.trailing_zeros() as usize / 8;
        }
        done += 8;
    }
    done + tail
        .iter()
        .position(|&byte| is_special(byte))
        .unwrap_or(tail.len())
}

fn is_special(byte: u8) -> bool {
    // Without short circuits, so that it can be done for many bytes at once.
    (byte == b'"') | (byte == b'\\') | (byte < 0x20)
}

/// The top bit of each special byte of `word`. Bits above the lowest that is set may be wrong: a
/// subtraction borrows from the bytes above it.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = u64::from_le_bytes([0x80; 8]);
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word;
    let controls = word.wrapping_sub(ONES * 0x20) & !word;
    let quotes = zero_bytes(word ^ (ONES * b'"' as u64));
    let backslashes = zero_bytes(word ^ (ONES * b'\\' as u64));
    (controls | quotes | backslashes) & TOPS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    #[test]
    #[rustfmt::skip]
    fn valid_json_is_valid() {
        for text in [
            "0", "-0", "1e999", "-12.50E-3", "123456789012345678901234567890", "true", "null",
            r#""""#, r#""\ud800""#, r#""\ud83d\ude00\\\/\b\f\n\r\t\"""#, "[]", "{}", " [ ] ",
            "[1,[2,{}],{\"a\":[]}]", "{\"a\":1,\"a\":2}", "\r\n\t {\"\" : [ false , true ] } ",
            "\"\u{7f}\u{2028}é🙂\"",
        ] {
            assert_eq!(validate(text), Ok(()), "{text}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn invalid_json_is_refused_where_it_goes_wrong() {
        for (text, at) in [
            ("", 0), ("  ", 2), ("01", 1), ("-", 1), ("+1", 0), (".5", 0), ("1.", 2), ("1.e1", 2),
            ("1e", 2), ("1e+", 3), ("tru", 0), ("nul", 0), ("True", 0), ("NaN", 0), ("\"", 1),
            ("\"\\", 1), ("\"\\x\"", 1), ("\"\\u12g4\"", 1), ("\"\\u12", 1), ("\"a\nb\"", 2),
            ("\"\\ud800\\u12\"", 7), ("[", 1), ("[1", 2), ("[1,]", 3), ("[,1]", 1), ("[1 2]", 3),
            ("[1}", 2), ("{", 1), ("{a:1}", 1), ("{\"a\"}", 4), ("{\"a\":}", 5),
            ("{\"a\":1,}", 7), ("{\"a\":1]", 6), ("{1:1}", 1), ("1 1", 2), ("{}{}", 2),
            ("'a'", 0), ("[1]//", 3), ("\u{feff}1", 0), ("[1,\u{a0}2]", 3),
        ] {
            assert_eq!(
                validate(text).map_err(|fault| fault.at()),
                Err(at),
                "{text}"
            );
        }
    }

    #[test]
    fn nesting_ends_at_512_levels_without_recursion() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(validate(&nested(512)), Ok(()));
        assert_eq!(validate(&nested(513)), Err(NotJson::TooDeep { at: 512 }));
        let objects = format!("{}1{}", "{\"a\":".repeat(512), "}".repeat(512));
        assert_eq!(validate(&objects), Ok(()));
        assert_eq!(
            validate(&"[".repeat(1 << 20)),
            Err(NotJson::TooDeep { at: 512 })
        );
        assert!(validate(&"[]".repeat(1 << 16)).is_err());
    }

    #[test]
    fn a_bracket_is_closed_by_its_own_kind_at_every_depth() {
        for depth in [1, 63, 64, 65, 511] {
            let text = format!("{}{{}}{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(validate(&text), Ok(()), "{depth}");
            let text = format!("{}{{]{}", "[".repeat(depth), "]".repeat(depth));
            assert!(validate(&text).is_err(), "{depth}");
        }
    }

    proptest! {
        #[test]
        fn plain_bytes_are_counted_as_one_by_one(bytes in prop::collection::vec(any::<u8>(), 0..20), plain in 0_usize..120) {
            let mut text = vec![b'x'; plain];
            text.extend(bytes);
            let expected = text.iter().position(|&byte| is_special(byte)).unwrap_or(text.len());
            assert_eq!(plain_len(&text), expected);
        }

        #[test]
        fn validity_agrees_with_serde_json(text in r#"[\[\]{}",:0-9eE.+\-truefalsn\\ \t]{0,24}"#) {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            assert_eq!(validate(&text).is_ok(), theirs, "{text}");
        }
    }
}
