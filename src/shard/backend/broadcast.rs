//! A broadcast: one message to every established connection of the core, some of them a turn.
//!
//! It goes over the table of connections once, place by place, so whoever is there when it begins gets
//! it once; who comes later may or may not. Broadcasts follow one another, none begins before the one
//! before it has been everywhere: everybody gets them in the same order.

use std::collections::VecDeque;

use crate::bus::{ApiAnswer, Refused};
use crate::frame::Frame;
use crate::metrics::{Dialect, Label, State};
use crate::protocol::json::encode;
use crate::protocol::{Code, Event};
use crate::shard::Shard;
use crate::shard::backend::refused;

/// Broadcasts that may be under way, on each core.
pub const BROADCASTS_MAX: usize = 64;

/// Connections that a turn gives a broadcast to: as many writes, some milliseconds.
pub const BROADCAST_STEP: usize = 1_024;

/// Places of the table that a turn looks at for that, empty or not.
const BROADCAST_PLACES: usize = 16 * 1024;

/// One on its way.
struct Pass {
    frame: Frame,
    /// The place to go on at, and the one behind the last that there was when it began.
    next: u32,
    end: u32,
}

/// Those on their way, the oldest first.
#[derive(Default)]
pub(in crate::shard) struct Broadcasts {
    passes: VecDeque<Pass>,
    /// Bytes of their frames.
    bytes: usize,
}

impl Broadcasts {
    pub(in crate::shard) fn is_empty(&self) -> bool {
        self.passes.is_empty()
    }

    /// What they take, in bytes. What a frame takes that queues hold already counts there, too.
    pub(in crate::shard) fn heap_bytes(&self) -> usize {
        self.bytes
    }

    /// The same, added up anew.
    pub(in crate::shard) fn recounted_bytes(&self) -> usize {
        self.passes.iter().map(|pass| pass.frame.heap_bytes()).sum()
    }
}

impl Shard {
    /// Begins to tell every established connection. Answers how many there are.
    pub(super) fn begin_broadcast(&mut self, payload: &[u8]) -> Result<ApiAnswer, Refused> {
        self.expect_size(payload.len())?;
        if self.broadcasts.passes.len() >= BROADCASTS_MAX {
            let message = format!(
                "{BROADCASTS_MAX} broadcasts are under way, which is the most; try again when some \
                 have reached everyone"
            );
            return Err(refused(Code::OverCapacity, message));
        }
        if self.refuses_newcomers() {
            let message = "this node has no memory left for a broadcast; try again later";
            return Err(refused(Code::OverCapacity, message));
        }
        let native = &self.metrics.connections.open[Dialect::Native.index()];
        let count = native.of(State::Established);
        if count > 0 {
            self.scratch.clear();
            encode(&Event::Broadcast { payload }, None, &mut self.scratch);
            let frame = Frame::new(&self.scratch);
            self.broadcasts.bytes += frame.heap_bytes();
            self.broadcasts.passes.push_back(Pass {
                frame,
                next: 0,
                end: self.generations.len() as u32,
            });
        }
        Ok(ApiAnswer::Connections(count))
    }

    /// Gives broadcasts to the next connections, as many as half of a turn's writes reach.
    pub(in crate::shard) fn continue_broadcasts(&mut self, budget: usize) {
        let mut left = budget.div_ceil(2).min(BROADCAST_STEP);
        let mut places = BROADCAST_PLACES;
        while left > 0
            && places > 0
            && let Some(mut pass) = self.broadcasts.passes.pop_front()
        {
            while left > 0 && places > 0 && pass.next < pass.end {
                let index = pass.next;
                pass.next += 1;
                places -= 1;
                if self.is_native(index) {
                    left -= 1;
                    self.push_direct(index, pass.frame.clone(), self.now.mono);
                }
            }
            if pass.next < pass.end {
                self.broadcasts.passes.push_front(pass);
            } else {
                self.broadcasts.bytes -= pass.frame.heap_bytes();
            }
        }
        if self.broadcasts.passes.is_empty() {
            self.broadcasts = Broadcasts::default();
        }
    }
}
