//! What the machine allows: cores, descriptors, the kernel's bound on the backlog.

use std::io;
use std::thread::available_parallelism;

use crate::server::Available;

/// Facts about the machine that bound what the options can ask for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Cores this process may use: affinity and the container's quota are counted in.
    pub cores: usize,
    /// Descriptors a table may hold (`RLIMIT_NOFILE`, soft). It bounds the process where its
    /// threads share one table, and each thread that has a table of its own.
    pub descriptors: usize,
    /// What the kernel lowers a larger backlog to (`net.core.somaxconn`), where it says so.
    pub backlog_max: Option<usize>,
    /// Memory of the machine, and what its control group allows this process.
    pub memory: Available,
}

impl Host {
    /// Asks the machine. Call [`raise_descriptor_limit`] first to have the limit it leads to.
    pub fn inspect() -> io::Result<Host> {
        Ok(Host {
            cores: available_parallelism().map_or(1, usize::from),
            descriptors: as_count(descriptor_limit()?.rlim_cur),
            backlog_max: std::fs::read_to_string("/proc/sys/net/core/somaxconn")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
            memory: Available::inspect(),
        })
    }
}

/// Raises the soft limit of descriptors to the hard one, for this process and what it starts.
///
/// Shells and service managers hand out a low soft limit for programs that still use `select`;
/// those that do not are expected to raise it.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = descriptor_limit()?;
    limit.rlim_cur = limit.rlim_max;
    set_descriptor_limit(&limit)
}

#[allow(unsafe_code)]
fn descriptor_limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live `rlimit` of ours, which the call fills.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}

#[allow(unsafe_code)]
fn set_descriptor_limit(limit: &libc::rlimit) -> io::Result<()> {
    // SAFETY: the pointer is to a live `rlimit` of the caller's, which the call only reads.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const *limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A limit as a number; no limit is the largest.
fn as_count(limit: libc::rlim_t) -> usize {
    if limit == libc::RLIM_INFINITY {
        return usize::MAX;
    }
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
        raise_descriptor_limit().unwrap();
        let limit = descriptor_limit().unwrap();
        assert_eq!(limit.rlim_cur, limit.rlim_max);
        let host = Host::inspect().unwrap();
        assert_eq!(host.descriptors, as_count(limit.rlim_max));
        assert!(host.cores >= 1);
    }

    #[test]
    fn no_limit_is_the_largest_number() {
        assert_eq!(as_count(libc::RLIM_INFINITY), usize::MAX);
        assert_eq!(as_count(1_024), 1_024);
    }
}
