//! Attacks on JSON Web Tokens: RFC 8725, the history of CVEs, and what else a bored user may try.
//!
//! The server has four keys: the public halves of `rsa`, `ec` (P-256) and `ed`, and the secret `hs`.

mod claims;
mod keys;
mod shapes;
mod signatures;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidewheel::gate::token::compact::Compact;
use tidewheel::gate::token::{Algorithm, KeyFile, Keys, Part, Rules, Signer, TokenFault, Verifier};

const NOW_MS: u64 = 1_800_000_000_000;
const TOKEN_BYTES_MAX: usize = 8 * 1024;

const RSA: &[u8] = include_bytes!("../../keys/rsa.pem");
const RSA_PUBLIC: &str = include_str!("../../keys/rsa.pub.pem");
const EC: &[u8] = include_bytes!("../../keys/p256.pem");
const EC_PUBLIC: &str = include_str!("../../keys/p256.pub.pem");
const ED: &[u8] = include_bytes!("../../keys/ed25519.pem");
const ED_PUBLIC: &str = include_str!("../../keys/ed25519.pub.pem");
const SECRET: &str = include_str!("../../keys/secret");

fn verifier() -> Verifier {
    let mut keys = Keys::default();
    let files = [
        ("rsa", RSA_PUBLIC),
        ("ec", EC_PUBLIC),
        ("ed", ED_PUBLIC),
        ("hs", SECRET),
    ];
    for (kid, file) in files {
        let file = KeyFile::read(file.as_bytes(), Some(kid)).unwrap();
        file.keys.into_iter().for_each(|key| keys.add(key).unwrap());
    }
    let rules = Rules {
        issuers: vec!["https://backend.test".into()],
        audiences: vec!["tidewheel".into(), "chat".into()],
        token_bytes_max: TOKEN_BYTES_MAX,
        ..Rules::default()
    };
    Verifier::new(keys, rules)
}

/// Good claims, and more members before the closing brace.
fn with(more: &str) -> String {
    let good = r#""sub":"ada","exp":1800000060,"iss":"https://backend.test","aud":"tidewheel""#;
    format!("{{{good}{more}}}")
}

/// Good claims with the value of one of them replaced, or the whole of it left out.
fn but(claim: &str, value: Option<&str>) -> String {
    let members = [
        ("sub", r#""ada""#),
        ("exp", "1800000060"),
        ("iss", r#""https://backend.test""#),
        ("aud", r#""tidewheel""#),
    ];
    let others = members.iter().filter(|(name, _)| *name != claim);
    let mut written: Vec<String> = others
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    written.extend(value.map(|value| format!("\"{claim}\":{value}")));
    format!("{{{}}}", written.join(","))
}

fn signer(key: &[u8]) -> Signer {
    Signer::read(key).unwrap()
}

/// Signed with the secret, whatever it says.
fn hs(header: &str, claims: &str) -> String {
    signer(SECRET.as_bytes())
        .sign_parts(header, claims)
        .unwrap()
}

/// Rightly signed by the backend.
fn says(claims: &str) -> String {
    hs(r#"{"alg":"HS256","kid":"hs"}"#, claims)
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A good ES256 token whose signature is changed.
fn es256(change: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let token = signer(EC).sign(&with(""), Some("ec")).unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    format!("{signed}.{}", encode(change(&signature)))
}

fn not_object(part: Part) -> impl Fn(&TokenFault) -> bool {
    move |fault| matches!(fault, TokenFault::NotAnObject { part: found, .. } if *found == part)
}

fn is(expected: TokenFault) -> impl Fn(&TokenFault) -> bool {
    move |fault| *fault == expected
}

struct Attacks {
    verifier: Verifier,
    names: Vec<&'static str>,
}

impl Attacks {
    fn refused(
        &mut self,
        name: &'static str,
        token: impl AsRef<str>,
        expected: impl Fn(&TokenFault) -> bool,
    ) {
        self.names.push(name);
        let fault = match self.verifier.verify(token.as_ref(), NOW_MS) {
            Ok(grant) => panic!("{name}: taken, and gives {grant:?}"),
            Err(fault) => fault,
        };
        assert!(expected(&fault), "{name}: {fault:?}");
        // What is logged and what the client hears hold nothing of the token.
        for part in token.as_ref().split('.').filter(|part| part.len() > 8) {
            assert!(!fault.to_string().contains(part), "{name}: {fault}");
            assert!(!format!("{fault:?}").contains(part), "{name}: {fault:?}");
        }
        assert!(fault.reason().len() <= 123 && TokenFault::LABELS.contains(&fault.label()));
    }
}

#[test]
fn attacks_by_token_are_refused_each_for_its_own_reason() {
    let mut attacks = Attacks {
        verifier: verifier(),
        names: Vec::new(),
    };
    keys::algorithms(&mut attacks);
    keys::keys(&mut attacks);
    signatures::signatures(&mut attacks);
    shapes::shapes(&mut attacks);
    shapes::json(&mut attacks);
    claims::times(&mut attacks);
    claims::claims(&mut attacks);
    claims::rooms(&mut attacks);
    let count = attacks.names.len();
    attacks.names.sort_unstable();
    attacks.names.dedup();
    assert_eq!(attacks.names.len(), count, "an attack is listed twice");
    assert!(count >= 150, "{count}");
}

#[test]
fn what_the_attacks_start_from_is_taken() {
    let verifier = verifier();
    let by = |key: &[u8], kid| signer(key).sign(&with(""), kid).unwrap();
    let tokens = [
        says(&with("")),
        by(RSA, Some("rsa")),
        by(RSA, None),
        by(EC, Some("ec")),
        by(ED, None),
        es256(<[u8]>::to_vec),
        says(&but("aud", Some(r#"["x","chat"]"#))),
        says(&but("exp", Some("1.80000006e9"))),
        says(&with(r#","nbf":1799999999.25,"iat":1800000004.9"#)),
        // Keys that a token brings are neither looked at nor fetched.
        hs(
            r#"{"alg":"HS256","jku":"http://127.0.0.1:1/keys"}"#,
            &with(""),
        ),
        hs(r#"{"alg":"HS256","x5u":"file:///etc/passwd"}"#, &with("")),
    ];
    for (at, token) in tokens.iter().enumerate() {
        let grant = verifier.verify(token, NOW_MS);
        let grant = grant.unwrap_or_else(|fault| panic!("{at}: {fault}"));
        assert_eq!(grant.user.to_string(), "ada");
    }
}

#[test]
fn a_server_with_public_keys_alone_takes_no_secret_at_all() {
    let mut keys = Keys::default();
    for file in [RSA_PUBLIC, EC_PUBLIC] {
        let file = KeyFile::read(file.as_bytes(), None).unwrap();
        file.keys.into_iter().for_each(|key| keys.add(key).unwrap());
    }
    let verifier = Verifier::new(keys, Rules::default());
    for secret in [RSA_PUBLIC, EC_PUBLIC, ""] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let signer = Signer::from_secret(secret.as_bytes(), algorithm);
            let token = signer.sign(&with(""), None).unwrap();
            let refused = verifier.verify(&token, NOW_MS);
            assert_eq!(refused, Err(TokenFault::AlgorithmWithoutKey));
        }
    }
}

#[test]
fn a_token_with_any_one_bit_changed_is_refused() {
    let verifier = verifier();
    for (key, kid) in [
        (SECRET.as_bytes(), "hs"),
        (RSA, "rsa"),
        (EC, "ec"),
        (ED, "ed"),
    ] {
        let token = signer(key)
            .sign(&with(r#","rooms":[]"#), Some(kid))
            .unwrap();
        assert!(verifier.verify(&token, NOW_MS).is_ok());
        let mut refused = 0;
        for bit in 0..token.len() * 8 {
            let mut bytes = token.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // What is not UTF-8 does not come this far.
            let Ok(changed) = String::from_utf8(bytes) else {
                continue;
            };
            let taken = verifier.verify(&changed, NOW_MS);
            assert!(taken.is_err(), "{kid}: bit {bit}");
            refused += 1;
        }
        assert_eq!(refused, token.len() * 7, "{kid}");
    }
}

#[test]
fn no_part_of_a_token_can_be_put_into_another() {
    let verifier = verifier();
    let compact = |token: &str| Compact::new(token, TOKEN_BYTES_MAX).map(drop);
    let tokens: Vec<String> = ["ada", "bob"]
        .iter()
        .map(|user| says(&but("sub", Some(&format!("\"{user}\"")))))
        .collect();
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (ada, bob) = (parts(&tokens[0]), parts(&tokens[1]));
    for (claims, signature) in [(&ada[1], &bob[2]), (&bob[1], &ada[2])] {
        let mixed = [ada[0].as_str(), claims, signature].join(".");
        assert_eq!(compact(&mixed), Ok(()));
        assert_eq!(
            verifier.verify(&mixed, NOW_MS),
            Err(TokenFault::BadSignature)
        );
    }
}
