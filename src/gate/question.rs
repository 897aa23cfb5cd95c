//! What the operator's backend is asked about a connection, and its verdict.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::address::ConnectionRef;
use crate::gate::Grant;
use crate::protocol::ClientId;

/// What the backend is asked about one connection.
#[derive(Clone)]
pub struct Question {
    /// The connection, to which the verdict goes.
    pub connection: ConnectionRef,
    /// Its id.
    pub client_id: ClientId,
    /// Its token, where it has one.
    pub token: Option<Box<str>>,
    /// The header fields that are passed on.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// The room that the path names.
    pub room: Option<Box<str>>,
    /// The client's address as text, empty where it is not known. Where a trusted proxy speaks for
    /// it, that is what the proxy says.
    pub address: Box<str>,
    /// Lives as long as the answer is awaited: once it is gone, nobody needs to be asked any more.
    pub asker: Weak<()>,
}

impl Question {
    /// Whether somebody still waits for the answer.
    pub fn is_awaited(&self) -> bool {
        self.asker.strong_count() > 0
    }

    /// Bytes of memory that it takes, roughly, itself included.
    pub fn heap_bytes(&self) -> usize {
        let texts = [
            self.token.as_deref(),
            self.room.as_deref(),
            Some(&*self.address),
        ];
        let fields = self.headers.iter().flat_map(|(name, value)| [name, value]);
        let texts = texts.into_iter().flatten().map(str::len).sum::<usize>();
        let fields = fields.map(|text| size_of::<Box<str>>() + text.len());
        size_of::<Self>() + texts + fields.sum::<usize>()
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the token nor the headers, which may be cookies.
        f.debug_struct("Question")
            .field("connection", &self.connection)
            .field("has_token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

/// What the backend says.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It knows the user.
    Granted(Arc<Grant>),
    /// It does not let it in.
    Denied,
    /// It gave no answer that could be used, or was not asked because too many wait.
    Unavailable,
}
