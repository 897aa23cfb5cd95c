//! Answers that hold a little longer: when a thousand clients come back at once, each is asked about
//! once.
//!
//! An answer is found by a keyed hash of its question. Neither tokens nor cookies are kept, and
//! nobody outside can make two questions look the same.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use tokio::time::Instant;

use crate::gate::{Grant, Question, Verdict};

/// The most answers that are kept.
const ANSWERS_MAX: usize = 10_000;

/// The most bytes of answers that are kept.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// What an answer costs beside its body, roughly.
const OVERHEAD_BYTES: usize = 256;

/// The name of a question.
pub(super) type Key = [u8; 32];

/// Gives questions their names.
#[derive(Debug)]
pub(super) struct Keys(hmac::Key);

impl Keys {
    /// With a key of its own; none where the system has no random numbers.
    pub(super) fn new() -> Option<Keys> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        key.ok().map(Keys)
    }

    /// The name of a question: the same for all that the backend cannot tell apart.
    pub(super) fn name(&self, question: &Question) -> Key {
        let mut hash = hmac::Context::with_key(&self.0);
        let mut field = |text: Option<&str>| {
            // With its length, so that no two lists of fields give the same bytes.
            let len = text.map_or(u64::MAX, |text| text.len() as u64);
            hash.update(&len.to_le_bytes());
            hash.update(text.unwrap_or_default().as_bytes());
        };
        field(question.token.as_deref());
        field(question.room.as_deref());
        field(Some(&question.address));
        for (name, value) in &question.headers {
            field(Some(name));
            field(Some(value));
        }
        let mut key = Key::default();
        for (to, from) in key.iter_mut().zip(hash.sign().as_ref()) {
            *to = *from;
        }
        key
    }
}

#[derive(Debug)]
struct Known {
    /// None for a no.
    grant: Option<Arc<Grant>>,
    bytes: usize,
    until: Instant,
}

/// The answers.
#[derive(Debug)]
pub(super) struct Cache {
    ttl: Duration,
    known: HashMap<Key, Known>,
    /// In the order in which they came, which is that of their ends.
    order: VecDeque<Key>,
    bytes: usize,
}

impl Cache {
    /// An empty one, whose answers hold so long; not at all for zero.
    pub(super) fn new(ttl: Duration) -> Cache {
        Cache {
            ttl,
            known: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The answer to a question, if it is known.
    pub(super) fn find(&self, key: &Key, now: Instant) -> Option<Verdict> {
        let known = self.known.get(key).filter(|known| known.until > now)?;
        Some(match &known.grant {
            Some(grant) => Verdict::Granted(Arc::clone(grant)),
            None => Verdict::Denied,
        })
    }

    /// Keeps an answer of so many bytes. What was no answer is not kept.
    pub(super) fn insert(&mut self, key: Key, verdict: &Verdict, bytes: usize, now: Instant) {
        let grant = match verdict {
            Verdict::Granted(grant) => Some(Arc::clone(grant)),
            Verdict::Denied => None,
            Verdict::Unavailable => return,
        };
        if self.ttl.is_zero() {
            return;
        }
        self.forget(&key);
        let bytes = bytes + OVERHEAD_BYTES;
        let until = now + self.ttl;
        self.bytes += bytes;
        let known = Known {
            grant,
            bytes,
            until,
        };
        self.known.insert(key, known);
        self.order.push_back(key);
        self.trim(now);
    }

    /// Lets go of what is over its time, and of the oldest where there is too much.
    fn trim(&mut self, now: Instant) {
        while let Some(oldest) = self.order.front().copied() {
            let is_over = self
                .known
                .get(&oldest)
                .is_none_or(|known| known.until <= now);
            if !is_over && self.known.len() <= ANSWERS_MAX && self.bytes <= BYTES_MAX {
                return;
            }
            self.order.pop_front();
            if let Some(known) = self.known.remove(&oldest) {
                self.bytes -= known.bytes;
            }
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(known) = self.known.remove(key) {
            self.bytes -= known.bytes;
            self.order.retain(|other| other != key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{ConnectionRef, CoreId};
    use crate::protocol::ClientId;

    fn question(token: Option<&str>, room: Option<&str>, headers: &[(&str, &str)]) -> Question {
        let header = |(name, value): &(&str, &str)| (Box::from(*name), Box::from(*value));
        Question {
            connection: ConnectionRef {
                index: 0,
                generation: 0,
                core: CoreId(0),
            },
            client_id: ClientId(1),
            token: token.map(Box::from),
            headers: headers.iter().map(header).collect(),
            room: room.map(Box::from),
            address: "::1".into(),
            asker: Default::default(),
        }
    }

    #[test]
    fn questions_that_differ_have_different_names() {
        let keys = Keys::new().unwrap();
        let different = [
            question(None, None, &[]),
            question(Some(""), None, &[]),
            question(Some("a"), None, &[]),
            question(None, Some("a"), &[]),
            question(Some("ab"), Some("c"), &[]),
            question(Some("a"), Some("bc"), &[]),
            question(None, None, &[("a", "b")]),
            question(None, None, &[("b", "a")]),
            question(None, None, &[("a", "b"), ("c", "d")]),
        ];
        let names: std::collections::HashSet<Key> = different
            .iter()
            .map(|question| keys.name(question))
            .collect();
        assert_eq!(names.len(), different.len());
        let mut same = question(Some("a"), None, &[]);
        same.client_id = ClientId(2);
        same.connection.index = 5;
        assert_eq!(keys.name(&same), keys.name(&different[2]));
        let others = Keys::new().unwrap();
        assert_ne!(others.name(&same), keys.name(&same), "the hash has a key");
    }

    #[test]
    fn an_answer_holds_for_its_time_and_what_was_none_is_not_kept() {
        let now = Instant::now();
        let ttl = Duration::from_secs(10);
        let mut cache = Cache::new(ttl);
        cache.insert([1; 32], &Verdict::Denied, 0, now);
        cache.insert([2; 32], &Verdict::Unavailable, 0, now);
        assert!(matches!(cache.find(&[1; 32], now), Some(Verdict::Denied)));
        assert!(cache.find(&[2; 32], now).is_none());
        assert!(cache.find(&[1; 32], now + ttl).is_none());
        let mut off = Cache::new(Duration::ZERO);
        off.insert([1; 32], &Verdict::Denied, 0, now);
        assert!(off.find(&[1; 32], now).is_none());
    }

    #[test]
    fn there_are_never_more_answers_or_bytes_than_allowed() {
        let now = Instant::now();
        let mut cache = Cache::new(Duration::from_secs(10));
        for n in 0..2 * ANSWERS_MAX as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_le_bytes());
            let bytes = if n % 2 == 0 { 0 } else { 8 * 1024 };
            cache.insert(key, &Verdict::Denied, bytes, now);
            cache.insert(key, &Verdict::Denied, bytes, now);
            assert!(cache.known.len() <= ANSWERS_MAX && cache.bytes <= BYTES_MAX);
            assert_eq!(cache.known.len(), cache.order.len());
        }
        let sum: usize = cache.known.values().map(|known| known.bytes).sum();
        assert_eq!(sum, cache.bytes);
        cache.insert([9; 32], &Verdict::Denied, 0, now + Duration::from_secs(11));
        assert_eq!(cache.known.len(), 1, "what is over its time goes");
    }
}
