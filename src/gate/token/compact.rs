//! The form of a token on the wire (RFC 7515 §7.1): three parts of base64url between dots.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::algorithm::{self, Algorithm};
use super::fault::{Part, TokenFault};
use crate::protocol::ids::is_user_id;
use crate::protocol::json::{Member, members, string};

/// A token in its parts, of which none is decoded yet.
#[derive(Copy, Clone)]
pub struct Compact<'a> {
    header: &'a str,
    claims: &'a str,
    /// What the signature is of: header, dot, claims.
    pub(super) signed: &'a str,
    /// The signature, in base64url.
    pub(super) signature: &'a str,
}

/// What of a token's header is looked at. All else is ignored: `jku`, `x5u` and `jwk` would let a
/// token bring its own key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// With what it says it was signed.
    pub algorithm: Algorithm,
    /// The key that it names.
    pub kid: Option<String>,
}

impl<'a> Compact<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// [`TokenFault`] where it has more than `bytes_max` bytes, or not three parts.
    pub fn new(token: &'a str, bytes_max: usize) -> Result<Compact<'a>, TokenFault> {
        if token.len() > bytes_max {
            let (bytes, max) = (token.len(), bytes_max);
            return Err(TokenFault::TooLong { bytes, max });
        }
        let mut parts = token.split('.');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(header), Some(claims), Some(signature), None) => Ok(Compact {
                header,
                claims,
                signed: token
                    .get(..header.len() + 1 + claims.len())
                    .unwrap_or_default(),
                signature,
            }),
            _ => Err(TokenFault::NotThreeParts {
                parts: token.split('.').count(),
            }),
        }
    }

    /// The header's text.
    ///
    /// # Errors
    /// [`TokenFault`] where it is not base64url, or no text.
    pub fn header_text(&self) -> Result<String, TokenFault> {
        text(self.header, Part::Header)
    }

    /// The claims' text.
    ///
    /// # Errors
    /// [`TokenFault`] where it is not base64url, or no text.
    pub fn claims_text(&self) -> Result<String, TokenFault> {
        text(self.claims, Part::Claims)
    }

    /// Checks how the signature is written, so that a token has one spelling only.
    ///
    /// # Errors
    /// [`TokenFault`] where it is not base64url.
    pub(super) fn check_signature_text(&self) -> Result<(), TokenFault> {
        decode(self.signature, Part::Signature).map(drop)
    }
}

fn decode(encoded: &str, part: Part) -> Result<Vec<u8>, TokenFault> {
    // This engine takes no padding, no white space, and no bits that are left over and not zero.
    let decoded = URL_SAFE_NO_PAD.decode(encoded);
    decoded.map_err(|_| TokenFault::NotBase64Url { part })
}

fn text(encoded: &str, part: Part) -> Result<String, TokenFault> {
    String::from_utf8(decode(encoded, part)?).map_err(|_| TokenFault::NotUtf8 { part })
}

/// The members of a part, each of which is there once.
pub(super) fn members_of(text: &str, part: Part) -> Result<Vec<Member<'_>>, TokenFault> {
    members(text).map_err(|fault| TokenFault::NotAnObject { part, fault })
}

/// The value of a member.
pub(super) fn value<'a>(members: &[Member<'a>], name: &str) -> Option<&'a str> {
    let named = members.iter().find(|member| member.name == name);
    named.map(|member| member.value)
}

impl Header {
    /// Reads a header's text.
    ///
    /// # Errors
    /// [`TokenFault`] where it is not the header of a token that could be signed by a key of ours.
    pub fn read(text: &str) -> Result<Header, TokenFault> {
        let members = members_of(text, Part::Header)?;
        // RFC 7515 §4.1.11: what is critical must be understood, or the token is refused.
        if value(&members, "crit").is_some() {
            return Err(TokenFault::CriticalHeader);
        }
        let named = value(&members, "alg").and_then(string);
        let named = named.ok_or(TokenFault::NoAlgorithm)?;
        if named.eq_ignore_ascii_case("none") {
            return Err(TokenFault::Unsigned);
        }
        let algorithm = algorithm::from_name(&named).ok_or(TokenFault::AlgorithmWithoutKey)?;
        let kid = value(&members, "kid").map(key_id).transpose()?;
        Ok(Header { algorithm, kid })
    }
}

fn key_id(value: &str) -> Result<String, TokenFault> {
    let kid = string(value).map(Cow::into_owned);
    // The rule for names of users bounds it well: 1 to 255 bytes, no control characters.
    kid.filter(|kid| is_user_id(kid))
        .ok_or(TokenFault::BadKeyId)
}
