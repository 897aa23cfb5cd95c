//! What an idle TLS connection costs in memory: bytes that the server's side has allocated, counted
//! by the allocator, beside what rustls's buffered interface would hold for the same.
//!
//! Connections over loopback complete their handshake, a message goes each way, and then nothing
//! happens. Clients are other threads, whose memory is not counted.

#![allow(clippy::unwrap_used)] // what cannot be had here is a failed test

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use tidewheel::reactor::tls::{MinVersion, Shared, Shook, TlsLoader, TlsSettings, TlsStream};
use tidewheel::shard::Sent;

struct Counting;

thread_local! {
    /// What this thread has allocated and not freed.
    static ALLOCATED: Cell<isize> = const { Cell::new(0) };
}

fn allocated() -> isize {
    ALLOCATED.with(Cell::get)
}

fn count(bytes: isize) {
    // A thread that ends frees what is left after its variables.
    let _ended = ALLOCATED.try_with(|it| it.set(it.get() + bytes));
}

// SAFETY: every call is handed to the system's allocator as it is; only sizes are counted.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONNECTIONS: usize = 100;
/// Before those that are counted: what is there once for all comes with them.
const BEFORE: usize = 5;

fn server_config() -> Arc<ServerConfig> {
    let settings = TlsSettings {
        certificates: Vec::new(),
        self_signed: Some([127, 0, 0, 1].into()),
        min_version: MinVersion::V12,
        client_ca: None,
        resumes: true,
    };
    TlsLoader::new(settings, 1_800_000_000)
        .unwrap()
        .load()
        .unwrap()
        .config
}

/// Clients that say something, hear something, and keep their sockets until told to go.
fn clients(
    address: SocketAddr,
    version: &'static rustls::SupportedProtocolVersion,
) -> mpsc::Sender<()> {
    let (go, gone) = mpsc::channel();
    thread::spawn(move || {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trusting::Trusting(provider)))
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        let config = Arc::new(config);
        let mut all = Vec::new();
        for _ in 0..BEFORE + CONNECTIONS {
            let name = ServerName::try_from("localhost").unwrap();
            let session = ClientConnection::new(Arc::clone(&config), name).unwrap();
            let mut stream = StreamOwned::new(session, TcpStream::connect(address).unwrap());
            stream.write_all(b"hello").unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            all.push(stream);
        }
        let _told = gone.recv();
    });
    go
}

/// Bytes for each of our streams.
fn ours(version: &'static rustls::SupportedProtocolVersion) -> isize {
    let config = server_config();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let go = clients(listener.local_addr().unwrap(), version);
    let mut shared = Shared::default();
    let mut all = Vec::with_capacity(BEFORE + CONNECTIONS);
    let mut before = allocated();
    for i in 0..BEFORE + CONNECTIONS {
        if i == BEFORE {
            before = allocated();
        }
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = mio::net::TcpStream::from_std(socket);
        let mut stream =
            Box::new(TlsStream::new(socket, Arc::clone(&config), &mut shared).unwrap());
        while stream.is_in_handshake() {
            assert_ne!(stream.shake(false, &mut shared).0, Shook::Failed);
        }
        let mut heard = [0; 64];
        while stream.pull(&mut heard, false, &mut shared).count == 0 {}
        assert_eq!(&heard[..5], b"hello");
        assert_eq!(
            stream.push(&[IoSlice::new(b"world")], &mut shared),
            Sent::Took(5)
        );
        all.push(stream);
    }
    let each = (allocated() - before) / CONNECTIONS as isize;
    drop(go);
    each
}

/// The same with rustls's own buffers.
fn buffered(version: &'static rustls::SupportedProtocolVersion) -> isize {
    let config = server_config();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let go = clients(listener.local_addr().unwrap(), version);
    let mut all = Vec::with_capacity(BEFORE + CONNECTIONS);
    let mut before = allocated();
    for i in 0..BEFORE + CONNECTIONS {
        if i == BEFORE {
            before = allocated();
        }
        let (socket, _) = listener.accept().unwrap();
        let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
        session.set_buffer_limit(Some(32 * 1024));
        let mut stream = Box::new(StreamOwned::new(session, socket));
        stream.read_exact(&mut [0; 5]).unwrap();
        stream.write_all(b"world").unwrap();
        all.push(stream);
    }
    let each = (allocated() - before) / CONNECTIONS as isize;
    drop(go);
    each
}

#[test]
fn an_idle_tls_connection_allocates_less_than_three_kilobytes() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (ours, buffered) = (ours(version), buffered(version));
        println!(
            "{:?}: {ours} bytes, {buffered} with rustls's own buffers",
            version.version
        );
        println!("  of them the stream itself: {}", size_of::<TlsStream>());
        assert!(ours < 3_072, "{ours} bytes");
        assert!(ours < buffered, "{ours} bytes against {buffered}");
    }
}

mod trusting {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::CryptoProvider;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    /// Takes every certificate.
    #[derive(Debug)]
    pub struct Trusting(pub Arc<CryptoProvider>);

    impl ServerCertVerifier for Trusting {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}
