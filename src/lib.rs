//! Tidewheel: a single-node edge server for real-time fan-out over WebSocket.
pub mod address;
pub mod blocks;
pub mod bus;
pub mod cli;
pub mod codec;
pub mod control;
pub mod frame;
pub mod gate;
pub mod metrics;
pub mod protocol;
pub mod reactor;
pub mod room;
pub mod server;
pub mod session;
pub mod shard;
pub mod time;
pub mod wheel;
