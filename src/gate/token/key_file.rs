//! Files of keys, and how it is found out what they are.
//!
//! | a file | is |
//! |---|---|
//! | whose first character, white space left out, is `{` | a JWKS, or a single JWK |
//! | that has `-----BEGIN ` somewhere | PEM public keys |
//! | any other | a secret for HS256: all of its bytes but a newline at the end |
//!
//! Whatever would pass for a secret and is public is refused: DER and texts of it, OpenSSH keys, PEM
//! and JSON that are not quite such. Who knows a secret can make tokens, and everyone may know a public
//! key.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

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

/// Refuses what is public, or may be, and was not recognised as a key.
fn refuse_public_keys(bytes: &[u8]) -> Result<(), KeyFault> {
    let (form, remedy) = if pem::is_der_sequence(bytes) {
        (
            "DER",
            "write it as PEM: openssl pkey -pubin -inform DER -in FILE -out FILE.pem",
        )
    } else if is_text_of_der(bytes) {
        (
            "base64 or digits of DER",
            "put -----BEGIN PUBLIC KEY----- before and -----END PUBLIC KEY----- after its base64",
        )
    } else if SSH_STARTS.iter().any(|start| bytes.starts_with(start)) {
        (
            "the form of OpenSSH",
            "write it as PEM: ssh-keygen -e -m PKCS8 -f FILE",
        )
    } else if MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        (
            "a text with a byte order mark",
            "save it as UTF-8 without the mark",
        )
    } else if has_words_of_keys(bytes) {
        (
            "a form between PEM, JSON and a secret",
            "write PEM with its BEGIN line, or a JWKS that begins with a brace",
        )
    } else {
        return Ok(());
    };
    Err(KeyFault::OtherForm { form, remedy })
}

const SSH_STARTS: [&[u8]; 2] = [b"ssh-", b"ecdsa-sha2-"];

/// Byte order marks: UTF-8, and UTF-16 either way round.
const MARKS: [&[u8]; 3] = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"];

fn is_text_of_der(bytes: &[u8]) -> bool {
    let is_text = |byte: &u8| !byte.is_ascii_whitespace() && *byte != b'=';
    let text: Vec<u8> = bytes.iter().copied().filter(is_text).collect();
    let decoded = [
        STANDARD_NO_PAD.decode(&text).ok(),
        URL_SAFE_NO_PAD.decode(&text).ok(),
        hex(&text),
    ];
    decoded
        .iter()
        .flatten()
        .any(|der| pem::is_der_sequence(der))
}

fn hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pair = |pair: &[u8; 2]| {
        let [high, low] = pair.each_ref().map(digit);
        u8::try_from(high? << 4 | low?).ok()
    };
    let (pairs, []) = text.as_chunks::<2>() else {
        return None;
    };
    pairs.iter().map(pair).collect()
}

/// What PEM and JWKS have and no secret: also within UTF-16, whose every other byte is zero.
fn has_words_of_keys(bytes: &[u8]) -> bool {
    let bytes: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    let has = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    has(b"-----") || has(b"\"kty\"")
}

#[cfg(test)]
mod tests {
    use super::super::algorithm::{Algorithm, Kind};
    use super::*;

    macro_rules! file {
        ($name:literal) => {
            include_str!(concat!("../../../tests/keys/", $name))
        };
    }

    fn kinds(text: &str) -> Vec<Kind> {
        let file = KeyFile::read(text.as_bytes(), None).unwrap();
        file.keys.iter().map(Key::kind).collect()
    }

    fn fault(text: &str) -> KeyFault {
        KeyFile::read(text.as_bytes(), None).unwrap_err()
    }

    /// The coordinates of the key in `p256.pub.pem`.
    fn p256() -> (String, String) {
        let der = pem::blocks(file!("p256.pub.pem")).unwrap().remove(0).der;
        let point = &der[der.len() - 64..];
        let encode = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        (encode(&point[..32]), encode(&point[32..]))
    }

    #[test]
    fn pem_of_each_kind_is_read_and_files_may_hold_several() {
        assert_eq!(kinds(file!("rsa.pub.pem")), [Kind::Rsa]);
        assert_eq!(kinds(file!("rsa.pkcs1.pub.pem")), [Kind::Rsa]);
        assert_eq!(kinds(file!("p256.pub.pem")), [Kind::P256]);
        assert_eq!(kinds(file!("p384.pub.pem")), [Kind::P384]);
        assert_eq!(kinds(file!("ed25519.pub.pem")), [Kind::Ed25519]);
        let both = format!(
            "# ours\n{}\nold:\n{}",
            file!("p256.pub.pem"),
            file!("rsa.pub.pem")
        );
        assert_eq!(kinds(&both), [Kind::P256, Kind::Rsa]);
        assert_eq!(
            kinds(&file!("p256.pub.pem").replace('\n', "\r\n")),
            [Kind::P256]
        );
    }

    #[test]
    fn what_is_not_for_a_server_is_refused_with_the_command_that_mends_it() {
        for text in [file!("rsa.pem"), file!("p256.pem"), file!("ed25519.pem")] {
            assert_eq!(fault(text), KeyFault::PrivateKey);
        }
        let both = [file!("p256.pub.pem"), file!("p256.pem")].concat();
        assert_eq!(fault(&both), KeyFault::PrivateKey);
        assert_eq!(fault(file!("certificate.pem")), KeyFault::Certificate);
        assert_eq!(fault(file!("rsa-1024.pub.pem")), KeyFault::RsaBits(1_024));
        assert_eq!(fault(file!("p521.pub.pem")), KeyFault::UnknownKind);
        let other = file!("p256.pub.pem").replace("PUBLIC KEY", "PGP MESSAGE");
        assert_eq!(fault(&other), KeyFault::UnknownPem);
        let whole = file!("p256.pub.pem");
        for end in 30..whole.len() - 6 {
            assert_eq!(fault(&whole[..end]), KeyFault::BadPem, "{end}");
        }
        let damaged = whole.replacen("MFkw", "MFkx", 1);
        assert_eq!(fault(&damaged), KeyFault::BadDer);
        assert_eq!(fault(" \n"), KeyFault::Empty);
        let huge = "x".repeat(KEY_FILE_BYTES_MAX + 1);
        assert!(matches!(fault(&huge), KeyFault::TooLong { .. }));
    }

    #[test]
    fn a_secret_is_all_but_the_newline_and_has_to_be_long_and_varied() {
        let secret = file!("secret");
        for text in [
            secret.to_owned(),
            format!("{secret}\n"),
            format!("{secret}\r\n"),
        ] {
            assert_eq!(secret_bytes(text.as_bytes()), secret.as_bytes());
            let file = KeyFile::read(text.as_bytes(), None).unwrap();
            assert_eq!(file.keys[0].algorithms(), [Algorithm::HS256]);
        }
        let (bytes, min, algorithm) = (31, 32, Algorithm::HS256);
        let short = fault(&secret[..31]);
        assert_eq!(
            short,
            KeyFault::SecretTooShort {
                bytes,
                min,
                algorithm
            }
        );
        assert_eq!(fault(&"secret".repeat(9)), KeyFault::SecretTooSimple(5));
        let binary: Vec<u8> = (0..32).map(|i| i * 3 + 128).collect();
        assert!(KeyFile::read(&binary, None).is_ok());
    }

    #[test]
    fn a_public_key_does_not_pass_for_a_secret() {
        for text in [
            file!("rsa.pub.pem"),
            file!("p256.pub.pem"),
            file!("ed25519.pub.pem"),
        ] {
            let der = pem::blocks(text).unwrap().remove(0).der;
            let read = KeyFile::read(&der, None).unwrap_err();
            assert!(
                matches!(read, KeyFault::OtherForm { form: "DER", .. }),
                "{read:?}"
            );
            let body: Vec<&str> = text.lines().filter(|line| !line.starts_with('-')).collect();
            let hex: String = der.iter().map(|byte| format!("{byte:02x}")).collect();
            let without_begin = text.split_once('\n').unwrap().1;
            let marked = format!("\u{feff}{without_begin}");
            let texts = [
                body.join("\n"),
                body.concat(),
                hex,
                without_begin.to_owned(),
                marked,
            ];
            for text in texts {
                let read = fault(&text);
                assert!(
                    matches!(read, KeyFault::OtherForm { .. }),
                    "{text}: {read:?}"
                );
            }
            let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let read = KeyFile::read(&utf16, None).unwrap_err();
            assert!(matches!(read, KeyFault::OtherForm { .. }), "{read:?}");
        }
        let list =
            r#"[{"kty":"RSA","n":"sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri23bOdgWp4Dy1"}]"#;
        assert!(matches!(fault(list), KeyFault::OtherForm { .. }));
        let ssh =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ a@b";
        assert!(matches!(fault(ssh), KeyFault::OtherForm { .. }));
    }

    #[test]
    fn a_set_holds_keys_of_all_kinds_by_their_names() {
        let (x, y) = p256();
        let secret = URL_SAFE_NO_PAD.encode([&[0][..], file!("secret").as_bytes()].concat());
        let set = format!(
            r#"{{"keys":[
                {{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}","kid":"a","use":"sig","alg":"ES256"}},
                {{"kty":"oct","k":"{secret}","kid":"b","alg":"HS512"}},
                {{"kty":"oct","k":"{secret}","key_ops":["sign","verify"]}},
                {{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}},
                {{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}},
                {{"kty":"OKP","crv":"X25519","x":"AA"}},
                {{"kty":"RSA","use":"enc","n":"AA","e":"AQAB"}},
                {{"kty":"new"}}
            ]}}"#
        );
        let file = KeyFile::read(set.as_bytes(), None).unwrap();
        let read = file
            .keys
            .iter()
            .map(|key| (key.kid(), key.kind(), key.algorithms()));
        let expected: [(_, _, &[Algorithm]); 4] = [
            (Some("a"), Kind::P256, &[Algorithm::ES256]),
            (Some("b"), Kind::Secret, &[Algorithm::HS512]),
            (None, Kind::Secret, &[Algorithm::HS256]),
            (None, Kind::Ed25519, &[Algorithm::EdDSA]),
        ];
        assert_eq!(read.collect::<Vec<_>>(), expected);
        assert_eq!(file.passed_over, 4);
        let single = format!(r#" {{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}"}}"#);
        let file = KeyFile::read(single.as_bytes(), Some("c")).unwrap();
        assert_eq!(file.keys[0].kid(), Some("c"));
        assert!(matches!(
            KeyFile::read(set.as_bytes(), Some("c")),
            Err(KeyFault::NameOfSeveral(4))
        ));
    }

    #[test]
    fn a_bad_key_of_a_set_is_named_by_its_number() {
        let (x, y) = p256();
        let in_set = |jwk: &str| match fault(&format!(r#"{{"keys":[{{"kty":"x"}},{jwk}]}}"#)) {
            KeyFault::InSet { number: 2, fault } => *fault,
            other => panic!("{jwk}: {other:?}"),
        };
        let kind = Kind::P256;
        let algorithm = Algorithm::RS256;
        let table = [
            (
                format!(r#"{{"kty":"EC","crv":"P-256","x":"{y}","y":"{x}"}}"#),
                KeyFault::NotOnCurve(kind),
            ),
            (
                format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}","alg":"RS256"}}"#),
                KeyFault::AlgorithmOfAnotherKind { kind, algorithm },
            ),
            (
                format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}","d":"AA"}}"#),
                KeyFault::PrivateKey,
            ),
            (
                format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}"}}"#),
                KeyFault::BadMember("y"),
            ),
            (
                format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}","kid":7}}"#),
                KeyFault::BadMember("kid"),
            ),
            (
                format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}","kid":""}}"#),
                KeyFault::BadKeyId,
            ),
            (
                r#"{"kty":"oct","k":"c2hvcnQ"}"#.into(),
                KeyFault::SecretTooShort {
                    bytes: 5,
                    min: 32,
                    algorithm: Algorithm::HS256,
                },
            ),
            (
                r#"{"kty":"oct","k":"c2hvcnQ","alg":"HS384"}"#.into(),
                KeyFault::SecretTooShort {
                    bytes: 5,
                    min: 48,
                    algorithm: Algorithm::HS384,
                },
            ),
            (r#"{"kty":"oct","k":"=="}"#.into(), KeyFault::BadMember("k")),
            (
                r#"{"kty":"oct","k":"AA","alg":"none"}"#.into(),
                KeyFault::UnknownAlgorithm,
            ),
            (
                r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#.into(),
                KeyFault::RsaBits(17),
            ),
            (r#"{"k":"AA"}"#.into(), KeyFault::BadMember("kty")),
        ];
        for (jwk, expected) in table {
            assert_eq!(in_set(&jwk), expected, "{jwk}");
        }
        assert_eq!(fault("{}"), KeyFault::NoKeyList);
        assert_eq!(fault(r#"{"keys":{}}"#), KeyFault::NoKeyList);
        assert_eq!(fault(r#"{"keys":[]}"#), KeyFault::NothingOfUse(0));
        assert!(matches!(fault("{\"keys\":["), KeyFault::NotJwks(_)));
    }
}
