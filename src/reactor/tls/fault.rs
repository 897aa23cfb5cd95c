//! Why a TLS stream failed, as a label of the metrics.

use rustls::Error;

use crate::metrics::TlsFault;

/// What the first byte of a connection tells: a record begins with its content type, and the first
/// one is of a handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// What is wrong with a connection that begins with `first`, if it cannot be TLS.
pub(super) fn of_first_byte(first: u8) -> Option<TlsFault> {
    match first {
        HANDSHAKE => None,
        // A method: no content type is a letter.
        b'A'..=b'Z' => Some(TlsFault::Http),
        _ => Some(TlsFault::NotTls),
    }
}

/// What a handshake failed of.
pub(super) fn of_handshake(error: &Error) -> TlsFault {
    match error {
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => TlsFault::Incompatible,
        Error::AlertReceived(_) => TlsFault::Alert,
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => TlsFault::Certificate,
        _ => TlsFault::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_what_is_no_tls() {
        for (first, fault) in [
            (22, None),
            (b'G', Some(TlsFault::Http)),
            (b'P', Some(TlsFault::Http)),
            (0x80, Some(TlsFault::NotTls)), // the length of an SSLv2 record
            (0, Some(TlsFault::NotTls)),
            (23, Some(TlsFault::NotTls)),
        ] {
            assert_eq!(of_first_byte(first), fault, "{first}");
        }
    }
}
