//! Tokens: JSON Web Tokens that the operator's backend signed (RFC 7519), held against its keys.
//!
//! ```text
//!   key files ──► key_file, pem, jwks ──► Keys: each with its algorithms and perhaps a `kid`
//!                                           │
//!   token ──► compact: three parts, strict  ▼
//!               │ header ──► kid, alg ──► the key ──► signature ──► claims ──► Grant
//!               └─ whatever does not fit ──► TokenFault: a fact, without any part of the token
//! ```
//!
//! The algorithm is the key's: a token says which it was signed with, and is refused unless the key
//! that it is held against is a key of that algorithm. An RSA key is never a secret and a secret
//! never a public key, so that one cannot be mistaken for the other. Nothing of the claims is read
//! before the signature has been found good, and nothing that a token names is ever fetched or
//! opened.
//!
//! `jsonwebtoken` signs and verifies; the parts around that are read here, because they have to be
//! stricter than serde: two members of the same name, a second spelling of the same bytes, a critical
//! header that is not known are refused.

pub mod algorithm;
pub mod claims;
pub mod compact;
pub mod fault;
pub mod jwks;
pub mod key;
pub mod key_file;
pub mod pem;
pub mod signer;
pub mod verifier;

pub use algorithm::Algorithm;
pub use claims::Rules;
pub use fault::{Part, TokenFault};
pub use key::{Key, KeyFault, Keys};
pub use key_file::KeyFile;
pub use signer::{Signer, SignerFault};
pub use verifier::Verifier;
