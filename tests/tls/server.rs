//! A server in this process, and what it says about itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use tidewheel::cli::Options;
use tidewheel::cli::host::{Host, raise_descriptor_limit};
use tidewheel::cli::reload::Reloader;
use tidewheel::cli::settings::settings;
use tidewheel::cli::units::Count;
use tidewheel::server::{Certificates, Server};

use crate::certificates::{Folder, write_pair};

/// Far above what anything here takes: a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Held while a server starts, and while a program does. A core's thread copies the table of
/// descriptors when it begins: the end of a pipe that is open at that moment would stay open in the
/// copy, and whoever reads the pipe would wait for its end.
pub static STARTS: Mutex<()> = Mutex::new(());

pub struct Running {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub certificates: Arc<Certificates>,
    /// The certificate that it shows by default.
    pub shown: CertificateDer<'static>,
    pub folder: Folder,
}

impl Running {
    /// A server with a certificate for localhost and 127.0.0.1, and `/echo`.
    pub fn start(change: impl FnOnce(&mut Options, &Folder)) -> Running {
        let folder = Folder::new();
        let shown = write_pair(&folder, "first", &["localhost", "127.0.0.1"]);
        let mut options = Options::default();
        options.listeners.listen = "127.0.0.1:0".parse().unwrap();
        options.listeners.admin_listen = "127.0.0.1:0".parse().unwrap();
        options.listeners.echo = true;
        options.connections.shards = Count::Exactly(2);
        options.tls.tls_cert.push(folder.path("first.pem"));
        options.tls.tls_key.push(folder.path("first.key"));
        change(&mut options, &folder);
        raise_descriptor_limit().unwrap();
        let host = Host::inspect().unwrap();
        let starts = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        let server = Server::start(&settings(&options, &host, Arc::default())).unwrap();
        drop(starts);
        let running = Running {
            address: server.listen,
            admin: server.admin_listen,
            certificates: Arc::clone(&server.certificates),
            shown,
            folder,
        };
        // It ends with the process.
        let reloader = Reloader::new(options, Default::default());
        std::thread::spawn(move || server.run(reloader));
        running
    }

    /// The value of a series, over plain HTTP.
    pub fn metric(&self, series: &str) -> u64 {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} in {text}"))
            .parse()
            .unwrap()
    }

    /// Waits until a series has a value.
    pub fn await_metric(&self, series: &str, value: u64) {
        let until = Instant::now() + PATIENCE;
        let mut last = self.metric(series);
        while last != value {
            assert!(Instant::now() < until, "{series} is {last} and not {value}");
            std::thread::sleep(Duration::from_millis(10));
            last = self.metric(series);
        }
    }
}
