//! Patterns that name rooms: globs over parts that are separated by `:`.
//!
//! | in a pattern | stands for |
//! |---|---|
//! | `*` | any characters within one part, none included |
//! | `**` | any characters across parts, none included |
//! | `{user_id}` | the id of the user that asks, character for character |
//! | anything else | itself |
//!
//! `chat:*` means `chat:1` and not `chat:1:typing`; `chat:**` means both. Matching takes time
//! proportional to the lengths of pattern and name multiplied, in the worst case, and no memory.

use std::fmt;

use thiserror::Error;

use crate::protocol::ids::NAME_BYTES_MAX;

/// The longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = NAME_BYTES_MAX;

/// What separates the parts of a name.
const SEPARATOR: u8 = b':';

/// The placeholder.
const USER: &[u8] = b"{user_id}";

/// Why a text is no pattern.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BadGlob {
    /// It is empty.
    #[error("a pattern is empty; write ** for every room")]
    Empty,
    /// It is too long.
    #[error("a pattern has {0} bytes; at most 255 are allowed")]
    TooLong(usize),
    /// It has a brace that is no placeholder.
    #[error("pattern {0:?} has a brace that is not part of {{user_id}}, the only placeholder")]
    UnknownPlaceholder(String),
}

/// A pattern.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob {
    text: Box<str>,
    tokens: Box<[Token]>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    /// This byte.
    Byte(u8),
    /// Any bytes but the separator.
    WithinPart,
    /// Any bytes.
    AcrossParts,
    /// The user's id.
    User,
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`BadGlob`] where the text is none.
    pub fn new(text: &str) -> Result<Glob, BadGlob> {
        if text.is_empty() {
            return Err(BadGlob::Empty);
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(BadGlob::TooLong(text.len()));
        }
        let mut tokens = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some(byte) = rest.first() {
            let (token, taken) = match byte {
                b'*' => match rest.iter().take_while(|b| **b == b'*').count() {
                    1 => (Token::WithinPart, 1),
                    stars => (Token::AcrossParts, stars),
                },
                b'{' if rest.starts_with(USER) => (Token::User, USER.len()),
                b'{' | b'}' => return Err(BadGlob::UnknownPlaceholder(text.to_owned())),
                byte => (Token::Byte(*byte), 1),
            };
            tokens.push(token);
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(Glob {
            text: text.into(),
            tokens: tokens.into(),
        })
    }

    /// Bytes of memory that it takes besides its own.
    pub fn heap_bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.tokens)
    }

    /// Whether the pattern means `name`, asked by `user`.
    pub fn matches(&self, name: &str, user: &str) -> bool {
        let (name, user) = (name.as_bytes(), user.as_bytes());
        let mut place = Place::default();
        let mut at = 0;
        // Where to go on when what follows the last star does not fit: the star takes one byte
        // more. Only the last of each kind can help, because what it leaves to the ones before it
        // they have taken in the shortest way.
        let mut within: Option<(Place, usize)> = None;
        let mut across: Option<(Place, usize)> = None;
        loop {
            match (self.tokens.get(place.token), name.get(at)) {
                (None, None) => return true,
                (Some(Token::WithinPart), _) => {
                    place = place.next();
                    within = Some((place, at));
                    continue;
                }
                (Some(Token::AcrossParts), _) => {
                    place = place.next();
                    across = Some((place, at));
                    within = None;
                    continue;
                }
                (Some(Token::User), _) if place.within_user >= user.len() => {
                    place = place.next();
                    continue;
                }
                (Some(Token::User), Some(byte)) if user.get(place.within_user) == Some(byte) => {
                    place.within_user += 1;
                    at += 1;
                    continue;
                }
                (Some(Token::Byte(wanted)), Some(byte)) if wanted == byte => {
                    place = place.next();
                    at += 1;
                    continue;
                }
                _ => {}
            }
            let extended = |(place, from): (Place, usize)| (place, from + 1);
            if let Some((after, from)) = within
                && name.get(from).is_some_and(|byte| *byte != SEPARATOR)
            {
                within = Some(extended((after, from)));
                (place, at) = (after, from + 1);
            } else if let Some((after, from)) = across
                && from < name.len()
            {
                across = Some(extended((after, from)));
                within = None;
                (place, at) = (after, from + 1);
            } else {
                return false;
            }
        }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it depends on who asks.
    pub fn names_user(&self) -> bool {
        self.tokens.contains(&Token::User)
    }
}

/// A place in a pattern.
#[derive(Copy, Clone, Default)]
struct Place {
    token: usize,
    /// Bytes of the user's id that were matched, where the token stands for it.
    within_user: usize,
}

impl Place {
    fn next(self) -> Place {
        Place {
            token: self.token + 1,
            within_user: 0,
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob({:?})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn patterns_mean_what_the_table_says() {
        let table: &[(&str, &[&str], &[&str])] = &[
            ("chat", &["chat"], &["chat:1", "cha", "chats", ""]),
            (
                "chat:*",
                &["chat:1", "chat:", "chat:ü"],
                &["chat", "chat:1:2"],
            ),
            (
                "chat:**",
                &["chat:1", "chat:1:2", "chat:"],
                &["chat", "xchat:1"],
            ),
            ("**", &["a", "a:b:c", ""], &[]),
            ("*", &["a", ""], &["a:b", ":"]),
            ("*:*", &["a:b", ":"], &["a", "a:b:c"]),
            ("a*c:d", &["abc:d", "ac:d", "accc:d"], &["a:c:d", "abc:e"]),
            ("**:x", &["a:x", "a:b:x", ":x"], &["x", "a:xx"]),
            ("**:*:z", &["a:b:z", "a:b:c:z"], &["a:z"]),
            ("a**b*c", &["abc", "a:b:bc", "axbxbxc"], &["ab:c", "abcd"]),
            (
                "user:{user_id}",
                &["user:a*b"],
                &["user:", "user:ab", "user:a*bc"],
            ),
            ("{user_id}:{user_id}:*", &["a*b:a*b:1"], &["a*b:ab:1"]),
            ("*{user_id}", &["a*b", "xxa*b", "a*ba*b"], &["x:a*b", "a*"]),
        ];
        for (pattern, yes, no) in table {
            let glob = Glob::new(pattern).unwrap();
            for name in *yes {
                assert!(glob.matches(name, "a*b"), "{pattern} means {name}");
            }
            for name in *no {
                assert!(!glob.matches(name, "a*b"), "{pattern} does not mean {name}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        assert_eq!(Glob::new(""), Err(BadGlob::Empty));
        assert_eq!(Glob::new(&"x".repeat(256)), Err(BadGlob::TooLong(256)));
        for text in ["{user}", "a{", "}", "{user_id"] {
            assert_eq!(
                Glob::new(text),
                Err(BadGlob::UnknownPlaceholder(text.into()))
            );
        }
    }

    /// The definition, without thought of time.
    fn by_definition(tokens: &[Token], name: &[u8], user: &[u8]) -> bool {
        let Some((token, rest)) = tokens.split_first() else {
            return name.is_empty();
        };
        let splits = |across: bool| {
            (0..=name.len())
                .take_while(move |n| across || !name[..*n].contains(&SEPARATOR))
                .any(|n| by_definition(rest, &name[n..], user))
        };
        match token {
            Token::Byte(byte) => {
                name.first() == Some(byte) && by_definition(rest, &name[1..], user)
            }
            Token::User => name.starts_with(user) && by_definition(rest, &name[user.len()..], user),
            Token::WithinPart => splits(false),
            Token::AcrossParts => splits(true),
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_definition(
            pattern in "([ab:*]|\\*\\*|\\{user_id\\}){1,9}", name in "[ab:]{0,12}", user in "[ab:]{1,3}",
        ) {
            let glob = Glob::new(&pattern).unwrap();
            let expected = by_definition(&glob.tokens, name.as_bytes(), user.as_bytes());
            assert_eq!(glob.matches(&name, &user), expected);
        }

        #[test]
        fn any_text_is_a_pattern_or_is_refused(text in any::<String>(), name in any::<String>()) {
            if let Ok(glob) = Glob::new(&text) {
                glob.matches(&name, "u");
            }
        }
    }
}
