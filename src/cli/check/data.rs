//! Whether a data directory can be used, and whether it keeps what it is given.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::cli::units::{ByteSize, GIB};
use crate::store::{FOLDER_ADVICE, StoreError, archive};

/// Kinds of file systems over a network: what they say of `fsync`, and of locks, is not always so.
const NETWORK: [&str; 10] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "fuse.sshfs",
];

/// Those that are memory.
const MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// Less room than this is said.
const FREE_BYTES_MIN: u64 = GIB as u64;

/// What there is to say of the directory, as warnings. Nothing of it stays changed.
///
/// # Errors
/// Where the server could not use it.
pub(super) fn examine(folder: &Path, root: &Path) -> Result<Vec<String>, String> {
    let shown = folder.display();
    let place = existing(folder);
    probe(&place).map_err(|error| {
        format!(
            "--data-dir {shown}: cannot write in {}: {error}; {FOLDER_ADVICE}",
            place.display()
        )
    })?;
    let mut warnings = Vec::new();
    match archive::examine(folder) {
        // This may be the very server whose next configuration is checked.
        Err(error @ StoreError::Locked { .. }) => warnings.push(format!("--data-dir: {error}")),
        examined => examined.map_err(|error| format!("--data-dir: {error}"))?,
    }
    let mounts = fs::read_to_string(root.join("proc/mounts")).unwrap_or_default();
    let place = place.canonicalize().unwrap_or(place);
    match kind_of(&mounts, &place) {
        Some(kind) if NETWORK.contains(&kind) => warnings.push(format!(
            "--data-dir {shown} lies on a network file system ({kind}), which may lose what it said \
             was on disk, and lock nobody out; use a disk of this machine"
        )),
        Some(kind) if MEMORY.contains(&kind) => warnings.push(format!(
            "--data-dir {shown} lies in memory ({kind}): it survives the process, and not the machine"
        )),
        _ => {}
    }
    if let Some(free) = free_bytes(&place).filter(|free| *free < FREE_BYTES_MIN) {
        let free = usize::try_from(free >> 20 << 20).unwrap_or(usize::MAX);
        warnings.push(format!(
            "--data-dir {shown} has {} left; where that is used up, messages are refused or not kept",
            ByteSize(free)
        ));
    }
    Ok(warnings)
}

/// The directory, or the nearest one above it that is there.
fn existing(folder: &Path) -> PathBuf {
    let above = folder.ancestors().find(|place| place.exists());
    match above {
        Some(place) if !place.as_os_str().is_empty() => place.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes a file and takes it away.
fn probe(place: &Path) -> io::Result<()> {
    let file = place.join(format!(".tidewheel-check-{}", std::process::id()));
    fs::File::create_new(&file)?;
    fs::remove_file(&file)
}

/// The kind of file system on which a path lies, by the list of what is mounted.
fn kind_of<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        // A space in a path is written as \040.
        let at = fields.next()?.replace("\\040", " ");
        path.starts_with(&at).then_some((at.len(), fields.next()?))
    });
    // The last of those as long covers the others.
    mounted.max_by_key(|(len, _)| *len).map(|(_, kind)| kind)
}

/// Bytes that may still be written there.
#[allow(
    unsafe_code,
    reason = "the standard library does not ask the system for this"
)]
fn free_bytes(path: &Path) -> Option<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut told = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero, and the system fills in all of `told` where it answers 0.
    let told = unsafe {
        if libc::statvfs(path.as_ptr(), told.as_mut_ptr()) != 0 {
            return None;
        }
        told.assume_init()
    };
    Some(told.f_bavail as u64 * told.f_frsize as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_longest_mount() {
        let mounts =
            "/dev/a / ext4 rw 0 0\nhost:/x /srv nfs4 rw 0 0\nt /srv/a\\040b tmpfs rw 0 0\n";
        let cases = [
            ("/var/lib", "ext4"),
            ("/srv/data", "nfs4"),
            ("/srv/a b/c", "tmpfs"),
            ("/srvx", "ext4"),
        ];
        for (path, kind) in cases {
            assert_eq!(kind_of(mounts, Path::new(path)), Some(kind), "{path}");
        }
    }

    #[test]
    fn a_directory_that_a_server_would_refuse_is_refused() {
        let name = format!("tidewheel-check-data-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let root = Path::new("/");
        assert!(examine(&folder, root).is_ok());
        fs::write(folder.join("other"), "x").unwrap();
        let foreign = examine(&folder, root).unwrap_err();
        assert!(foreign.contains("no data directory of"), "{foreign}");
        fs::write(folder.join("format"), "tidewheel history 2\n").unwrap();
        let newer = examine(&folder, root).unwrap_err();
        assert!(newer.contains("has format 2"), "{newer}");
        fs::write(folder.join("format"), "tidewheel history 1\n").unwrap();
        assert!(examine(&folder, root).is_ok());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing is made");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_is_judged_by_the_one_above() {
        let here = std::env::temp_dir();
        assert_eq!(existing(&here.join("no-such/at/all")), here);
        assert!(examine(&here.join("no-such"), Path::new("/")).is_ok());
        let file = std::env::current_exe().unwrap();
        let refused = examine(&file.join("data"), Path::new("/")).unwrap_err();
        assert!(refused.contains("cannot write in"), "{refused}");
        assert!(free_bytes(&here).is_some());
    }
}
