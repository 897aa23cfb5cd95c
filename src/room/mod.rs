//! Rooms: members, log, cursors, position, presence, history.
//!
//! A room has two halves, which may lie on different cores:
//!
//! ```text
//!   at home (one core)                     on each core with members
//!   ┌───────────────────────────┐          ┌──────────────────────────────┐
//!   │ home::HomeRoom            │  Append  │ feed::Feed                   │
//!   │  position, history,       │ ───────► │  log::Log       ▲ ▲   ▲      │
//!   │  users and connections,   │  (one    │  the bytes, once│ │   │      │
//!   │  read positions, typing,  │   frame) │  members: cursors into them  │
//!   │  accepted message ids     │          │                              │
//!   └───────────────────────────┘          └──────────────────────────────┘
//! ```
//!
//! Neither half knows a socket or a session, and neither sends anything: `shard` does.

pub mod feed;
pub mod history;
pub mod home;
pub mod idempotency;
pub mod log;
pub mod table;
pub mod users;

pub use feed::Feed;
pub use home::HomeRoom;
pub use table::RoomTable;
pub use users::UserMap;
