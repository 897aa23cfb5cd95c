//! Sets of keys in JSON (RFC 7517): `oct`, `RSA`, `EC` and `OKP` keys, several by `kid`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::algorithm::{self, Algorithm, Kind};
use super::compact::value;
use super::key::{Key, KeyFault};
use crate::protocol::json::{Member, elements, members, string};

/// The keys of a set, or the one key that the text is; and how many others were passed over because
/// they are not for checking signatures, or of a kind that is not known, as RFC 7517 §5 wants it.
///
/// # Errors
/// [`KeyFault`] where the text is no set, or a key in it is weak or damaged.
pub fn keys(text: &str) -> Result<(Vec<Key>, usize), KeyFault> {
    let set = members(text).map_err(KeyFault::NotJwks)?;
    let jwks = match value(&set, "keys") {
        Some(list) => elements(list).map_err(|_| KeyFault::NoKeyList)?,
        None if value(&set, "kty").is_some() => vec![text],
        None => return Err(KeyFault::NoKeyList),
    };
    let mut keys = Vec::new();
    for (at, jwk) in jwks.iter().enumerate() {
        let number = at + 1;
        let in_set = |fault| KeyFault::InSet {
            number,
            fault: Box::new(fault),
        };
        keys.extend(key(jwk).map_err(in_set)?);
    }
    if keys.is_empty() {
        return Err(KeyFault::NothingOfUse(jwks.len()));
    }
    let passed_over = jwks.len() - keys.len();
    Ok((keys, passed_over))
}

/// One key; none where it is of no use here.
fn key(jwk: &str) -> Result<Option<Key>, KeyFault> {
    let jwk = Jwk(members(jwk).map_err(KeyFault::NotJwks)?);
    let kty = jwk.text("kty")?.ok_or(KeyFault::BadMember("kty"))?;
    if !jwk.is_for_signatures()? {
        return Ok(None);
    }
    if kty != "oct" && jwk.has("d") {
        return Err(KeyFault::PrivateKey);
    }
    let kind = match (&*kty, jwk.text("crv")?.as_deref()) {
        ("oct", _) => Kind::Secret,
        ("RSA", _) => Kind::Rsa,
        ("EC", Some("P-256")) => Kind::P256,
        ("EC", Some("P-384")) => Kind::P384,
        ("OKP", Some("Ed25519")) => Kind::Ed25519,
        _ => return Ok(None),
    };
    let algorithm = jwk.algorithm()?;
    let key = match kind {
        Kind::Secret => Key::from_secret(&jwk.bytes("k")?, algorithm)?,
        Kind::Rsa => Key::from_rsa(&jwk.bytes("n")?, &jwk.bytes("e")?, algorithm)?,
        Kind::P256 | Kind::P384 => Key::on_curve(kind, &jwk.point(kind)?, algorithm)?,
        Kind::Ed25519 => Key::on_curve(kind, &jwk.bytes("x")?, algorithm)?,
    };
    match jwk.text("kid")? {
        Some(kid) => key.named(&kid).map(Some),
        None => Ok(Some(key)),
    }
}

/// The members of one key.
struct Jwk<'a>(Vec<Member<'a>>);

impl Jwk<'_> {
    fn has(&self, name: &str) -> bool {
        value(&self.0, name).is_some()
    }

    /// A member that is a string where it is there.
    fn text(&self, name: &'static str) -> Result<Option<String>, KeyFault> {
        match value(&self.0, name) {
            None => Ok(None),
            Some(value) => match string(value) {
                Some(text) => Ok(Some(text.into_owned())),
                None => Err(KeyFault::BadMember(name)),
            },
        }
    }

    /// RFC 7517 §4.2 and §4.3: what it is for, where it says so.
    fn is_for_signatures(&self) -> Result<bool, KeyFault> {
        let is_used = self.text("use")?.is_none_or(|used| used == "sig");
        let Some(operations) = value(&self.0, "key_ops") else {
            return Ok(is_used);
        };
        let operations = elements(operations).map_err(|_| KeyFault::BadMember("key_ops"))?;
        let is_verify = |value: &&str| string(value).is_some_and(|name| name == "verify");
        Ok(is_used && operations.iter().any(is_verify))
    }

    fn algorithm(&self) -> Result<Option<Algorithm>, KeyFault> {
        let named = self.text("alg")?;
        let known = |name: String| algorithm::from_name(&name).ok_or(KeyFault::UnknownAlgorithm);
        named.map(known).transpose()
    }

    /// RFC 7518 §6: base64url without padding.
    fn bytes(&self, name: &'static str) -> Result<Vec<u8>, KeyFault> {
        let text = self.text(name)?.ok_or(KeyFault::BadMember(name))?;
        let bytes = URL_SAFE_NO_PAD.decode(text);
        bytes.map_err(|_| KeyFault::BadMember(name))
    }

    /// RFC 7518 §6.2.1: coordinates have the full length of the curve's.
    fn point(&self, kind: Kind) -> Result<Vec<u8>, KeyFault> {
        let len = if kind == Kind::P384 { 48 } else { 32 };
        let mut point = vec![4];
        for name in ["x", "y"] {
            let coordinate = self.bytes(name)?;
            if coordinate.len() != len {
                return Err(KeyFault::BadMember(name));
            }
            point.extend(coordinate);
        }
        Ok(point)
    }
}
