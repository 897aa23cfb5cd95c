//! `tidewheel history`: history out of a data directory and into one, as text.
//!
//! ```text
//! tidewheel history export --data-dir /var/lib/tidewheel --out history.ndjson
//! tidewheel history import --data-dir /new/place --in history.ndjson
//! ```
//!
//! Works on a directory that no server has open. The text is the store's to say: see
//! [`crate::store::archive`].

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use thiserror::Error;

use super::settings::random_seed;
use super::units::counted;
use crate::gate::{BadGlob, Glob};
use crate::store::archive::{self, ArchiveError, Moved};

/// What is to be done about history on disk.
#[derive(Subcommand, Clone, PartialEq, Debug)]
pub enum HistoryCommand {
    /// Write what a data directory holds as text, one JSON object a line
    Export(Export),
    /// Read such a text into a data directory: all of it, or nothing
    Import(Import),
}

/// `tidewheel history export`.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(after_help = "\
Example:
  tidewheel history export --data-dir /var/lib/tidewheel --out history.ndjson
  tidewheel history export --data-dir /var/lib/tidewheel --room 'chat:*' | gzip > chat.gz

The server must not run. No file is overwritten. With --room there are no bans in the text. Ends with 1 \
where something on disk could not be read: the text has everything else.")]
pub struct Export {
    /// Directory of --data-dir
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Rooms to write: a pattern as in rules for rooms, such as 'chat:*'; without it all
    #[arg(long, value_name = "GLOB")]
    pub room: Option<String>,

    /// File to write; without it, or with -, standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `tidewheel history import`.
#[derive(Args, Clone, PartialEq, Debug)]
#[command(after_help = "\
Example:
  tidewheel history import --data-dir /new/place --in history.ndjson

The server must not run. The directory is made where it is not there. Where a line is wrong, or a room of \
the text is in the directory already, nothing is imported.")]
pub struct Import {
    /// Directory of --data-dir
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// File to read; without it, or with -, standard input
    #[arg(long = "in", value_name = "FILE")]
    pub input: Option<PathBuf>,
}

/// Why history was not moved.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// `--room` has no good pattern.
    #[error("--room: {0}")]
    Pattern(#[from] BadGlob),
    /// A file cannot be read or made.
    #[error("cannot open {path}: {error}{advice}", path = .path.display())]
    File {
        /// The file, as named by the operator.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// The rest.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// What came of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// For the operator, on standard error: standard output may have the history.
    pub text: String,
    /// Whether everything on disk could be read.
    pub is_good: bool,
}

/// Does what was asked for at `now_unix_ms`.
///
/// # Errors
/// [`HistoryError`] where it cannot be done.
pub fn run(
    command: &HistoryCommand,
    now_unix_ms: u64,
    stdin: impl Read,
    stdout: impl Write,
) -> Result<Outcome, HistoryError> {
    match command {
        HistoryCommand::Export(options) => export(options, now_unix_ms, stdout),
        HistoryCommand::Import(options) => import(options, now_unix_ms, stdin),
    }
}

/// The file, unless standard input or output is meant.
fn named(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| *path != Path::new("-"))
}

fn export(options: &Export, now_unix_ms: u64, stdout: impl Write) -> Result<Outcome, HistoryError> {
    let glob = options.room.as_deref().map(Glob::new).transpose()?;
    let wanted = |room: &str| glob.as_ref().is_none_or(|glob| glob.matches(room, ""));
    let with_bans = glob.is_none();
    let folder = &options.data_dir;
    let is_made = Cell::new(false);
    let moved: Result<Moved, HistoryError> = match named(options.out.as_deref()) {
        Some(path) => {
            let out = || -> Result<_, HistoryError> {
                let file = create(path)?;
                is_made.set(true);
                Ok(BufWriter::new(file))
            };
            archive::export(folder, now_unix_ms, wanted, with_bans, out).inspect_err(|_| {
                if is_made.get() {
                    // A part of the text would only be in the way of the next try.
                    let _stays = fs::remove_file(path);
                }
            })
        }
        None => {
            let out = || Ok(BufWriter::new(stdout));
            archive::export(folder, now_unix_ms, wanted, with_bans, out)
        }
    };
    match moved {
        Ok(moved) => Ok(outcome("exported", moved)),
        Err(HistoryError::Archive(ArchiveError::Text(error))) if is_enough(&error) => Ok(Outcome {
            text: String::new(),
            is_good: true,
        }),
        Err(error) => Err(error),
    }
}

/// Whether the reader of the text has gone: `| head -1` has what it wanted.
fn is_enough(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

fn import(options: &Import, now_unix_ms: u64, stdin: impl Read) -> Result<Outcome, HistoryError> {
    let (folder, seed) = (&options.data_dir, random_seed());
    let moved = match named(options.input.as_deref()) {
        Some(path) => {
            let file = File::open(path).map_err(|error| HistoryError::File {
                path: path.to_owned(),
                error,
                advice: "",
            })?;
            archive::import(folder, now_unix_ms, seed, BufReader::new(file))?
        }
        None => archive::import(folder, now_unix_ms, seed, BufReader::new(stdin))?,
    };
    Ok(outcome("imported", moved))
}

/// A new file that only its owner reads: messages are in it.
fn create(path: &Path) -> Result<File, HistoryError> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    options.open(path).map_err(|error| HistoryError::File {
        path: path.to_owned(),
        error,
        advice: "; nothing is overwritten, choose another --out or move the old file away",
    })
}

fn outcome(done: &str, moved: Moved) -> Outcome {
    let Moved {
        rooms,
        messages,
        bans,
        unreadable,
        rooms_lacking,
        commits_missing,
    } = moved;
    let (rooms, bans) = (counted(rooms, "room"), counted(bans, "ban"));
    let messages = counted(messages, "message");
    let mut text = format!("{done} {rooms}, {messages}, {bans}\n");
    match unreadable {
        0 => {}
        1 => text.push_str("1 record or place on disk could not be read, and is not in the text\n"),
        many => text.push_str(&format!(
            "{many} records or places on disk could not be read, and are not in the text\n"
        )),
    }
    if rooms_lacking > 0 {
        text.push_str(&format!(
            "{rooms_lacking} rooms lack messages that they should have\n"
        ));
    }
    if commits_missing > 0 {
        text.push_str(&format!(
            "the last {commits_missing} commits are missing on disk, and what was in them in the text\n"
        ));
    }
    Outcome {
        text,
        is_good: unreadable == 0 && rooms_lacking == 0 && commits_missing == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Parsed, parse_from};

    const NOW_MS: u64 = 1_800_000_000_000;

    /// Runs `tidewheel history …` with this standard input.
    fn run_with(args: &[&str], stdin: &str) -> Result<(Outcome, String), String> {
        let args = ["tidewheel", "history"].iter().chain(args);
        let parsed = parse_from(args, None::<(&str, &str)>).map_err(|error| error.to_string())?;
        let Parsed::History(command) = parsed else {
            return Err(format!("{parsed:?}"));
        };
        let mut stdout = Vec::new();
        let ran = run(&command, NOW_MS, stdin.as_bytes(), &mut stdout);
        let outcome = ran.map_err(|error| error.to_string())?;
        Ok((outcome, String::from_utf8(stdout).unwrap()))
    }

    const TEXT: &str = r#"{"tidewheel_history":1,"whole":true}
{"ban":{"user_id":"mallory","until":"2027-01-31T23:59:59.123Z"}}
{"room":"chat:1","epoch":"000000000000a","offset":2}
{"offset":1,"timestamp":"2026-01-31T23:59:59.123Z","key":{"id":"m1","user_id":"ada"}}
{"offset":2,"timestamp":"2026-01-31T23:59:59.124Z","message_id":"m2","client_id":"000000000000b","user_id":"ada","payload":{"a":[1, 2]}}
{"read":{"user_id":"ada","offset":2}}
{"room":"news","epoch":"000000000000c","offset":0}
"#;

    #[test]
    fn what_is_imported_is_exported() {
        let name = format!("tidewheel-history-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let data = folder.join("data").display().to_string();
        let file = folder.join("out").display().to_string();
        let (outcome, _) = run_with(&["import", "--data-dir", &data], TEXT).unwrap();
        assert_eq!(outcome.text, "imported 2 rooms, 1 message, 1 ban\n");
        let (outcome, text) = run_with(&["export", "--data-dir", &data], "").unwrap();
        assert_eq!((text.as_str(), outcome.is_good), (TEXT, true));
        let some = [
            "export",
            "--data-dir",
            &data,
            "--room",
            "chat:*",
            "--out",
            &file,
        ];
        let (outcome, _) = run_with(&some, "").unwrap();
        assert_eq!(outcome.text, "exported 1 room, 1 message, 0 bans\n");
        assert!(
            run_with(&some, "")
                .unwrap_err()
                .contains("nothing is overwritten")
        );
        let again = ["import", "--data-dir", &data, "--in", &file];
        assert!(
            run_with(&again, "")
                .unwrap_err()
                .starts_with("line 2: room \"chat:1\" is in")
        );
        let nothing = ["export", "--data-dir", &file, "--room", ""];
        assert!(
            run_with(&nothing, "")
                .unwrap_err()
                .starts_with("--room: a pattern is empty")
        );
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_export_that_fails_leaves_no_file_behind() {
        let name = format!("tidewheel-history-none-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let data = folder.join("data").display().to_string();
        let file = folder.join("out");
        let out = file.display().to_string();
        let args = ["export", "--data-dir", &data, "--out", &out];
        let failed = run_with(&args, "").unwrap_err();
        assert!(failed.contains("is no data directory"), "{failed}");
        assert!(!file.exists());
        run_with(&["import", "--data-dir", &data], TEXT).unwrap();
        run_with(&args, "").unwrap();
        assert!(file.exists());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_export_ends_quietly_where_nobody_reads_on() {
        /// A pipe whose reader has gone.
        struct Gone;

        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let name = format!("tidewheel-history-head-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        let data = folder.display().to_string();
        run_with(&["import", "--data-dir", &data], TEXT).unwrap();
        let options = Export {
            data_dir: folder.clone(),
            room: None,
            out: None,
        };
        let outcome = export(&options, NOW_MS, Gone).unwrap();
        assert_eq!((outcome.text.as_str(), outcome.is_good), ("", true));
        fs::remove_dir_all(&folder).unwrap();
    }
}
