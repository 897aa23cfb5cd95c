//! See `tests/fuzz_bodies/envelope.rs`.
#![no_main]

#[path = "../../tests/fuzz_bodies/envelope.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
