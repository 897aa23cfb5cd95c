//! What a peer can do wrong, and the close code that says so.

/// A violation of RFC 6455 or of a limit, by the peer. The connection cannot go on after it.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// A client's frame without a mask (§5.1).
    #[error("frame is not masked")]
    UnmaskedFrame,
    /// RSV1, RSV2 or RSV3 is set, and no extension was agreed (§5.2).
    #[error("reserved bits are set without an extension")]
    ReservedBits,
    /// An opcode that no specification defines (§5.2).
    #[error("opcode {0:#x} is reserved")]
    ReservedOpcode(u8),
    /// A control frame that claims more than 125 bytes (§5.5).
    #[error("control frame is longer than 125 bytes")]
    ControlTooLong,
    /// A control frame without FIN (§5.5).
    #[error("control frame is fragmented")]
    FragmentedControl,
    /// A continuation frame while no message is open (§5.4).
    #[error("continuation frame without a message to continue")]
    UnexpectedContinuation,
    /// A new text or binary frame before the last message was finished (§5.4).
    #[error("new message inside a fragmented one")]
    ExpectedContinuation,
    /// A length in more octets than it needs (§5.2).
    #[error("payload length is not in its shortest form")]
    LengthNotMinimal,
    /// A 64-bit length whose most significant bit is set (§5.2).
    #[error("payload length has its highest bit set")]
    LengthHighBit,
    /// A text message that is not UTF-8 (§8.1).
    #[error("text is not UTF-8 at byte {at} of the message")]
    TextNotUtf8 {
        /// Where the first bad sequence starts, in bytes from the start of the message.
        at: usize,
    },
    /// The frames of a message add up to more than the limit, as claimed by their headers.
    #[error("message of at least {claimed} bytes is over the limit of {max}")]
    MessageTooLarge {
        /// What had arrived of the message, plus the length that the new header claims.
        claimed: u64,
        /// [`Limits::message_bytes_max`](super::Limits::message_bytes_max).
        max: usize,
    },
    /// A message in more frames than the limit.
    #[error("message is in more than {max} frames")]
    TooManyFragments {
        /// [`Limits::fragments_max`](super::Limits::fragments_max).
        max: u32,
    },
    /// A close frame with a payload of one byte (§5.5.1).
    #[error("close frame with half a status code")]
    BadClosePayload,
    /// A close code that must not be sent, or that nobody defined (§7.4).
    #[error("close code {0} must not be sent")]
    BadCloseCode(u16),
    /// A close reason that is not UTF-8 (§5.5.1).
    #[error("close reason is not UTF-8")]
    ReasonNotUtf8,
}

impl Fault {
    /// The close code that tells the peer (RFC 6455 §7.4.1): 1002, 1007 or 1009.
    pub fn close_code(&self) -> u16 {
        match self {
            Fault::TextNotUtf8 { .. } | Fault::ReasonNotUtf8 => 1007,
            Fault::MessageTooLarge { .. } | Fault::TooManyFragments { .. } => 1009,
            _ => 1002,
        }
    }
}
