//! See `tests/fuzz_bodies/key_file.rs`.
#![no_main]

#[path = "../../tests/fuzz_bodies/key_file.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
