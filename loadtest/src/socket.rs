//! A client's socket: TCP, or TLS over it where the server speaks that.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, OnceLock};

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

/// What all sockets of this process do: one server is under load at a time.
static TLS: OnceLock<Arc<ClientConfig>> = OnceLock::new();

/// Sockets made from now on speak TLS. They trust every certificate: this is a load, no secret.
/// `resumes`: all but the first handshake may be short ones.
pub fn speak_tls(resumes: bool) -> anyhow::Result<()> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = if resumes {
        Resumption::in_memory_sessions(4_096)
    } else {
        Resumption::disabled()
    };
    // A second call is of the same run, which has said the same before.
    let _same = TLS.set(Arc::new(config));
    Ok(())
}

/// A socket.
pub enum Socket {
    /// TCP as it is.
    Plain(TcpStream),
    /// TLS over it.
    Tls(Box<Tls>),
}

/// A TLS session and its socket.
pub struct Tls {
    stream: TcpStream,
    session: ClientConnection,
}

impl Socket {
    /// A fresh socket, which may still be connecting.
    pub fn new(stream: TcpStream) -> io::Result<Socket> {
        let Some(config) = TLS.get() else {
            return Ok(Socket::Plain(stream));
        };
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Socket::Tls(Box::new(Tls { stream, session })))
    }

    fn stream(&mut self) -> &mut TcpStream {
        match self {
            Socket::Plain(stream) => stream,
            Socket::Tls(tls) => &mut tls.stream,
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Socket::Plain(stream) => stream.as_raw_fd(),
            Socket::Tls(tls) => tls.stream.as_raw_fd(),
        }
    }
}

impl Read for Socket {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(stream) => stream.read(buffer),
            Socket::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(stream) => stream.write(bytes),
            Socket::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Tls {
    /// Fills the buffer, as far as there is something: a short read has emptied the socket.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            let room = buffer.get_mut(filled..).unwrap_or_default();
            match self.session.reader().read(room) {
                Ok(0) => return Ok(filled),
                Ok(count) => {
                    filled += count;
                    if filled == buffer.len() {
                        return Ok(filled);
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) if filled > 0 => return Ok(filled),
                Err(error) => return Err(error),
            }
            match self.session.read_tls(&mut self.stream) {
                Ok(0) => return Ok(filled),
                Ok(_) => {
                    let state = self.session.process_new_packets();
                    state.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
                    self.write_out()?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && filled > 0 => {
                    return Ok(filled);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes bytes where the socket is up; those before the handshake's end wait for it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.session.is_handshaking() && self.session.wants_write() {
            // The first of all: fails where the socket is not up yet.
            self.session.write_tls(&mut self.stream)?;
        }
        let count = self.session.writer().write(bytes)?;
        self.write_out()?;
        if count == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(count)
    }

    fn write_out(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Source for Socket {
    fn register(&mut self, to: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.stream().register(to, token, interests)
    }

    fn reregister(&mut self, to: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.stream().reregister(to, token, interests)
    }

    fn deregister(&mut self, from: &Registry) -> io::Result<()> {
        self.stream().deregister(from)
    }
}

/// Takes every certificate, if its key signs the handshake.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
