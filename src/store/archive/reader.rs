//! Lines taken together into rooms.

use std::io::{BufRead, Read};

use super::ArchiveError;
use super::fault::LineFault;
use super::line::{self, Line};
use crate::bus::{StoredBan, StoredKey, StoredMessage, StoredRoom};

/// The longest line: the largest message that can be configured, and its metadata.
const LINE_BYTES_MAX: usize = 80 * 1024 * 1024;

/// A text, line by line, with one that was looked at too early.
pub(super) struct Lines<R> {
    input: R,
    /// The line that was read last, from 1.
    number: u64,
    /// The line with which the last room began.
    room_number: u64,
    text: Vec<u8>,
    ahead: Option<Line>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Lines<R> {
        Lines {
            input,
            number: 0,
            room_number: 0,
            text: Vec::new(),
            ahead: None,
        }
    }

    /// The fault, with the line that was read last.
    pub(super) fn fault(&self, fault: LineFault) -> ArchiveError {
        let number = self.number;
        ArchiveError::Line { number, fault }
    }

    /// The fault, with the line with which the last room began.
    pub(super) fn room_fault(&self, fault: LineFault) -> ArchiveError {
        let number = self.room_number;
        ArchiveError::Line { number, fault }
    }

    /// The next line that is not empty; none at the end.
    fn next(&mut self, room: Option<&str>) -> Result<Option<Line>, ArchiveError> {
        if let Some(line) = self.ahead.take() {
            return Ok(Some(line));
        }
        loop {
            self.text.clear();
            let len = read_line(&mut self.input, &mut self.text)?;
            if len == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.text.len() > LINE_BYTES_MAX {
                return Err(self.fault(LineFault::TooLong(LINE_BYTES_MAX)));
            }
            if self.number == 1 && self.text.starts_with(b"\xEF\xBB\xBF") {
                return Err(self.fault(LineFault::ByteOrderMark));
            }
            let Ok(text) = str::from_utf8(&self.text) else {
                return Err(self.fault(LineFault::NotUtf8));
            };
            if !text.trim().is_empty() {
                let line = line::parse(text, room);
                return line.map(Some).map_err(|fault| self.fault(fault));
            }
        }
    }

    /// The first line: whether the history is whole.
    pub(super) fn head(&mut self) -> Result<bool, ArchiveError> {
        match self.next(None) {
            Ok(Some(Line::Head { is_whole })) => Ok(is_whole),
            Ok(None) => {
                self.number = self.number.max(1);
                Err(self.fault(LineFault::Empty))
            }
            Err(ArchiveError::Line {
                number,
                fault: fault @ LineFault::ByteOrderMark,
            }) => Err(ArchiveError::Line { number, fault }),
            Ok(_) | Err(ArchiveError::Line { .. }) => Err(self.fault(LineFault::NotAHistory)),
            Err(error) => Err(error),
        }
    }

    /// The next ban; none where something else follows.
    pub(super) fn ban(&mut self) -> Result<Option<StoredBan>, ArchiveError> {
        match self.next(None)? {
            Some(Line::Ban(ban)) => Ok(Some(ban)),
            other => {
                self.ahead = other;
                Ok(None)
            }
        }
    }

    /// The next room with all that belongs to it; none at the end.
    pub(super) fn room(&mut self) -> Result<Option<StoredRoom>, ArchiveError> {
        let mut room = match self.next(None)? {
            None => return Ok(None),
            Some(Line::Room {
                name,
                epoch,
                offset,
            }) => StoredRoom {
                name,
                epoch,
                offset,
                messages: Vec::new(),
                keys: Vec::new(),
                reads: Vec::new(),
            },
            Some(Line::Ban(_)) => return Err(self.fault(LineFault::LateBan)),
            Some(_) => return Err(self.fault(LineFault::NoRoom)),
        };
        self.room_number = self.number;
        let mut last = 0;
        while let Some(line) = self.next(Some(&room.name))? {
            match line {
                Line::Message {
                    offset,
                    unix_ms,
                    key,
                    body,
                } => {
                    self.follow(&room, last, offset, body.is_some())?;
                    last = offset;
                    let stored = |key| StoredKey {
                        key,
                        offset,
                        unix_ms,
                    };
                    room.keys.extend(key.map(stored));
                    let stored = |body| StoredMessage { unix_ms, body };
                    room.messages.extend(body.map(stored));
                }
                Line::Read(user, offset) => room.reads.push((user, offset)),
                other => {
                    self.ahead = Some(other);
                    break;
                }
            }
        }
        if !room.messages.is_empty() && last != room.offset {
            let (offset, room) = (room.offset, room.name);
            return Err(self.room_fault(LineFault::Newest { room, offset, last }));
        }
        Ok(Some(room))
    }

    /// Whether an offset may come after the last one.
    fn follow(
        &self,
        room: &StoredRoom,
        before: u64,
        found: u64,
        is_message: bool,
    ) -> Result<(), ArchiveError> {
        let is_next = match (room.messages.is_empty(), is_message) {
            // Messages follow on each other, and keys come before them.
            (false, true) => found == before + 1,
            (false, false) => false,
            (true, _) => found > before,
        };
        if is_next && found <= room.offset {
            return Ok(());
        }
        Err(self.fault(LineFault::Order { found, before }))
    }
}

/// Reads up to a line's end, and not much more than the longest line.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    input
        .by_ref()
        .take(LINE_BYTES_MAX as u64 + 2)
        .read_until(b'\n', line)
}
