//! What a run needs of ports and descriptors: found out before it, not in the midst of it.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use mio::net::TcpStream;

use crate::sys::{self, Source};

/// Clients that one thread takes on by default: its descriptors, less some for itself.
const CLIENTS_PER_THREAD: usize = 19_000;
/// Connections from one source address where we choose the ports, as long as there are addresses.
const PER_SOURCE_CHOSEN: usize = 20_000;
/// The same where the system does. Linux tries every other port first: past half the range (14,000
/// of 28,000) each connect searches the whole first half, and connecting slows down from 49,000 to
/// 700 a second.
const PER_SOURCE: usize = 10_000;
/// Source addresses there may be: 127.0.0.2 to 127.0.0.60.
const SOURCES_MAX: u8 = 59;
/// Descriptors that a worker needs besides its clients.
const DESCRIPTORS_SPARE: u64 = 64;
/// Ports in use by others that a connect passes over before it gives up.
const PASSES_MAX: usize = 4_096;

/// Threads for so many clients.
pub fn threads(clients: usize, asked: Option<usize>) -> usize {
    let threads = asked.unwrap_or(clients.div_ceil(CLIENTS_PER_THREAD));
    threads.clamp(1, clients.max(1))
}

/// Where connections leave from: addresses and ports, each pair once.
#[derive(Debug)]
pub struct Ports {
    addresses: Vec<Ipv4Addr>,
    low: u16,
    count: u64,
    /// We choose the port, and no search is needed.
    are_chosen: bool,
    turn: AtomicU64,
}

impl Ports {
    /// For so many connections to `target`; the system's choice where that is not on loopback.
    pub fn plan(target: SocketAddrV4, clients: usize, asked: Option<u8>) -> anyhow::Result<Ports> {
        let (low, high) = local_ports();
        let are_chosen = target.ip().is_loopback() && sys::ports_can_be_chosen();
        let per_source = if are_chosen {
            PER_SOURCE_CHOSEN
        } else {
            PER_SOURCE
        };
        let wanted = clients
            .div_ceil(per_source)
            .clamp(1, usize::from(SOURCES_MAX));
        let addresses = asked.map_or(wanted, usize::from);
        ensure!(
            (1..=usize::from(SOURCES_MAX)).contains(&addresses),
            "--source-addrs {addresses}: 1 to {SOURCES_MAX} are possible (127.0.0.2 and up)"
        );
        let count = usize::from(high - low) + 1;
        ensure!(
            clients <= addresses * count,
            "{clients} clients from {addresses} addresses need {} ports more than the {count} \
             each that net.ipv4.ip_local_port_range gives: give --source-addrs {} or more (up to \
             {SOURCES_MAX}), or widen that range",
            clients - addresses * count,
            clients.div_ceil(count)
        );
        let addresses = match target.ip().is_loopback() {
            true => (0..addresses as u8)
                .map(|index| Ipv4Addr::new(127, 0, 0, 2 + index))
                .collect(),
            false => Vec::new(),
        };
        // Another run on this machine most likely begins elsewhere.
        let first = u64::from(std::process::id()) * 7_919 % count as u64;
        Ok(Ports {
            turn: AtomicU64::new(first * addresses.len() as u64),
            addresses,
            low,
            count: count as u64,
            are_chosen,
        })
    }

    /// Opens a connection from the next free pair of address and port.
    pub fn connect(
        &self,
        target: SocketAddrV4,
        receive_buffer_bytes: Option<u32>,
    ) -> io::Result<TcpStream> {
        let mut passes = 0;
        loop {
            match sys::connect_from(self.next(), target, receive_buffer_bytes) {
                Err(error)
                    if self.are_chosen
                        && passes < PASSES_MAX
                        && error.raw_os_error() == Some(libc::EADDRNOTAVAIL) =>
                {
                    passes += 1;
                }
                result => return result,
            }
        }
    }

    fn next(&self) -> Option<Source> {
        let addresses = self.addresses.len() as u64;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let address = self.addresses.get((turn % addresses.max(1)) as usize)?;
        let port = self.low + (turn / addresses % self.count) as u16;
        Some(Source {
            address: *address,
            port: self.are_chosen.then_some(port),
        })
    }
}

/// Says before the run what would fail in the midst of it.
pub fn check(
    clients: usize,
    threads: usize,
    publishers: usize,
    server_connections_max: Option<u64>,
) -> anyhow::Result<()> {
    let descriptors = sys::raise_descriptor_limit().context("raise the descriptor limit")?;
    let wanted = clients.div_ceil(threads) as u64 + DESCRIPTORS_SPARE;
    ensure!(
        wanted <= descriptors,
        "{clients} clients on {threads} threads need {wanted} descriptors each, {} more than the \
         limit of {descriptors}: give --threads {} or more, or raise `ulimit -n`",
        wanted - descriptors,
        clients as u64 / descriptors.saturating_sub(DESCRIPTORS_SPARE).max(1) + 1
    );
    if let Some(most) = server_connections_max {
        let wanted = (clients + publishers) as u64;
        ensure!(
            wanted <= most,
            "{clients} clients and {publishers} publishers are {} more than the {most} connections \
             that this server takes: give it more --shards (by --server-args), or raise `ulimit -n`",
            wanted - most
        );
    }
    let open = fs::read_to_string("/proc/sys/fs/file-nr").unwrap_or_default();
    let mut open = open
        .split_whitespace()
        .map_while(|it| it.parse::<u64>().ok());
    if let (Some(used), Some(most)) = (open.next(), open.nth(1)) {
        // Both ends are on this machine.
        let wanted = used + 2 * clients as u64;
        ensure!(
            wanted <= most,
            "{clients} clients and as many ends at the server are {} files more than fs.file-max \
             allows: raise that",
            wanted - most
        );
    }
    Ok(())
}

/// Ports that one address can connect from; Linux's default where that cannot be read.
fn local_ports() -> (u16, u16) {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = range
        .split_whitespace()
        .map_while(|bound| bound.parse::<u16>().ok());
    match (bounds.next(), bounds.next()) {
        (Some(low), Some(high)) if low <= high => (low, high),
        _ => (32_768, 60_999),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_will_not_do_are_named_before_the_run() {
        let error = check(10_000_000, 1, 0, None).unwrap_err().to_string();
        assert!(error.contains("--threads"), "{error}");
        let error = check(98, 1, 2, Some(60)).unwrap_err().to_string();
        assert!(
            error.contains("40 more") && error.contains("--shards"),
            "{error}"
        );
        check(100, 1, 0, Some(100)).unwrap();
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80);
        let error = Ports::plan(target, 1_000_000, Some(1)).unwrap_err();
        assert!(error.to_string().contains("--source-addrs"), "{error}");
    }

    #[test]
    fn a_million_connections_leave_from_different_pairs() {
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80);
        let ports = Ports::plan(target, 1_000_000, None).unwrap();
        if !ports.are_chosen {
            println!("this kernel has no IP_LOCAL_PORT_RANGE: the system chooses ports");
            return;
        }
        let mut pairs: Vec<_> = (0..1_000_000)
            .map(|_| ports.next().map(|source| (source.address, source.port)))
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), 1_000_000);
    }
}
