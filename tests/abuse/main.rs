//! Attacks, and what the server answers: each table has one line for each attack.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a fixture that cannot be read is a failed test

mod tokens;
