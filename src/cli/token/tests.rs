//! The commands, from the command line to what they print.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::cli::{Parsed, parse_from};

const NOW_MS: u64 = 1_800_000_000_000;
const SECRET: &str = include_str!("../../../tests/keys/secret");

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static FOLDERS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = FOLDERS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("tidewheel-token-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn key(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys");
    folder.join(name).display().to_string()
}

/// Runs `tidewheel token …` with this environment and standard input.
fn run_with(args: &[&str], secret: Option<&str>, stdin: &str) -> Result<Outcome, String> {
    let args = ["tidewheel", "token"].iter().chain(args);
    let env = secret.map(|secret| ("TIDEWHEEL_JWT_SECRET", secret));
    let parsed = parse_from(args, env).map_err(|error| error.to_string())?;
    let Parsed::Token { command, secret } = parsed else {
        panic!("{parsed:?}");
    };
    let ran = super::run(&command, secret.as_ref(), NOW_MS, stdin.as_bytes());
    ran.map_err(|error| error.to_string())
}

fn run(args: &[&str]) -> Result<Outcome, String> {
    run_with(args, None, "")
}

#[test]
fn what_keygen_writes_signs_and_verifies_and_only_its_owner_reads_it() {
    let folder = Folder::new();
    for (alg, private, public) in [
        ("EdDSA", "k.pem", "k.pub.pem"),
        ("es256", "e.pem", "e.pub.pem"),
        ("ES384", "f.pem", "f.pub.pem"),
        ("RS256", "r.pem", "r.pub.pem"),
        ("HS256", "h.secret", "h.secret"),
    ] {
        let out = folder.path(&private[..1]);
        let (private, public) = (folder.path(private), folder.path(public));
        let said = run(&["keygen", "--alg", alg, "--out", &out]).unwrap();
        assert!(
            said.is_good && said.text.contains(&private),
            "{}",
            said.text
        );
        assert!(
            said.text.contains(&format!("--jwt-key-file {public}\n")),
            "{}",
            said.text
        );
        let mode = std::fs::metadata(&private).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{alg}");
        let written = std::fs::read_to_string(&private).unwrap();
        assert!(
            !said
                .text
                .contains(written.lines().nth(1).unwrap_or(&written))
        );
        let token = run(&["make", "--key", &private, "--sub", "ada"])
            .unwrap()
            .text;
        let inspected = run_with(&["inspect", "--key-file", &public], None, &token).unwrap();
        assert!(inspected.is_good, "{alg}: {}", inspected.text);
        assert!(
            inspected.text.contains("ok    signature"),
            "{}",
            inspected.text
        );
        let again = run(&["keygen", "--alg", alg, "--out", &out]).unwrap_err();
        assert!(again.contains("nothing is overwritten"), "{again}");
    }
}

#[test]
fn keygen_makes_the_folders_that_are_not_there() {
    let folder = Folder::new();
    let out = folder.path("keys/of/2026-06");
    run(&["keygen", "--out", &out]).unwrap();
    assert!(Path::new(&format!("{out}.pem")).is_file());
    assert!(Path::new(&format!("{out}.pub.pem")).is_file());
}

#[test]
fn a_token_that_is_made_says_what_was_asked_for() {
    let args = [
        "make",
        "--sub",
        "ada \"L\"",
        "--ttl",
        "8h",
        "--name",
        "Ada",
        "--info",
        "{\"a\": 1}",
        "--room",
        "chat:*=join,publish",
        "--room",
        "a=b=",
        "--iss",
        "me",
        "--aud",
        "x",
        "--aud",
        "y",
        "--kid",
        "k1",
    ];
    let token = run_with(&args, Some(SECRET), "").unwrap().text;
    let shown = run_with(
        &[
            "inspect",
            "--audience",
            "y",
            "--room",
            "chat:1",
            "--room",
            "a",
            "-",
        ],
        None,
        &token,
    );
    let expected = r#"header
  alg: "HS256"
  typ: "JWT"
  kid: "k1"
claims
  sub: "ada \"L\""
  iat: 1800000000 (2027-01-15T08:00:00.000Z)
  exp: 1800028800 (2027-01-15T16:00:00.000Z)
  iss: "me"
  aud: ["x","y"]
  name: "Ada"
  info: {"a": 1}
  rooms: [{"pattern":"chat:*","allow":["join","publish"]},{"pattern":"a=b","allow":[]}]
checks
  ok    header     HS256, key "k1"
  --    signature  not checked: give --key-file
  ok    sub        ada "L"
  ok    times      until 2027-01-15T16:00:05.000Z, leeway counted
  ok    iss        any: no --issuer given
  ok    aud        as given
  ok    info       shown to others
  ok    rooms      2 patterns
allows
  chat:*: join, publish
  a=b: nothing
  all other rooms: nothing
  direct messages: no
  room chat:1: join, publish
  room a: nothing
"#;
    assert_eq!(shown.unwrap().text, expected);
}

#[test]
fn what_a_server_would_refuse_is_not_made() {
    let refusal = |more: &[&str]| {
        let args = [&["make"], more].concat();
        run_with(&args, Some(SECRET), "").unwrap_err()
    };
    for (more, expected) in [
        (
            &["--sub", ""][..],
            "a server would not take such a token: the token's claim sub",
        ),
        (
            &["--sub", "a", "--info", "{a}"],
            "--info is not JSON: expected a member name",
        ),
        (
            &["--sub", "a", "--room", "chat"],
            "--room chat: write PATTERN=ACTIONS",
        ),
        (
            &["--sub", "a", "--room", "chat=admin"],
            "--room chat=admin: write PATTERN=ACTIONS",
        ),
        (
            &["--sub", "a", "--room", "{x}=join"],
            "--room: pattern \"{x}\" has a brace",
        ),
        (
            &["--sub", "a", "--name", ""],
            "a server would not take such a token: the token's claim name",
        ),
        (
            &["--sub", "a", "--key", "/nowhere"],
            "cannot read /nowhere: No such file",
        ),
        (&["--sub", "a", "--key", &key("p256.pub.pem")], "--key "),
    ] {
        let refusal = refusal(more);
        assert!(refusal.starts_with(expected), "{refusal}");
    }
    let no_key = run(&["make", "--sub", "a"]).unwrap_err();
    assert!(
        no_key.starts_with("no key to sign with; name a private key"),
        "{no_key}"
    );
    let weak = run_with(&["make", "--sub", "a"], Some("weak"), "").unwrap_err();
    assert!(
        weak.starts_with("TIDEWHEEL_JWT_SECRET: the secret has 4 bytes"),
        "{weak}"
    );
}

#[test]
fn an_inspection_says_which_checks_fail_and_shows_no_signature() {
    let make = [
        "make",
        "--key",
        &key("p256.pem"),
        "--sub",
        "ada",
        "--aud",
        "x",
        "--iss",
        "me",
    ];
    let token = run(&make).unwrap().text;
    let (_, signature) = token.trim().rsplit_once('.').unwrap();
    let files = ["--key-file", &key("p384.pub.pem"), "--issuer", "you"];
    let shown = run_with(
        &[&["inspect"], &files[..], &[token.trim()]].concat(),
        None,
        "",
    )
    .unwrap();
    assert!(!shown.is_good);
    assert!(!shown.text.contains(signature), "{}", shown.text);
    for line in [
        "FAIL  signature  no key of this server is for the token's alg",
        "ok    sub        ada",
        "FAIL  iss        --jwt-issuer does not name the token's iss",
        "FAIL  aud        the token has aud",
        "ok    rooms      not there: the server's defaults hold",
    ] {
        assert!(shown.text.contains(line), "{line}\n{}", shown.text);
    }
}

#[test]
fn a_hostile_token_is_shown_without_harm() {
    let signer =
        crate::gate::token::Signer::from_secret(b"x", crate::gate::token::Algorithm::HS256);
    let token = signer
        .sign_parts(
            "{\"alg\":\"none\"}",
            "{\"sub\":\"\u{9b}2J\u{202e}\",\"x\":[}",
        )
        .unwrap();
    let shown = run(&["inspect", &token]).unwrap();
    assert!(!shown.is_good);
    assert!(shown.text.contains("\\u{9b}2J\\u{202e}"), "{}", shown.text);
    assert!(
        shown
            .text
            .contains("FAIL  header     the token's alg is none"),
        "{}",
        shown.text
    );
    let nothing = run(&["inspect"]).unwrap_err();
    assert!(
        nothing.starts_with("no token on standard input: it is empty"),
        "{nothing}"
    );
    let garbage = run(&["inspect", "garbage"]).unwrap();
    assert!(
        garbage
            .text
            .contains("FAIL  form       a signed token has three parts between dots (RFC 7515 §7.1) and this one has 1;"),
        "{}",
        garbage.text
    );
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in ["keygen", "make", "inspect"] {
        let parsed = parse_from(["tidewheel", "token", command, "--help"], [("", ""); 0]).unwrap();
        let Parsed::Print(help) = parsed else {
            panic!("{parsed:?}");
        };
        assert!(help.contains("Example:\n  tidewheel "), "{help}");
        assert!(
            help.contains(&format!("Usage: tidewheel token {command} ")),
            "{help}"
        );
    }
    let parsed = parse_from(["tidewheel", "token"], [("", ""); 0]).unwrap();
    assert!(matches!(parsed, Parsed::Print(help) if help.contains("keygen")));
}
