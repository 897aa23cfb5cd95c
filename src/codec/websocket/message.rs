//! A data message that did not arrive in one piece: chopped by the network, or fragmented
//! (RFC 6455 §5.4), or both.

use super::fault::Fault;
use super::utf8::Checked;

/// The unmasked payload of the open message, as far as it arrived.
///
/// Invariant: memory is at most twice what arrived, whatever the headers claimed.
#[derive(Default, Debug)]
pub(super) struct Message {
    is_text: bool,
    /// Frames whose header was seen; none means that no message is open.
    fragments: u32,
    checked: Checked,
    bytes: Vec<u8>,
}

impl Message {
    /// Whether a first frame came, and the last one has not ended.
    pub(super) fn is_open(&self) -> bool {
        self.fragments > 0
    }

    /// Whether the open message is text.
    pub(super) fn is_text(&self) -> bool {
        self.is_text
    }

    /// Bytes that arrived.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Frames whose header was seen.
    pub(super) fn fragments(&self) -> u32 {
        self.fragments
    }

    /// Bytes of heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Counts a frame's header. The first one says what the message is.
    pub(super) fn begin_fragment(&mut self, is_text: bool) {
        self.is_text = is_text;
        self.fragments = self.fragments.saturating_add(1);
    }

    /// Appends unmasked payload. `still_to_come` is what the message lacks after it, where the
    /// last frame's header told.
    pub(super) fn append(
        &mut self,
        chunk: &[u8],
        still_to_come: Option<usize>,
    ) -> Result<(), Fault> {
        let needed = self.bytes.len().saturating_add(chunk.len());
        if needed > self.bytes.capacity() {
            // Doubling keeps the copying linear; the known end keeps it from overshooting.
            let doubled = self.bytes.capacity().saturating_mul(2).max(needed);
            let end = still_to_come.map_or(usize::MAX, |rest| needed.saturating_add(rest));
            self.bytes
                .reserve_exact(doubled.min(end).saturating_sub(self.bytes.len()));
        }
        self.bytes.extend_from_slice(chunk);
        if self.is_text {
            // RFC 6455 §8.1: fail on bad UTF-8; at once, rather than when the frame has ended.
            self.checked
                .advance(&self.bytes)
                .map_err(|at| Fault::TextNotUtf8 { at })?;
        }
        Ok(())
    }

    /// Ends the message and gives its payload away.
    pub(super) fn finish(&mut self) -> Result<Vec<u8>, Fault> {
        let message = std::mem::take(self);
        if message.is_text {
            // RFC 6455 §5.6: the whole message is UTF-8, a fragment by itself need not be.
            message
                .checked
                .finish(&message.bytes)
                .map_err(|at| Fault::TextNotUtf8 { at })?;
        }
        Ok(message.bytes)
    }
}
