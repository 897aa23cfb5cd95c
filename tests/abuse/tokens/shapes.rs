//! The token is not three parts of base64url, or a part is not JSON that can be read in one way only.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use tidewheel::gate::token::{Part, TokenFault};
use tidewheel::protocol::json::BadObject;

use super::{Attacks, SECRET, TOKEN_BYTES_MAX, encode, hs, is, not_object, says, signer, with};

pub fn shapes(attacks: &mut Attacks) {
    let parts = |parts| is(TokenFault::NotThreeParts { parts });
    let base64 = |part| is(TokenFault::NotBase64Url { part });
    let good = says(&with(""));
    let [header, claims, signature]: [&str; 3] =
        good.split('.').collect::<Vec<_>>().try_into().unwrap();
    attacks.refused("nothing", "", parts(1));
    attacks.refused("one part", header, parts(1));
    attacks.refused("two parts", format!("{header}.{claims}"), parts(2));
    attacks.refused("four parts", format!("{good}.{signature}"), parts(4));
    attacks.refused(
        "five parts, as of an encrypted token",
        format!("{good}.{signature}.x"),
        parts(5),
    );
    attacks.refused("a dot behind", format!("{good}."), parts(4));
    attacks.refused("dots alone", "..", not_object(Part::Header));
    attacks.refused("thousands of dots", ".".repeat(8_000), parts(8_001));
    let huge = says(&with(&format!(r#","x":"{}""#, "x".repeat(TOKEN_BYTES_MAX))));
    attacks.refused(
        "a huge token",
        &huge,
        is(TokenFault::TooLong {
            bytes: huge.len(),
            max: TOKEN_BYTES_MAX,
        }),
    );
    let megabytes = "A".repeat(4 << 20);
    attacks.refused(
        "megabytes",
        &megabytes,
        is(TokenFault::TooLong {
            bytes: 4 << 20,
            max: TOKEN_BYTES_MAX,
        }),
    );
    attacks.refused(
        "Bearer before it",
        format!("Bearer {good}"),
        base64(Part::Header),
    );
    attacks.refused(
        "a space before it",
        format!(" {good}"),
        base64(Part::Header),
    );
    attacks.refused(
        "a newline behind",
        format!("{good}\n"),
        base64(Part::Signature),
    );
    attacks.refused(
        "a tab within",
        format!("{header}\t.{claims}.{signature}"),
        base64(Part::Header),
    );
    attacks.refused("a NUL behind", format!("{good}\0"), base64(Part::Signature));
    attacks.refused(
        "padding behind the signature",
        format!("{good}="),
        base64(Part::Signature),
    );
    attacks.refused(
        "padding in the header",
        format!("{header}==.{claims}.{signature}"),
        base64(Part::Header),
    );
    attacks.refused(
        "percent signs",
        format!("{header}%2E.{claims}.{signature}"),
        base64(Part::Header),
    );
    attacks.refused(
        "letters beyond ASCII",
        format!("{header}.{claims}.é"),
        base64(Part::Signature),
    );
    attacks.refused(
        "one character of base64",
        format!("{header}.{claims}.A"),
        base64(Part::Signature),
    );
    // The bits that the last character of 32 bytes has left over are zero in one spelling alone.
    let mut respelt = good.clone();
    let last = respelt.pop().unwrap() as u8;
    respelt.push(char::from(last + 1));
    attacks.refused(
        "another spelling of the same signature",
        respelt,
        base64(Part::Signature),
    );
    let plus = STANDARD.encode([0xfb; 33]);
    attacks.refused(
        "the other alphabet",
        format!("{header}.{claims}.{plus}"),
        base64(Part::Signature),
    );
    let padded = URL_SAFE.encode([0xfb; 32]);
    attacks.refused(
        "a padded signature",
        format!("{header}.{claims}.{padded}"),
        base64(Part::Signature),
    );
    let bytes = signer(SECRET.as_bytes());
    let token = bytes.sign_parts(r#"{"alg":"HS256"}"#, "").unwrap();
    attacks.refused("empty claims", token, not_object(Part::Claims));
    let utf8 = format!(
        "{}.{claims}.{signature}",
        encode(b"{\"alg\":\"HS256\",\"x\":\"\xff\"}")
    );
    attacks.refused(
        "a header that is not UTF-8",
        utf8,
        is(TokenFault::NotUtf8 { part: Part::Header }),
    );
}

pub fn json(attacks: &mut Attacks) {
    let repeated = |part| {
        is(TokenFault::NotAnObject {
            part,
            fault: BadObject::Repeated,
        })
    };
    attacks.refused(
        "alg twice",
        hs(r#"{"alg":"none","alg":"HS256"}"#, &with("")),
        repeated(Part::Header),
    );
    attacks.refused(
        "alg twice, escaped",
        hs(r#"{"alg":"HS256","\u0061lg":"none"}"#, &with("")),
        repeated(Part::Header),
    );
    attacks.refused(
        "kid twice",
        hs(r#"{"alg":"HS256","kid":"hs","kid":"rsa"}"#, &with("")),
        repeated(Part::Header),
    );
    attacks.refused(
        "sub twice",
        says(&with(r#","sub":"root""#)),
        repeated(Part::Claims),
    );
    attacks.refused(
        "sub twice, escaped",
        says(&with(r#","s\u0075b":"root""#)),
        repeated(Part::Claims),
    );
    attacks.refused(
        "exp twice",
        says(&with(r#","exp":9999999999"#)),
        repeated(Part::Claims),
    );
    attacks.refused(
        "a claim that nobody reads twice",
        says(&with(r#","x":1,"x":2"#)),
        repeated(Part::Claims),
    );
    for (name, text) in [
        ("claims a list", "[]"),
        ("claims a string", r#""sub""#),
        ("claims null", "null"),
        ("claims with a comma too many", r#"{"sub":"ada",}"#),
        ("claims with single quotes", "{'sub':'ada'}"),
        ("claims and more", r#"{"sub":"ada"}{"sub":"root"}"#),
        ("claims with a comment", r#"{"sub":"ada"/**/}"#),
        ("claims with a byte order mark", "\u{feff}{}"),
        ("claims cut off", r#"{"sub":"ada""#),
        ("claims with NaN", r#"{"exp":NaN}"#),
        ("claims with a control character", "{\"sub\":\"a\u{1}\"}"),
        ("a name of half a surrogate pair", r#"{"\ud800":1}"#),
    ] {
        attacks.refused(name, says(text), not_object(Part::Claims));
    }
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    attacks.refused(
        "claims a thousand levels deep",
        says(&with(&format!(r#","x":{}"#, nested(1_000)))),
        not_object(Part::Claims),
    );
    let header = format!(r#"{{"alg":"HS256","x":{}}}"#, nested(1_000));
    attacks.refused(
        "a header a thousand levels deep",
        hs(&header, &with("")),
        not_object(Part::Header),
    );
    attacks.refused(
        "a header that is a list",
        hs(r#"["HS256"]"#, &with("")),
        not_object(Part::Header),
    );
}
