//! Why a token is refused.

use thiserror::Error;

use crate::protocol::json::BadObject;

/// A part of a token.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// The first: how the token is signed.
    Header,
    /// The second: what it says.
    Claims,
    /// The third.
    Signature,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Part::Header => "header",
            Part::Claims => "claims",
            Part::Signature => "signature",
        })
    }
}

/// Why a token is not accepted. None of it holds a part of the token, so that it may be logged: what
/// is said of the token is numbers and the names of claims that we know.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum TokenFault {
    /// It is longer than is looked at.
    #[error(
        "the token has {bytes} bytes and at most {max} are taken; put less into it, or raise \
         --max-token-bytes"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// It does not consist of three parts.
    #[error(
        "a signed token has three parts between dots (RFC 7515 §7.1) and this one has {parts}; send \
         the token whole, without Bearer before it"
    )]
    NotThreeParts {
        /// How many it has.
        parts: usize,
    },
    /// A part is not base64url without padding, or not the one spelling of its bytes.
    #[error("the token's {part} is not base64url without padding (RFC 7515 §2)")]
    NotBase64Url {
        /// Which.
        part: Part,
    },
    /// A part is not a JSON object that can be read in one way only.
    #[error("the token's {part} is not a JSON object: {fault}")]
    NotAnObject {
        /// Which.
        part: Part,
        /// What is wrong with it.
        fault: BadObject,
    },
    /// A part is no text.
    #[error("the token's {part} is not UTF-8")]
    NotUtf8 {
        /// Which.
        part: Part,
    },
    /// It says that it is not signed.
    #[error("the token's alg is none: unsigned tokens are never taken; sign it with a key")]
    Unsigned,
    /// It does not say with what it was signed.
    #[error("the token's header has no alg that is a string; libraries write it by themselves")]
    NoAlgorithm,
    /// It was signed in a way that no key here is for.
    #[error(
        "no key of this server is for the token's alg; sign it with one of the keys that \
         --jwt-key-file names"
    )]
    AlgorithmWithoutKey,
    /// The key that it names is for another algorithm.
    #[error(
        "the token's alg is not that of the key that its kid names; a key is for its own algorithm \
         alone"
    )]
    AlgorithmOfAnotherKey,
    /// It has a `crit` header.
    #[error(
        "the token's header has crit, and no extension of RFC 7515 §4.1.11 is known here; leave it \
         out"
    )]
    CriticalHeader,
    /// Its `kid` is no string, or too long for one.
    #[error("the token's kid is not a string of 1 to 255 bytes")]
    BadKeyId,
    /// It names a key that is not known.
    #[error(
        "the token's kid names no key of this server; add the key to a JWKS file, or give a PEM \
         file its name: --jwt-key-file KID=FILE"
    )]
    UnknownKey,
    /// It names no key, and too many could be the one.
    #[error(
        "the token has no kid, and {keys} keys of its alg are more than are tried; let the backend \
         write kid"
    )]
    KeyNotNamed {
        /// How many there are.
        keys: usize,
    },
    /// No key that it could be of signed it.
    #[error(
        "the token's signature is not that of a key of this server; sign it with the other half of \
         a key that --jwt-key-file names"
    )]
    BadSignature,
    /// It does not have a claim that it needs.
    #[error("the token has no claim {claim}; {wanted}")]
    NoClaim {
        /// Which.
        claim: &'static str,
        /// What is wanted.
        wanted: &'static str,
    },
    /// A claim is not of the form it must have.
    #[error("the token's claim {claim} is not as it must be: {wanted}")]
    BadClaim {
        /// Which.
        claim: &'static str,
        /// What is wanted.
        wanted: &'static str,
    },
    /// Its time is over.
    #[error("the token expired {ago_ms} ms ago; ask the backend for a new one")]
    Expired {
        /// Since when, in milliseconds, leeway not counted.
        ago_ms: u64,
    },
    /// Its time has not come.
    #[error(
        "the token holds from {in_ms} ms from now on (nbf); compare the clocks of both machines, or \
         raise --jwt-leeway"
    )]
    NotYetValid {
        /// When it will have come, in milliseconds, leeway not counted.
        in_ms: u64,
    },
    /// It says that it was made in the future.
    #[error(
        "the token was made {in_ms} ms from now (iat); compare the clocks of both machines, or \
         raise --jwt-leeway"
    )]
    IssuedInFuture {
        /// When it will have been, in milliseconds, leeway not counted.
        in_ms: u64,
    },
    /// It is from someone else.
    #[error("--jwt-issuer does not name the token's iss")]
    WrongIssuer,
    /// It is for someone else.
    #[error("--jwt-audience names nobody of the token's aud")]
    WrongAudience,
    /// It is for someone, and this server was not told that it is that one.
    #[error(
        "the token has aud, and this server was not told what it is called (RFC 7519 §4.1.3); \
         start it with --jwt-audience, or leave aud out"
    )]
    AudienceNotExpected,
    /// It has too many entries about rooms.
    #[error("the token's rooms has {entries} entries and at most {max} are taken; use patterns")]
    TooManyRooms {
        /// How many.
        entries: usize,
        /// The bound.
        max: usize,
    },
    /// One of its entries about rooms is not of the form it must have.
    #[error("the token's rooms, entry {entry} (the first is 1): {wanted}")]
    BadRoom {
        /// Which, counted from 1.
        entry: usize,
        /// What is wrong with it, or what is wanted.
        wanted: &'static str,
    },
}

impl TokenFault {
    /// All labels. They do not change from one version to the next.
    pub const LABELS: [&'static str; 13] = [
        "too_long",
        "malformed",
        "unsigned",
        "algorithm",
        "critical_header",
        "unknown_key",
        "signature",
        "claim",
        "expired",
        "not_yet_valid",
        "issuer",
        "audience",
        "rooms",
    ];

    /// The kind of fault in a word, for metrics: one of [`LABELS`](Self::LABELS).
    pub fn label(&self) -> &'static str {
        self.short().0
    }

    /// What the client is told: short enough for a close frame (RFC 6455 §5.5: 123 bytes), and
    /// nothing that helps someone who tries keys.
    pub fn reason(&self) -> &'static str {
        self.short().1
    }

    fn short(&self) -> (&'static str, &'static str) {
        match self {
            TokenFault::TooLong { .. } => ("too_long", "token too long"),
            TokenFault::NotThreeParts { .. }
            | TokenFault::NotBase64Url { .. }
            | TokenFault::NotAnObject { .. }
            | TokenFault::NotUtf8 { .. }
            | TokenFault::NoAlgorithm => ("malformed", "not a JSON Web Token"),
            TokenFault::Unsigned => ("unsigned", "token not signed"),
            TokenFault::AlgorithmWithoutKey | TokenFault::AlgorithmOfAnotherKey => (
                "algorithm",
                "token signed with an algorithm that is not taken here",
            ),
            TokenFault::CriticalHeader => (
                "critical_header",
                "token has a critical header that is not known here",
            ),
            TokenFault::BadKeyId | TokenFault::UnknownKey | TokenFault::KeyNotNamed { .. } => {
                ("unknown_key", "token of an unknown key; ask for a new one")
            }
            TokenFault::BadSignature => ("signature", "token signature not valid"),
            TokenFault::NoClaim { .. } | TokenFault::BadClaim { .. } => {
                ("claim", "token lacks a claim, or has a bad one")
            }
            TokenFault::Expired { .. } => ("expired", "token expired; ask for a new one"),
            TokenFault::NotYetValid { .. } | TokenFault::IssuedInFuture { .. } => {
                ("not_yet_valid", "token not valid yet")
            }
            TokenFault::WrongIssuer => ("issuer", "token of another issuer"),
            TokenFault::WrongAudience | TokenFault::AudienceNotExpected => {
                ("audience", "token for another audience")
            }
            TokenFault::TooManyRooms { .. } | TokenFault::BadRoom { .. } => {
                ("rooms", "token has a bad list of rooms")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_reasons_fit_their_places() {
        let faults = [
            TokenFault::TooLong {
                bytes: 9_000,
                max: 8_192,
            },
            TokenFault::NotUtf8 { part: Part::Claims },
            TokenFault::Unsigned,
            TokenFault::AlgorithmWithoutKey,
            TokenFault::CriticalHeader,
            TokenFault::UnknownKey,
            TokenFault::BadSignature,
            TokenFault::NoClaim {
                claim: "sub",
                wanted: "x",
            },
            TokenFault::Expired { ago_ms: 1 },
            TokenFault::IssuedInFuture { in_ms: 1 },
            TokenFault::WrongIssuer,
            TokenFault::AudienceNotExpected,
            TokenFault::BadRoom {
                entry: 1,
                wanted: "x",
            },
        ];
        let mut labels = TokenFault::LABELS.to_vec();
        for fault in &faults {
            labels.retain(|label| *label != fault.label());
            assert!(TokenFault::LABELS.contains(&fault.label()), "{fault:?}");
            assert!(fault.reason().len() <= 123, "{fault:?}");
        }
        assert!(labels.is_empty(), "{labels:?}");
    }
}
