//! The bodies of the fuzz targets, shared by `fuzz/` (libFuzzer) and `tests/fuzz_smoke.rs` (stable).
//!
//! A new target: a file here with `pub fn run(data: &[u8])`, a line below and one in
//! `fuzz_smoke.rs`; and for libFuzzer a file and an entry in `fuzz/`.

pub mod config_file;
pub mod envelope;
pub mod frame_decoder;
pub mod http_head;
pub mod key_file;
pub mod proxy;
pub mod shard_ops;
pub mod token;
