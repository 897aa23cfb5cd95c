//! Random operations, random stops: the store against a map.

use std::collections::BTreeMap;

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use proptest::test_runner::Config;

use super::*;

/// What may happen to one of three rooms.
#[derive(Clone, Debug)]
enum Step {
    Publish { room: u8, keep: u8 },
    Trim { room: u8, by: u8 },
    Read { room: u8, user: u8, forget: bool },
    Forget { room: u8 },
    Ban { user: u8, lift: bool },
    Batch,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let room = || 0..3_u8;
    prop_oneof![
        8 => (room(), any::<u8>()).prop_map(|(room, keep)| Step::Publish { room, keep: keep % 20 }),
        2 => (room(), 0..9_u8).prop_map(|(room, by)| Step::Trim { room, by }),
        2 => (room(), 0..3_u8, any::<bool>())
            .prop_map(|(room, user, forget)| Step::Read { room, user, forget }),
        1 => room().prop_map(|room| Step::Forget { room }),
        1 => (0..3_u8, any::<bool>()).prop_map(|(user, lift)| Step::Ban { user, lift }),
        4 => Just(Step::Batch),
        1 => Just(Step::Restart),
    ]
}

#[derive(Default)]
struct Model {
    /// Epoch, newest offset, kept since, reads.
    rooms: BTreeMap<u8, (u64, u64, u64, BTreeMap<u8, u64>)>,
    bans: BTreeMap<u8, u64>,
    epochs: u64,
}

impl Model {
    /// The records of a step.
    fn take(&mut self, step: &Step) -> Vec<Record> {
        let name = |room: u8| format!("r{room}");
        let user = |user: u8| UserId::from_name(&format!("u{user}"));
        match *step {
            Step::Publish { room: n, keep } => {
                self.epochs += 1;
                let new = (self.epochs, 0, 0, BTreeMap::new());
                let entry = self.rooms.entry(n).or_insert(new);
                entry.1 += 1;
                entry.2 = entry.2.max(entry.1.saturating_sub(u64::from(keep)));
                vec![message(&name(n), entry.0, entry.1, entry.2)]
            }
            Step::Trim { room: n, by } => match self.rooms.get_mut(&n) {
                Some(entry) => {
                    entry.2 = (entry.2 + u64::from(by)).min(entry.1);
                    vec![Record::Trimmed {
                        room: room(&name(n)),
                        kept_since: entry.2,
                    }]
                }
                None => Vec::new(),
            },
            Step::Read {
                room: n,
                user: who,
                forget,
            } => match self.rooms.get_mut(&n) {
                Some(entry) => {
                    let offset = if forget { 0 } else { entry.1 };
                    match offset {
                        0 => entry.3.remove(&who),
                        offset => entry.3.insert(who, offset),
                    };
                    vec![Record::Read {
                        room: room(&name(n)),
                        user: user(who),
                        offset,
                    }]
                }
                None => Vec::new(),
            },
            Step::Forget { room: n } => {
                self.rooms.remove(&n);
                vec![Record::Forgotten {
                    room: room(&name(n)),
                }]
            }
            Step::Ban { user: who, lift } => {
                if lift {
                    self.bans.remove(&who);
                    return vec![Record::Unbanned { user: user(who) }];
                }
                self.bans.insert(who, 9);
                vec![Record::Banned {
                    user: user(who),
                    until_unix_ms: Some(9),
                }]
            }
            Step::Batch | Step::Restart => Vec::new(),
        }
    }

    fn hold_against(&self, contents: &Contents) {
        assert_eq!(contents.damage, None);
        assert!(!contents.renewed);
        let bans: Vec<_> = contents
            .bans
            .iter()
            .map(|ban| ban.user.to_string())
            .collect();
        let expected: Vec<_> = self.bans.keys().map(|user| format!("u{user}")).collect();
        assert_eq!(bans, expected);
        assert_eq!(contents.rooms.len(), self.rooms.len());
        for (room, (n, (epoch, offset, kept_since, reads))) in
            contents.rooms.iter().zip(&self.rooms)
        {
            assert_eq!(*room.name, format!("r{n}"));
            assert_eq!((room.epoch, room.offset), (Epoch(*epoch), *offset));
            let kept: Vec<u64> = (kept_since + 1..=*offset).collect();
            assert_eq!(bodies(room), kept);
            for (message, offset) in room.messages.iter().zip(&kept) {
                let Record::Message { frame, .. } = super::message(&room.name, 0, *offset, 0)
                else {
                    continue;
                };
                assert_eq!(*message.body, *frame.body());
            }
            let keys: Vec<u64> = room.keys.iter().map(|key| key.offset).collect();
            let expected: Vec<u64> = (1..=*offset).filter(|offset| offset % 2 == 0).collect();
            assert_eq!(keys, expected, "keys are young");
            let users: BTreeMap<_, _> = reads.iter().map(|(u, o)| (format!("u{u}"), *o)).collect();
            let found: BTreeMap<_, _> = room
                .reads
                .iter()
                .map(|(u, o)| (u.to_string(), *o))
                .collect();
            assert_eq!(found, users);
        }
    }
}

proptest! {
    #![proptest_config(Config::with_cases(24))]
    #[test]
    fn the_store_is_a_mirror(steps in prop::collection::vec(step(), 1..120), fsync in any::<bool>()) {
        let scratch = Scratch::new("model");
        let durability = if fsync { Durability::Fsync } else { Durability::Async };
        let mut model = Model::default();
        let (mut store, _) = Running::open(settings(scratch.path(), durability));
        let mut batch = Vec::new();
        for step in &steps {
            batch.append(&mut model.take(step));
            if matches!(step, Step::Batch | Step::Restart) && !batch.is_empty() {
                store.send(std::mem::take(&mut batch));
            }
            if matches!(step, Step::Restart) {
                assert!(store.stop());
                let (next, contents) = Running::open(settings(scratch.path(), durability));
                model.hold_against(&contents);
                store = next;
            }
        }
        if !batch.is_empty() {
            store.send(batch);
        }
        assert!(store.stop());
        model.hold_against(&load_again(scratch.path(), durability));
    }
}
