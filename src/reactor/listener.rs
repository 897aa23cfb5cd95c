//! A core's own listening socket: all cores listen at one address, and the kernel deals
//! connections out among them (`SO_REUSEPORT`).

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::sockets::Stream;
use crate::address::PeerAddress;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
}

/// What the kernel is told about a listener and the connections that come of it. Accepted sockets
/// inherit all of it, which costs no call for each. Besides, they send at once what they are given
/// (`TCP_NODELAY`): the flush has gathered already.
#[derive(Copy, Clone, Debug)]
pub struct SocketOptions {
    /// Connections that may wait to be accepted.
    pub backlog: usize,
    /// Bytes beyond what the network has taken (`TCP_NOTSENT_LOWAT`); 0 leaves it to the system.
    ///
    /// The kernel grows a send buffer to megabytes: without this bound it would hold a stalled
    /// reader's past, uncounted, before the log does.
    pub unsent_bytes_max: usize,
    /// `SO_SNDBUF` in bytes; 0 leaves it to the system.
    pub send_buffer_bytes: usize,
    /// `SO_RCVBUF` in bytes; 0 leaves it to the system.
    pub receive_buffer_bytes: usize,
}

/// Listens at `address`, which may have port 0. A listener for one `processor` is preferred among
/// those at the same address for connections whose packets are handled there
/// (`SO_INCOMING_CPU`, Linux 4.4).
///
/// # Errors
/// Where the address is taken, not ours, or not permitted.
pub fn bind(
    address: SocketAddr,
    options: SocketOptions,
    processor: Option<usize>,
) -> io::Result<Listener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit these, which costs no call for each.
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    if options.unsent_bytes_max > 0 {
        let bytes = u32::try_from(options.unsent_bytes_max).unwrap_or(u32::MAX);
        socket.set_tcp_notsent_lowat(bytes)?;
    }
    if options.send_buffer_bytes > 0 {
        socket.set_send_buffer_size(options.send_buffer_bytes)?;
    }
    if options.receive_buffer_bytes > 0 {
        // Before the handshake: it announces the window.
        socket.set_recv_buffer_size(options.receive_buffer_bytes)?;
    }
    #[cfg(target_os = "linux")]
    if let Some(processor) = processor {
        socket.set_cpu_affinity(processor)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _unknown_here = processor;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(Listener {
        listener: TcpListener::from_std(socket.into()),
    })
}

/// Whether `address` can be had: fails where another process listens there, even one that would share
/// it, as a second server of the same user would.
///
/// # Errors
/// As [`bind`].
pub fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

impl Listener {
    /// Where it listens.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.listener, token, Interest::READABLE)
    }

    /// The next connection that waits, and where it comes from, if there is one.
    pub(super) fn accept(&self) -> io::Result<Option<(Stream, PeerAddress)>> {
        loop {
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    return Ok(Some((Stream::Plain(stream), peer.ip().into())));
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(None),
                    // One that went away before it was accepted says nothing about the next.
                    ErrorKind::Interrupted
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::ConnectionReset => {}
                    _ => return Err(error),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_socket_has_what_was_set_on_the_listener() {
        let options = SocketOptions {
            backlog: 16,
            unsent_bytes_max: 65_536,
            send_buffer_bytes: 20_000,
            receive_buffer_bytes: 30_000,
        };
        let listener = bind(([127, 0, 0, 1], 0).into(), options, None).unwrap();
        let _client = std::net::TcpStream::connect(listener.address().unwrap()).unwrap();
        // The handshake on loopback is over when `connect` returns.
        let Some((Stream::Plain(stream), peer)) = listener.accept().unwrap() else {
            panic!("nothing to accept");
        };
        assert_eq!(peer.to_string(), "127.0.0.1");
        assert!(stream.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        {
            let socket = socket2::SockRef::from(&stream);
            assert_eq!(socket.tcp_notsent_lowat().unwrap(), 65_536);
            // Linux doubles what is asked for, for its own bookkeeping (socket(7)).
            assert_eq!(socket.send_buffer_size().unwrap(), 40_000);
            assert_eq!(socket.recv_buffer_size().unwrap(), 60_000);
        }
    }
}
