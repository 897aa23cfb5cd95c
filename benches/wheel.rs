//! What a timer costs on a core that has 100,000 of them.
//!
//! Experiment: a wheel holds 100,000 timers whose deadlines are spread evenly over 25 s, as the
//! heartbeats of 100,000 connections are. Measured is one operation on a random timer out of them,
//! so that its links are seldom in a near cache; the wheel is back at 100,000 timers after it.
//! Counted in full: finding the place, both neighbours, the bitmaps, and for `expire` every cascade
//! on the way. Not counted: what a handler does with the value, and reading a clock.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tidewheel::time::Instant;
use tidewheel::wheel::{TimerId, Wheel};

const TIMERS: u64 = 100_000;
const SPREAD: Duration = Duration::from_secs(25);

fn within(random: &mut fastrand::Rng, from: Instant) -> Instant {
    from + Duration::from_nanos(random.u64(1..SPREAD.as_nanos() as u64))
}

fn full(random: &mut fastrand::Rng, now: Instant) -> (Wheel<u64>, Vec<TimerId>) {
    let mut wheel = Wheel::new(now);
    let ids = (0..TIMERS)
        .map(|n| wheel.insert(within(random, now), n))
        .collect();
    (wheel, ids)
}

fn wheel(c: &mut Criterion) {
    let mut random = fastrand::Rng::with_seed(1);
    let start = Instant::ORIGIN + Duration::from_secs(3600);
    let mut group = c.benchmark_group("wheel, 100,000 timers");

    let (mut wheel, mut ids) = full(&mut random, start);
    group.bench_function("cancel and insert", |b| {
        b.iter(|| {
            let id = &mut ids[random.usize(0..TIMERS as usize)];
            let value = wheel.cancel(*id).unwrap_or_default();
            *id = wheel.insert(within(&mut random, start), value);
        });
    });

    let (mut wheel, ids) = full(&mut random, start);
    group.bench_function("re-arm", |b| {
        b.iter(|| {
            wheel.rearm(
                ids[random.usize(0..TIMERS as usize)],
                within(&mut random, start),
            )
        });
    });

    // Each timer that fires is armed again for 25 s later, as a heartbeat is.
    let (mut wheel, _) = full(&mut random, start);
    let mut now = start;
    group.bench_function("expire one and insert it again", |b| {
        b.iter(|| {
            loop {
                if let Some(value) = wheel.expire(now) {
                    break black_box(wheel.insert(now + SPREAD, value));
                }
                now = wheel.next_deadline().unwrap_or(now);
            }
        });
    });

    let (wheel, _) = full(&mut random, start);
    group.bench_function("next deadline", |b| {
        b.iter(|| black_box(black_box(&wheel).next_deadline()));
    });

    // An early wake: nothing is due, time stands still or goes on by less than a tick.
    let (mut wheel, _) = full(&mut random, start);
    group.bench_function("early wake", |b| {
        b.iter(|| black_box(black_box(&mut wheel).expire(start)));
    });

    // All timers are a year away; each call moves on by ten seconds without an event.
    let mut wheel = Wheel::new(start);
    for n in 0..TIMERS {
        wheel.insert(
            within(&mut random, start) + Duration::from_secs(365 * 86_400),
            n,
        );
    }
    let mut now = start;
    group.bench_function("idle advance by ten seconds", |b| {
        b.iter(|| {
            now = now + Duration::from_secs(10);
            if now > start + Duration::from_secs(300 * 86_400) {
                now = start;
            }
            black_box(&mut wheel).expire(now)
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2));
    targets = wheel
}
criterion_main!(benches);
