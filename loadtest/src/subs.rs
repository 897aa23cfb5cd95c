//! The rooms that one client is in: one in place, several on the heap.

/// One room of one client.
///
/// Invariant: once joined, every offset below `next` was received or announced as missed, or the
/// audit has counted it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sub {
    /// The room's number on this worker.
    pub room: u32,
    /// The epoch's number on this worker.
    pub epoch: u32,
    /// The offset that is due; zero before the first join.
    pub next: u64,
}

impl Sub {
    /// A room that is to be joined.
    pub fn new(room: u32) -> Sub {
        Sub {
            room,
            ..Sub::default()
        }
    }
}

/// All of one client, by room in ascending order.
#[derive(Debug)]
pub enum Subs {
    /// The usual case: no memory of its own.
    One(Sub),
    /// Several, or none.
    Many(Box<[Sub]>),
}

impl Subs {
    /// For these rooms.
    pub fn new(mut rooms: Vec<u32>) -> Subs {
        rooms.sort_unstable();
        match *rooms {
            [room] => Subs::One(Sub::new(room)),
            _ => Subs::Many(rooms.into_iter().map(Sub::new).collect()),
        }
    }

    /// All of them.
    pub fn as_slice(&self) -> &[Sub] {
        match self {
            Subs::One(sub) => std::slice::from_ref(sub),
            Subs::Many(subs) => subs,
        }
    }

    /// All of them, to change.
    pub fn as_mut_slice(&mut self) -> &mut [Sub] {
        match self {
            Subs::One(sub) => std::slice::from_mut(sub),
            Subs::Many(subs) => subs,
        }
    }

    /// The one of this room.
    #[inline]
    pub fn of(&mut self, room: u32) -> Option<&mut Sub> {
        match self {
            Subs::One(sub) => (sub.room == room).then_some(sub),
            Subs::Many(subs) => {
                let at = subs.binary_search_by_key(&room, |sub| sub.room).ok()?;
                subs.get_mut(at)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_found_among_one_and_among_several() {
        let mut one = Subs::new(vec![7]);
        assert!(one.of(7).is_some() && one.of(8).is_none());
        let mut several = Subs::new(vec![9, 2, 5]);
        assert_eq!(several.of(5).map(|sub| sub.room), Some(5));
        assert!(several.of(7).is_none());
        assert_eq!(several.as_slice().len(), 3);
    }

    #[test]
    fn one_room_takes_no_more_than_three_words() {
        assert_eq!(size_of::<Subs>(), 24);
    }
}
