//! Who may enter, what they may do, and how fast: decisions without a connection or a room in sight.
//!
//! ```text
//!   a request's head ──► route ──► which endpoint, in which dialect, with what credential
//!   a credential     ──► Verifier, or the operator's webhook ──► Grant: who, and what they may do
//!   a room's name    ──► Glob: does a pattern mean it; Rules: what holds there
//!   what is asked    ──► Asked::permits: rule, grant and defaults together
//! ```
//!
//! All that an operator may change while the server runs stands in one [`Policy`], which all cores
//! share and which is replaced as a whole.

mod grant;
mod pattern;
mod permission;
mod policy;
mod route;
mod rules;
pub mod token;

pub use grant::{Action, Actions, Grant, RoomGrant};
pub use pattern::{BadGlob, Glob};
pub use permission::{Asked, Denied, Wish, may};
pub use policy::{Authentication, Policy};
pub use route::{Entry, Refusal, Route, route};
pub use rules::{HistoryLimits, Overflow, Publishers, RoomLimits, RoomRule, Rules};
