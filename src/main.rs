//! The `tidewheel` program.
fn main() {}
