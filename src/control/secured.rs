//! Whether the admin listener speaks TLS, and with which certificate.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

/// What connections are told that begin from now on. Clones are the same place: one is with the
/// listener, another with whoever loads certificates.
#[derive(Clone, Default)]
pub struct Secured(Arc<RwLock<Option<TlsAcceptor>>>);

impl Secured {
    /// Connections that begin from now on are TLS, and are told this.
    pub fn set(&self, config: Arc<ServerConfig>) {
        let mut place = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *place = Some(TlsAcceptor::from(config));
    }

    /// What begins TLS on a connection; none where connections are plain.
    pub(super) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secured")
    }
}
