//! How many connections a limit on open files allows.

/// Descriptors of a core that are not for connections: its poller and listener, what was open
/// before it began, and sockets between `accept` and the decision to refuse them.
pub const DESCRIPTORS_RESERVED: usize = 64;

/// How much the server takes on.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// Threads that serve connections.
    pub shards: usize,
    /// Connections that the descriptor limit allows on each of them.
    pub connections_of_shard: usize,
    /// Connections that the descriptor limit allows on all of them.
    pub connections_possible: usize,
    /// Connections that are accepted on all of them.
    ///
    /// Invariant: `connections` ≤ `connections_possible`.
    pub connections: usize,
}

impl Capacity {
    /// What `shards` cores can serve, where a table holds `descriptors`. `asked` is a lower number
    /// that the operator wants; `has_own_tables` says that each core has a table of its own, so that
    /// the limit holds for each of them.
    pub fn of(
        shards: usize,
        descriptors: usize,
        asked: Option<usize>,
        has_own_tables: bool,
    ) -> Capacity {
        let shards = shards.max(1);
        let table = if has_own_tables {
            descriptors
        } else {
            descriptors / shards
        };
        let connections_of_shard = table.saturating_sub(DESCRIPTORS_RESERVED);
        let connections_possible = connections_of_shard.saturating_mul(shards);
        let connections = asked
            .unwrap_or(connections_possible)
            .min(connections_possible);
        Capacity {
            shards,
            connections_of_shard,
            connections_possible,
            connections,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_follow_from_descriptors_and_tables() {
        let of = |descriptors, asked, own| {
            let capacity = Capacity::of(2, descriptors, asked, own);
            (capacity.connections_possible, capacity.connections)
        };
        assert_eq!(of(20_000, None, true), (39_872, 39_872));
        assert_eq!(of(20_000, None, false), (19_872, 19_872));
        assert_eq!(of(20_000, Some(100), true), (39_872, 100));
        assert_eq!(of(20_000, Some(100_000), false), (19_872, 19_872));
        assert_eq!(of(usize::MAX, Some(100), true), (usize::MAX, 100));
        assert_eq!(of(64, None, true), (0, 0));
    }
}
