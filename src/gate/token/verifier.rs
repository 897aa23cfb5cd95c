//! Tokens held against keys.

use std::fmt;

use super::claims::{Claims, Rules};
use super::compact::{Compact, Header};
use super::fault::TokenFault;
use super::key::{Key, Keys};
use crate::gate::Grant;

/// The most keys that a token without `kid` is tried against: each costs as much as a good token,
/// and a token that nobody signed costs them all.
pub const TRIES_MAX: usize = 8;

/// Checks tokens against keys.
#[derive(Clone, Default)]
pub struct Verifier {
    keys: Keys,
    rules: Rules,
}

impl Verifier {
    /// One that takes tokens signed by these keys whose claims fit the rules.
    pub fn new(keys: Keys, rules: Rules) -> Verifier {
        Verifier { keys, rules }
    }

    /// What the token gives its bearer at `now_unix_ms`.
    ///
    /// # Errors
    /// [`TokenFault`] where it gives nothing.
    pub fn verify(&self, token: &str, now_unix_ms: u64) -> Result<Grant, TokenFault> {
        let compact = Compact::new(token, self.rules.token_bytes_max)?;
        let header = Header::read(&compact.header_text()?)?;
        self.check_signature(&compact, &header)?;
        // Only now is the token someone's word.
        let text = compact.claims_text()?;
        Claims::read(&text)?.grant(&self.rules, now_unix_ms)
    }

    /// Finds the key that signed the token.
    ///
    /// # Errors
    /// [`TokenFault`] where there is none.
    pub fn check_signature(
        &self,
        compact: &Compact<'_>,
        header: &Header,
    ) -> Result<&Key, TokenFault> {
        compact.check_signature_text()?;
        let candidates = self.candidates(header)?;
        let signed_it =
            |key: &&Key| key.verifies(compact.signed, compact.signature, header.algorithm);
        let key = candidates.into_iter().find(signed_it);
        key.ok_or(TokenFault::BadSignature)
    }

    /// The keys that could have signed it.
    fn candidates(&self, header: &Header) -> Result<Vec<&Key>, TokenFault> {
        let algorithm = header.algorithm;
        if let Some(kid) = &header.kid {
            let key = self.keys.named(kid).ok_or(TokenFault::UnknownKey)?;
            if !key.algorithms().contains(&algorithm) {
                return Err(TokenFault::AlgorithmOfAnotherKey);
            }
            return Ok(vec![key]);
        }
        let candidates: Vec<&Key> = self.keys.of(algorithm).collect();
        match candidates.len() {
            0 => Err(TokenFault::AlgorithmWithoutKey),
            1..=TRIES_MAX => Ok(candidates),
            keys => Err(TokenFault::KeyNotNamed { keys }),
        }
    }

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What claims have to fit.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }
}

impl fmt::Debug for Verifier {
    /// The names of the keys, and the rules.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("keys", &self.keys)
            .field("rules", &self.rules)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::algorithm::{self, Algorithm};
    use super::super::{KeyFile, Part, Signer};
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;
    const CLAIMS: &str = r#"{"sub":"ada","exp":1800000060}"#;
    const SECRET: &[u8] = include_bytes!("../../../tests/keys/secret");

    /// A private key and its public half.
    const PAIRS: [(&[u8], &[u8]); 4] = [
        (
            include_bytes!("../../../tests/keys/rsa.pem"),
            include_bytes!("../../../tests/keys/rsa.pub.pem"),
        ),
        (
            include_bytes!("../../../tests/keys/p256.pem"),
            include_bytes!("../../../tests/keys/p256.pub.pem"),
        ),
        (
            include_bytes!("../../../tests/keys/p384.pem"),
            include_bytes!("../../../tests/keys/p384.pub.pem"),
        ),
        (
            include_bytes!("../../../tests/keys/ed25519.pem"),
            include_bytes!("../../../tests/keys/ed25519.pub.pem"),
        ),
    ];

    fn verifier(keys: impl IntoIterator<Item = Key>) -> Verifier {
        let mut ring = Keys::default();
        for key in keys {
            ring.add(key).unwrap();
        }
        Verifier::new(ring, Rules::default())
    }

    fn public(file: &[u8]) -> Key {
        KeyFile::read(file, None).unwrap().keys.pop().unwrap()
    }

    fn user(result: Result<Grant, TokenFault>) -> Result<String, TokenFault> {
        result.map(|grant| grant.user.to_string())
    }

    #[test]
    fn a_token_of_every_algorithm_is_taken_by_its_own_key_alone() {
        let mut tokens = Vec::new();
        for (private, public) in PAIRS {
            let key = self::public(public);
            for algorithm in key.algorithms() {
                let signer = Signer::read(private).unwrap().with_algorithm(*algorithm);
                tokens.push((*algorithm, signer.sign(CLAIMS, None).unwrap(), key.clone()));
            }
        }
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let token = Signer::from_secret(SECRET, algorithm)
                .sign(CLAIMS, None)
                .unwrap();
            let key = Key::from_secret(SECRET, Some(algorithm)).unwrap();
            tokens.push((algorithm, token, key));
        }
        assert_eq!(tokens.len(), algorithm::ALL.len());
        for (algorithm, token, key) in &tokens {
            let own = verifier([key.clone()]).verify(token, NOW_MS);
            assert_eq!(user(own), Ok("ada".to_owned()), "{algorithm:?}");
            for (other, _, other_key) in &tokens {
                if other_key.kind() != key.kind() || !other_key.algorithms().contains(algorithm) {
                    let refused = verifier([other_key.clone()]).verify(token, NOW_MS);
                    let expected = Err(TokenFault::AlgorithmWithoutKey);
                    assert_eq!(refused, expected, "{algorithm:?} under a key for {other:?}");
                }
            }
        }
    }

    #[test]
    fn a_kid_names_the_key_and_nothing_else_is_tried() {
        let [_, (private, file), ..] = PAIRS;
        let signer = Signer::read(private).unwrap();
        let stranger = Key::from_secret(SECRET, None)
            .unwrap()
            .named("secret")
            .unwrap();
        let verifier = verifier([public(file).named("a\"b").unwrap(), stranger]);
        let cases = [
            (Some("a\"b"), Ok("ada".to_owned())),
            (None, Ok("ada".to_owned())),
            (Some("b"), Err(TokenFault::UnknownKey)),
            (Some("secret"), Err(TokenFault::AlgorithmOfAnotherKey)),
            (Some(""), Err(TokenFault::BadKeyId)),
        ];
        for (kid, expected) in cases {
            let token = signer.sign(CLAIMS, kid).unwrap();
            assert_eq!(user(verifier.verify(&token, NOW_MS)), expected, "{kid:?}");
        }
    }

    #[test]
    fn a_token_without_kid_is_tried_against_few_keys() {
        let secret = |number: usize| {
            let secret: Vec<u8> = SECRET.iter().map(|byte| byte ^ number as u8).collect();
            Key::from_secret(&secret, None).unwrap()
        };
        let token = Signer::from_secret(SECRET, Algorithm::HS256)
            .sign(CLAIMS, None)
            .unwrap();
        let few = verifier((0..TRIES_MAX).rev().map(secret));
        assert_eq!(user(few.verify(&token, NOW_MS)), Ok("ada".to_owned()));
        let many = verifier((0..=TRIES_MAX).map(secret));
        let keys = TRIES_MAX + 1;
        assert_eq!(
            many.verify(&token, NOW_MS),
            Err(TokenFault::KeyNotNamed { keys })
        );
    }

    #[test]
    fn claims_are_not_read_before_the_signature_is_good() {
        let verifier = verifier([Key::from_secret(SECRET, None).unwrap()]);
        let other = Signer::from_secret(b"another secret", Algorithm::HS256);
        let header = r#"{"alg":"HS256"}"#;
        let token = other.sign_parts(header, "no json").unwrap();
        assert_eq!(
            verifier.verify(&token, NOW_MS),
            Err(TokenFault::BadSignature)
        );
        let signer = Signer::from_secret(SECRET, Algorithm::HS256);
        let token = signer.sign_parts(header, "no json").unwrap();
        let fault = verifier.verify(&token, NOW_MS).unwrap_err();
        assert!(
            matches!(
                fault,
                TokenFault::NotAnObject {
                    part: Part::Claims,
                    ..
                }
            ),
            "{fault:?}"
        );
    }

    #[test]
    fn debug_output_holds_no_key() {
        let secret = String::from_utf8(SECRET.to_vec()).unwrap();
        let key = Key::from_secret(SECRET, None).unwrap().named("k1").unwrap();
        let text = format!("{:?}", verifier([key]));
        assert!(text.contains("k1") && text.contains("HS256"), "{text}");
        let numbers = format!("{:?}", &SECRET[..4]);
        let numbers = numbers.trim_matches(['[', ']']);
        assert!(!text.contains(&secret) && !text.contains(numbers), "{text}");
    }
}
