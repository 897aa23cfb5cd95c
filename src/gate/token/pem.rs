//! Public keys in PEM (RFC 7468): `PUBLIC KEY` (RFC 5280 §4.1) of each kind, and `RSA PUBLIC KEY`
//! (RFC 8017 §A.1.1).
//!
//! Private keys and certificates are recognised, and refused with the command that takes the public
//! key out: what a server does not have cannot be stolen from it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::algorithm::Kind;
use super::key::{Key, KeyFault};

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// Whether a text is meant as PEM.
pub fn is_pem(text: &str) -> bool {
    text.contains(BEGIN)
}

/// The keys of all blocks; text between them is passed over, as openssl writes some.
///
/// # Errors
/// [`KeyFault`] where a block is not a public key of a kind that is known.
pub fn keys(text: &str) -> Result<Vec<Key>, KeyFault> {
    let blocks = blocks(text)?;
    let is_private = |block: &Block<'_>| block.label.ends_with("PRIVATE KEY");
    if blocks.iter().any(is_private) {
        return Err(KeyFault::PrivateKey);
    }
    blocks.iter().map(key).collect()
}

/// A block of PEM.
pub struct Block<'a> {
    /// What it says it is.
    pub label: &'a str,
    /// What it holds.
    pub der: Vec<u8>,
}

/// All blocks of a text.
///
/// # Errors
/// [`KeyFault::BadPem`] where one is not whole.
pub fn blocks(text: &str) -> Result<Vec<Block<'_>>, KeyFault> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, begun)) = rest.split_once(BEGIN) {
        let (label, body) = begun.split_once(DASHES).ok_or(KeyFault::BadPem)?;
        let (body, ended) = body.split_once(END).ok_or(KeyFault::BadPem)?;
        let ended = ended
            .strip_prefix(label)
            .and_then(|rest| rest.strip_prefix(DASHES));
        rest = ended.ok_or(KeyFault::BadPem)?;
        // What is encrypted has headers in front of its base64.
        let is_encrypted = body.contains(':') && label.ends_with("PRIVATE KEY");
        let der = if is_encrypted {
            Vec::new()
        } else {
            decode(body)?
        };
        blocks.push(Block { label, der });
    }
    Ok(blocks)
}

fn decode(body: &str) -> Result<Vec<u8>, KeyFault> {
    let base64: String = body.split_ascii_whitespace().collect();
    STANDARD.decode(base64).map_err(|_| KeyFault::BadPem)
}

fn key(block: &Block<'_>) -> Result<Key, KeyFault> {
    match block.label {
        "PUBLIC KEY" => from_public_key_info(&block.der),
        "RSA PUBLIC KEY" => from_rsa_public_key(&block.der),
        "CERTIFICATE" => Err(KeyFault::Certificate),
        _ => Err(KeyFault::UnknownPem),
    }
}

const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];

fn from_public_key_info(der: &[u8]) -> Result<Key, KeyFault> {
    let info = PublicKeyInfo::read(der).ok_or(KeyFault::BadDer)?;
    match (info.algorithm, info.curve) {
        (OID_RSA, _) => from_rsa_public_key(info.bits),
        (OID_EC, Some(OID_P256)) => Key::on_curve(Kind::P256, info.bits, None),
        (OID_EC, Some(OID_P384)) => Key::on_curve(Kind::P384, info.bits, None),
        (OID_ED25519, None) => Key::on_curve(Kind::Ed25519, info.bits, None),
        _ => Err(KeyFault::UnknownKind),
    }
}

/// `SEQUENCE { SEQUENCE { algorithm, parameters }, BIT STRING }`
struct PublicKeyInfo<'a> {
    /// Object identifier of what kind of key it is.
    algorithm: &'a [u8],
    /// Object identifier of its curve, where the parameters are one.
    curve: Option<&'a [u8]>,
    /// The key itself.
    bits: &'a [u8],
}

impl PublicKeyInfo<'_> {
    fn read(der: &[u8]) -> Option<PublicKeyInfo<'_>> {
        let mut whole = Der(der);
        let mut info = Der(whole.take(Tag::Sequence)?);
        let mut identifier = Der(info.take(Tag::Sequence)?);
        let algorithm = identifier.take(Tag::ObjectIdentifier)?;
        let curve = identifier.take(Tag::ObjectIdentifier);
        let bits = info.take(Tag::BitString)?;
        // The first byte says how many bits of the last do not count: none, in a key.
        let (0, bits) = bits.split_first()? else {
            return None;
        };
        let is_whole = whole.is_done() && info.is_done();
        is_whole.then_some(PublicKeyInfo {
            algorithm,
            curve,
            bits,
        })
    }
}

/// `SEQUENCE { INTEGER modulus, INTEGER exponent }`
fn from_rsa_public_key(der: &[u8]) -> Result<Key, KeyFault> {
    let numbers = |der| {
        let mut whole = Der(der);
        let mut pair = Der(whole.take(Tag::Sequence)?);
        let (n, e) = (pair.take(Tag::Integer)?, pair.take(Tag::Integer)?);
        (whole.is_done() && pair.is_done()).then_some((n, e))
    };
    let (n, e) = numbers(der).ok_or(KeyFault::BadDer)?;
    Key::from_rsa(n, e, None)
}

/// Whether some bytes are one DER sequence from the first to the last that begins with a sequence or a
/// number, as every key does: of random secrets it is one in eight million.
pub(super) fn is_der_sequence(bytes: &[u8]) -> bool {
    let mut whole = Der(bytes);
    let first = whole.take(Tag::Sequence).and_then(<[u8]>::first);
    let tags = [Tag::Sequence as u8, Tag::Integer as u8];
    whole.is_done() && first.is_some_and(|first| tags.contains(first))
}

/// What a private key in PKCS#8 (RFC 5208 §5) holds: `SEQUENCE { version, algorithm, OCTET STRING }`.
pub(super) fn pkcs8_contents(der: &[u8]) -> Option<&[u8]> {
    let mut info = Der(Der(der).take(Tag::Sequence)?);
    info.take(Tag::Integer)?;
    info.take(Tag::Sequence)?;
    info.take(Tag::OctetString)
}

/// What of DER (X.690 §8, §10) a key is made of.
#[derive(Copy, Clone)]
enum Tag {
    Integer = 0x02,
    BitString = 0x03,
    OctetString = 0x04,
    ObjectIdentifier = 0x06,
    Sequence = 0x30,
}

/// What is left of some DER.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next element, if it is one of these, and gives its contents.
    fn take(&mut self, tag: Tag) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_first()?;
        if *found != tag as u8 {
            return None;
        }
        let (first, rest) = rest.split_first()?;
        let (len, rest) = match *first {
            short @ 0..=0x7f => (usize::from(short), rest),
            0x81 => {
                let (len, rest) = rest.split_first()?;
                (usize::from(*len), rest)
            }
            0x82 => {
                let (len, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_be_bytes(*len)), rest)
            }
            // Nothing of 64 KiB is a key.
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some(contents)
    }

    fn is_done(&self) -> bool {
        self.0.is_empty()
    }
}
