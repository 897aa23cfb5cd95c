//! What it costs to take a token: all of it, from the text to the grant, for each algorithm; and to
//! refuse one, since whoever has none can make us do that.
#![allow(missing_docs)] // criterion's macros write public functions
#![allow(clippy::expect_used)] // a fixture that cannot be read ends the bench

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use tidewheel::gate::token::{Algorithm, Key, KeyFile, Keys, Rules, Signer, Verifier, algorithm};

const NOW_MS: u64 = 1_800_000_000_000;
const SECRET: &[u8] = include_bytes!("../tests/keys/secret");

/// Claims as backends write them.
const CLAIMS: &str = r#"{"sub":"user-8f3a","iat":1799999990,"exp":1800003600,"name":"Ada Lovelace",
"rooms":[{"pattern":"chat:*","allow":["join","publish","history"]},{"pattern":"user:{user_id}","allow":["join"]}]}"#;

fn verifier(key: Key) -> Verifier {
    let mut keys = Keys::default();
    keys.add(key).expect("room for a key");
    Verifier::new(keys, Rules::default())
}

/// A token of each algorithm, and who takes it.
fn subjects() -> Vec<(&'static str, Verifier, String)> {
    let pairs: [(&[u8], &[u8]); 4] = [
        (
            include_bytes!("../tests/keys/rsa.pem"),
            include_bytes!("../tests/keys/rsa.pub.pem"),
        ),
        (
            include_bytes!("../tests/keys/p256.pem"),
            include_bytes!("../tests/keys/p256.pub.pem"),
        ),
        (
            include_bytes!("../tests/keys/p384.pem"),
            include_bytes!("../tests/keys/p384.pub.pem"),
        ),
        (
            include_bytes!("../tests/keys/ed25519.pem"),
            include_bytes!("../tests/keys/ed25519.pub.pem"),
        ),
    ];
    let mut subjects = Vec::new();
    for of in [Algorithm::HS256, Algorithm::HS512] {
        let key = Key::from_secret(SECRET, Some(of)).expect("a secret");
        subjects.push((of, key, Signer::from_secret(SECRET, of)));
    }
    for (private, public) in pairs {
        let file = KeyFile::read(public, None).expect("a public key");
        let key = file.keys.first().expect("a key").clone();
        let signer = Signer::read(private).expect("a private key");
        subjects.push((signer.algorithm(), key, signer));
    }
    let subject = |(of, key, signer): (Algorithm, Key, Signer)| {
        let token = signer.sign(CLAIMS, None).expect("signed");
        (algorithm::name(of), verifier(key), token)
    };
    subjects.into_iter().map(subject).collect()
}

fn verify(c: &mut Criterion) {
    let subjects = subjects();
    let mut group = c.benchmark_group("token");
    for (name, verifier, token) in &subjects {
        assert!(verifier.verify(token, NOW_MS).is_ok(), "{name}");
        group.bench_function(BenchmarkId::new("taken", name), |b| {
            b.iter(|| verifier.verify(black_box(token), NOW_MS));
        });
        // Another's signature: as dear as a good one.
        let mut forged = token.clone();
        forged.replace_range(token.len() - 8..token.len() - 4, "AAAA");
        assert!(verifier.verify(&forged, NOW_MS).is_err(), "{name}");
        group.bench_function(BenchmarkId::new("forged", name), |b| {
            b.iter(|| verifier.verify(black_box(&forged), NOW_MS));
        });
    }
    let (_, verifier, _) = subjects.first().expect("a subject");
    let garbage = "A".repeat(8 * 1024);
    group.bench_function("garbage of 8 KiB", |b| {
        b.iter(|| verifier.verify(black_box(&garbage), NOW_MS));
    });
}

criterion_group!(benches, verify);
criterion_main!(benches);
