//! Who is where: rooms, the clients in them, and the thread that each client is on.

use std::collections::HashMap;
use std::sync::Arc;

use crate::receiver::Role;
use crate::settings::{Profile, Settings};

/// The rooms of a run: those of the clients, the large one, those of watchers and visitors.
#[derive(Clone, Debug)]
pub struct Rooms {
    /// Names of all, in that order.
    pub names: Vec<String>,
    /// How many are the clients'.
    pub main: usize,
    /// Which is the large one.
    pub hall: Option<usize>,
    /// How many are the watchers'.
    lobbies: usize,
    /// In how many each client is.
    pub per_client: usize,
}

/// One client: what it is there for, and its number among those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// What for.
    pub role: Role,
    /// Its number.
    pub number: u32,
}

impl Rooms {
    /// As the settings ask for.
    pub fn plan(settings: &Settings) -> Rooms {
        let base = &settings.room;
        let main = match settings.target {
            // A room stands for a publisher.
            Profile::Broadcast => settings.publishers.max(1),
            Profile::Echo => 1,
            Profile::Tidewheel | Profile::BareLoop => settings.rooms,
        };
        let mut names: Vec<String> = match main {
            1 => vec![base.clone()],
            _ => (0..main)
                .map(|index| format!("{base}-{index:05}"))
                .collect(),
        };
        let hall = (settings.hall > 0).then_some(names.len());
        names.extend(hall.map(|_| format!("{base}-hall")));
        let lobbies = if settings.watchers + settings.visitors > 0 {
            settings.presence_rooms
        } else {
            0
        };
        names.extend((0..lobbies).map(|index| format!("{base}-lobby-{index:05}")));
        let per_client = match settings.target {
            Profile::Broadcast => main,
            _ => settings.rooms_per_client.min(main),
        };
        Rooms {
            names,
            main,
            hall,
            lobbies,
            per_client,
        }
    }

    /// The rooms of one client.
    pub fn of(&self, seat: Seat) -> Vec<u32> {
        let number = seat.number as usize;
        let room = match (seat.role, self.hall) {
            (Role::Watcher | Role::Visitor, _) => {
                self.names.len() - self.lobbies + number % self.lobbies.max(1)
            }
            (Role::Member, _) if self.per_client == self.main => {
                return (0..self.main as u32).collect();
            }
            (Role::Member, _) => {
                // Far apart, so that two clients share few rooms.
                let step = (self.main / self.per_client).max(1);
                let rooms = (0..self.per_client).map(|it| (number + it * step) % self.main);
                return rooms.map(|room| room as u32).collect();
            }
            (_, Some(hall)) => hall,
            (_, None) => number % self.main,
        };
        vec![room as u32]
    }

    /// Those that come first, and those that come once the others have been measured alone; of
    /// one thread.
    pub fn seats(
        &self,
        settings: &Settings,
        thread: usize,
        threads: usize,
    ) -> (Vec<Seat>, Vec<Seat>) {
        let groups = [
            (Role::Member, settings.clients),
            (Role::Listener, settings.hall),
            (Role::Watcher, settings.watchers),
            (Role::Visitor, settings.visitors),
        ];
        let slow = [
            (Role::Stalled, settings.stalled),
            (Role::Trickling, settings.trickling),
            (Role::Stopping, settings.stopping),
        ];
        // Where rooms are many, a room's clients are all on one thread, which alone knows it.
        let by_room = self.per_client == 1 && self.main >= 4 * threads;
        let is_here = |seat: &Seat| {
            let number = seat.number as usize;
            let number = match seat.role {
                Role::Member if by_room => number % self.main,
                _ => number,
            };
            number % threads == thread
        };
        let seats = |groups: &[(Role, usize)]| -> Vec<Seat> {
            let all = groups.iter().flat_map(|(role, count)| {
                (0..*count as u32).map(|number| Seat {
                    role: *role,
                    number,
                })
            });
            all.filter(is_here).collect()
        };
        let (mut first, mut second) = (seats(&groups), seats(&slow));
        if !settings.alone {
            first.append(&mut second);
        }
        (first, second)
    }
}

/// The rooms that one thread knows: their numbers in the run, and here.
pub struct Known {
    /// Numbers in the run, by number here.
    pub globals: Vec<u32>,
    locals: HashMap<u32, u32>,
    rooms: Arc<Rooms>,
}

impl Known {
    /// Knows no room so far.
    pub fn new(rooms: Arc<Rooms>) -> Known {
        Known {
            globals: Vec::new(),
            locals: HashMap::new(),
            rooms,
        }
    }

    /// The rooms of a client, by their numbers here.
    pub fn of(&mut self, seat: Seat) -> Vec<u32> {
        let rooms = self.rooms.of(seat).into_iter();
        let known = rooms.map(|global| {
            *self.locals.entry(global).or_insert_with(|| {
                self.globals.push(global);
                self.globals.len() as u32 - 1
            })
        });
        known.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn settings(flags: &str) -> Settings {
        let flags: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
        Scenario::built_in("fan-out")
            .unwrap()
            .settings(&flags)
            .unwrap()
    }

    #[test]
    fn every_client_sits_on_one_thread() {
        for flags in [
            "--clients 50 --rooms 20",
            "--clients 50 --hall 7 --stalled 3",
            "--clients 9 --rooms 6 --rooms-per-client 4 --watchers 2 --visitors 5",
        ] {
            let settings = settings(flags);
            let rooms = Rooms::plan(&settings);
            let seats: usize = (0..3)
                .map(|thread| rooms.seats(&settings, thread, 3).0.len())
                .sum();
            assert_eq!(seats, settings.connections(), "{flags}");
        }
    }

    #[test]
    fn a_client_in_many_rooms_is_in_different_ones() {
        let settings = settings("--clients 10 --rooms 100 --rooms-per-client 30");
        let rooms = Rooms::plan(&settings);
        for number in 0..10 {
            let role = Role::Member;
            let mut mine = rooms.of(Seat { role, number });
            mine.sort_unstable();
            mine.dedup();
            assert_eq!(mine.len(), 30);
        }
    }

    #[test]
    fn slow_readers_come_second_where_the_others_are_measured_alone() {
        let settings = settings("--clients 4 --stalled 2 --alone");
        let (first, second) = Rooms::plan(&settings).seats(&settings, 0, 1);
        assert_eq!((first.len(), second.len()), (4, 2));
    }
}
