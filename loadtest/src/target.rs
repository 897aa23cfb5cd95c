//! The server under load: one that runs already, or one of our own.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddrV4, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

/// How long a server may take to say where it listens.
const START_TIMEOUT: Duration = Duration::from_secs(15);
const LISTENING: &str = "listening on http";
const ADMIN: &str = "admin on http://";

/// A server to connect to. One that was spawned is killed when this goes.
pub struct Target {
    /// Its public listener.
    pub address: SocketAddrV4,
    /// Its admin listener, where known.
    pub admin: Option<SocketAddrV4>,
    /// Its process, where known.
    pub pid: Option<u32>,
    /// Whether it speaks TLS.
    pub is_tls: bool,
    /// The path of the address, for servers without one of their own.
    pub path: String,
    /// The connections that it takes, where it has said so.
    pub connections_max: Option<u64>,
    child: Option<Child>,
}

impl Target {
    /// A server that runs already, at `ws://host:port`.
    pub fn running(url: &str, admin: Option<&str>, pid: Option<u32>) -> anyhow::Result<Target> {
        let address = resolve(url)?;
        let admin = admin.map(resolve).transpose()?;
        Ok(Target {
            address,
            admin,
            pid,
            is_tls: url.starts_with("wss://") || url.starts_with("https://"),
            path: path(url),
            connections_max: None,
            child: None,
        })
    }

    /// Starts a server and waits until it says where it listens.
    ///
    /// It must print `listening on http://ADDRESS`, or `https://`, on its output, and where it `has_admin` may
    /// print `admin on http://ADDRESS`. Its log goes to `log`, if given.
    pub fn spawn(
        program: &Path,
        args: &[String],
        log: Option<&Path>,
        has_admin: bool,
    ) -> anyhow::Result<Target> {
        let stderr = match log {
            Some(path) => File::create(path)
                .context("create the server's log")?
                .into(),
            None => Stdio::null(),
        };
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let stdout = child.stdout.take();
        let mut target = Target {
            // Replaced by what the server says, or dropped with the child.
            address: SocketAddrV4::new([127, 0, 0, 1].into(), 0),
            admin: None,
            pid: Some(child.id()),
            is_tls: false,
            path: "/".to_owned(),
            connections_max: None,
            child: Some(child),
        };
        let stdout = stdout.context("the server's output")?;
        let said = read_addresses(stdout, has_admin)
            .with_context(|| format!("{} did not come up", program.display()))?;
        target.address = said.address;
        target.admin = said.admin;
        target.is_tls = said.is_tls;
        target.connections_max = said.connections_max;
        Ok(target)
    }

    /// The admin listener's metrics, as Prometheus text.
    pub fn metrics(&self) -> anyhow::Result<String> {
        let admin = self
            .admin
            .context("the address of the admin listener is not known")?;
        let mut stream =
            TcpStream::connect(admin).with_context(|| format!("GET http://{admin}/metrics"))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        // HTTP/1.0: no chunks, and the end of the body is the end of the connection.
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {admin}\r\n\r\n")?;
        let mut answer = String::new();
        // What does not end is not held in memory until there is none.
        let read = stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer);
        read.with_context(|| format!("GET http://{admin}/metrics gave no whole answer"))?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
            _ => bail!(
                "GET /metrics: {}",
                answer.lines().next().unwrap_or("no answer")
            ),
        }
    }
}

/// The longest answer that is read from an admin listener.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself; either way it is reaped.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The samples of one metric: label set and value.
pub fn samples<'a>(metrics: &'a str, name: &str) -> Vec<(&'a str, f64)> {
    let lines = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let is_whole_name = labels.is_empty() || labels.starts_with('{');
        is_whole_name.then_some((labels, value.parse().ok()?))
    });
    lines.collect()
}

/// What a server says when it starts.
struct Said {
    address: SocketAddrV4,
    admin: Option<SocketAddrV4>,
    is_tls: bool,
    connections_max: Option<u64>,
}

/// Reads where the server listens; then keeps its output flowing, so that it never blocks there.
fn read_addresses(stdout: impl Read + Send + 'static, has_admin: bool) -> anyhow::Result<Said> {
    let (sender, lines) = mpsc::channel();
    thread::Builder::new()
        .name("server-output".into())
        .spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Once both addresses are known nobody listens, and lines are dropped.
                let _ = sender.send(line);
            }
        })?;
    let mut address = None;
    let mut timeout = START_TIMEOUT;
    let mut admin = None;
    let mut is_tls = false;
    let mut connections_max = None;
    while let Ok(line) = lines.recv_timeout(timeout) {
        if let Some((_, rest)) = line.split_once(LISTENING) {
            is_tls = rest.starts_with('s');
            address = Some(resolve(rest.trim())?);
            // The admin line, if there is one, is printed right away.
            timeout = Duration::from_millis(500);
        } else if let Some((_, rest)) = line.split_once(ADMIN) {
            admin = Some(resolve(rest.trim())?);
        } else if let Some(rest) = line.trim_start().strip_prefix("connections ") {
            connections_max = rest
                .split_whitespace()
                .next()
                .and_then(|it| it.parse().ok());
        }
        if address.is_some() && (admin.is_some() || !has_admin) {
            break;
        }
    }
    Ok(Said {
        address: address.context("it did not say `listening on http://…`")?,
        admin,
        is_tls,
        connections_max,
    })
}

/// The path and query of such an address; `/` where it has none.
fn path(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/')
        .and_then(|at| rest.get(at..))
        .unwrap_or("/")
        .to_owned()
}

/// Takes `ws://host:port/…`, `http://host:port` or `host:port`.
fn resolve(url: &str) -> anyhow::Result<SocketAddrV4> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    let addresses = host
        .to_socket_addrs()
        .with_context(|| format!("resolve {host:?}"))?;
    let mut v4 = addresses.filter_map(|address| match address {
        std::net::SocketAddr::V4(address) => Some(address),
        std::net::SocketAddr::V6(_) => None,
    });
    v4.next()
        .ok_or_else(|| anyhow!("{host:?} has no IPv4 address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_a_server_prints_are_found_in_either_order() {
        let cases = [
            "  connections  60 at most\nlistening on http://127.0.0.1:8080\nadmin on http://127.0.0.1:9090\n",
            "x\nadmin on http://127.0.0.1:9090\nlistening on http://127.0.0.1:8080\n",
        ];
        for output in cases {
            let said = read_addresses(output.as_bytes(), true).unwrap();
            let ports = (said.address.port(), said.admin.unwrap().port());
            assert_eq!(ports, (8080, 9090));
        }
        assert!(read_addresses("nothing\n".as_bytes(), true).is_err());
    }

    #[test]
    fn urls_resolve_with_and_without_scheme_and_path() {
        for url in [
            "ws://127.0.0.1:81/ws",
            "http://127.0.0.1:81",
            "127.0.0.1:81",
        ] {
            assert_eq!(resolve(url).unwrap().port(), 81);
        }
        assert!(resolve("ws://127.0.0.1").is_err());
        assert_eq!(path("ws://127.0.0.1:81/a/b?c"), "/a/b?c");
        assert_eq!(path("127.0.0.1:81"), "/");
    }

    #[test]
    fn samples_are_those_of_the_whole_name() {
        let metrics = "# HELP a_total x\na_total{o=\"x\"} 3\na_total 4\na_total_more 5\n";
        assert_eq!(samples(metrics, "a_total"), [("{o=\"x\"}", 3.0), ("", 4.0)]);
    }
}
