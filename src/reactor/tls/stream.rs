//! One TLS stream over a socket that does not block.
//!
//! The handshake and what comes in are here; what goes out is in `sending`.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::ServerConfig;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::ConnectionState;

use super::fault;
use crate::codec::http::{Response, encode_response};
use crate::metrics::{Tls, TlsFault, TlsVersion};

/// Plaintext that is encrypted before the socket is asked whether it takes it, in bytes: two full
/// records. One message of a room is one record.
pub(super) const PLAIN_MAX: usize = 2 * 16 * 1024;

/// What [`PLAIN_MAX`] bytes may become: each record has a header of 5 bytes, in TLS 1.2 a nonce of 8,
/// a tag of 16 and in TLS 1.3 a type of 1. The rest is for a key update or a ticket in front.
const CIPHER_MAX: usize = PLAIN_MAX + 4 * 1024;

/// Ciphertext that is read from the socket at once, in bytes.
const READ_MAX: usize = 64 * 1024;

/// The same where a reader has little room: records are larger than a budget may be.
const READ_MIN: usize = 4 * 1024;

/// The beginning of a record or of a handshake message that is kept until the rest has come, in
/// bytes. A record has 16 KiB and 2 KiB for its overhead at most (RFC 5246 §6.2.3), a usual
/// `ClientHello` some 2 KB.
const INCOMING_MAX: usize = 20 * 1024;

/// What an idle stream costs beside its buffers, in bytes: the growth of the process for each of 5,000,
/// aws-lc's own memory included (docs/tls.md).
const SESSION_BYTES: usize = 3_600;

/// What a handshake costs on top, about: its transcript and the keys that are being agreed on.
const HANDSHAKE_BYTES: usize = 8 * 1024;

/// What all TLS streams of a core share: buffers that one of them uses at a time, and counters.
#[derive(Default, Debug)]
pub struct Shared {
    /// Ciphertext from a socket, behind what was kept of it; decrypted in place.
    incoming: Vec<u8>,
    /// Ciphertext for a socket.
    pub(super) outgoing: Vec<u8>,
    /// Slices in one piece.
    pub(super) gathered: Vec<u8>,
    /// Bytes that the streams hold, as they told last.
    pub held_bytes: usize,
    /// What is counted.
    pub metrics: Tls,
}

impl Shared {
    /// Makes the buffers, the first time.
    fn prepare(&mut self) {
        if self.incoming.is_empty() {
            self.incoming = vec![0; INCOMING_MAX + READ_MAX];
            self.outgoing = vec![0; CIPHER_MAX];
            self.gathered = Vec::with_capacity(PLAIN_MAX);
        }
    }
}

/// What a step of a handshake came to.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Shook {
    /// The peer's next bytes are awaited.
    Waits,
    /// A step was made, and there may be more to read.
    Steps,
    /// It is complete.
    Done,
    /// It failed; the stream is of no use any more.
    Failed,
}

/// What a read came to.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Pulled {
    /// Bytes of plaintext that are in the caller's buffer.
    pub count: usize,
    /// Bytes that were read from the socket.
    pub read: usize,
    /// The socket has nothing more for now, and nothing decrypted waits.
    pub is_drained: bool,
    /// Nothing comes any more: the peer's end, or a fault.
    pub is_end: bool,
}

#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Handshake,
    Open,
    /// We have said that nothing more comes from us.
    Shut,
    /// It is broken.
    Failed,
}

/// A TLS stream to a peer.
pub struct TlsStream {
    pub(super) socket: TcpStream,
    pub(super) session: UnbufferedServerConnection,
    pub(super) stage: Stage,
    /// The peer's end was read, or the socket's.
    pub(super) ended: bool,
    /// The sending side of the socket is to be shut behind what is pending.
    pub(super) shuts: bool,
    /// Whether anything was read so far.
    spoke: bool,
    /// The beginning of a record or of a handshake message. At most [`INCOMING_MAX`] bytes.
    pub(super) incoming: Vec<u8>,
    /// Decrypted bytes that the reader had no room for: at most what one read brought.
    plain: Vec<u8>,
    /// Those of them that a reader has got.
    plain_read: usize,
    /// Ciphertext that the socket did not take so far.
    pub(super) pending: Vec<u8>,
    /// What it told last of how many bytes it holds.
    pub(super) noted: u32,
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// Where plaintext goes: to the reader, and what it has no room for to the stream.
struct Sink<'a> {
    out: &'a mut [u8],
    filled: usize,
    rest: &'a mut Vec<u8>,
}

impl Sink<'_> {
    fn take(&mut self, payload: &[u8]) {
        let room = self.out.get_mut(self.filled..).unwrap_or_default();
        let count = room.len().min(payload.len());
        let (now, later) = payload.split_at(count);
        if let Some(room) = room.get_mut(..count) {
            room.copy_from_slice(now);
        }
        self.filled += count;
        self.rest.extend_from_slice(later);
    }
}

/// What one read of the socket brought.
struct Arrived {
    count: usize,
    is_drained: bool,
}

impl TlsStream {
    /// A stream on a fresh socket, whose handshake is still to come.
    ///
    /// # Errors
    /// Where rustls finds the configuration wanting, which loading it has ruled out.
    pub fn new(
        socket: TcpStream,
        config: Arc<ServerConfig>,
        shared: &mut Shared,
    ) -> Result<TlsStream, rustls::Error> {
        shared.prepare();
        let session = UnbufferedServerConnection::new(config)?;
        shared.metrics.in_progress += 1;
        Ok(TlsStream {
            socket,
            session,
            stage: Stage::Handshake,
            ended: false,
            shuts: false,
            spoke: false,
            incoming: Vec::new(),
            plain: Vec::new(),
            plain_read: 0,
            pending: Vec::new(),
            noted: 0,
        })
    }

    /// Puts into the core's books what the stream holds now.
    pub fn note_held(&mut self, shared: &mut Shared) {
        let buffers = self.incoming.capacity() + self.plain.capacity() + self.pending.capacity();
        let state = match self.stage {
            Stage::Handshake => SESSION_BYTES + HANDSHAKE_BYTES,
            _ => SESSION_BYTES,
        };
        let held = u32::try_from(state + buffers).unwrap_or(u32::MAX);
        let noted = std::mem::replace(&mut self.noted, held);
        shared.held_bytes = (shared.held_bytes + held as usize).saturating_sub(noted as usize);
    }

    /// The socket below.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Whether the handshake is still under way.
    pub fn is_in_handshake(&self) -> bool {
        self.stage == Stage::Handshake
    }

    /// Goes on with the handshake by one read of the socket. `more` says that a short read is not
    /// the last. The other flag of the answer: the socket has nothing more for now.
    pub fn shake(&mut self, more: bool, shared: &mut Shared) -> (Shook, bool) {
        debug_assert!(self.is_in_handshake());
        let held = self.incoming.len();
        let read = match self.read_socket(READ_MIN, more, shared) {
            Ok(read) => read,
            Err(()) => {
                self.give_up(TlsFault::Abandoned, shared);
                return (Shook::Failed, true);
            }
        };
        if read.count == 0 {
            return (Shook::Waits, read.is_drained);
        }
        if !std::mem::replace(&mut self.spoke, true)
            && let Some(found) = shared
                .incoming
                .first()
                .and_then(|b| fault::of_first_byte(*b))
        {
            if found == TlsFault::Http {
                self.say_in_the_clear();
            }
            self.give_up(found, shared);
            return (Shook::Failed, true);
        }
        if let Err(error) = self.pump(held + read.count, &mut [], shared) {
            tracing::debug!(%error, "a TLS handshake failed");
            self.give_up(fault::of_handshake(&error), shared);
            return (Shook::Failed, true);
        }
        if self.incoming.len() >= INCOMING_MAX {
            self.give_up(TlsFault::TooLarge, shared);
            return (Shook::Failed, true);
        }
        self.flush(shared);
        match self.stage {
            Stage::Open => {
                self.note_done(shared);
                (Shook::Done, read.is_drained && self.plain.is_empty())
            }
            Stage::Failed => (Shook::Failed, true),
            _ => (Shook::Steps, read.is_drained),
        }
    }

    fn note_done(&mut self, shared: &mut Shared) {
        let metrics = &mut shared.metrics;
        metrics.in_progress = metrics.in_progress.saturating_sub(1);
        let version = match self.session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => TlsVersion::V12,
            _ => TlsVersion::V13,
        };
        metrics.handshakes.count(version);
        if self.session.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
            metrics.resumed += 1;
        }
    }

    /// Ends a stream that has failed. The peer is told what can be told without waiting.
    pub(super) fn give_up(&mut self, fault: TlsFault, shared: &mut Shared) {
        if self.stage == Stage::Failed {
            return;
        }
        if self.is_in_handshake() {
            shared.metrics.in_progress = shared.metrics.in_progress.saturating_sub(1);
        }
        shared.metrics.failed.count(fault);
        self.stage = Stage::Failed;
        self.ended = true;
        self.flush(shared);
        self.forget_pending(shared);
        self.incoming = Vec::new();
    }

    /// Answers a peer that speaks plain HTTP, which people do by mistake.
    fn say_in_the_clear(&mut self) {
        let answer = Response {
            status: 400,
            content_type: "text/plain; charset=utf-8",
            headers: &[],
            body: b"this port speaks TLS: use https:// or wss://\n",
        };
        let mut bytes = Vec::new();
        encode_response(&answer, false, &mut bytes);
        let _gone = self.socket.write(&bytes);
        let _gone = self.socket.shutdown(Shutdown::Write);
    }

    /// Reads what the peer has sent, decrypted, into `out`; `more` as in [`TlsStream::shake`].
    pub fn pull(&mut self, out: &mut [u8], more: bool, shared: &mut Shared) -> Pulled {
        if !self.plain.is_empty() {
            return self.pull_waiting(out);
        }
        let end = Pulled {
            count: 0,
            read: 0,
            is_drained: true,
            is_end: true,
        };
        if self.ended {
            return end;
        }
        let held = self.incoming.len();
        let Ok(read) = self.read_socket(out.len(), more, shared) else {
            self.ended = true;
            return end;
        };
        if read.count == 0 {
            return Pulled {
                count: 0,
                read: 0,
                is_drained: read.is_drained,
                is_end: false,
            };
        }
        let pumped = self.pump(held + read.count, out, shared);
        let is_too_large = self.incoming.len() >= INCOMING_MAX;
        if let Err(error) = &pumped {
            tracing::debug!(%error, "a TLS stream failed");
        }
        if pumped.is_err() || is_too_large {
            self.give_up(TlsFault::Record, shared);
        } else {
            self.flush(shared);
        }
        let count = pumped.unwrap_or(0);
        Pulled {
            count,
            read: read.count,
            is_drained: read.is_drained && self.plain.is_empty() && !self.ended,
            is_end: count == 0 && self.ended && self.plain.is_empty(),
        }
    }

    fn pull_waiting(&mut self, out: &mut [u8]) -> Pulled {
        let waiting = self.plain.get(self.plain_read..).unwrap_or_default();
        let count = waiting.len().min(out.len());
        for (to, from) in out.iter_mut().zip(waiting) {
            *to = *from;
        }
        self.plain_read += count;
        if self.plain_read >= self.plain.len() {
            self.plain = Vec::new();
            self.plain_read = 0;
        }
        Pulled {
            count,
            read: 0,
            is_drained: false,
            is_end: false,
        }
    }

    /// Reads the socket once, behind what was kept. An error stands for the socket's end.
    fn read_socket(&mut self, room: usize, more: bool, shared: &mut Shared) -> Result<Arrived, ()> {
        let held = self.incoming.len();
        let limit = room.clamp(READ_MIN, READ_MAX);
        let Some(buffer) = shared.incoming.get_mut(held..held + limit) else {
            return Err(());
        };
        let count = loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err(()),
                Ok(count) => break count,
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => break 0,
                    _ => return Err(()),
                },
            }
        };
        if let Some(front) = shared.incoming.get_mut(..held) {
            front.copy_from_slice(&self.incoming);
        }
        Ok(Arrived {
            count,
            is_drained: count == 0 || (count < limit && !more),
        })
    }

    /// Hands the first `have` bytes of the shared buffer to rustls, and does what comes of them.
    /// Answers how many bytes of plaintext are in `out`.
    fn pump(
        &mut self,
        have: usize,
        out: &mut [u8],
        shared: &mut Shared,
    ) -> Result<usize, rustls::Error> {
        let TlsStream {
            session,
            stage,
            ended,
            incoming,
            plain,
            pending,
            ..
        } = self;
        let Shared {
            incoming: buffer,
            outgoing,
            metrics,
            ..
        } = shared;
        let before = pending.len();
        let mut sink = Sink {
            out,
            filled: 0,
            rest: plain,
        };
        let mut opens = false;
        let mut left = buffer.get_mut(..have).unwrap_or_default();
        let result = loop {
            let status = session.process_tls_records(left);
            let mut discard = status.discard;
            let is_over = match status.state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                discard += record.discard;
                                sink.take(record.payload);
                            }
                            Err(_) => break,
                        }
                    }
                    None
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, outgoing, pending);
                    None
                }
                Ok(ConnectionState::TransmitTlsData(sending)) => {
                    sending.done();
                    None
                }
                Ok(ConnectionState::PeerClosed) => {
                    *ended = true;
                    None
                }
                Ok(ConnectionState::WriteTraffic(_)) => {
                    opens = true;
                    Some(Ok(()))
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Some(Ok(())),
                // Early data is not offered, and of other states we know nothing.
                Ok(_) => Some(Err(rustls::Error::General("an unknown state".into()))),
                Err(error) => Some(Err(error)),
            };
            left = left.get_mut(discard..).unwrap_or_default();
            if let Some(result) = is_over {
                break result;
            }
        };
        if result.is_err() {
            // What is left to say is an alert.
            collect(session, left, outgoing, pending);
        } else if opens && *stage == Stage::Handshake && !session.is_handshaking() {
            *stage = Stage::Open;
        }
        // A record's beginning replaces the one before, in memory of its exact size.
        *incoming = left.to_vec();
        metrics.pending_bytes += (pending.len() - before) as u64;
        let filled = sink.filled;
        result.map(|()| filled)
    }
}

type EncodeTlsData<'c> = rustls::unbuffered::EncodeTlsData<'c, ServerConnectionData>;

/// Puts a record of the handshake behind what is pending. The shared buffer is larger than a record.
pub(super) fn encode(data: &mut EncodeTlsData<'_>, outgoing: &mut [u8], pending: &mut Vec<u8>) {
    match data.encode(outgoing) {
        Ok(length) => pending.extend_from_slice(outgoing.get(..length).unwrap_or_default()),
        Err(error) => tracing::error!(%error, "a TLS record is longer than records may be"),
    }
}

/// Takes from rustls what it still has to say.
fn collect(
    session: &mut UnbufferedServerConnection,
    incoming: &mut [u8],
    outgoing: &mut [u8],
    pending: &mut Vec<u8>,
) {
    while session.wants_write() {
        match session.process_tls_records(incoming).state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, outgoing, pending),
            Ok(ConnectionState::TransmitTlsData(sending)) => sending.done(),
            _ => return,
        }
    }
}
