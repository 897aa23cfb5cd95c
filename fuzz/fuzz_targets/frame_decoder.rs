//! See `tests/fuzz_bodies/frame_decoder.rs`.
#![no_main]

#[path = "../../tests/fuzz_bodies/frame_decoder.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
