//! The signature is left out, cut, exchanged, or made up.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidewheel::gate::token::TokenFault;

use super::{Attacks, ED, NOW_MS, RSA, but, encode, es256, is, says, signer, verifier, with};

pub fn signatures(attacks: &mut Attacks) {
    let bad = || is(TokenFault::BadSignature);
    let good = says(&with(""));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    attacks.refused("signature left out", format!("{signed}."), bad());
    attacks.refused(
        "signature of one byte",
        format!("{signed}.{}", encode([bytes[0]])),
        bad(),
    );
    attacks.refused(
        "signature cut by a byte",
        format!("{signed}.{}", encode(&bytes[..31])),
        bad(),
    );
    attacks.refused(
        "signature cut in half",
        format!("{signed}.{}", encode(&bytes[..16])),
        bad(),
    );
    attacks.refused(
        "signature and more",
        format!("{signed}.{}", encode([&bytes[..], &[0]].concat())),
        bad(),
    );
    attacks.refused(
        "signature of zeros",
        format!("{signed}.{}", encode([0; 32])),
        bad(),
    );
    let other = says(&with(r#","x":1"#));
    let (_, foreign) = other.rsplit_once('.').unwrap();
    attacks.refused(
        "signature of another token",
        format!("{signed}.{foreign}"),
        bad(),
    );
    let (header, _) = signed.split_once('.').unwrap();
    let forged = encode(but("sub", Some(r#""root""#)));
    attacks.refused(
        "claims exchanged",
        format!("{header}.{forged}.{signature}"),
        bad(),
    );
    // CVE-2022-21449: r and s of zero are a signature of everything, where nobody looks.
    attacks.refused("ES256, r and s zero", es256(|_| vec![0; 64]), bad());
    attacks.refused(
        "ES256, r zero",
        es256(|s| [&[0; 32], &s[32..]].concat()),
        bad(),
    );
    attacks.refused(
        "ES256, s zero",
        es256(|s| [&s[..32], &[0; 32]].concat()),
        bad(),
    );
    attacks.refused(
        "ES256, r and s the order",
        es256(|_| [order(), order()].concat()),
        bad(),
    );
    attacks.refused(
        "ES256, s the order",
        es256(|s| [&s[..32], &order()].concat()),
        bad(),
    );
    attacks.refused(
        "ES256, r and s one",
        es256(|_| {
            let one = [&[0; 31][..], &[1]].concat();
            [&one[..], &one].concat()
        }),
        bad(),
    );
    attacks.refused(
        "ES256, r and s exchanged",
        es256(|s| [&s[32..], &s[..32]].concat()),
        bad(),
    );
    attacks.refused("ES256, signature in DER", es256(der_of), bad());
    attacks.refused(
        "ES256, zeros in DER",
        es256(|_| vec![0x30, 6, 2, 1, 0, 2, 1, 0]),
        bad(),
    );
    attacks.refused(
        "ES256, s with a byte before it",
        es256(|s| [&s[..32], &[0], &s[32..]].concat()),
        bad(),
    );
    attacks.refused("ES256, no signature", es256(|_| Vec::new()), bad());
    let rsa = |signature: Vec<u8>| {
        let token = signer(RSA).sign(&with(""), Some("rsa")).unwrap();
        let (signed, _) = token.rsplit_once('.').unwrap();
        format!("{signed}.{}", encode(signature))
    };
    attacks.refused("RS256, signature of zeros", rsa(vec![0; 256]), bad());
    attacks.refused(
        "RS256, signature of one",
        rsa([vec![0; 255], vec![1]].concat()),
        bad(),
    );
    attacks.refused("RS256, signature of ones", rsa(vec![0xff; 256]), bad());
    let ed = |signature: &[u8]| {
        let token = signer(ED).sign(&with(""), Some("ed")).unwrap();
        let (signed, _) = token.rsplit_once('.').unwrap();
        format!("{signed}.{}", encode(signature))
    };
    attacks.refused("EdDSA, signature of zeros", ed(&[0; 64]), bad());
    // The neutral element as R, and s of zero: good for everything under a key of small order.
    attacks.refused(
        "EdDSA, R neutral and s zero",
        ed(&[&[1][..], &[0; 63]].concat()),
        bad(),
    );
}

/// The signature as ASN.1 has it, which JWS does not (RFC 7518 §3.4).
fn der_of(signature: &[u8]) -> Vec<u8> {
    let mut contents = Vec::new();
    for half in signature.chunks(32) {
        let pad = half[0] >= 0x80;
        contents.extend([2, 32 + u8::from(pad)]);
        contents.extend(pad.then_some(0));
        contents.extend(half);
    }
    let mut der = vec![0x30, contents.len() as u8];
    der.extend(contents);
    der
}

/// The order of P-256's group.
const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

fn order() -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&ORDER[at..at + 2], 16).unwrap();
    (0..64).step_by(2).map(digits).collect()
}

#[test]
fn the_twin_of_a_signature_is_as_good_and_gives_nothing_else() {
    // (r, n − s) holds for the same key and the same words, in every implementation of ECDSA. So a
    // token is never taken for a name: whoever wants to refuse one by its text could be evaded.
    let twin = es256(|signature| {
        let (r, s) = signature.split_at(32);
        let mut borrow = 0;
        let mut difference = order();
        for (digit, taken) in difference.iter_mut().zip(s).rev() {
            let left = i16::from(*digit) - i16::from(*taken) - borrow;
            borrow = i16::from(left < 0);
            *digit = left.rem_euclid(256) as u8;
        }
        [r, &difference].concat()
    });
    let grant = verifier().verify(&twin, NOW_MS).unwrap();
    assert_eq!(grant.user.to_string(), "ada");
}
