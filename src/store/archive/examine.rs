//! Whether a server could open a folder, without a change to it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::store::StoreError;

/// Holds a folder against what [`crate::store::Store::open`] asks of it. One that is not there, or
/// empty, is good.
///
/// # Errors
/// [`StoreError::Foreign`], [`StoreError::NewerFormat`] and [`StoreError::Locked`], and
/// [`StoreError::File`] where it cannot be read.
pub fn examine(folder: &Path) -> Result<(), StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| StoreError::file(folder, error))?,
    };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    if names.iter().all(|name| name == "lost+found") {
        return Ok(());
    }
    let has = |name: &str| names.iter().any(|found| found == name);
    // Such a folder is ours, whatever became of its format: a start writes that again.
    let is_ours = has("history.db") && has("history.mark");
    match format(folder)? {
        Some(1) => {}
        Some(found) if found > 1 => {
            let folder = folder.to_owned();
            return Err(StoreError::NewerFormat { folder, found });
        }
        _ if is_ours => {}
        _ => return Err(StoreError::Foreign(folder.to_owned())),
    }
    examine_lock(folder)
}

/// The number in the file `format`; none where there is no such file, or something else in it.
fn format(folder: &Path) -> Result<Option<u32>, StoreError> {
    let path = folder.join("format");
    let mut text = Vec::new();
    match File::open(&path).and_then(|file| file.take(256).read_to_end(&mut text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| StoreError::file(&path, error))?,
    };
    let text = str::from_utf8(&text).ok();
    let number = text.and_then(|text| text.strip_prefix("tidewheel history"));
    Ok(number.and_then(|number| number.trim().parse().ok()))
}

/// Takes the lock for a moment, together with others that only look.
#[allow(unsafe_code, reason = "flock(2), which std has from Rust 1.89 on")]
fn examine_lock(folder: &Path) -> Result<(), StoreError> {
    let path = folder.join("lock");
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(|error| StoreError::file(&path, error))?,
    };
    // SAFETY: the descriptor is open for as long as `file` lives; the call takes numbers only.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.kind() != io::ErrorKind::WouldBlock {
        return Err(StoreError::file(&path, error));
    }
    let mut holder = String::new();
    let _unknown = (&mut file).take(20).read_to_string(&mut holder);
    Err(StoreError::Locked {
        folder: folder.to_owned(),
        lock: path,
        holder: holder.trim().parse().ok(),
    })
}
