//! Files of keys, and how it is found out what they are.
//!
//! | a file | is |
//! |---|---|
//! | whose first character, white space left out, is `{` | a JWKS, or a single JWK |
//! | that has `-----BEGIN ` somewhere | PEM public keys |
//! | any other | a secret for HS256: all of its bytes but a newline at the end |
//!
//! Whatever would pass for a secret and is public is refused: DER, base64 of DER, OpenSSH keys. Who
//! knows a secret can make tokens, and everyone may know a public key.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::key::{Key, KeyFault};
use super::{jwks, pem};

/// The longest file that is read, in bytes.
pub const KEY_FILE_BYTES_MAX: usize = 256 * 1024;

/// What is in a file of keys.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// The keys.
    pub keys: Vec<Key>,
    /// Keys of a JWKS that are of no use here: for encryption, or of a kind that is not known.
    pub passed_over: usize,
}

impl KeyFile {
    /// Reads what a file holds. Where it holds one key without a name, `kid` becomes its name.
    ///
    /// # Errors
    /// [`KeyFault`] where there is no key in it, or one that is weak, damaged or not for a server.
    pub fn read(bytes: &[u8], kid: Option<&str>) -> Result<KeyFile, KeyFault> {
        if bytes.len() > KEY_FILE_BYTES_MAX {
            let (bytes, max) = (bytes.len(), KEY_FILE_BYTES_MAX);
            return Err(KeyFault::TooLong { bytes, max });
        }
        let mut file = KeyFile::without_name(bytes)?;
        if let Some(kid) = kid {
            let count = file.keys.len();
            match file.keys.pop() {
                Some(key) if count == 1 && key.kid().is_none() => file.keys.push(key.named(kid)?),
                _ => return Err(KeyFault::NameOfSeveral(count)),
            }
        }
        Ok(file)
    }

    fn without_name(bytes: &[u8]) -> Result<KeyFile, KeyFault> {
        let text = str::from_utf8(bytes).unwrap_or_default();
        let (keys, passed_over) = if bytes.trim_ascii().is_empty() {
            return Err(KeyFault::Empty);
        } else if bytes.trim_ascii_start().starts_with(b"{") {
            jwks::keys(text)?
        } else if pem::is_pem(text) {
            (pem::keys(text)?, 0)
        } else {
            (vec![secret(bytes)?], 0)
        };
        Ok(KeyFile { keys, passed_over })
    }
}

/// The secret that some bytes are.
///
/// # Errors
/// [`KeyFault`] where they are too few or too simple, or look like a public key.
pub fn secret(bytes: &[u8]) -> Result<Key, KeyFault> {
    let secret = secret_bytes(bytes);
    refuse_public_keys(secret)?;
    Key::from_secret(secret, None)
}

/// All but a newline at the end, which editors and `echo` write.
pub(super) fn secret_bytes(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

fn refuse_public_keys(bytes: &[u8]) -> Result<(), KeyFault> {
    let fault = |form| KeyFault::OtherForm {
        form,
        remedy: "openssl pkey -pubin -inform DER -in FILE -out FILE.pem",
    };
    if pem::is_der_sequence(bytes) {
        return Err(fault("DER"));
    }
    let text: Vec<u8> = bytes
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let is_der = |der: Vec<u8>| pem::is_der_sequence(&der);
    let unpadded = text.trim_ascii_end();
    if STANDARD.decode(&text).is_ok_and(is_der)
        || URL_SAFE_NO_PAD.decode(unpadded).is_ok_and(is_der)
    {
        return Err(KeyFault::OtherForm {
            form: "base64 of DER",
            remedy: "put -----BEGIN PUBLIC KEY----- before and -----END PUBLIC KEY----- after it",
        });
    }
    if [&b"ssh-"[..], b"ecdsa-sha2-"]
        .iter()
        .any(|start| bytes.starts_with(start))
    {
        return Err(KeyFault::OtherForm {
            form: "the form of OpenSSH",
            remedy: "ssh-keygen -e -m PKCS8 -f FILE",
        });
    }
    if bytes.windows(5).any(|window| window == b"-----") {
        return Err(KeyFault::BadPem);
    }
    Ok(())
}
