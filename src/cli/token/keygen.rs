//! `tidewheel token keygen`.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::ValueEnum;

use super::{Keygen, TokenError};
use crate::gate::token::key_file;

/// Random bytes of a secret: half as many again as HS256 needs, 64 characters.
const SECRET_BYTES: usize = 48;

/// What a key is made for.
#[derive(ValueEnum, Copy, Clone, PartialEq, Eq, Debug)]
pub enum KeyAlgorithm {
    /// Ed25519: short, quick, no choices to get wrong.
    #[value(name = "EdDSA")]
    EdDsa,
    /// ECDSA on P-256: what most identity providers have.
    #[value(name = "ES256")]
    Es256,
    /// ECDSA on P-384.
    #[value(name = "ES384")]
    Es384,
    /// RSA of 2048 bits, for what knows nothing else.
    #[value(name = "RS256")]
    Rs256,
    /// A secret that both sides have.
    #[value(name = "HS256")]
    Hs256,
}

/// Makes keys, writes them, and says what to do with them.
pub(super) fn keygen(options: &Keygen) -> Result<String, TokenError> {
    let with = |suffix: &str| {
        let mut path = OsString::from(&options.out);
        path.push(suffix);
        PathBuf::from(path)
    };
    if options.alg == KeyAlgorithm::Hs256 {
        let path = with(".secret");
        write_new(&path, &format!("{}\n", secret()?), 0o600)?;
        let path = path.display();
        return Ok(format!(
            "{path}: the secret, for the backend and for the server; whoever has it can make tokens\n\n  \
             tidewheel serve --auth jwt --jwt-key-file {path}\n  \
             tidewheel token make --key {path} --sub ada\n"
        ));
    }
    let (private, public) = pair(options.alg)?;
    let (private_path, public_path) = (with(".pem"), with(".pub.pem"));
    write_new(&private_path, &pem("PRIVATE KEY", &private), 0o600)?;
    write_new(&public_path, &pem("PUBLIC KEY", &public), 0o644)?;
    let (private_path, public_path) = (private_path.display(), public_path.display());
    Ok(format!(
        "{private_path}: the private key, for the backend alone; whoever has it can make tokens\n\
         {public_path}: the public key, for the server\n\n  \
         tidewheel serve --auth jwt --jwt-key-file {public_path}\n  \
         tidewheel token make --key {private_path} --sub ada\n"
    ))
}

/// A private key in PKCS#8 and its public half, both DER.
fn pair(algorithm: KeyAlgorithm) -> Result<(Vec<u8>, Vec<u8>), TokenError> {
    let made = match algorithm {
        KeyAlgorithm::Es256 => ec_pair(&ECDSA_P256_SHA256_FIXED_SIGNING),
        KeyAlgorithm::Es384 => ec_pair(&ECDSA_P384_SHA384_FIXED_SIGNING),
        KeyAlgorithm::Rs256 => rsa_pair(),
        KeyAlgorithm::EdDsa | KeyAlgorithm::Hs256 => ed_pair(),
    };
    made.map_err(|_| TokenError::Generation)
}

type Pair = Result<(Vec<u8>, Vec<u8>), aws_lc_rs::error::Unspecified>;

fn ec_pair(curve: &'static aws_lc_rs::signature::EcdsaSigningAlgorithm) -> Pair {
    let pair = EcdsaKeyPair::generate(curve)?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
    Ok((
        pair.to_pkcs8v1()?.as_ref().to_vec(),
        public.as_ref().to_vec(),
    ))
}

fn ed_pair() -> Pair {
    let pair = Ed25519KeyPair::generate()?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
    Ok((
        pair.to_pkcs8v1()?.as_ref().to_vec(),
        public.as_ref().to_vec(),
    ))
}

fn rsa_pair() -> Pair {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
    let private: Pkcs8V1Der<'_> = pair.as_der()?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
    Ok((private.as_ref().to_vec(), public.as_ref().to_vec()))
}

/// A secret that a server takes: not one of the few that look like something else.
fn secret() -> Result<String, TokenError> {
    loop {
        let mut bytes = [0; SECRET_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| TokenError::Generation)?;
        let secret = URL_SAFE_NO_PAD.encode(bytes);
        if key_file::secret(secret.as_bytes()).is_ok() {
            return Ok(secret);
        }
    }
}

/// RFC 7468 §2: lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// Writes a file that is not there yet, and makes the folders above it that are not.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), TokenError> {
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| TokenError::Unwritable {
        path: path.to_owned(),
        error,
    })
}
