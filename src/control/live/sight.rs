//! A look around a core: its largest rooms, its slowest consumers, its last evictions.
//!
//! A core looks at a bounded number of rooms and connections for one question; a round puts as many
//! questions as it takes, with a pause after each. While the first round is under way, what it has
//! found so far is told; later, what the last whole round found.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::address::CoreId;
use crate::bus::{ApiAnswer, ApiAsk, Evicted, Laggard, RoomFacts, Sight};
use crate::control::live::Live;

/// How many rooms and consumers are told of: the largest and the slowest.
pub(super) const TOP: usize = 20;

/// Evictions that are told of.
pub(super) const EVICTIONS: usize = 50;

/// The pause after each question: a core gets at most twenty a second.
const QUESTION_PAUSE: Duration = Duration::from_millis(50);

/// What a question to a core holds in memory, more or less.
const QUESTION_BYTES: usize = 128;

/// What was found on one core.
#[derive(Default)]
pub(super) struct Found {
    /// The largest first.
    pub(super) rooms: Vec<RoomFacts>,
    /// The slowest first.
    pub(super) laggards: Vec<Laggard>,
    /// Oldest first.
    pub(super) evictions: Vec<Evicted>,
    is_under_way: bool,
    has_been_round: bool,
}

impl Found {
    /// Whether to set out: not where a round is under way.
    pub(super) fn set_out(&mut self) -> bool {
        !std::mem::replace(&mut self.is_under_way, true)
    }

    /// What a round has found so far.
    fn tell(
        &mut self,
        (rooms, laggards): (&[RoomFacts], &[Laggard]),
        evictions: Vec<Evicted>,
        is_last: bool,
    ) {
        self.evictions = evictions;
        if is_last || !self.has_been_round {
            self.rooms = rooms.to_vec();
            self.laggards = laggards.to_vec();
        }
        self.has_been_round |= is_last;
    }
}

/// Looks all around a core.
pub(super) async fn round(live: Arc<Live>, core: CoreId) {
    let _back = Back(&live, core);
    let (mut rooms, mut laggards) = (Vec::new(), Vec::new());
    let (mut rooms_from, mut connections_from) = (Some(0), Some(0));
    while rooms_from.is_some() || connections_from.is_some() {
        // Nobody looks any more, or the core has no answer: what was found before stays.
        if !live.is_watched() {
            return;
        }
        let Some(sight) = ask(&live, core, rooms_from, connections_from).await else {
            return;
        };
        rooms_from = sight.rooms_next.filter(|next| Some(*next) > rooms_from);
        connections_from = (sight.connections_next).filter(|next| Some(*next) > connections_from);
        keep_largest(&mut rooms, sight.rooms);
        keep_slowest(&mut laggards, sight.laggards);
        let is_last = rooms_from.is_none() && connections_from.is_none();
        live.found(core.index())
            .tell((&rooms, &laggards), sight.evictions, is_last);
        sleep(QUESTION_PAUSE).await;
    }
}

async fn ask(
    live: &Live,
    core: CoreId,
    rooms_from: Option<u32>,
    connections_from: Option<u32>,
) -> Option<Sight> {
    let look = ApiAsk::Look {
        rooms_from,
        connections_from,
        top: TOP as u32,
    };
    match live.switchboard.ask(core, look, QUESTION_BYTES).await {
        Ok(ApiAnswer::Sight(sight)) => Some(*sight),
        _ => None,
    }
}

/// Adds rooms to the largest.
pub(super) fn keep_largest(largest: &mut Vec<RoomFacts>, more: Vec<RoomFacts>) {
    largest.extend(more);
    largest.sort_by_key(|room| std::cmp::Reverse((room.members, room.connections)));
    largest.truncate(TOP);
}

/// Adds consumers to the slowest.
fn keep_slowest(slowest: &mut Vec<Laggard>, more: Vec<Laggard>) {
    slowest.extend(more);
    slowest.sort_by_key(|it| std::cmp::Reverse((it.lag_bytes, it.lag_ms)));
    slowest.truncate(TOP);
}

/// The round is over, however it ends.
struct Back<'a>(&'a Live, CoreId);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.0.found(self.1.index()).is_under_way = false;
    }
}
