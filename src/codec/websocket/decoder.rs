//! Bytes from a client in, messages and control frames out.
//!
//! ```text
//!             whole frame in the input                      InPlace, no copy, no heap
//!  idle ───────────────────────────────────────► idle
//!    │  header or payload cut off                  ▲
//!    ▼                                             │        Assembled, the buffer moves out
//!  Partial: header ──► data or control payload ────┤
//!                ▲                                 │
//!                └───── message still open ◄───────┘
//! ```

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::close::CloseFrame;
use super::fault::Fault;
use super::header::{CONTROL_BYTES_MAX, HEADER_BYTES_MAX, Header};
use super::item::{ControlPayload, Item, Payload, Text};
use super::mask;
use super::message::Message;
use super::utf8;

/// What one message may cost.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Payload of a message, all fragments together, in bytes. More is a fault as soon as a
    /// header claims it, before memory is taken.
    pub message_bytes_max: usize,
    /// Data frames of one message, empty ones too.
    pub fragments_max: u32,
}

/// What a call took from its input, and what came of it.
#[derive(PartialEq, Eq, Debug)]
pub struct Decoded<'a> {
    /// Bytes taken from the start of the input. The rest belongs into the next call.
    pub consumed: usize,
    /// `None`: all of the input was taken, and more is needed.
    pub item: Option<Item<'a>>,
}

/// The state of one client's stream between reads: nothing, or the part of a frame or message
/// that arrived.
///
/// ```
/// use tidewheel::codec::websocket::{Decoder, Item, Limits, client, OpCode, Data};
///
/// let limits = Limits { message_bytes_max: 65_536, fragments_max: 64 };
/// let mut input = Vec::new();
/// client::encode_masked(OpCode::Data(Data::Text), [1, 2, 3, 4], b"hello", &mut input);
///
/// let mut decoder = Decoder::default();
/// let decoded = decoder.decode(&mut input, &limits)?;
/// assert!(matches!(decoded.item, Some(Item::Text(text)) if *text == *b"hello"));
/// # Ok::<(), tidewheel::codec::websocket::Fault>(())
/// ```
#[derive(Default, Debug)]
pub struct Decoder {
    /// Invariant: present only while a header is incomplete, a payload is, or a message is open.
    partial: Option<Box<Partial>>,
}

/// What is kept of an unfinished frame, and of an unfinished message.
#[derive(Default, Debug)]
struct Partial {
    frame: FrameProgress,
    message: Message,
}

/// How far the frame at the end of the input got.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // it lives in a box already
enum FrameProgress {
    /// Between frames (no octets), or inside a header.
    Header(HeaderOctets),
    /// Inside the payload of a data frame.
    Data(DataFrame),
    /// Inside the payload of a control frame.
    Control(ControlFrame),
}

impl Default for FrameProgress {
    fn default() -> FrameProgress {
        FrameProgress::Header(HeaderOctets::default())
    }
}

/// What one step of the decoder came to.
enum Step {
    /// Nothing whole yet.
    More,
    /// A message of this many bytes, which end where the step ended. Text is not checked yet.
    InPlace { is_text: bool, bytes: usize },
    /// Something that does not lie in the input.
    Item(Item<'static>),
}

impl Decoder {
    /// Takes bytes from the start of `input`, up to the end of the next message or control frame.
    ///
    /// Call it again with the rest until there is none. After a fault or an [`Item::Close`] the
    /// stream has no further meaning, and the decoder should not be called again.
    #[inline]
    pub fn decode<'a>(
        &mut self,
        input: &'a mut [u8],
        limits: &Limits,
    ) -> Result<Decoded<'a>, Fault> {
        let mut at = 0;
        while at < input.len() {
            let rest = input.get_mut(at..).unwrap_or_default();
            let (taken, step) = self.step(rest, limits)?;
            at += taken;
            match step {
                Step::More => {}
                Step::InPlace { is_text, bytes } => {
                    let payload = input.get_mut(at - bytes..at).unwrap_or_default();
                    let item = if is_text {
                        // RFC 6455 §8.1: text that is not UTF-8 fails the connection.
                        let text = utf8::check(payload).map_err(|at| Fault::TextNotUtf8 { at })?;
                        Item::Text(Text::InPlace(text))
                    } else {
                        Item::Binary(Payload::InPlace(payload))
                    };
                    return Ok(Decoded {
                        consumed: at,
                        item: Some(item),
                    });
                }
                Step::Item(item) => {
                    return Ok(Decoded {
                        consumed: at,
                        item: Some(item),
                    });
                }
            }
        }
        Ok(Decoded {
            consumed: at,
            item: None,
        })
    }

    /// Bytes of heap that are held for the peer: none when idle.
    pub fn heap_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| {
            size_of::<Partial>() + partial.message.heap_bytes()
        })
    }

    /// Whether the stream may end here without cutting a frame or a message.
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Goes on by a header and the payload behind it, or by a part of them.
    ///
    /// With input, it takes some: `decode` ends.
    fn step(&mut self, input: &mut [u8], limits: &Limits) -> Result<(usize, Step), Fault> {
        let (taken, header) = match self.partial.as_deref_mut() {
            None => match Header::parse(input)? {
                Some((header, bytes)) => (bytes, Some(header)),
                None => {
                    let partial = self.partial.get_or_insert_default();
                    let mut octets = HeaderOctets::default();
                    let taken = octets.append(input);
                    partial.frame = FrameProgress::Header(octets);
                    (taken, None)
                }
            },
            Some(Partial {
                frame: FrameProgress::Header(octets),
                ..
            }) => octets.complete(input)?,
            Some(Partial {
                frame: FrameProgress::Data(frame),
                message,
            }) => {
                let (taken, ended) = frame.advance(message, input)?;
                return Ok((taken, self.end_data(ended)));
            }
            Some(Partial {
                frame: FrameProgress::Control(frame),
                ..
            }) => {
                let taken = frame.advance(input);
                let ended = frame.end()?;
                return Ok((taken, self.end_control(ended)));
            }
        };
        let Some(header) = header else {
            return Ok((taken, Step::More));
        };
        let payload = input.get_mut(taken..).unwrap_or_default();
        let (more, step) = match header.opcode {
            OpCode::Data(kind) => self.begin_data(kind, &header, payload, limits)?,
            OpCode::Control(kind) => self.begin_control(kind, &header, payload)?,
        };
        Ok((taken + more, step))
    }

    /// Starts a data frame, and takes what is there of its payload.
    #[inline]
    fn begin_data(
        &mut self,
        kind: Data,
        header: &Header,
        input: &mut [u8],
        limits: &Limits,
    ) -> Result<(usize, Step), Fault> {
        let open = self
            .partial
            .as_deref()
            .map(|p| &p.message)
            .filter(|m| m.is_open());
        let is_text = match (kind, open) {
            (Data::Text, None) => true,
            (Data::Binary, None) => false,
            (Data::Continue, Some(message)) => message.is_text(),
            // RFC 6455 §5.4: a message starts with text or binary, and goes on with continuations.
            (Data::Continue, None) => return Err(Fault::UnexpectedContinuation),
            // RFC 6455 §5.4: the fragments of two messages are not interleaved.
            (Data::Text | Data::Binary, Some(_)) => return Err(Fault::ExpectedContinuation),
            (Data::Reserved(code), _) => return Err(Fault::ReservedOpcode(code)),
        };
        let (arrived, fragments) = open.map_or((0, 0), |m| (m.len(), m.fragments()));
        let bytes = within_limits(header, arrived, fragments, limits)?;

        if open.is_none() && header.is_final && input.len() >= bytes {
            let payload = input.get_mut(..bytes).unwrap_or_default();
            mask::unmask(payload, header.mask);
            self.partial = None;
            return Ok((bytes, Step::InPlace { is_text, bytes }));
        }
        let partial = self.partial.get_or_insert_default();
        partial.message.begin_fragment(is_text);
        let mut frame = DataFrame {
            is_final: header.is_final,
            mask: header.mask,
            remaining: bytes,
        };
        let (taken, ended) = frame.advance(&mut partial.message, input)?;
        partial.frame = FrameProgress::Data(frame);
        Ok((taken, self.end_data(ended)))
    }

    /// Starts a control frame, which may come between the fragments of a message (RFC 6455 §5.4),
    /// and takes what is there of its payload.
    fn begin_control(
        &mut self,
        kind: Control,
        header: &Header,
        input: &mut [u8],
    ) -> Result<(usize, Step), Fault> {
        let mut frame = ControlFrame {
            kind,
            mask: header.mask,
            // The header's invariant: it fits. If it did not, a length of 125 is all we hold.
            remaining: u8::try_from(header.payload_bytes).unwrap_or(CONTROL_BYTES_MAX as u8),
            payload: ControlPayload::new(&[]),
        };
        let taken = frame.advance(input);
        let ended = frame.end()?;
        if ended.is_none() {
            self.partial.get_or_insert_default().frame = FrameProgress::Control(frame);
        }
        Ok((taken, self.end_control(ended)))
    }

    /// Leaves a data frame that has ended, and with its last frame the message.
    fn end_data(&mut self, ended: Ended) -> Step {
        match ended {
            Ended::NotYet => Step::More,
            Ended::Fragment => {
                self.end_frame();
                Step::More
            }
            Ended::Message { is_text, bytes } => {
                self.end_frame();
                Step::Item(if is_text {
                    Item::Text(Text::Assembled(bytes))
                } else {
                    Item::Binary(Payload::Assembled(bytes))
                })
            }
        }
    }

    /// Leaves a control frame that has ended.
    fn end_control(&mut self, ended: Option<Item<'static>>) -> Step {
        match ended {
            None => Step::More,
            Some(item) => {
                self.end_frame();
                Step::Item(item)
            }
        }
    }

    /// Back to between frames: without heap, unless a message is open.
    fn end_frame(&mut self) {
        match self.partial.as_deref_mut() {
            Some(partial) if partial.message.is_open() => partial.frame = FrameProgress::default(),
            _ => self.partial = None,
        }
    }
}

/// Holds a data frame's header against the limits, and gives the length of its payload.
///
/// `arrived` and `fragments` are of the open message, without this frame.
#[inline]
fn within_limits(
    header: &Header,
    arrived: usize,
    fragments: u32,
    limits: &Limits,
) -> Result<usize, Fault> {
    let max = limits.message_bytes_max;
    let too_large = |claimed| Fault::MessageTooLarge { claimed, max };
    // RFC 6455 §10.4: limits on the size of a frame and of a reassembled message are ours to set.
    let bytes =
        usize::try_from(header.payload_bytes).map_err(|_| too_large(header.payload_bytes))?;
    if max.checked_sub(arrived).is_none_or(|room| bytes > room) {
        return Err(too_large(
            header.payload_bytes.saturating_add(arrived as u64),
        ));
    }
    if fragments >= limits.fragments_max {
        return Err(Fault::TooManyFragments {
            max: limits.fragments_max,
        });
    }
    Ok(bytes)
}

/// What the end of a data frame's payload brought.
enum Ended {
    /// It has not ended.
    NotYet,
    /// The frame ended, its message goes on.
    Fragment,
    /// The message ended with it.
    Message { is_text: bool, bytes: Vec<u8> },
}

/// A data frame whose payload is arriving.
#[derive(Debug)]
struct DataFrame {
    is_final: bool,
    /// As it meets the next octet.
    mask: [u8; 4],
    remaining: usize,
}

impl DataFrame {
    /// Moves payload from `input` to the end of `message`.
    fn advance(
        &mut self,
        message: &mut Message,
        input: &mut [u8],
    ) -> Result<(usize, Ended), Fault> {
        let taken = self.remaining.min(input.len());
        let chunk = input.get_mut(..taken).unwrap_or_default();
        mask::unmask(chunk, self.mask);
        self.mask = mask::advance(self.mask, taken);
        self.remaining -= taken;
        message.append(chunk, self.is_final.then_some(self.remaining))?;
        let ended = match (self.remaining, self.is_final) {
            (0, true) => {
                let is_text = message.is_text();
                Ended::Message {
                    is_text,
                    bytes: message.finish()?,
                }
            }
            (0, false) => Ended::Fragment,
            _ => Ended::NotYet,
        };
        Ok((taken, ended))
    }
}

/// A control frame whose payload is arriving.
#[derive(Debug)]
struct ControlFrame {
    kind: Control,
    /// As it meets the next octet.
    mask: [u8; 4],
    remaining: u8,
    payload: ControlPayload,
}

impl ControlFrame {
    /// Moves payload from `input` into the frame.
    fn advance(&mut self, input: &mut [u8]) -> usize {
        let taken = usize::from(self.remaining).min(input.len());
        let chunk = input.get_mut(..taken).unwrap_or_default();
        mask::unmask(chunk, self.mask);
        self.mask = mask::advance(self.mask, taken);
        self.payload.append(chunk);
        self.remaining = self.remaining.saturating_sub(taken as u8);
        taken
    }

    /// The item, once all of it is there.
    fn end(&self) -> Result<Option<Item<'static>>, Fault> {
        if self.remaining > 0 {
            return Ok(None);
        }
        match self.kind {
            Control::Ping => Ok(Some(Item::Ping(self.payload))),
            Control::Pong => Ok(Some(Item::Pong(self.payload))),
            Control::Close => Ok(Some(Item::Close(CloseFrame::parse(&self.payload)?))),
            Control::Reserved(code) => Err(Fault::ReservedOpcode(code)),
        }
    }
}

/// The octets of a header that is not complete.
#[derive(Default, Debug)]
struct HeaderOctets {
    /// Invariant: below [`HEADER_BYTES_MAX`], for as many octets are always a header or a fault.
    len: u8,
    octets: [u8; HEADER_BYTES_MAX],
}

impl HeaderOctets {
    /// Takes as many octets from `input` as there is room for.
    fn append(&mut self, input: &[u8]) -> usize {
        let room = self
            .octets
            .get_mut(usize::from(self.len)..)
            .unwrap_or_default();
        let mut taken = 0;
        for (to, from) in room.iter_mut().zip(input) {
            *to = *from;
            taken += 1;
        }
        self.len = self.len.saturating_add(taken);
        usize::from(taken)
    }

    /// Goes on with `input`: how much of it belongs to the header, and the header if it is there.
    fn complete(&mut self, input: &[u8]) -> Result<(usize, Option<Header>), Fault> {
        let before = usize::from(self.len);
        let taken = self.append(input);
        let octets = self.octets.get(..usize::from(self.len)).unwrap_or_default();
        match Header::parse(octets)? {
            Some((header, bytes)) => Ok((bytes.saturating_sub(before), Some(header))),
            None => Ok((taken, None)),
        }
    }
}
