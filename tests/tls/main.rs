//! TLS end to end: a real server in this process, and clients of rustls, OpenSSL and curl.

#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be had here is a failed test
#![allow(clippy::disallowed_methods)] // real sockets, real time

mod certificates;
mod handshakes;
mod hostile;
mod peer;
mod server;
mod streams;
mod tools;
