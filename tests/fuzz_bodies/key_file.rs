//! Any bytes as a file of keys: keys that come of it are strong, and their names are names.

use tidewheel::gate::token::algorithm::Kind;
use tidewheel::gate::token::{Key, KeyFile, Signer, pem};
use tidewheel::protocol::ids::is_user_id;

/// Runs one input.
///
/// # Panics
/// When one of the properties does not hold.
pub fn run(data: &[u8]) {
    match KeyFile::read(data, None) {
        Ok(file) => {
            assert!(!file.keys.is_empty());
            file.keys.iter().for_each(|key| check(key, data));
        }
        Err(fault) => assert!(fault.to_string().len() < 512, "{fault}"),
    }
    let _ = KeyFile::read(data, Some("k1"));
    // A file is a key to verify with or one to sign with; a secret alone is both.
    if let (Ok(file), Ok(_)) = (KeyFile::read(data, None), Signer::read(data)) {
        assert!(file.keys.iter().all(|key| key.kind() == Kind::Secret));
    }
}

fn check(key: &Key, data: &[u8]) {
    assert!(key.kid().is_none_or(is_user_id));
    let known = key.kind().algorithms();
    assert!(!key.algorithms().is_empty());
    assert!(
        key.algorithms()
            .iter()
            .all(|algorithm| known.contains(algorithm))
    );
    let is_json = data.trim_ascii_start().starts_with(b"{");
    let is_pem = std::str::from_utf8(data).is_ok_and(pem::is_pem);
    let is_bare = !is_json && !is_pem;
    assert!(is_json || is_bare == (key.kind() == Kind::Secret));
}
