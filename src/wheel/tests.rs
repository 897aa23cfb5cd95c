//! The wheel by cases, and against a sorted map over random operations.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * TICK_NANOS)
}

fn drain<T: Copy>(wheel: &mut Wheel<T>, now: Instant) -> Vec<T> {
    let fired = std::iter::from_fn(|| wheel.expire(now)).collect();
    if let Some(next) = wheel.next_deadline() {
        assert!(next > now, "{next:?} would have a sleeper spin at {now:?}");
    }
    fired
}

/// Sleeps as a reactor does, to the wheel's own bound each time; the wakes until something
/// fires, and when it does.
fn sleep_until_fired(wheel: &mut Wheel<u64>) -> (u32, Instant) {
    for wakes in 1.. {
        let now = wheel.next_deadline().unwrap();
        if wheel.expire(now).is_some() {
            return (wakes, now);
        }
    }
    unreachable!()
}

#[test]
fn an_optional_id_takes_four_bytes_and_a_timer_twenty_four() {
    assert_eq!(size_of::<Option<TimerId>>(), 4);
    let mut wheel = Wheel::new(at(0));
    let empty = wheel.heap_bytes();
    for n in 0..100_000u64 {
        wheel.insert(at(n), n);
    }
    let each = (wheel.heap_bytes() - empty) as f64 / 100_000.0;
    assert!((24.0..=30.0).contains(&each), "{each} bytes for each timer");
}

#[test]
fn a_timer_fires_at_its_tick_and_never_before_it() {
    // Around every boundary of levels 0 to 5, from ticks on and beside a boundary.
    for start in [0u64, 1, 63, 64, 4095, 4096, 262_143, 1 << 30, (1 << 36) - 1] {
        for level in 0..6 {
            for offset in [-1i64, 0, 1, 37] {
                let delay = (1u64 << (6 * level)).saturating_add_signed(offset);
                let mut wheel = Wheel::new(at(start));
                wheel.insert(at(start + delay), 7u64);
                if delay > 0 {
                    assert!(drain(&mut wheel, at(start + delay - 1)).is_empty());
                }
                assert_eq!(drain(&mut wheel, at(start + delay)), [7]);
                assert!(wheel.is_empty());
            }
        }
    }
}

#[test]
fn a_deadline_within_a_tick_fires_at_the_end_of_that_tick() {
    let mut wheel = Wheel::new(Instant::ORIGIN);
    wheel.insert(Instant::from_nanos(5_000_001), 1);
    assert!(drain(&mut wheel, Instant::from_nanos(5_999_999)).is_empty());
    assert_eq!(drain(&mut wheel, Instant::from_nanos(6_000_000)), [1]);
}

#[test]
fn a_deadline_that_is_past_fires_at_once() {
    let mut wheel = Wheel::new(at(1000));
    wheel.insert(at(3), 1);
    assert_eq!(wheel.next_deadline(), Some(at(1000)));
    assert_eq!(drain(&mut wheel, at(1000)), [1]);
}

#[test]
fn timers_of_one_tick_fire_in_the_order_of_their_insertion() {
    let mut wheel = Wheel::new(at(0));
    // One tick, reached from level 2, level 1 and level 0.
    wheel.insert(at(5000), 0);
    wheel.insert(at(5001), 9);
    let moved = wheel.insert(at(5000), 4);
    assert!(drain(&mut wheel, at(4100)).is_empty());
    wheel.insert(at(5000), 1);
    assert!(drain(&mut wheel, at(4999)).is_empty());
    wheel.insert(at(5000), 2);
    wheel.rearm(moved, at(5000));
    assert_eq!(drain(&mut wheel, at(9000)), [0, 1, 2, 4, 9]);
}

#[test]
fn a_sleeper_wakes_at_most_once_for_each_level() {
    for ms in [1, 64, 100, 25_000, 600_000, 86_400_000, 30 * 86_400_000] {
        let mut wheel = Wheel::new(at(999_999));
        wheel.insert(at(999_999 + ms), ms);
        let (wakes, fired) = sleep_until_fired(&mut wheel);
        assert_eq!(fired, at(999_999 + ms));
        assert!(wakes <= LEVELS, "{wakes} wakes for {ms} ms");
    }
}

#[test]
fn one_call_may_jump_over_years() {
    let mut wheel = Wheel::new(at(17));
    for days in (1..4000u32).rev() {
        wheel.insert(at(17) + DAY * days, days);
    }
    let fired = drain(&mut wheel, at(17) + DAY * 3650);
    assert_eq!(fired, (1..=3650).collect::<Vec<_>>());
    assert_eq!(wheel.len(), 3999 - 3650);
}

#[test]
fn the_end_of_the_clock_is_a_deadline_like_any_other() {
    let mut wheel = Wheel::new(at(0));
    let never = wheel.insert(Instant::from_nanos(u64::MAX), 1);
    assert!(drain(&mut wheel, at(0) + DAY * 36_500).is_empty());
    assert!(wheel.rearm(never, at(0) + DAY * 36_501));
    assert_eq!(drain(&mut wheel, at(0) + DAY * 36_501), [1]);
}

#[test]
fn a_clock_that_goes_back_is_no_progress() {
    let mut wheel = Wheel::new(at(1000));
    wheel.insert(at(1500), 1);
    assert!(drain(&mut wheel, at(1400)).is_empty());
    assert!(drain(&mut wheel, at(10)).is_empty());
    wheel.insert(at(1300), 2);
    wheel.insert(at(1450), 3);
    assert_eq!(wheel.expire(at(10)), Some(2));
    assert!(drain(&mut wheel, at(1449)).is_empty());
    assert_eq!(drain(&mut wheel, at(1500)), [3, 1]);
}

#[test]
fn a_timer_may_be_cancelled_or_moved_while_others_of_its_tick_fire() {
    let mut wheel = Wheel::new(at(0));
    let ids: Vec<_> = (0..5).map(|n| wheel.insert(at(100), n)).collect();
    assert_eq!(wheel.expire(at(200)), Some(0));
    assert_eq!(wheel.cancel(ids[1]), Some(1));
    assert!(wheel.rearm(ids[2], at(150)));
    assert!(wheel.rearm(ids[3], at(300)));
    wheel.insert(at(120), 5);
    assert_eq!(drain(&mut wheel, at(200)), [4, 5, 2]);
    assert_eq!(drain(&mut wheel, at(300)), [3]);
}

#[test]
fn an_id_is_dead_once_its_timer_fired_or_was_cancelled() {
    let mut wheel = Wheel::new(at(0));
    let fired = wheel.insert(at(1), 1);
    assert_eq!(drain(&mut wheel, at(1)), [1]);
    assert_eq!(wheel.cancel(fired), None);
    let next = wheel.insert(at(9), 2);
    assert_eq!(next.index(), fired.index());
    assert_eq!(wheel.cancel(fired), None);
    assert!(!wheel.rearm(fired, at(2)));
    assert_eq!(wheel.cancel(next), Some(2));
    assert_eq!(wheel.cancel(next), None);
    assert_eq!(wheel.next_deadline(), None);
}

/// What a wheel should do, told by a sorted map.
#[derive(Default)]
struct Model {
    elapsed: u64,
    sequence: u64,
    by_order: BTreeMap<(u64, u64), u64>,
    keys: BTreeMap<u64, ((u64, u64), TimerId)>,
}

impl Model {
    fn put(&mut self, deadline: Instant, value: u64, id: TimerId) {
        self.sequence += 1;
        let tick = deadline.as_nanos().div_ceil(TICK_NANOS).max(self.elapsed);
        let key = (tick, self.sequence);
        self.by_order.insert(key, value);
        if let Some((old, _)) = self.keys.insert(value, (key, id)) {
            self.by_order.remove(&old);
        }
    }

    fn expire(&mut self, now: Instant) -> Option<u64> {
        let target = tick_at(now).max(self.elapsed);
        match self.by_order.first_entry() {
            Some(first) if first.key().0 <= target => {
                self.elapsed = first.key().0;
                let value = first.remove();
                self.keys.remove(&value);
                Some(value)
            }
            _ => {
                self.elapsed = target;
                None
            }
        }
    }

    fn pick(&self, random: &mut fastrand::Rng) -> Option<(u64, TimerId)> {
        let from = random.u64(0..=self.keys.last_key_value().map_or(0, |(v, _)| *v));
        self.keys
            .range(from..)
            .next()
            .map(|(value, (_, id))| (*value, *id))
    }
}

/// A span whose magnitude, not whose size, is drawn evenly: from nanoseconds to `bits`.
fn span(random: &mut fastrand::Rng, bits: u32) -> u64 {
    random.u64(..) >> random.u32(64 - bits..64)
}

fn random_operations(seed: u64, operations: u32) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut now = Instant::from_nanos(span(&mut random, 60));
    let mut wheel = Wheel::new(now);
    let mut model = Model {
        elapsed: tick_at(now),
        ..Model::default()
    };
    let mut dead = Vec::new();
    for value in 0..u64::from(operations) {
        let around = now.as_nanos().saturating_add(span(&mut random, 54));
        let deadline = Instant::from_nanos(around.saturating_sub(span(&mut random, 34)));
        match random.u8(0..16) {
            0..7 => model.put(deadline, value, wheel.insert(deadline, value)),
            choice @ 7..12 => {
                let Some((value, id)) = model.pick(&mut random) else {
                    continue;
                };
                if choice < 10 {
                    assert!(wheel.rearm(id, deadline), "seed {seed}");
                    model.put(deadline, value, id);
                } else {
                    assert_eq!(wheel.cancel(id), Some(value), "seed {seed}");
                    let (key, id) = model.keys.remove(&value).unwrap();
                    model.by_order.remove(&key);
                    dead.push(id);
                }
            }
            choice => {
                let step = span(&mut random, if choice == 12 { 50 } else { 33 });
                now = match choice {
                    13 => Instant::from_nanos(now.as_nanos().saturating_sub(step / 8)),
                    _ => Instant::from_nanos(now.as_nanos() + step),
                };
                loop {
                    let fired = wheel.expire(now);
                    assert_eq!(fired, model.expire(now), "seed {seed}");
                    if fired.is_none() {
                        assert!(
                            wheel.next_deadline().is_none_or(|at| at > now),
                            "seed {seed}"
                        );
                        break;
                    }
                    // Sometimes the handler gives up half-way and comes back later.
                    if random.u8(..) == 0 {
                        break;
                    }
                }
            }
        }
        assert_eq!(wheel.len(), model.keys.len(), "seed {seed}");
        let next = wheel.next_deadline().map(tick_at);
        let truth = model.by_order.first_key_value().map(|(key, _)| key.0);
        assert_eq!(next.is_some(), truth.is_some(), "seed {seed}");
        assert!(next <= truth, "seed {seed}");
    }
    // Reuse has long moved on from most of these; an id of the newest generation is dead too.
    if let Some(id) = dead.last() {
        let is_alive = model.keys.values().any(|(_, alive)| alive == id);
        assert_eq!(wheel.cancel(*id).is_some(), is_alive, "seed {seed}");
    }
}

#[test]
fn a_wheel_does_what_a_sorted_list_does() {
    let (seeds, operations) = if cfg!(debug_assertions) {
        (20, 10_000)
    } else {
        (40, 100_000)
    };
    for seed in 0..seeds {
        random_operations(seed, operations);
    }
}
