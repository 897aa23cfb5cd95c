//! The bare loop's other way to send: in batches, through a ring shared with the kernel.
//!
//! Each send is an entry in the ring, and one call submits a batch of them and waits for all. A
//! table of the ring's own for the sockets made no difference that could be measured.

use std::io::{self, ErrorKind};
use std::os::fd::RawFd;

use anyhow::Context;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};

/// Sends that one call submits.
const BATCH: usize = 256;

/// A ring, which belongs to the thread that made it.
pub struct Ring {
    ring: IoUring,
}

impl Ring {
    /// Makes a ring, where the kernel lets us.
    pub fn new() -> anyhow::Result<Ring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .build(BATCH as u32)
            .context(
                "this system has no io_uring for us: it takes Linux 6.1, kernel.io_uring_disabled=0, \
                 and a container that permits it",
            )?;
        Ok(Ring { ring })
    }

    /// Sends all of `bytes` to each socket, and waits until they have taken it. Answers the
    /// positions of those that have not.
    pub fn send_to_all(&mut self, sockets: &[RawFd], bytes: &[u8]) -> io::Result<Vec<usize>> {
        let mut results = Vec::new();
        for batch in sockets.chunks(BATCH) {
            let first = results.len();
            results.resize(first + batch.len(), 0);
            self.send_batch(batch, bytes, results.get_mut(first..).unwrap_or_default())?;
        }
        let is_short = |sent: &i32| usize::try_from(*sent) != Ok(bytes.len());
        let results = results.iter().enumerate();
        Ok(results
            .filter(|(_, sent)| is_short(sent))
            .map(|(position, _)| position)
            .collect())
    }

    #[allow(unsafe_code)]
    fn send_batch(
        &mut self,
        sockets: &[RawFd],
        bytes: &[u8],
        results: &mut [i32],
    ) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| ErrorKind::InvalidInput)?;
        let mut queue = self.ring.submission();
        for (position, socket) in sockets.iter().enumerate() {
            let entry = opcode::Send::new(Fd(*socket), bytes.as_ptr(), length)
                .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                .build()
                .user_data(position as u64);
            // SAFETY: the kernel reads `bytes` until the entry has completed, and this function
            // does not return before all of its entries have.
            unsafe { queue.push(&entry) }.map_err(|_| ErrorKind::OutOfMemory)?;
        }
        drop(queue);
        let mut left = sockets.len();
        while left > 0 {
            if let Err(error) = self.ring.submit_and_wait(left)
                && error.kind() != ErrorKind::Interrupted
            {
                // Entries may be under way, and nothing would say when they end.
                eprintln!("io_uring_enter: {error}");
                std::process::abort();
            }
            for completion in self.ring.completion() {
                left -= 1;
                if let Some(result) = results.get_mut(completion.user_data() as usize) {
                    *result = completion.result();
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::thread;

    use super::*;

    #[test]
    fn everyone_gets_all_of_it_and_who_is_gone_is_named() {
        // A sandbox may have no io_uring; then there is nothing to see.
        let Ok(mut ring) = Ring::new() else { return };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (listener.accept().unwrap().0, client)
        };
        // More than a socket buffer holds, to more sockets than a batch does.
        let bytes = vec![7u8; 1 << 18];
        let (servers, clients): (Vec<_>, Vec<_>) = (0..BATCH + 5).map(|_| pair()).unzip();
        servers[3].shutdown(std::net::Shutdown::Write).unwrap();
        let length = bytes.len();
        let reader = thread::spawn(move || {
            let counts = clients.into_iter().map(|mut client| {
                let mut all = vec![0; length];
                client.read_exact(&mut all).map_or(0, |()| all.len())
            });
            counts.filter(|count| *count == length).count()
        });
        let sockets: Vec<RawFd> = servers.iter().map(AsRawFd::as_raw_fd).collect();
        assert_eq!(ring.send_to_all(&sockets, &bytes).unwrap(), [3]);
        assert_eq!(reader.join().unwrap(), BATCH + 4);
    }
}
