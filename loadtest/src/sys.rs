//! The calls into the kernel that neither std nor mio offers.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use mio::net::TcpStream;

/// Gives the calling thread a descriptor table of its own, with copies of what is open now.
///
/// A table that one thread alone uses is not locked or counted on each call, and the descriptor
/// limit holds for it alone.
#[allow(unsafe_code)]
pub fn unshare_descriptors() -> io::Result<()> {
    // SAFETY: takes no pointer; descriptors opened so far stay valid in both tables.
    match unsafe { libc::unshare(libc::CLONE_FILES) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Raises the soft limit on descriptors to the hard one, and returns that.
#[allow(unsafe_code)]
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` outlives both calls, which read or write one rlimit each.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if raised {
        Ok(limit.rlim_cur)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks for timers of the calling thread to fire within a microsecond instead of 50.
#[allow(unsafe_code)]
pub fn sharpen_timers() {
    const SLACK_NS: libc::c_ulong = 1_000;
    // SAFETY: PR_SET_TIMERSLACK takes one integer. A refusal costs precision only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS) };
}

/// Where a connection leaves from.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The address.
    pub address: Ipv4Addr,
    /// The port; nothing for the system's choice.
    pub port: Option<u16>,
}

/// True where the kernel lets a socket narrow the range of ports that it connects from
/// (`IP_LOCAL_PORT_RANGE`, Linux 6.3).
pub fn ports_can_be_chosen() -> bool {
    stream_socket().is_ok_and(|socket| choose_port(&socket, 40_000).is_ok())
}

/// Lets the socket connect from this port and no other.
fn choose_port(socket: &OwnedFd, port: u16) -> io::Result<()> {
    // include/uapi/linux/in.h; the lower bound in the lower half.
    const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
    let range = u32::from(port) << 16 | u32::from(port);
    set_option(socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range)
}

/// Opens a connection from `source` without waiting for it.
///
/// The port is taken at connect (`IP_BIND_ADDRESS_NO_PORT`), so that one may serve several
/// targets. `receive_buffer_bytes` is set before the handshake, which announces the window.
pub fn connect_from(
    source: Option<Source>,
    target: SocketAddrV4,
    receive_buffer_bytes: Option<u32>,
) -> io::Result<TcpStream> {
    let socket = stream_socket()?;
    if let Some(bytes) = receive_buffer_bytes {
        set_option(
            &socket,
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            &(bytes as libc::c_int),
        )?;
    }
    if let Some(Source { address, port }) = source {
        let yes: libc::c_int = 1;
        set_option(
            &socket,
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            &yes,
        )?;
        if let Some(port) = port {
            choose_port(&socket, port)?;
        }
        bind(&socket, SocketAddrV4::new(address, 0))?;
    }
    match connect(&socket, target) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(std::net::TcpStream::from(socket))),
    }
}

/// Listens at an address that others of this process may listen at too; port 0 is any.
///
/// `backlog` connections may wait to be accepted: std's 128 drop a burst of handshakes, and each of
/// those waits a second for its repeat.
#[allow(unsafe_code)]
pub fn listen_shared(address: SocketAddrV4, backlog: i32) -> io::Result<TcpListener> {
    let socket = stream_socket()?;
    let yes: libc::c_int = 1;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &yes)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, &yes)?;
    bind(&socket, address)?;
    // SAFETY: takes no pointer.
    match unsafe { libc::listen(socket.as_raw_fd(), backlog) } {
        0 => Ok(TcpListener::from(socket)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the socket end with a reset when it is closed: no TIME_WAIT keeps its port.
pub fn reset_on_close(stream: &impl AsRawFd) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    set_option(stream, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

/// A timer that a poll can wait for, to the microsecond: a poll's own time-out counts milliseconds.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    /// One that is not set.
    #[allow(unsafe_code)]
    pub fn new() -> io::Result<Alarm> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: takes no pointer.
        let timer = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if timer < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above has just opened this descriptor and nothing else owns it.
        Ok(Alarm(unsafe { OwnedFd::from_raw_fd(timer) }))
    }

    /// Rings once after `delay`, instead of what was set before.
    #[allow(unsafe_code)]
    pub fn set(&self, delay: Duration) -> io::Result<()> {
        // Zero would switch it off.
        let delay = delay.max(Duration::from_nanos(1));
        let zero = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let timer = libc::itimerspec {
            it_interval: zero,
            it_value: libc::timespec {
                tv_sec: delay.as_secs() as libc::time_t,
                tv_nsec: libc::c_long::from(delay.subsec_nanos()),
            },
        };
        // SAFETY: `timer` is a live itimerspec that the kernel only reads; no old value is asked
        // for.
        let result = unsafe {
            libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const timer, ptr::null_mut())
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[allow(unsafe_code)]
fn stream_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: takes no pointer.
    let socket = unsafe { libc::socket(libc::AF_INET, kind, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above has just opened this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

#[allow(unsafe_code)]
fn set_option<T>(socket: &impl AsRawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is a live T of that many bytes, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            bytes,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[allow(unsafe_code)]
fn bind(socket: &OwnedFd, address: SocketAddrV4) -> io::Result<()> {
    let (address, bytes) = raw_address(address);
    // SAFETY: `address` is a live sockaddr_in of that many bytes, which the kernel only reads.
    match unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
fn connect(socket: &OwnedFd, address: SocketAddrV4) -> io::Result<()> {
    let (address, bytes) = raw_address(address);
    // SAFETY: `address` is a live sockaddr_in of that many bytes, which the kernel only reads.
    match unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn raw_address(address: SocketAddrV4) -> (libc::sockaddr_in, libc::socklen_t) {
    let raw = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*address.ip()).to_be(),
        },
        sin_zero: [0; 8],
    };
    (raw, size_of::<libc::sockaddr_in>() as libc::socklen_t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_leaves_from_the_address_it_is_bound_to() {
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let listener = listen_shared(any, 1_024).unwrap();
        listener.set_nonblocking(false).unwrap();
        let target = format!("{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let address = Ipv4Addr::new(127, 0, 0, 7);
        let source = |port| Some(Source { address, port });
        let stream = connect_from(source(None), target, Some(4_096)).unwrap();
        reset_on_close(&stream).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), address);
    }

    #[test]
    fn a_chosen_port_is_taken_and_is_not_to_be_had_twice() {
        if !ports_can_be_chosen() {
            println!("this kernel has no IP_LOCAL_PORT_RANGE: the system chooses ports");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = format!("{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let address = Ipv4Addr::new(127, 0, 0, 9);
        let source = Some(Source {
            address,
            port: Some(47_011),
        });
        let stream = connect_from(source, target, None).unwrap();
        reset_on_close(&stream).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.port(), 47_011);
        let error = connect_from(source, target, None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    }

    #[test]
    fn descriptors_opened_after_the_split_are_private() {
        let opened = std::thread::spawn(|| {
            unshare_descriptors().unwrap();
            let sockets: Vec<_> = (0..200).map(|_| stream_socket().unwrap()).collect();
            let highest = sockets.last().unwrap().as_raw_fd();
            // Still open here, yet unknown to the thread that looks next.
            (sockets, highest)
        });
        let (sockets, highest) = opened.join().unwrap();
        assert!(!std::path::Path::new(&format!("/proc/self/fd/{highest}")).exists());
        std::mem::forget(sockets);
    }

    #[test]
    fn the_descriptor_limit_rises_to_the_hard_one() {
        assert_eq!(
            raise_descriptor_limit().unwrap(),
            raise_descriptor_limit().unwrap()
        );
        sharpen_timers();
    }
}
