//! Files that an operator changes while the server runs: keys and certificates.
//!
//! They are looked at now and then rather than watched by the kernel: that works the same on every
//! file system, and for files that are replaced by a rename or behind a symbolic link, as
//! Kubernetes changes secrets.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

/// What tells one state of a file from another; none where it cannot be looked at.
type Look = Option<(SystemTime, u64, u64)>;

/// A file, and how it was when it was last read.
type Known = (PathBuf, Look);

/// The files that are watched.
#[derive(Default, Debug)]
struct Watched {
    files: Vec<Known>,
}

impl Watched {
    /// These files; those that were watched already as they were when they were read.
    fn replaced_by(&self, paths: Vec<PathBuf>) -> Watched {
        let known = |path: &PathBuf| {
            let known = self.files.iter().find(|(known, _)| known == path);
            known.map_or_else(|| look(path), |(_, look)| *look)
        };
        let looked = |path: PathBuf| {
            let look = known(&path);
            (path, look)
        };
        Watched {
            files: paths.into_iter().map(looked).collect(),
        }
    }

    fn looks(&self) -> Vec<Look> {
        self.files.iter().map(|(path, _)| look(path)).collect()
    }

    fn differ(&self, looks: &[Look]) -> bool {
        let known = self.files.iter().map(|(_, look)| look);
        !known.eq(looks.iter())
    }

    fn take(&mut self, looks: Vec<Look>) {
        for ((_, known), look) in self.files.iter_mut().zip(looks) {
            *known = look;
        }
    }
}

fn look(path: &Path) -> Look {
    // Follows symbolic links.
    let found = fs::metadata(path).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&found);
    #[cfg(not(unix))]
    let inode = 0;
    Some((found.modified().ok()?, found.len(), inode))
}

/// Looks at files, and says when one has changed.
#[derive(Clone, Default, Debug)]
pub(super) struct Watch {
    watched: Arc<Mutex<Watched>>,
}

impl Watch {
    /// From now on it is these files. A new one is taken as it is now.
    pub(super) fn set(&self, paths: Vec<PathBuf>) {
        let mut watched = self.lock();
        *watched = watched.replaced_by(paths);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Watched> {
        // What it holds is whole after every statement, so a panic elsewhere spoils nothing.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks every `interval` in a thread of its own, until `changed` says that nobody wants to
    /// know any more. A file that is being written is waited for: two looks have to agree.
    pub(super) fn start(
        &self,
        interval: Duration,
        mut changed: impl FnMut() -> bool + Send + 'static,
    ) -> std::io::Result<()> {
        let watch = self.clone();
        let mut before = Vec::new();
        let body = move || loop {
            #[allow(
                clippy::disallowed_methods,
                reason = "what it waits for is the next look"
            )]
            thread::sleep(interval);
            if watch.has_changed(&mut before) && !changed() {
                return;
            }
        };
        thread::Builder::new().name("watch".into()).spawn(body)?;
        Ok(())
    }

    /// Whether a file is another than it was, and was already so at the last look, which is
    /// `before`.
    fn has_changed(&self, before: &mut Vec<Look>) -> bool {
        let mut watched = self.lock();
        let looks = watched.looks();
        let is_settled = looks == *before;
        let has_changed = is_settled && watched.differ(&looks);
        if has_changed {
            watched.take(looks.clone());
        }
        *before = looks;
        has_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_when_it_has_settled() {
        let folder = std::env::temp_dir().join(format!("tidewheel-watch-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (one, two) = (folder.join("one"), folder.join("two"));
        fs::write(&one, "a").unwrap();
        let watch = Watch::default();
        watch.set(vec![one.clone(), two.clone()]);
        let mut before = Vec::new();
        let mut looks = |expected: &[bool]| {
            for expected in expected {
                assert_eq!(watch.has_changed(&mut before), *expected);
            }
        };
        looks(&[false, false, false]);
        fs::write(&one, "ab").unwrap();
        looks(&[false, true, false, false]);
        // One that was not there, one that is replaced, one that goes away.
        fs::write(&two, "b").unwrap();
        looks(&[false, true, false]);
        fs::write(folder.join("three"), "ab").unwrap();
        fs::rename(folder.join("three"), &one).unwrap();
        looks(&[false, true, false]);
        fs::remove_file(&two).unwrap();
        looks(&[false, true, false]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_grows_is_waited_for() {
        let file = std::env::temp_dir().join(format!("tidewheel-grows-{}", std::process::id()));
        fs::write(&file, "").unwrap();
        let watch = Watch::default();
        watch.set(vec![file.clone()]);
        let mut before = Vec::new();
        for length in 1..5 {
            fs::write(&file, "x".repeat(length)).unwrap();
            assert!(!watch.has_changed(&mut before));
        }
        assert!(watch.has_changed(&mut before));
        fs::remove_file(file).unwrap();
    }
}
