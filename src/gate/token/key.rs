//! Keys that tokens are held against.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    VerificationAlgorithm,
};
use jsonwebtoken::DecodingKey;
use thiserror::Error;

use super::algorithm::{self, Algorithm, Kind};
use crate::protocol::ids::is_user_id;
use crate::protocol::json::BadObject;

/// The most keys of a server.
pub const KEYS_MAX: usize = 64;

/// The fewest and the most bits of an RSA key's modulus.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// The fewest different bytes of a secret: what is typed with one finger is no secret.
const SECRET_VARIETY_MIN: usize = 8;

/// Why a key or a file of keys cannot be used. The text goes after the name of the file.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum KeyFault {
    /// There is nothing in it.
    #[error("it is empty; write a PEM public key, a JWKS or a secret into it")]
    Empty,
    /// It is too long.
    #[error("it has {bytes} bytes and at most {max} are read; is it the right file?")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// It is a public key in a form that would pass for a secret.
    #[error("it holds a key in {form}, which is neither read nor taken for a secret; {remedy}")]
    OtherForm {
        /// Which form.
        form: &'static str,
        /// What makes it one that is read.
        remedy: &'static str,
    },
    /// A secret is too short.
    #[error(
        "the secret has {bytes} bytes and {name} needs at least {min} (RFC 7518 §3.2); make one \
         with: tidewheel token keygen --alg HS256", name = algorithm::name(*.algorithm)
    )]
    SecretTooShort {
        /// Its length.
        bytes: usize,
        /// What is asked of it.
        min: usize,
        /// What it is for.
        algorithm: Algorithm,
    },
    /// A secret is long, but easy.
    #[error(
        "the secret is made of {0} different bytes and can be guessed; make one with: tidewheel \
         token keygen --alg HS256"
    )]
    SecretTooSimple(usize),
    /// An RSA key is too short to be safe or too long to be quick.
    #[error(
        "the RSA key has {0} bits; use 2048 to 8192, or an ES256 or EdDSA key, which are quicker"
    )]
    RsaBits(usize),
    /// An RSA key's exponent is none.
    #[error(
        "the RSA key has a public exponent that is even, below 3 or above 2^32; make a new key"
    )]
    RsaExponent,
    /// The bytes are not a public key on the curve.
    #[error("what should be {} is none: no such point is on its curve", .0.text())]
    NotOnCurve(Kind),
    /// It says it is for an algorithm that keys of its kind cannot be for.
    #[error(
        "{} cannot be for {}; leave alg out, or write one of {}", .kind.text(),
        algorithm::name(*.algorithm), names(.kind.algorithms())
    )]
    AlgorithmOfAnotherKind {
        /// What it is.
        kind: Kind,
        /// What it says.
        algorithm: Algorithm,
    },
    /// It says it is for an algorithm that is not known.
    #[error("its alg is not known here; known are HS, RS, PS (256, 384, 512), ES256, ES384, EdDSA")]
    UnknownAlgorithm,
    /// It is a private key.
    #[error(
        "it holds a private key, which belongs to the backend alone; give the public half: \
         openssl pkey -in FILE -pubout"
    )]
    PrivateKey,
    /// It is a certificate.
    #[error("it holds a certificate; give its public key: openssl x509 -in FILE -pubkey -noout")]
    Certificate,
    /// It is PEM of something else.
    #[error(
        "it holds PEM of a kind that is not a public key; the first line should be -----BEGIN PUBLIC KEY-----"
    )]
    UnknownPem,
    /// It is not whole PEM.
    #[error("its PEM is cut off or damaged; between BEGIN and END is base64 only")]
    BadPem,
    /// It is a public key of a kind that is not known.
    #[error(
        "it holds a public key that is not RSA, P-256, P-384 or Ed25519; make one with: tidewheel token keygen"
    )]
    UnknownKind,
    /// It is not the structure that it should be.
    #[error("its public key is not a well-formed SubjectPublicKeyInfo (RFC 5280 §4.1)")]
    BadDer,
    /// It begins as JSON and is no JWKS.
    #[error("it begins with a brace and is not a JWKS (RFC 7517 §5): {0}")]
    NotJwks(BadObject),
    /// It is JSON without keys.
    #[error("it is JSON without a list called keys, as a JWKS has one (RFC 7517 §5)")]
    NoKeyList,
    /// No key in it is of use.
    #[error("none of its {0} keys is for checking signatures in a way that is known here")]
    NothingOfUse(usize),
    /// A member of a key is missing or not what it should be.
    #[error("its member {0} is missing, or not what RFC 7518 §6 says")]
    BadMember(&'static str),
    /// A key of a JWKS.
    #[error("key {number} (the first is 1): {fault}")]
    InSet {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong with it.
        fault: Box<KeyFault>,
    },
    /// A name that is none.
    #[error("a kid is 1 to 255 bytes without control characters")]
    BadKeyId,
    /// A name was given to a file whose keys have their own, or that has several.
    #[error(
        "a kid before the file names one key, and the file has {0} or names them itself; leave it out"
    )]
    NameOfSeveral(usize),
    /// Two keys have the same name.
    #[error("a second key has the kid {0:?}; each needs its own")]
    RepeatedKeyId(String),
    /// There are too many keys.
    #[error("with it there are more than {KEYS_MAX} keys; take old ones out")]
    TooMany,
}

fn names(algorithms: &[Algorithm]) -> String {
    let names: Vec<&str> = algorithms.iter().map(|a| algorithm::name(*a)).collect();
    names.join(", ")
}

/// One key.
#[derive(Clone)]
pub struct Key {
    kid: Option<Box<str>>,
    kind: Kind,
    /// What it is for: all else is refused.
    algorithms: &'static [Algorithm],
    material: DecodingKey,
}

impl Key {
    /// A secret that both sides have, for `algorithm`; where there is none, for HS256.
    ///
    /// # Errors
    /// [`KeyFault`] where it is too weak, or `algorithm` is not one of secrets.
    pub fn from_secret(secret: &[u8], algorithm: Option<Algorithm>) -> Result<Key, KeyFault> {
        let algorithms = algorithms_of(Kind::Secret, algorithm)?;
        let of = algorithms.first().copied().unwrap_or_default();
        let min = algorithm::secret_bytes_min(of);
        if secret.len() < min {
            let (bytes, algorithm) = (secret.len(), of);
            return Err(KeyFault::SecretTooShort {
                bytes,
                min,
                algorithm,
            });
        }
        let mut seen = [false; 256];
        for byte in secret {
            seen[usize::from(*byte)] = true;
        }
        let variety = seen.iter().filter(|seen| **seen).count();
        if variety < SECRET_VARIETY_MIN {
            return Err(KeyFault::SecretTooSimple(variety));
        }
        Ok(Key::new(
            Kind::Secret,
            algorithms,
            DecodingKey::from_secret(secret),
        ))
    }

    /// An RSA key of modulus `n` and exponent `e`, both big-endian.
    ///
    /// # Errors
    /// [`KeyFault`] where it is too weak, or `algorithm` is not one of RSA.
    pub fn from_rsa(n: &[u8], e: &[u8], algorithm: Option<Algorithm>) -> Result<Key, KeyFault> {
        let algorithms = algorithms_of(Kind::Rsa, algorithm)?;
        let (n, e) = (without_zeros(n), without_zeros(e));
        let unused = n.first().map_or(0, |first| first.leading_zeros() as usize);
        let bits = n.len() * 8 - unused;
        if !RSA_BITS.contains(&bits) {
            return Err(KeyFault::RsaBits(bits));
        }
        let is_odd = e.last().is_some_and(|last| last & 1 == 1);
        if !is_odd || e == [1] || e.len() > 4 {
            return Err(KeyFault::RsaExponent);
        }
        let material = DecodingKey::from_rsa_raw_components(n, e);
        Ok(Key::new(Kind::Rsa, algorithms, material))
    }

    /// A public key on a curve: an uncompressed point (SEC 1 §2.3.3), or the 32 bytes of Ed25519.
    ///
    /// # Errors
    /// [`KeyFault`] where it is not on the curve, or `algorithm` is not the one of the curve.
    pub fn on_curve(
        kind: Kind,
        point: &[u8],
        algorithm: Option<Algorithm>,
    ) -> Result<Key, KeyFault> {
        let algorithms = algorithms_of(kind, algorithm)?;
        let (bytes, check): (_, &'static dyn VerificationAlgorithm) = match kind {
            Kind::P256 => (65, &ECDSA_P256_SHA256_FIXED),
            Kind::P384 => (97, &ECDSA_P384_SHA384_FIXED),
            Kind::Ed25519 => (32, &ED25519),
            Kind::Secret | Kind::Rsa => return Err(KeyFault::UnknownKind),
        };
        let is_whole = point.len() == bytes && (kind == Kind::Ed25519 || point.first() == Some(&4));
        if !is_whole || ParsedPublicKey::new(check, point).is_err() {
            return Err(KeyFault::NotOnCurve(kind));
        }
        let material = match kind {
            Kind::Ed25519 => DecodingKey::from_ed_der(point),
            _ => DecodingKey::from_ec_der(point),
        };
        Ok(Key::new(kind, algorithms, material))
    }

    fn new(kind: Kind, algorithms: &'static [Algorithm], material: DecodingKey) -> Key {
        Key {
            kid: None,
            kind,
            algorithms,
            material,
        }
    }

    /// The same key under a name.
    ///
    /// # Errors
    /// [`KeyFault::BadKeyId`] where `kid` is no name.
    pub fn named(self, kid: &str) -> Result<Key, KeyFault> {
        if !is_user_id(kid) {
            return Err(KeyFault::BadKeyId);
        }
        let kid = Some(kid.into());
        Ok(Key { kid, ..self })
    }

    /// Its name.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What it is for.
    pub fn algorithms(&self) -> &'static [Algorithm] {
        self.algorithms
    }

    /// Whether `signature` (base64url) is its signature of `signed`.
    pub(super) fn verifies(&self, signed: &str, signature: &str, algorithm: Algorithm) -> bool {
        let is_own = self.algorithms.contains(&algorithm);
        is_own
            && jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &self.material, algorithm)
                .unwrap_or(false)
    }
}

impl fmt::Debug for Key {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("kid", &self.kid)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

fn algorithms_of(
    kind: Kind,
    algorithm: Option<Algorithm>,
) -> Result<&'static [Algorithm], KeyFault> {
    match algorithm {
        None => Ok(kind.default_algorithms()),
        Some(algorithm) if kind.algorithms().contains(&algorithm) => {
            Ok(algorithm::alone(algorithm))
        }
        Some(algorithm) => Err(KeyFault::AlgorithmOfAnotherKind { kind, algorithm }),
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// All keys of a server.
///
/// Invariant: at most [`KEYS_MAX`], no two of the same name.
#[derive(Clone, Default, Debug)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Adds one.
    ///
    /// # Errors
    /// [`KeyFault`] where there is no room, or its name is taken.
    pub fn add(&mut self, key: Key) -> Result<(), KeyFault> {
        if let Some(kid) = key.kid().filter(|kid| self.named(kid).is_some()) {
            return Err(KeyFault::RepeatedKeyId(kid.to_owned()));
        }
        if self.0.len() >= KEYS_MAX {
            return Err(KeyFault::TooMany);
        }
        self.0.push(key);
        Ok(())
    }

    /// The one with this name.
    pub fn named(&self, kid: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.kid() == Some(kid))
    }

    /// Those that are for an algorithm.
    pub fn of(&self, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        let is_for = move |key: &&Key| key.algorithms.contains(&algorithm);
        self.0.iter().filter(is_for)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
