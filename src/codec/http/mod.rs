//! HTTP/1.1 as far as an upgrade and a few small answers need it (RFC 9110, RFC 9112).
//!
//! ```text
//!  bytes read ──► HeadReader ──► Head ──► websocket_upgrade ──► Upgrade      ──► 101
//!                     │           └────► path, query, headers   UpgradeFault ──► status
//!                     └► HeadFault ──► status
//!  bytes to write ◄── encode_response
//! ```
//!
//! A request that two parsers could read in two ways is refused (RFC 9112 §11.2): this listener may
//! stand behind a proxy. One request is read from a connection; each plain answer closes it.

mod component;
mod head;
mod reader;
mod response;
mod upgrade;

pub use component::{BadPercent, decode_component, query_pairs, query_value};
pub use head::{Head, HeadFault};
pub use reader::{HEADERS_MOST, HeadLimits, HeadReader, parse_head};
pub use response::{Response, encode_response};
pub use upgrade::{Upgrade, UpgradeFault, websocket_upgrade};
