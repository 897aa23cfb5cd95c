//! The store over the life of the server: read before cores begin, closed when they have ended.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::address::{CoreId, Placement};
use crate::bus::{Outlet, Records, StoredBan, StoredRoom};
use crate::reactor::{Clock, Mail};
use crate::store::{Store, StoreFigures, StoreHandle, StoreSettings};

/// What was found on disk, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Where.
    pub folder: PathBuf,
    /// Rooms.
    pub rooms: usize,
    /// Messages in them.
    pub messages: usize,
    /// Bans.
    pub bans: usize,
    /// How long reading took.
    pub took: Duration,
    /// Rooms go on with new epochs, because the last run may have lost what clients were told.
    pub renewed: bool,
    /// What is missing, where something was damaged.
    pub damage: Option<String>,
}

/// What each core begins with.
pub(super) struct Portions {
    /// The rooms that are at home there, by core.
    pub rooms: Vec<Vec<StoredRoom>>,
    /// All bans: every core knows them.
    pub bans: Arc<[StoredBan]>,
}

/// An open store, whose thread is about to run.
pub(super) struct Opened {
    store: Store,
    /// What was found.
    pub kept: Kept,
    /// What the store counts.
    pub figures: Arc<StoreFigures>,
}

/// Opens the store, and hands out what is in it by where it is at home in this run.
pub(super) fn open(
    settings: &StoreSettings,
    placement: &Placement,
    shards: usize,
    clock: Clock,
) -> anyhow::Result<(Opened, Portions)> {
    let began = clock.now();
    let (store, contents) = Store::open(settings.clone(), began.unix_ms).context("--data-dir")?;
    let messages = contents.rooms.iter().map(|room| room.messages.len()).sum();
    let kept = Kept {
        folder: settings.folder.clone(),
        rooms: contents.rooms.len(),
        messages,
        bans: contents.bans.len(),
        took: clock.now().mono - began.mono,
        renewed: contents.renewed,
        damage: contents.damage.map(|damage| damage.to_string()),
    };
    let mut rooms: Vec<Vec<StoredRoom>> = (0..shards).map(|_| Vec::new()).collect();
    for room in contents.rooms {
        let home = placement.home_of(placement.hash_one(&*room.name));
        if let Some(portion) = rooms.get_mut(home.index()) {
            portion.push(room);
        }
    }
    let bans = contents.bans.into();
    let figures = store.figures();
    let opened = Opened {
        store,
        kept,
        figures,
    };
    Ok((opened, Portions { rooms, bans }))
}

impl Opened {
    /// Starts the store's thread. Answers where cores send their records.
    pub fn run(
        self,
        outlets: &[Outlet<Mail>],
    ) -> anyhow::Result<(Keeping, crossbeam_channel::Sender<Records>)> {
        let (sender, records) = crossbeam_channel::unbounded();
        let outlets = outlets.to_vec();
        let answer = move |core: CoreId, stored| {
            if let Some(outlet) = outlets.get(core.index()) {
                // Where the core is gone nobody waits any more.
                outlet.send(Mail::Stored(stored), 0);
            }
        };
        let handle = self.store.spawn(records, answer)?;
        let keeping = Keeping {
            handle: Some(handle),
            figures: self.figures,
        };
        Ok((keeping, sender))
    }
}

/// A store whose thread runs. It is closed when this is dropped, which is right where a start has
/// failed: nobody was served.
pub(super) struct Keeping {
    handle: Option<StoreHandle>,
    figures: Arc<StoreFigures>,
}

impl Keeping {
    /// Brings everything to the disk, once all cores have ended. `lost` records were never handed
    /// over: the next start must not take what is kept for whole.
    /// Says whether all of it is on disk.
    pub fn close(mut self, lost: u64) -> bool {
        self.figures.admit_loss(lost);
        let is_whole = self.handle.take().is_none_or(StoreHandle::stop);
        if !is_whole {
            tracing::error!("history on disk is not whole; the log above says why");
        }
        is_whole
    }

    /// Leaves it as it is: what cores have told clients may not have been handed over. The next
    /// start finds what a loss of power would have left.
    pub fn abandon(mut self) {
        if let Some(handle) = self.handle.take() {
            std::mem::forget(handle);
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.stop();
        }
    }
}
