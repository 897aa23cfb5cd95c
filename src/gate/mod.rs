//! Who may enter, what they may do, and how fast: decisions without a connection or a room in sight.
//!
//! ```text
//!   a request's head ──► route ──► which endpoint, in which dialect, with what credential,
//!                                  and whether the page behind it may (Origins)
//!   a credential     ──► Verifier, or the operator's webhook ──► Grant: who, and what they may do
//!   a room's name    ──► Glob: does a pattern mean it; Rules: what holds there
//!   what is asked    ──► Asked::permits: rule, grant and defaults together
//!   a peer's address ──► client_address: where the client behind proxies is
//!   what a peer does ──► Limits, and the buckets and Meters that hold it to them
//! ```
//!
//! All that an operator may change while the server runs stands in one [`Policy`], which all cores
//! share and which is replaced as a whole.

mod credential;
mod forwarded;
mod grant;
mod limits;
pub mod meters;
mod origin;
mod pattern;
mod permission;
mod policy;
mod question;
pub mod rate;
mod route;
mod rules;
pub mod token;

pub use credential::Credential;
pub use forwarded::{BadForwarded, client_address};
pub use grant::{Action, Actions, Grant, RoomGrant};
pub use limits::{Excess, Limits};
pub use meters::Meters;
pub use origin::{BadOrigin, Origins};
pub use pattern::{BadGlob, Glob};
pub use permission::{Asked, Denied, Wish, may};
pub use policy::{Authentication, FixedTokens, Policy, WebhookPolicy};
pub use question::{Question, Verdict};
pub use rate::Rate;
pub use route::{Entry, Refusal, Route, route};
pub use rules::{HistoryLimits, Overflow, Publishers, RoomLimits, RoomRule, Rules};
