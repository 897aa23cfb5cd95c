//! See `tests/fuzz_bodies/shard_ops.rs`.
#![no_main]

#[path = "../../tests/fuzz_bodies/shard_ops.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
