//! Who may enter, what they may do, and how fast: decisions without a connection or a room in sight.
//!
//! ```text
//!   a request's head ──► route ──► which endpoint, in which dialect, with what credential,
//!                                  and whether the page behind it may (Origins)
//!   a credential     ──► Verifier, or the operator's webhook ──► Grant: who, and what they may do
//!   a room's name    ──► Glob: does a pattern mean it; Rules: what holds there
//!   what is asked    ──► Asked::permits: rule, grant and defaults together
//! ```
//!
//! All that an operator may change while the server runs stands in one [`Policy`], which all cores
//! share and which is replaced as a whole.

mod credential;
mod grant;
mod origin;
mod pattern;
mod permission;
mod policy;
mod question;
mod route;
mod rules;
pub mod token;

pub use credential::Credential;
pub use grant::{Action, Actions, Grant, RoomGrant};
pub use origin::{BadOrigin, Origins};
pub use pattern::{BadGlob, Glob};
pub use permission::{Asked, Denied, Wish, may};
pub use policy::{Authentication, FixedTokens, Policy, WebhookPolicy};
pub use question::{Question, Verdict};
pub use route::{Entry, Refusal, Route, route};
pub use rules::{HistoryLimits, Overflow, Publishers, RoomLimits, RoomRule, Rules};
