//! A client over rustls: blocking, and with its socket in the test's hands.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use tidewheel::codec::websocket::client::{ServerFrame, ServerFrames, encode_masked};
use tidewheel::codec::websocket::{Data, OpCode};

use crate::server::PATIENCE;

/// A configuration that trusts `roots`.
pub fn config(
    roots: &[&CertificateDer<'static>],
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add((*root).clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(64);
    config
}

pub struct Peer {
    pub stream: StreamOwned<ClientConnection, TcpStream>,
    frames: ServerFrames,
}

impl Peer {
    /// Connects and completes the handshake.
    pub fn connect(
        address: SocketAddr,
        name: &str,
        config: &Arc<ClientConfig>,
    ) -> std::io::Result<Peer> {
        Peer::over(TcpStream::connect(address)?, name, config)
    }

    pub fn over(
        socket: TcpStream,
        name: &str,
        config: &Arc<ClientConfig>,
    ) -> std::io::Result<Peer> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let session = ClientConnection::new(Arc::clone(config), name).unwrap();
        let mut stream = StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Peer {
            stream,
            frames: ServerFrames::default(),
        })
    }

    /// Upgrades on a path.
    pub fn upgrade(&mut self, path: &str) {
        let head = self.request(path);
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    }

    /// Sends an upgrade request; answers the head of the response.
    pub fn request(&mut self, path: &str) -> String {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            assert_eq!(self.stream.read(&mut byte).unwrap(), 1, "{head:?}");
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    pub fn send(&mut self, text: &str) {
        let mut wire = Vec::new();
        encode_masked(
            OpCode::Data(Data::Text),
            [1, 2, 3, 4],
            text.as_bytes(),
            &mut wire,
        );
        self.stream.write_all(&wire).unwrap();
    }

    pub fn send_binary(&mut self, bytes: &[u8]) {
        let mut wire = Vec::new();
        encode_masked(OpCode::Data(Data::Binary), [1, 2, 3, 4], bytes, &mut wire);
        self.stream.write_all(&wire).unwrap();
    }

    /// The next frame; none at an orderly end.
    pub fn frame(&mut self) -> Option<ServerFrame> {
        self.frame_by(64 * 1024)
    }

    /// The same, read by so many bytes at once.
    pub fn frame_by(&mut self, chunk: usize) -> Option<ServerFrame> {
        let mut buffer = vec![0; chunk];
        loop {
            if let Some(frame) = self.frames.next_frame().unwrap() {
                return Some(frame);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.frames.push(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn text(&mut self) -> String {
        let frame = self.frame().expect("a frame");
        String::from_utf8(frame.payload).unwrap()
    }

    /// Reads until a text that holds `part`.
    pub fn await_text(&mut self, part: &str) -> String {
        loop {
            let text = self.text();
            if text.contains(part) {
                return text;
            }
        }
    }

    /// The certificate that it was shown.
    pub fn shown(&self) -> CertificateDer<'static> {
        self.stream.conn.peer_certificates().unwrap()[0]
            .clone()
            .into_owned()
    }
}
