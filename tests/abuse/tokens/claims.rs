//! The backend signed it, and what it says is missing, wrong, over, or not understood.

use tidewheel::gate::token::{Rules, TokenFault, Verifier};

use super::{Attacks, NOW_MS, but, is, says, with};

pub fn times(attacks: &mut Attacks) {
    let mut exp = |name, value: Option<&str>, expected: &dyn Fn(&TokenFault) -> bool| {
        attacks.refused(name, says(&but("exp", value)), expected);
    };
    exp(
        "exp a second and the leeway ago",
        Some("1799999994"),
        &is(TokenFault::Expired { ago_ms: 6_000 }),
    );
    exp(
        "exp as long ago as the leeway",
        Some("1799999995"),
        &is(TokenFault::Expired { ago_ms: 5_000 }),
    );
    exp(
        "exp long ago",
        Some("1"),
        &is(TokenFault::Expired {
            ago_ms: NOW_MS - 1_000,
        }),
    );
    exp(
        "exp zero",
        Some("0"),
        &is(TokenFault::Expired { ago_ms: NOW_MS }),
    );
    exp(
        "exp before 1970",
        Some("-1800000060"),
        &is(TokenFault::Expired { ago_ms: NOW_MS }),
    );
    exp(
        "exp a fraction too early",
        Some("1799999994.9999"),
        &is(TokenFault::Expired { ago_ms: 5_001 }),
    );
    exp("exp missing", None, &claim("exp"));
    for (name, value) in [
        ("exp a string", r#""1800000060""#),
        ("exp null", "null"),
        ("exp true", "true"),
        ("exp a list", "[1800000060]"),
        ("exp 1e400", "1e400"),
        ("exp -1e400", "-1e400"),
        ("exp 1e300", "1e300"),
        ("exp of 2^64", "18446744073709551616"),
        ("exp in milliseconds", "1800000060000"),
        ("exp with a thousand digits", &"9".repeat(1_000)),
    ] {
        exp(name, Some(value), &claim("exp"));
    }
    let mut more = |name, more: &str, expected: &dyn Fn(&TokenFault) -> bool| {
        attacks.refused(name, says(&with(more)), expected);
    };
    more(
        "nbf in the future",
        r#","nbf":1800000006"#,
        &is(TokenFault::NotYetValid { in_ms: 6_000 }),
    );
    more(
        "nbf a fraction in the future",
        r#","nbf":1800000005.0001"#,
        &is(TokenFault::NotYetValid { in_ms: 5_001 }),
    );
    more(
        "iat in the future",
        r#","iat":1800000006"#,
        &is(TokenFault::IssuedInFuture { in_ms: 6_000 }),
    );
    more("nbf a string", r#","nbf":"0""#, &claim("nbf"));
    more("nbf 1e400", r#","nbf":1e400"#, &claim("nbf"));
    more("iat an object", r#","iat":{}"#, &claim("iat"));
    more(
        "iat in milliseconds",
        r#","iat":1800000000000"#,
        &claim("iat"),
    );
}

pub fn claims(attacks: &mut Attacks) {
    let mut wrong = |name, of, value, expected: &dyn Fn(&TokenFault) -> bool| {
        attacks.refused(name, says(&but(of, value)), expected);
    };
    wrong("sub missing", "sub", None, &claim("sub"));
    let long = format!("\"{}\"", "a".repeat(256));
    for (name, value) in [
        ("sub empty", r#""""#),
        ("sub too long", &long),
        ("sub with a newline", r#""ada\nroot""#),
        ("sub with a NUL", r#""ada\u0000""#),
        ("sub with a C1 control", r#""ada\u0085""#),
        ("sub with DEL", r#""ada\u007f""#),
        ("sub of half a surrogate pair", r#""\udfff""#),
        ("sub a number", "1"),
        ("sub null", "null"),
        ("sub a list", r#"["ada"]"#),
        ("sub an object", r#"{"ada":1}"#),
    ] {
        wrong(name, "sub", Some(value), &claim("sub"));
    }
    for (name, value) in [
        ("iss missing", None),
        ("iss of another", Some(r#""https://evil.test""#)),
        (
            "iss with a slash behind",
            Some(r#""https://backend.test/""#),
        ),
        ("iss in capitals", Some(r#""HTTPS://BACKEND.TEST""#)),
        (
            "iss a list with the right one",
            Some(r#"["https://backend.test"]"#),
        ),
        ("iss null", Some("null")),
    ] {
        wrong(name, "iss", value, &is(TokenFault::WrongIssuer));
    }
    for (name, value) in [
        ("aud missing", None),
        ("aud of another", Some(r#""billing""#)),
        ("aud a part of the right one", Some(r#""tide""#)),
        ("aud empty", Some("[]")),
        ("aud a list of others", Some(r#"["billing","Tidewheel"]"#)),
    ] {
        wrong(name, "aud", value, &is(TokenFault::WrongAudience));
    }
    for (name, value) in [
        ("aud an object", r#"{"tidewheel":1}"#),
        ("aud a list with a number", r#"["tidewheel",1]"#),
        ("aud null", "null"),
    ] {
        wrong(name, "aud", Some(value), &claim("aud"));
    }
    let mut more = |name, more: &str, expected: &dyn Fn(&TokenFault) -> bool| {
        attacks.refused(name, says(&with(more)), expected);
    };
    more(
        "info of 4 KiB and a byte",
        &format!(r#","info":"{}""#, "x".repeat(4_095)),
        &claim("info"),
    );
    more(
        "info 33 levels deep",
        &format!(r#","info":{}{}"#, "[".repeat(33), "]".repeat(33)),
        &claim("info"),
    );
    more(
        "name with a control character",
        r#","name":"a\u001b[2J""#,
        &claim("name"),
    );
    more(
        "name an object",
        r#","name":{"first":"Ada"}"#,
        &claim("name"),
    );
    more("name empty", r#","name":"""#, &claim("name"));
}

pub fn rooms(attacks: &mut Attacks) {
    let mut rooms = |name, rooms: &str, expected: &dyn Fn(&TokenFault) -> bool| {
        attacks.refused(name, says(&with(&format!(r#","rooms":{rooms}"#))), expected);
    };
    for (name, text) in [
        ("rooms an object", r#"{"pattern":"**","allow":["join"]}"#),
        ("rooms a string", r#""**""#),
        ("rooms null", "null"),
        ("rooms true", "true"),
    ] {
        rooms(name, text, &claim("rooms"));
    }
    for (name, entry) in [
        ("room a string", r#""chat:*""#),
        ("room without pattern", r#"{"allow":["join"]}"#),
        ("room without allow", r#"{"pattern":"a"}"#),
        (
            "room with an empty pattern",
            r#"{"pattern":"","allow":["join"]}"#,
        ),
        (
            "room with an unknown placeholder",
            r#"{"pattern":"{user}","allow":["join"]}"#,
        ),
        (
            "room with a pattern that is no string",
            r#"{"pattern":1,"allow":["join"]}"#,
        ),
        (
            "room with an unknown action",
            r#"{"pattern":"a","allow":["join","admin"]}"#,
        ),
        (
            "room with an action in capitals",
            r#"{"pattern":"a","allow":["Join"]}"#,
        ),
        (
            "room with an action that is no string",
            r#"{"pattern":"a","allow":[true]}"#,
        ),
        (
            "room with allow a string",
            r#"{"pattern":"a","allow":"join"}"#,
        ),
        (
            "room with deny",
            r#"{"pattern":"a","allow":["join"],"deny":["publish"]}"#,
        ),
        (
            "room with allow twice",
            r#"{"pattern":"a","allow":[],"allow":["join"]}"#,
        ),
    ] {
        rooms(
            name,
            &format!(r#"[{{"pattern":"x","allow":[]}},{entry}]"#),
            &room(2),
        );
    }
    let many = vec![r#"{"pattern":"a","allow":[]}"#; 257].join(",");
    let verifier = std::mem::take(&mut attacks.verifier);
    let rules = Rules {
        token_bytes_max: 64 * 1024,
        ..verifier.rules().clone()
    };
    attacks.verifier = Verifier::new(verifier.keys().clone(), rules);
    attacks.refused(
        "257 rooms",
        says(&with(&format!(r#","rooms":[{many}]"#))),
        is(TokenFault::TooManyRooms {
            entries: 257,
            max: 256,
        }),
    );
}

fn claim(claim: &'static str) -> impl Fn(&TokenFault) -> bool {
    move |fault| {
        matches!(fault, TokenFault::BadClaim { claim: found, .. }
            | TokenFault::NoClaim { claim: found, .. } if *found == claim)
    }
}

fn room(number: usize) -> impl Fn(&TokenFault) -> bool {
    move |fault| matches!(fault, TokenFault::BadRoom { entry, .. } if *entry == number)
}
