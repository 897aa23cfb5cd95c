//! Keys and scopes, as a request meets them.

use super::counters::Refusal;
use super::*;

const OPS: &str = "tw_ops0123456789012345678901";
const FEED: &str = "tw_feed012345678901234567890";

fn access(text: &str) -> Access {
    let access = Access::default();
    access.replace(Some(ApiKeys::read(text.as_bytes()).unwrap()));
    access
}

fn both() -> Access {
    access(&format!("ops admin {OPS}\nfeed publish {FEED}\n"))
}

fn with(values: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        let value = HeaderValue::from_str(value).unwrap();
        headers.append(header::AUTHORIZATION, value);
    }
    headers
}

#[test]
fn a_key_opens_what_its_scopes_allow() {
    let access = both();
    for scheme in ["Bearer ", "bearer ", "BEARER  "] {
        let headers = with(&[&format!("{scheme}{OPS}")]);
        let caller = access.admit(&headers, Scope::Admin).unwrap();
        assert_eq!(&*caller.name, "ops");
    }
    let feed = with(&[&format!("Bearer {FEED}")]);
    assert!(access.admit(&feed, Scope::Publish).is_ok());
    for scope in [Scope::Read, Scope::Admin] {
        let problem = access.admit(&feed, scope).unwrap_err();
        let expected = Problem::new(
            StatusCode::FORBIDDEN,
            format!(
                "the key feed has the scope publish, and this needs {}",
                scope.text()
            ),
        );
        let challenge = format!(
            "Bearer realm=\"tidewheel\", error=\"insufficient_scope\", scope=\"{}\"",
            scope.text()
        );
        let challenge = HeaderValue::from_str(&challenge).unwrap();
        assert_eq!(
            problem,
            expected.with_header(header::WWW_AUTHENTICATE, challenge)
        );
    }
    assert_eq!(access.refusals().of(Refusal::Scope), 2);
}

#[test]
fn what_is_no_key_is_refused_and_counted() {
    let access = both();
    assert!(access.admit(&HeaderMap::new(), Scope::Read).is_err());
    assert_eq!(access.refusals().of(Refusal::NoKey), 1);
    let long = format!("Bearer {}", "x".repeat(10_000));
    let twice = format!("Bearer {OPS}");
    let bad: [&[&str]; 7] = [
        &[""],
        &["Bearer"],
        &["Bearer "],
        &["Basic b3BzOng="],
        &[OPS],
        &[&long],
        &[&twice, &twice],
    ];
    for values in bad {
        assert!(
            access.admit(&with(values), Scope::Read).is_err(),
            "{values:?}"
        );
    }
    assert_eq!(access.refusals().of(Refusal::BadKey), bad.len() as u64);
    for (value, hint) in [(OPS.to_owned(), true), (format!("Bearer {OPS}x"), false)] {
        let problem = access.admit(&with(&[&value]), Scope::Read).unwrap_err();
        let text = format!("{problem:?}");
        assert_eq!(text.contains("the word Bearer is missing"), hint, "{text}");
        assert!(!text.contains(OPS), "{text}");
    }
}

#[test]
fn keys_are_replaced_as_a_whole() {
    let access = both();
    let ops = with(&[&format!("Bearer {OPS}")]);
    assert!(access.admit(&ops, Scope::Admin).is_ok());
    access.replace(Some(
        ApiKeys::read(format!("ops read {OPS}").as_bytes()).unwrap(),
    ));
    assert!(access.admit(&ops, Scope::Admin).is_err());
    assert!(access.admit(&ops, Scope::Read).is_ok());
    let feed = with(&[&format!("Bearer {FEED}")]);
    assert!(access.admit(&feed, Scope::Publish).is_err());
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let open = |path: &str| {
        let key_file = Some(PathBuf::from(path));
        let settings = AccessSettings {
            key_file,
            ..AccessSettings::default()
        };
        Access::open(settings).unwrap_err().to_string()
    };
    let missing = open("/nowhere/keys");
    assert!(missing.starts_with("--api-key-file: cannot read /nowhere/keys: No such file"));
    let wrong = open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    assert!(
        wrong.contains("Cargo.toml: line 1: it has 1 words"),
        "{wrong}"
    );
}
