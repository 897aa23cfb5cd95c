//! The keys of `--api-key-file`: who may ask the admin API, and for what.
//!
//! ```text
//! # name    scopes         key, or its SHA-256
//! backend   publish,read   sha256:8f43…
//! ops       admin          tw_9vA3…
//! ```
//!
//! One key a line. However a key stands in the file, only its SHA-256 is kept: what is compared with
//! is no secret, and all of it is compared, so that the time it takes tells nothing.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use thiserror::Error;

/// Bytes of a file that are read at most.
pub const KEY_FILE_BYTES_MAX: usize = 1 << 20;
/// Keys at most: each request is held against all of them.
const KEYS_MAX: usize = 256;
/// Bytes of a key at least. The ones that `tidewheel api-key make` makes have 46.
const KEY_BYTES_MIN: usize = 20;
/// Bytes of a key at most: more is no key of ours, and is not hashed.
pub(super) const KEY_BYTES_MAX: usize = 512;
/// Bytes of a name at most.
const NAME_BYTES_MAX: usize = 64;
/// What the keys begin with that `tidewheel api-key make` makes, so that whoever looks for secrets in
/// the wrong places finds them.
pub const KEY_PREFIX: &str = "tw_";
/// What a hash begins with in a file.
const HASH_PREFIX: &str = "sha256:";
const HASH_BYTES: usize = 32;

/// What a caller may do.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Send: to rooms, to users, to everyone.
    Publish,
    /// Look: at rooms, members, history, the node, its metrics.
    Read,
    /// All of it, and what changes who is where: join, leave, disconnect, ban.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Scope; 3] = [Scope::Publish, Scope::Read, Scope::Admin];

    /// As it stands in the file.
    pub fn text(self) -> &'static str {
        match self {
            Scope::Publish => "publish",
            Scope::Read => "read",
            Scope::Admin => "admin",
        }
    }

    fn from_text(text: &str) -> Option<Scope> {
        Scope::ALL.into_iter().find(|scope| scope.text() == text)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of scopes.
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// A set of one.
    pub const fn only(scope: Scope) -> Scopes {
        Scopes(1 << scope as u8)
    }

    /// Whether what needs `scope` is allowed. [`Scope::Admin`] allows everything.
    pub fn allow(self, scope: Scope) -> bool {
        self.0 & (scope.bit() | Scope::Admin.bit()) != 0
    }

    /// Reads scopes between commas.
    ///
    /// # Errors
    /// The text that is no scope.
    pub fn from_text(text: &str) -> Result<Scopes, String> {
        let mut scopes = Scopes(0);
        for name in text.split(',') {
            let scope = Scope::from_text(name).ok_or_else(|| name.to_owned())?;
            scopes.0 |= scope.bit();
        }
        Ok(scopes)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |scope: &Scope| self.0 & scope.bit() != 0;
        let names: Vec<_> = Scope::ALL
            .into_iter()
            .filter(has)
            .map(Scope::text)
            .collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

/// Who asks, as it was found out. The name is the key's, and no secret: it stands in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The name of the key; `local` where no keys are asked for.
    pub name: Arc<str>,
    /// What it may do.
    pub scopes: Scopes,
}

/// What is wrong with a line of the file. None of it repeats a key.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum KeyLineFault {
    /// Not three words.
    #[error("it has {0} words; write NAME SCOPES KEY, such as: backend publish,read sha256:…")]
    Words(usize),
    /// A name that is no name.
    #[error(
        "{0:?} is no name: 1 to {NAME_BYTES_MAX} letters, digits, dots, hyphens and underscores"
    )]
    Name(String),
    /// A scope that is none.
    #[error("{0:?} is no scope; write publish, read or admin, or several between commas")]
    Scope(String),
    /// A hash that is none.
    #[error("after {HASH_PREFIX} there are not 64 hexadecimal digits")]
    Hash,
    /// A key that could be guessed, or cannot be sent.
    #[error(
        "the key is not {KEY_BYTES_MIN} to {KEY_BYTES_MAX} printable ASCII characters; make one: \
         tidewheel api-key make NAME --scope SCOPES"
    )]
    Key,
    /// Two lines have the same name.
    #[error("a second key has the name {0:?}; each needs its own")]
    SameName(String),
    /// Two lines have the same key.
    #[error("it is the same key as that of {0:?}; each needs its own")]
    SameKey(String),
}

/// What is wrong with a file of keys.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum KeyFileFault {
    /// It is too long to be one.
    #[error("it has more than {KEY_FILE_BYTES_MAX} bytes; is it a file of API keys?")]
    TooLong,
    /// It is not text.
    #[error("it is not UTF-8 text; write one key a line: NAME SCOPES KEY")]
    NotText,
    /// Nobody could enter.
    #[error("it holds no key; make one: tidewheel api-key make NAME --scope SCOPES")]
    Empty,
    /// More keys than are held against each request.
    #[error("it holds more than {KEYS_MAX} keys")]
    TooMany,
    /// A line that cannot be read.
    #[error("line {line}: {fault}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        fault: KeyLineFault,
    },
}

/// The keys of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiKeys(Vec<ApiKey>);

#[derive(Clone, PartialEq, Eq)]
struct ApiKey {
    hash: [u8; HASH_BYTES],
    caller: Caller,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.caller.fmt(f)
    }
}

impl ApiKeys {
    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// [`KeyFileFault`] where one line cannot be used: then none of them is.
    pub fn read(bytes: &[u8]) -> Result<ApiKeys, KeyFileFault> {
        if bytes.len() > KEY_FILE_BYTES_MAX {
            return Err(KeyFileFault::TooLong);
        }
        let text = str::from_utf8(bytes).map_err(|_| KeyFileFault::NotText)?;
        let mut keys: Vec<ApiKey> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = key(line, &keys).map_err(|fault| KeyFileFault::Line {
                line: at + 1,
                fault,
            })?;
            keys.push(key);
            if keys.len() > KEYS_MAX {
                return Err(KeyFileFault::TooMany);
            }
        }
        if keys.is_empty() {
            return Err(KeyFileFault::Empty);
        }
        Ok(ApiKeys(keys))
    }

    /// Whose key this is. All are looked at, whichever it is.
    pub fn caller(&self, key: &[u8]) -> Option<&Caller> {
        let hash = digest(&SHA256, key);
        let mut found = None;
        for key in &self.0 {
            if verify_slices_are_equal(&key.hash, hash.as_ref()).is_ok() {
                found = Some(&key.caller);
            }
        }
        found
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The line of a file for a key.
    pub fn line(name: &str, scopes: Scopes, key: &str) -> String {
        let hash = digest(&SHA256, key.as_bytes());
        let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        format!("{name} {scopes} {HASH_PREFIX}{hex}")
    }
}

/// Whether a key may be called that.
pub fn is_key_name(name: &str) -> bool {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    // Names stand in the log: a key in the place of one must not.
    let is_key = name.starts_with(KEY_PREFIX);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_good) && !is_key
}

fn key(line: &str, known: &[ApiKey]) -> Result<ApiKey, KeyLineFault> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [name, scopes, key] = words.as_slice() else {
        return Err(KeyLineFault::Words(words.len()));
    };
    if !is_key_name(name) {
        // A word in the wrong place may be the key itself.
        let shown = if name.len() < KEY_BYTES_MIN {
            name
        } else {
            "…"
        };
        return Err(KeyLineFault::Name(shown.to_owned()));
    }
    let scopes = Scopes::from_text(scopes).map_err(|text| {
        let is_short = text.len() < KEY_BYTES_MIN;
        KeyLineFault::Scope(if is_short { text } else { "…".to_owned() })
    })?;
    let hash = hash(key)?;
    for other in known {
        let other_name = || other.caller.name.to_string();
        if &*other.caller.name == *name {
            return Err(KeyLineFault::SameName(other_name()));
        }
        if other.hash == hash {
            return Err(KeyLineFault::SameKey(other_name()));
        }
    }
    let name = Arc::from(*name);
    let caller = Caller { name, scopes };
    Ok(ApiKey { hash, caller })
}

fn hash(word: &str) -> Result<[u8; HASH_BYTES], KeyLineFault> {
    if let Some(hex) = word.strip_prefix(HASH_PREFIX) {
        return from_hex(hex).ok_or(KeyLineFault::Hash);
    }
    let is_sendable = word.bytes().all(|b| b.is_ascii_graphic());
    if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&word.len()) || !is_sendable {
        return Err(KeyLineFault::Key);
    }
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(digest(&SHA256, word.as_bytes()).as_ref());
    Ok(hash)
}

fn from_hex(hex: &str) -> Option<[u8; HASH_BYTES]> {
    let mut hash = [0; HASH_BYTES];
    let pairs = hex.as_bytes().chunks(2);
    if hex.len() != HASH_BYTES * 2 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(pairs) {
        let digit = |b: &u8| char::from(*b).to_digit(16);
        let (high, low) = (digit(pair.first()?)?, digit(pair.last()?)?);
        *byte = (high * 16 + low) as u8;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "tw_0123456789012345678901234567";
    const TWO: &str = "tw_abcdefghijklmnopqrstuvwxyz01";

    #[test]
    fn a_key_is_found_however_it_stands_in_the_file() {
        let hashed = ApiKeys::line("backend", Scopes::from_text("read,publish").unwrap(), ONE);
        assert!(hashed.starts_with("backend publish,read sha256:"));
        let text = format!("# keys\n\n{hashed}\r\n  ops\tadmin   {TWO}  \n");
        let keys = ApiKeys::read(text.as_bytes()).unwrap();
        assert_eq!(keys.count(), 2);
        let backend = keys.caller(ONE.as_bytes()).unwrap();
        assert_eq!(&*backend.name, "backend");
        for (scope, allowed) in [
            (Scope::Publish, true),
            (Scope::Read, true),
            (Scope::Admin, false),
        ] {
            assert_eq!(backend.scopes.allow(scope), allowed, "{scope:?}");
        }
        let ops = keys.caller(TWO.as_bytes()).unwrap();
        assert!(Scope::ALL.into_iter().all(|scope| ops.scopes.allow(scope)));
        for other in ["", "tw_", &ONE[1..], &hashed[21..]] {
            assert_eq!(keys.caller(other.as_bytes()), None);
        }
        // Nothing that is logged shows a key.
        assert!(!format!("{keys:?}").contains("tw_"));
    }

    #[test]
    fn what_cannot_be_used_is_named_by_its_line_and_never_repeated() {
        let table = [
            ("", "it holds no key"),
            ("# only\n", "it holds no key"),
            ("a admin\n", "line 1: it has 2 words"),
            (
                "\na admin tw_secretsecretsecret x",
                "line 2: it has 4 words",
            ),
            ("é admin tw_secretsecretsecret", "line 1: \"é\" is no name"),
            ("tw_secretsecretsecret admin x", "line 1: \"…\" is no name"),
            (
                "a write tw_secretsecretsecret",
                "line 1: \"write\" is no scope",
            ),
            ("a tw_secretsecretsecret admin", "line 1: \"…\" is no scope"),
            ("a read, tw_secretsecretsecret", "line 1: \"\" is no scope"),
            ("a read tw_secret", "line 1: the key is not 20 to 512"),
            ("a read sha256:00", "line 1: after sha256: there are not 64"),
            (
                "a read tw_secretsecretsecret\na read tw_secretsecretsecreT",
                "line 2: a second key has the name \"a\"",
            ),
            (
                "a read tw_secretsecretsecret\nb read tw_secretsecretsecret",
                "line 2: it is the same key as that of \"a\"",
            ),
        ];
        for (text, expected) in table {
            let fault = ApiKeys::read(text.as_bytes()).unwrap_err().to_string();
            assert!(fault.starts_with(expected), "{text:?}: {fault}");
            assert!(!fault.contains("tw_s"), "{fault}");
        }
        assert_eq!(ApiKeys::read(b"\xff"), Err(KeyFileFault::NotText));
        let many: String = (0..257)
            .map(|i| format!("k{i} read tw_{i:020}\n"))
            .collect();
        assert_eq!(ApiKeys::read(many.as_bytes()), Err(KeyFileFault::TooMany));
    }
}
