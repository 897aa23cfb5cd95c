//! Tidewheel: a single-node edge server for real-time fan-out over WebSocket.
//!
//! # The idea
//! A room is a log and a member is a cursor into it. Publishing appends, whatever the number of
//! members; at the end of a turn each member that is behind gets everything from its cursor to the
//! head in one write, straight from the shared bytes. A slow reader costs its cursor: past a bound
//! it is closed, or jumps ahead and is told which offsets it missed.
//!
//! # Threads
//! ```text
//!               public listener (SO_REUSEPORT, one socket for each core)
//!         ┌───────────────┬───────────────┬───────────────┐
//!    ┌────┴────┐     ┌────┴────┐     ┌────┴────┐     each: mio poller · table of sockets · shard ·
//!    │ core 0  │     │ core 1  │     │ core n  │     timer wheel · one read buffer · its own table
//!    └────┬────┘     └────┬────┘     └────┬────┘     of file descriptors
//!         └─────── bus: crossbeam channels, one wake for each batch ───────┐
//!                                                                 ┌────────┴────────┐
//!                                                                 │ control plane   │  tokio, axum:
//!                                                                 └─────────────────┘  health, metrics
//! ```
//! Cores share nothing. Each room and each user has a home core, by a hash of its name: the home
//! gives offsets, keeps history and presence, and sends a serialised message once to each core that
//! has members.
//!
//! # Layers
//! Imports point down only, which `tests/layers.rs` checks.
//!
//! | level | module | what it is |
//! |---|---|---|
//! | 8 | `main`, [`cli`] | flags, environment, file → settings → run → exit code |
//! | 7 | [`server`] | puts the parts together: cores, control plane, signals, drain |
//! | 6 | [`reactor`], [`control`], [`store`] | the edges with the real clock: sockets and channels; HTTP for operators; what is kept on disk |
//! | 5 | [`shard`] | all the state of one core, without sockets and without a clock |
//! | 4 | [`session`], [`room`], [`bus`] | one peer's queue · members, log, position, presence, history · messages between cores |
//! | 3 | [`protocol`], [`gate`] | what peers ask and are told, in JSON · where a request leads |
//! | 2 | [`codec`] | bytes: WebSocket frames, HTTP heads |
//! | 1 | [`frame`], [`wheel`], [`metrics`], [`time`], [`blocks`], [`address`] | serialised-once frames, timers, counters, instants, tables, names |
//!
//! # Where to begin
//! [`room::log`] and [`room::feed`] hold the idea. [`shard`] says how a core is driven, its
//! `intake`, `homes`, `members` and `flush` follow a message from a peer's bytes to everyone's
//! sockets; its other files are about how connections begin and end, and about those that lag.
//! [`reactor`] is the loop around it. `tests/simulation` drives whole nodes from a seed.
//! `docs/architecture.md` tells the life of a message in a page.

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
pub mod store;
pub mod time;
pub mod wheel;
