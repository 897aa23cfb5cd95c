//! The other side: making tokens, for development and tests. Production tokens are made by the
//! operator's backend, and its private keys stay there.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use thiserror::Error;

use super::algorithm::{self, Algorithm};
use super::key::KeyFault;
use super::key_file::{secret, secret_bytes};
use super::pem;

/// Why nothing can be signed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum SignerFault {
    /// The file is PEM, and not of a private key that is known.
    #[error(
        "it is not a private key in PKCS#8, RSA 2048 and up, P-256, P-384 or Ed25519; turn an older \
         form into it with: openssl pkcs8 -topk8 -nocrypt -in FILE"
    )]
    NotPrivateKey,
    /// The private key is encrypted.
    #[error("its private key is encrypted; take the password off with: openssl pkey -in FILE")]
    Encrypted,
    /// It is not whole PEM, or no good secret.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// The library could not sign.
    #[error("signing failed: {0}")]
    Failed(String),
}

/// Signs tokens with one key.
#[derive(Clone)]
pub struct Signer {
    algorithm: Algorithm,
    material: EncodingKey,
}

impl Signer {
    /// From a file: a private key in PEM (PKCS#8), or else a secret for HS256.
    ///
    /// # Errors
    /// [`SignerFault`] where it is neither.
    pub fn read(bytes: &[u8]) -> Result<Signer, SignerFault> {
        match str::from_utf8(bytes) {
            Ok(text) if pem::is_pem(text) => {
                let blocks = pem::blocks(text)?;
                let labelled = |label| blocks.iter().find(|block| block.label == label);
                if labelled("ENCRYPTED PRIVATE KEY").is_some() {
                    return Err(SignerFault::Encrypted);
                }
                let block = labelled("PRIVATE KEY").ok_or(SignerFault::NotPrivateKey)?;
                Signer::from_pkcs8(&block.der)
            }
            _ => {
                secret(bytes)?;
                Ok(Signer::from_secret(secret_bytes(bytes), Algorithm::HS256))
            }
        }
    }

    /// From a private key in PKCS#8. An RSA key signs with RS256.
    ///
    /// # Errors
    /// [`SignerFault::NotPrivateKey`] where it is none of a kind that is known.
    pub fn from_pkcs8(der: &[u8]) -> Result<Signer, SignerFault> {
        if Ed25519KeyPair::from_pkcs8(der).is_ok() {
            return Ok(Signer::new(Algorithm::EdDSA, EncodingKey::from_ed_der(der)));
        }
        for (curve, algorithm) in [
            (&ECDSA_P256_SHA256_FIXED_SIGNING, Algorithm::ES256),
            (&ECDSA_P384_SHA384_FIXED_SIGNING, Algorithm::ES384),
        ] {
            if EcdsaKeyPair::from_pkcs8(curve, der).is_ok() {
                return Ok(Signer::new(algorithm, EncodingKey::from_ec_der(der)));
            }
        }
        RsaKeyPair::from_pkcs8(der).map_err(|_| SignerFault::NotPrivateKey)?;
        let pkcs1 = pem::pkcs8_contents(der).ok_or(SignerFault::NotPrivateKey)?;
        Ok(Signer::new(
            Algorithm::RS256,
            EncodingKey::from_rsa_der(pkcs1),
        ))
    }

    /// From a secret that both sides have, of which nothing is asked.
    pub fn from_secret(secret: &[u8], algorithm: Algorithm) -> Signer {
        Signer::new(algorithm, EncodingKey::from_secret(secret))
    }

    fn new(algorithm: Algorithm, material: EncodingKey) -> Signer {
        Signer {
            algorithm,
            material,
        }
    }

    /// The same key with another algorithm of its kind: RSA has several.
    #[must_use]
    pub fn with_algorithm(self, algorithm: Algorithm) -> Signer {
        Signer { algorithm, ..self }
    }

    /// What it signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// A token with these claims, a JSON object, and perhaps with the name of the key.
    ///
    /// # Errors
    /// [`SignerFault::Failed`] where the key cannot be used.
    pub fn sign(&self, claims: &str, kid: Option<&str>) -> Result<String, SignerFault> {
        let algorithm = algorithm::name(self.algorithm);
        let kid = kid.map_or_else(String::new, |kid| {
            // A name has no control characters: these two are all that JSON wants escaped.
            let kid = kid.replace('\\', r"\\").replace('"', r#"\""#);
            format!(r#","kid":"{kid}""#)
        });
        let header = format!(r#"{{"alg":"{algorithm}","typ":"JWT"{kid}}}"#);
        self.sign_parts(&header, claims)
    }

    /// A token of any two texts, good or not.
    ///
    /// # Errors
    /// [`SignerFault::Failed`] where the key cannot be used.
    pub fn sign_parts(&self, header: &str, claims: &str) -> Result<String, SignerFault> {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature =
            jsonwebtoken::crypto::sign(signed.as_bytes(), &self.material, self.algorithm)
                .map_err(|error| SignerFault::Failed(error.to_string()))?;
        Ok(format!("{signed}.{signature}"))
    }
}

impl fmt::Debug for Signer {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}
