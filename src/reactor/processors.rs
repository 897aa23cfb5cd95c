//! Which processor a core's thread runs on.

use std::io;

/// The processors that this process may use, by the system's numbers.
///
/// A container or `taskset` may leave out some, so core 0's processor need not be processor 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Processors(Vec<usize>);

impl Processors {
    /// Asks the system.
    ///
    /// # Errors
    /// Where the system does not say, or has no such thing.
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    pub fn allowed() -> io::Result<Processors> {
        // SAFETY: a `cpu_set_t` is an array of integers, for which all zeros is the empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a live set of ours of that many bytes, which the call fills;
        // 0 stands for the calling thread.
        let result =
            unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the number is below the set's size, so the bit lies within it.
        let is_in = |processor: usize| unsafe { libc::CPU_ISSET(processor, &set) };
        let most = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
        Ok(Processors((0..most).filter(|it| is_in(*it)).collect()))
    }

    /// Asks the system.
    ///
    /// # Errors
    /// Always: this system has no such call.
    #[cfg(not(target_os = "linux"))]
    pub fn allowed() -> io::Result<Processors> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// The processor of a core: they go round where there are more cores than processors.
    pub fn of_core(&self, core: usize) -> Option<usize> {
        let turn = core.checked_rem(self.0.len())?;
        self.0.get(turn).copied()
    }
}

/// Keeps the calling thread on one processor.
///
/// # Errors
/// Where the system refuses, as it does for a processor that the process may not use.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn pin(processor: usize) -> io::Result<()> {
    if processor >= usize::try_from(libc::CPU_SETSIZE).unwrap_or(0) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: a `cpu_set_t` is an array of integers, for which all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is below the set's size (above), so the bit lies within it.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the pointer is to a live set of that many bytes, which the call only reads; 0 stands
    // for the calling thread.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps the calling thread on one processor, on systems that can.
///
/// # Errors
/// Always: this system has no such call.
#[cfg(not(target_os = "linux"))]
pub fn pin(_processor: usize) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_use_that_processor_alone() {
        let pinned = std::thread::spawn(|| {
            let last = *Processors::allowed().unwrap().0.last().unwrap();
            pin(last).unwrap();
            (last, Processors::allowed().unwrap())
        });
        let (last, left) = pinned.join().unwrap();
        assert_eq!(left, Processors(vec![last]));
    }

    #[test]
    fn cores_go_round_the_processors_there_are() {
        let processors = Processors(vec![2, 5]);
        let of: Vec<_> = (0..3).map(|core| processors.of_core(core)).collect();
        assert_eq!(of, [Some(2), Some(5), Some(2)]);
        assert_eq!(Processors(Vec::new()).of_core(0), None);
    }

    #[test]
    fn a_processor_that_cannot_be_is_refused() {
        assert!(pin(usize::MAX).is_err());
    }
}
