//! Names and positions: who, where, and how far.
//!
//! Client ids and epochs are 64 random bits. As text they are 13 digits of Crockford's base 32 in
//! lower case, most significant first: no letter to mistake for a digit, safe in URLs, and of
//! constant width, so that they sort as text as they do as numbers.

use std::fmt;
use std::sync::Arc;

/// The longest room name and user id, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 255;

/// The longest `correlation_id` and `message_id` that a client may give, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 64;

/// The prefix of the user id of a peer that gave no name.
const ANONYMOUS_PREFIX: &str = "anon-";

/// Whether `name` may name a room: 1–255 bytes without control characters.
pub fn is_room_name(name: &str) -> bool {
    is_name(name)
}

/// Whether `name` may name a user: 1–255 bytes without control characters.
pub fn is_user_id(name: &str) -> bool {
    is_name(name)
}

/// Whether `key` may be a `correlation_id` or a `message_id`: 1–64 bytes.
pub fn is_key(key: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len())
}

fn is_name(name: &str) -> bool {
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
        return false;
    }
    // Most names are printable ASCII, which needs no decoding. `is_control` is exactly
    // U+0000–U+001F and U+007F–U+009F.
    name.bytes().all(|byte| (0x20..0x7f).contains(&byte)) || !name.chars().any(char::is_control)
}

/// A connection's name, as peers see it.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// The reign under which a room's offsets count: offsets of another epoch say nothing.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// A message's place in its room, from 1; 0 stands for the beginning.
#[derive(Copy, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Offset(pub u64);

impl ClientId {
    /// Reads the canonical text; anything else is `None`.
    pub fn parse(text: &str) -> Option<ClientId> {
        base32_parse(text).map(ClientId)
    }

    /// The canonical text.
    pub fn text(self) -> Base32 {
        Base32::new(self.0)
    }
}

impl Epoch {
    /// Reads the canonical text; anything else is `None`, and no epoch of ours.
    pub fn parse(text: &str) -> Option<Epoch> {
        base32_parse(text).map(Epoch)
    }

    /// The canonical text.
    pub fn text(self) -> Base32 {
        Base32::new(self.0)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientId({self})")
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who is behind a connection. Equal where the text is equal.
///
/// Invariant: `Named` never holds the text of an `Anonymous`; [`UserId::from_name`] sees to it,
/// and nothing else should build a `Named`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum UserId {
    /// A peer without a name: `anon-<client id>`, which takes no memory.
    Anonymous(ClientId),
    /// The name from a token, or from the URL where there is no authentication.
    Named(Arc<str>),
}

impl UserId {
    /// The user called `name`; the text of an anonymous user is that anonymous user.
    pub fn from_name(name: &str) -> UserId {
        match name
            .strip_prefix(ANONYMOUS_PREFIX)
            .and_then(ClientId::parse)
        {
            Some(client_id) => UserId::Anonymous(client_id),
            None => UserId::Named(Arc::from(name)),
        }
    }

    /// Appends the text to `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            UserId::Anonymous(client_id) => {
                out.extend_from_slice(ANONYMOUS_PREFIX.as_bytes());
                out.extend_from_slice(client_id.text().as_bytes());
            }
            UserId::Named(name) => out.extend_from_slice(name.as_bytes()),
        }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UserId::Anonymous(client_id) => write!(f, "{ANONYMOUS_PREFIX}{client_id}"),
            UserId::Named(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserId({:?})", self.to_string())
    }
}

/// The name of one message, and its idempotency key where the client gave it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum MessageId<'a> {
    /// The client's own.
    Given(&'a str),
    /// `<epoch>-<offset>`, for a message that came without one.
    Generated(Epoch, Offset),
}

impl fmt::Display for MessageId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MessageId::Given(id) => f.write_str(id),
            MessageId::Generated(epoch, offset) => write!(f, "{epoch}-{offset}"),
        }
    }
}

/// The text of 64 bits in Crockford's base 32.
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct Base32([u8; BASE32_LEN]);

/// How long it is: 13 digits of 5 bits hold 65; the first is at most `f`.
pub const BASE32_LEN: usize = 13;
const BASE32_DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl Base32 {
    fn new(bits: u64) -> Base32 {
        let mut text = [b'0'; BASE32_LEN];
        let mut rest = bits;
        for place in text.iter_mut().rev() {
            *place = BASE32_DIGITS[(rest & 31) as usize];
            rest >>= 5;
        }
        Base32(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Only digits of the alphabet above are ever written, so this never falls back.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The text as bytes, which nobody checks again.
    pub fn as_bytes(&self) -> &[u8; BASE32_LEN] {
        &self.0
    }
}

fn base32_parse(text: &str) -> Option<u64> {
    if text.len() != BASE32_LEN {
        return None;
    }
    let mut bits: u128 = 0;
    for byte in text.bytes() {
        let digit = BASE32_DIGITS.iter().position(|&digit| digit == byte)?;
        bits = (bits << 5) | digit as u128;
    }
    u64::try_from(bits).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn a_client_id_is_thirteen_digits_of_base_32() {
        assert_eq!(ClientId(0).to_string(), "0000000000000");
        assert_eq!(ClientId(31).to_string(), "000000000000z");
        assert_eq!(ClientId(u64::MAX).to_string(), "fzzzzzzzzzzzz");
    }

    #[test]
    fn only_the_canonical_text_is_an_epoch() {
        assert_eq!(Epoch::parse("000000000000a"), Some(Epoch(10)));
        for other in [
            "",
            "a",
            "000000000000A",
            "000000000000i",
            "g000000000000",
            "00000000000000",
        ] {
            assert_eq!(Epoch::parse(other), None, "{other}");
        }
    }

    #[test]
    fn users_are_equal_where_their_text_is_equal() {
        let anonymous = UserId::Anonymous(ClientId(77));
        assert_eq!(UserId::from_name(&anonymous.to_string()), anonymous);
        let upper = anonymous.to_string().to_uppercase();
        assert_eq!(
            UserId::from_name(&upper),
            UserId::Named(Arc::from(upper.as_str()))
        );
        assert_eq!(UserId::from_name("ada"), UserId::from_name("ada"));
    }

    #[test]
    fn a_user_id_takes_sixteen_bytes() {
        assert_eq!(size_of::<UserId>(), 16);
    }

    #[test]
    fn a_name_has_1_to_255_bytes_and_no_control_characters() {
        let longest = "x".repeat(255);
        for good in ["a", "A room, with: #!", "ünï\u{a0}🙂", longest.as_str()] {
            assert!(is_room_name(good), "{good:?}");
        }
        let too_long = "x".repeat(256);
        for bad in [
            "",
            "\0",
            "a\nb",
            "\u{1f}",
            "\u{7f}",
            "\u{80}",
            "é\u{9f}",
            too_long.as_str(),
        ] {
            assert!(!is_user_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_generated_message_id_names_epoch_and_offset() {
        let id = MessageId::Generated(Epoch(1), Offset(42));
        assert_eq!(id.to_string(), "0000000000001-42");
    }

    proptest! {
        #[test]
        fn base_32_leads_back_and_sorts_as_the_number(a in any::<u64>(), b in any::<u64>()) {
            assert_eq!(Epoch::parse(&Epoch(a).to_string()), Some(Epoch(a)));
            assert_eq!(Epoch(a).to_string().cmp(&Epoch(b).to_string()), a.cmp(&b));
        }

        #[test]
        fn display_and_write_to_agree(name in ".{1,20}", id in any::<u64>()) {
            for user in [UserId::from_name(&name), UserId::Anonymous(ClientId(id))] {
                let mut out = Vec::new();
                user.write_to(&mut out);
                assert_eq!(out, user.to_string().into_bytes());
            }
        }
    }
}
