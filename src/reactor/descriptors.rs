//! A descriptor table of one's own for each core.
//!
//! Linux keeps open files in a table that the threads of a process share: looking one up takes a
//! reference count that all cores write, and the limit on descriptors holds for all of them
//! together. `unshare(CLONE_FILES)` gives the calling thread a copy that is its own. What was open
//! before is open in every copy, under the same number; what is opened later is open in one. So
//! pollers and wakers are made before, sockets after.

use std::io;

/// Gives the calling thread a descriptor table of its own.
///
/// # Errors
/// Where the kernel refuses it (a sandbox may), or has no such thing: the thread goes on with the
/// table it has.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn unshare() -> io::Result<()> {
    // SAFETY: the call changes nothing but which table this thread's descriptors are looked up in;
    // every descriptor that is open stays open under its number.
    match unsafe { libc::unshare(libc::CLONE_FILES) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the calling thread a descriptor table of its own, on systems that have them.
///
/// # Errors
/// Always: this system has none.
#[cfg(not(target_os = "linux"))]
pub fn unshare() -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_thread_with_a_table_of_its_own_opens_files_that_others_do_not_see() {
        let opened = std::thread::spawn(|| {
            unshare().ok()?;
            // Many, so that a number is among them that no other test has open by chance.
            let files: Vec<_> = (0..200)
                .filter_map(|_| std::fs::File::open("/dev/null").ok())
                .collect();
            let last = files.last()?.as_raw_fd();
            let here = std::fs::read_link(format!("/proc/thread-self/fd/{last}")).is_ok();
            let leader = std::fs::read_link(format!("/proc/self/fd/{last}")).is_ok();
            Some((here, leader))
        });
        // A sandbox may refuse the call; then there is nothing to see.
        if let Some((here, leader)) = opened.join().unwrap() {
            assert!(here && !leader);
        }
    }
}
