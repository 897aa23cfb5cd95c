//! TLS on the public listener: a stream that is one, and the certificates that it shows.
//!
//! ```text
//!   socket ─► incoming (part of a record) ─► rustls ─► the core's read buffer     what had no room
//!   socket ◄── pending (what it did not take) ◄── rustls ◄── the shard's slices    waits in `plain`
//! ```
//!
//! rustls is driven through its unbuffered interface: the large buffers belong to the core
//! ([`Shared`]) and serve one stream after the other, so that an idle one holds none. Why, and what
//! it costs, is in `docs/decisions/tls.md`.
//!
//! A stream is [`TlsStream`], which reads in `stream` and writes in `sending`; why one failed is
//! [`fault`]. Files become a configuration in [`certificates`], which reads their dates with
//! [`validity`] and makes the certificate of `--tls-self-signed` in [`self_signed`].

mod certificates;
mod fault;
mod self_signed;
mod sending;
mod stream;
mod validity;

pub use certificates::{
    CertificateFiles, Loaded, MinVersion, Shown, TlsError, TlsLoader, TlsSettings,
};
pub use stream::{Pulled, Shared, Shook, TlsStream};
