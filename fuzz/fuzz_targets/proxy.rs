//! See `tests/fuzz_bodies/proxy.rs`.
#![no_main]

#[path = "../../tests/fuzz_bodies/proxy.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
