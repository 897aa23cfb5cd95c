//! Any text as a token, and any text as the header and the claims of a token that is rightly signed:
//! a grant is within its bounds, and a refusal holds nothing of the token.

use tidewheel::gate::token::{Algorithm, Key, Keys, Rules, Signer, TokenFault, Verifier, claims};
use tidewheel::protocol::ids::is_user_id;
use tidewheel::protocol::json::validate;

const SECRET: &[u8] = b"a secret that is there for this fuzz target alone";
const NOW_MS: u64 = 1_800_000_000_000;

/// Runs one input.
///
/// # Panics
/// When one of the properties does not hold.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let verifier = verifier();
    // Nobody has the secret but we.
    check(&verifier, text, false);
    let signer = Signer::from_secret(SECRET, Algorithm::HS256);
    let signed = |header: &str, claims: &str| signer.sign_parts(header, claims).expect("signed");
    check(&verifier, &signed(r#"{"alg":"HS256"}"#, text), true);
    check(
        &verifier,
        &signed(text, r#"{"sub":"ada","exp":1800000060}"#),
        true,
    );
    if let Some((header, claims)) = text.split_once('\n') {
        check(&verifier, &signed(header, claims), true);
    }
}

fn verifier() -> Verifier {
    let mut keys = Keys::default();
    let key = Key::from_secret(SECRET, None).and_then(|key| key.named("k1"));
    keys.add(key.expect("a key")).expect("room for it");
    let rules = Rules {
        requires_expiry: false,
        ..Rules::default()
    };
    Verifier::new(keys, rules)
}

fn check(verifier: &Verifier, token: &str, is_signed: bool) {
    let grant = match verifier.verify(token, NOW_MS) {
        Ok(grant) => grant,
        Err(fault) => return refused(&fault, token, is_signed),
    };
    assert!(is_signed, "a forged token was taken: {token}");
    assert!(token.len() <= verifier.rules().token_bytes_max);
    assert!(is_user_id(&grant.user.to_string()));
    assert!(grant.expires_at_unix_ms.is_none_or(|end| end > NOW_MS));
    if let Some(info) = &grant.info {
        assert!(info.len() <= claims::INFO_BYTES_MAX);
        let text = std::str::from_utf8(info).expect("text");
        assert_eq!(validate(text), Ok(()));
    }
    if let Some(rooms) = &grant.rooms {
        assert!(rooms.len() <= claims::ROOMS_MAX);
        let _ = grant.actions_in("chat:1");
    }
}

fn refused(fault: &TokenFault, token: &str, is_signed: bool) {
    assert!(!is_signed || *fault != TokenFault::BadSignature, "{token}");
    assert!(TokenFault::LABELS.contains(&fault.label()));
    assert!(fault.reason().len() <= 123);
    assert!(fault.to_string().len() < 512);
}
