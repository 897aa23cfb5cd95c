//! How far one worker's receivers of one room have come.
//!
//! A ring over the newest offsets counts how many receivers have each; when all have one, it is
//! complete, and the publisher that keeps k in flight may send another. The ring also keeps each
//! message's publish time, which only the first receiver has to read out of the payload.

#[derive(Clone, Copy, Default)]
struct Slot {
    offset: u64,
    sent_ns: u64,
    received: u32,
}

/// Counts receivers for each offset. Offsets begin at 1; 0 is an empty slot.
pub struct Progress {
    slots: Box<[Slot]>,
    members: u32,
    completed: u64,
}

impl Progress {
    /// Room for the newest `slots` offsets, rounded up to a power of two.
    pub fn new(slots: usize) -> Progress {
        let slots = slots.max(1).next_power_of_two();
        Progress {
            slots: vec![Slot::default(); slots].into(),
            members: 0,
            completed: 0,
        }
    }

    /// A receiver has joined where the room's newest offset is `offset`.
    pub fn join(&mut self, offset: u64) {
        self.members += 1;
        self.completed = self.completed.max(offset);
    }

    /// Every offset up to this one has reached every receiver.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// True where a receiver of this room is left on this worker.
    pub fn has_members(&self) -> bool {
        self.members > 0
    }

    /// A receiver got `offset`; returns when that was sent, if `stamp` or an earlier receiver knew.
    #[inline]
    pub fn receive(&mut self, offset: u64, stamp: impl FnOnce() -> Option<u64>) -> Option<u64> {
        let members = self.members;
        let Some(slot) = self.slot(offset) else {
            return stamp();
        };
        if slot.offset != offset {
            if slot.offset > offset {
                // A receiver so far behind that the ring has gone round: nobody waits for this.
                return stamp();
            }
            *slot = Slot {
                offset,
                sent_ns: 0,
                received: 0,
            };
        }
        slot.received += 1;
        if slot.sent_ns == 0 {
            slot.sent_ns = stamp().unwrap_or(0);
        }
        let sent_ns = slot.sent_ns;
        if slot.received >= members {
            self.completed = self.completed.max(offset);
        }
        (sent_ns != 0).then_some(sent_ns)
    }

    /// A receiver will not get `from..=to`: they count as received.
    pub fn skip(&mut self, from: u64, to: u64) {
        // More than the ring holds would only overwrite its own slots.
        let from = from.max(to.saturating_sub(self.slots.len() as u64 - 1));
        for offset in from..=to {
            self.receive(offset, || None);
        }
    }

    /// A receiver has come back that has everything below `next`, and counts again.
    pub fn rejoin(&mut self, next: u64) {
        let newest = self.slots.len() as u64;
        let from = self.completed.max(next.saturating_sub(newest)) + 1;
        for offset in from..next {
            match self.slot(offset) {
                Some(slot) if slot.offset == offset => slot.received += 1,
                // It is the first here to have this one; whoever is next reads the stamp.
                Some(slot) if slot.offset < offset => {
                    *slot = Slot {
                        offset,
                        sent_ns: 0,
                        received: 1,
                    };
                }
                _ => {}
            }
        }
        self.members += 1;
        if self.members == 1 {
            self.completed = self.completed.max(next.saturating_sub(1));
        }
    }

    /// A receiver whose next offset was `next` is gone and holds nobody up any more.
    pub fn leave(&mut self, next: u64) {
        let newest = self.slots.len() as u64;
        let from = self.completed.max(next.saturating_sub(newest)) + 1;
        for offset in from..next {
            if let Some(slot) = self.slot(offset).filter(|slot| slot.offset == offset) {
                slot.received = slot.received.saturating_sub(1);
            }
        }
        self.members = self.members.saturating_sub(1);
        let members = self.members;
        let mut due = self.completed + 1;
        while self
            .slot(due)
            .is_some_and(|slot| slot.offset == due && slot.received >= members)
        {
            self.completed = due;
            due += 1;
        }
    }

    #[inline]
    fn slot(&mut self, offset: u64) -> Option<&mut Slot> {
        let index = offset as usize & (self.slots.len() - 1);
        self.slots.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room_of(members: u32) -> Progress {
        let mut progress = Progress::new(8);
        (0..members).for_each(|_| progress.join(0));
        progress
    }

    #[test]
    fn an_offset_is_complete_when_the_last_receiver_has_it() {
        let mut progress = room_of(2);
        assert_eq!(progress.receive(1, || Some(500)), Some(500));
        assert_eq!(progress.receive(2, || Some(600)), Some(600));
        assert_eq!(progress.completed(), 0);
        assert_eq!(
            progress.receive(1, || panic!("the first receiver's stamp is kept")),
            Some(500)
        );
        assert_eq!(progress.completed(), 1);
    }

    #[test]
    fn a_receiver_that_leaves_holds_nobody_up() {
        let mut progress = room_of(3);
        for offset in 1..=2 {
            progress.receive(offset, || None);
            progress.receive(offset, || None);
        }
        progress.leave(1);
        assert_eq!(progress.completed(), 2);
    }

    #[test]
    fn what_a_leaver_had_does_not_stand_in_for_another() {
        let mut progress = room_of(3);
        progress.receive(1, || None);
        progress.receive(1, || None);
        progress.leave(2);
        assert_eq!(progress.completed(), 0);
        progress.receive(1, || None);
        assert_eq!(progress.completed(), 1);
    }

    #[test]
    fn one_who_comes_back_with_everything_counts_as_if_never_gone() {
        let mut progress = room_of(2);
        progress.receive(1, || None);
        progress.receive(2, || None);
        progress.leave(3);
        progress.rejoin(3);
        assert_eq!(progress.completed(), 0);
        progress.receive(1, || None);
        assert_eq!(progress.completed(), 1);
    }

    #[test]
    fn one_who_comes_back_ahead_of_the_others_counts_for_what_they_still_wait_for() {
        let mut progress = room_of(1);
        progress.receive(1, || Some(10));
        progress.rejoin(4);
        assert_eq!(progress.completed(), 1);
        assert_eq!(progress.receive(2, || Some(20)), Some(20));
        assert_eq!(progress.receive(3, || Some(30)), Some(30));
        assert_eq!(progress.completed(), 3);
    }

    #[test]
    fn a_skip_completes_what_was_skipped() {
        let mut progress = room_of(1);
        progress.skip(1, 1_000);
        assert_eq!(progress.completed(), 1_000);
    }

    #[test]
    fn a_receiver_behind_the_ring_reads_its_own_stamp() {
        let mut progress = room_of(2);
        progress.receive(9, || Some(90));
        assert_eq!(progress.receive(1, || Some(10)), Some(10));
        assert_eq!(progress.receive(9, || None), Some(90));
    }
}
