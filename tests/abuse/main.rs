//! What a server on the open internet is sent, and what it answers: one row, or one test, for each
//! attack.
//!
//! Where time matters the attack is on shards, whose time is an argument, through real bytes; where
//! sockets do, on a server of this process.

#![allow(clippy::unwrap_used, clippy::expect_used)] // an attack that cannot be made has failed

mod floods;
mod frames;
mod node;
mod requests;
mod sockets;
mod tokens;
mod trickles;
mod users;
