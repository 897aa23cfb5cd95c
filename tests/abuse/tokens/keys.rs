//! The token chooses its algorithm, or the key that it is held against.

use super::{Attacks, EC, EC_PUBLIC, ED, ED_PUBLIC, RSA, RSA_PUBLIC, SECRET};
use super::{encode, hs, is, signer, with};
use tidewheel::gate::token::{Algorithm, Signer, TokenFault, pem};

pub fn algorithms(attacks: &mut Attacks) {
    let unsigned = |alg: &str| {
        let header = format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#);
        format!("{}.{}.", encode(header), encode(with("")))
    };
    for (name, alg) in [
        ("alg none, no signature", "none"),
        ("alg None", "None"),
        ("alg NONE", "NONE"),
        ("alg nOnE", "nOnE"),
        ("alg none, escaped", r"n\u006fne"),
    ] {
        attacks.refused(name, unsigned(alg), is(TokenFault::Unsigned));
    }
    let good = signer(SECRET.as_bytes()).sign(&with(""), None).unwrap();
    let (_, rest) = good.split_once('.').unwrap();
    let none = encode(r#"{"alg":"none"}"#);
    attacks.refused(
        "alg none, signature of another alg",
        format!("{none}.{rest}"),
        is(TokenFault::Unsigned),
    );
    for (name, alg) in [
        ("alg none with a space", "none "),
        ("alg none with a NUL", r"none\u0000"),
        ("alg empty", ""),
        ("alg in lower case", "hs256"),
        ("alg that nobody knows", "HS1"),
        ("alg of another curve", "ES256K"),
        ("alg of a key for encryption", "RSA-OAEP"),
    ] {
        attacks.refused(name, unsigned(alg), is(TokenFault::AlgorithmWithoutKey));
    }
    for (name, header) in [
        ("alg missing", "{}"),
        ("alg null", r#"{"alg":null}"#),
        ("alg a number", r#"{"alg":256}"#),
        ("alg a list", r#"{"alg":["HS256"]}"#),
        ("alg an object", r#"{"alg":{"HS256":1}}"#),
        ("Alg with a capital", r#"{"Alg":"HS256"}"#),
    ] {
        attacks.refused(name, hs(header, &with("")), is(TokenFault::NoAlgorithm));
    }
    // The secret is for HS256: longer hashes need longer secrets.
    let secret = |alg| {
        Signer::from_secret(SECRET.as_bytes(), alg)
            .sign(&with(""), None)
            .unwrap()
    };
    attacks.refused(
        "HS512 with the secret for HS256",
        secret(Algorithm::HS512),
        is(TokenFault::AlgorithmWithoutKey),
    );
    attacks.refused(
        "ES384 header on an ES256 signature",
        {
            let header = r#"{"alg":"ES384","kid":"ec"}"#;
            signer(EC).sign_parts(header, &with("")).unwrap()
        },
        is(TokenFault::AlgorithmOfAnotherKey),
    );
}

pub fn keys(attacks: &mut Attacks) {
    // CVE-2015-9235 and its kin: the public key is known to all, and must not pass for a secret.
    let confused = |secret: &[u8], kid| {
        Signer::from_secret(secret, Algorithm::HS256)
            .sign(&with(""), kid)
            .unwrap()
    };
    let der = |text| pem::blocks(text).unwrap().remove(0).der;
    for (name, public, kid) in [
        ("HS256 by the RSA key's PEM", RSA_PUBLIC, "rsa"),
        ("HS256 by the EC key's PEM", EC_PUBLIC, "ec"),
        ("HS256 by the Ed25519 key's PEM", ED_PUBLIC, "ed"),
    ] {
        attacks.refused(
            name,
            confused(public.as_bytes(), Some(kid)),
            is(TokenFault::AlgorithmOfAnotherKey),
        );
    }
    for (name, public) in [
        ("HS256 by the RSA key's PEM, no kid", RSA_PUBLIC),
        ("HS256 by the EC key's PEM, no kid", EC_PUBLIC),
    ] {
        attacks.refused(
            name,
            confused(public.as_bytes(), None),
            is(TokenFault::BadSignature),
        );
    }
    attacks.refused(
        "HS256 by the RSA key's DER",
        confused(&der(RSA_PUBLIC), Some("rsa")),
        is(TokenFault::AlgorithmOfAnotherKey),
    );
    attacks.refused(
        "HS256 by the EC key's DER, no kid",
        confused(&der(EC_PUBLIC), None),
        is(TokenFault::BadSignature),
    );
    attacks.refused(
        "HS256 by an empty secret",
        confused(b"", None),
        is(TokenFault::BadSignature),
    );
    attacks.refused(
        "HS256 by the secret and a newline",
        confused(format!("{SECRET}\n").as_bytes(), None),
        is(TokenFault::BadSignature),
    );
    let by = |key: &[u8], kid| signer(key).sign(&with(""), Some(kid)).unwrap();
    attacks.refused(
        "ES256 under the RSA key",
        by(EC, "rsa"),
        is(TokenFault::AlgorithmOfAnotherKey),
    );
    attacks.refused(
        "RS256 under the EC key",
        by(RSA, "ec"),
        is(TokenFault::AlgorithmOfAnotherKey),
    );
    attacks.refused(
        "EdDSA under the secret",
        by(ED, "hs"),
        is(TokenFault::AlgorithmOfAnotherKey),
    );
    let relabelled = signer(EC)
        .sign_parts(r#"{"alg":"RS256","kid":"rsa"}"#, &with(""))
        .unwrap();
    attacks.refused(
        "an ES256 signature called RS256",
        relabelled,
        is(TokenFault::BadSignature),
    );
    for (name, kid) in [
        ("kid of no key", "rsa2"),
        ("kid in capitals", "RSA"),
        ("kid that climbs", "../../../../dev/null"),
        ("kid that is a file", "/etc/passwd"),
        ("kid of the key's own file", "tests/keys/rsa.pub.pem"),
        ("kid that asks SQL", "x' UNION SELECT 'secret' --"),
        ("kid that asks a shell", "rsa|sleep 10"),
        ("kid with a space behind", "rsa "),
    ] {
        let token = signer(SECRET.as_bytes())
            .sign(&with(""), Some(kid))
            .unwrap();
        attacks.refused(name, token, is(TokenFault::UnknownKey));
    }
    for (name, kid) in [
        ("kid empty", r#""""#.to_owned()),
        ("kid a number", "1".to_owned()),
        ("kid null", "null".to_owned()),
        ("kid with a NUL", r#""rsa\u0000""#.to_owned()),
        ("kid of 256 bytes", format!("\"{}\"", "k".repeat(256))),
        ("kid of half a surrogate pair", r#""\ud800""#.to_owned()),
    ] {
        let header = format!(r#"{{"alg":"HS256","kid":{kid}}}"#);
        attacks.refused(name, hs(&header, &with("")), is(TokenFault::BadKeyId));
    }
    // CVE-2018-0114: the token brings the key that it is signed with.
    let brought = format!(
        r#"{{"alg":"HS256","jwk":{{"kty":"oct","k":"{}"}}}}"#,
        encode("a key of the attacker's own, quite long")
    );
    let own = Signer::from_secret(b"a key of the attacker's own, quite long", Algorithm::HS256);
    attacks.refused(
        "jwk in the header",
        own.sign_parts(&brought, &with("")).unwrap(),
        is(TokenFault::BadSignature),
    );
    for (name, header) in [
        (
            "jku in the header",
            r#"{"alg":"HS256","jku":"http://127.0.0.1:1/jwks.json"}"#,
        ),
        (
            "x5u in the header",
            r#"{"alg":"HS256","x5u":"http://127.0.0.1:1/cert.pem"}"#,
        ),
        ("x5c in the header", r#"{"alg":"HS256","x5c":["MIIB"]}"#),
    ] {
        attacks.refused(
            name,
            own.sign_parts(header, &with("")).unwrap(),
            is(TokenFault::BadSignature),
        );
    }
    for (name, crit) in [
        ("crit of something unknown", r#"["exp"]"#),
        ("crit empty", "[]"),
        ("crit and b64", r#"["b64"],"b64":false"#),
        ("crit null", "null"),
    ] {
        let header = format!(r#"{{"alg":"HS256","crit":{crit}}}"#);
        attacks.refused(name, hs(&header, &with("")), is(TokenFault::CriticalHeader));
    }
}
