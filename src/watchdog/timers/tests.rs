use super::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Wake;

struct Numbered(usize, Arc<AtomicUsize>);

impl Wake for Numbered {
    fn wake(self: Arc<Self>) {
        self.1.store(self.0, Ordering::Relaxed);
    }
}

fn leaked() -> &'static Timers {
    Box::leak(Box::default())
}

fn put(timers: &'static Timers, deadline: u64, waker: Waker) -> Timer {
    // SAFETY: each test has its own timers, and one thread.
    unsafe { timers.put(deadline, waker) }
}

#[test]
fn agrees_with_a_sorted_map_under_random_use() {
    let timers = leaked();
    let called = Arc::new(AtomicUsize::new(0));
    let number_of = |waker: Waker| {
        called.store(usize::MAX, Ordering::Relaxed);
        waker.wake();
        called.load(Ordering::Relaxed)
    };
    let mut model: BTreeMap<(u64, usize), Timer> = BTreeMap::new();
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for n in 0..if cfg!(miri) { 150 } else { 20_000 } {
        match random() % 5 {
            0..=2 => {
                let deadline = random() % 1000;
                let numbered = Arc::new(Numbered(n, Arc::clone(&called)));
                let timer = put(timers, deadline, Waker::from(numbered));
                model.insert((deadline, n), timer);
            }
            3 if !model.is_empty() => {
                let nth = (random() % model.len() as u64) as usize;
                let (&key, &timer) = model.iter().nth(nth).unwrap();
                // `Some`: the timers' own thread takes the timer back. `None`: another thread does.
                let own = random().is_multiple_of(2).then_some(timers);
                assert_eq!(number_of(timer.take(own).unwrap()), key.1);
                assert!(timer.take(own).is_none(), "a timer is good once");
                model.remove(&key);
            }
            _ => {
                let now = random() % 200;
                let mut all = false;
                while !all {
                    let mut due = Vec::new();
                    all = timers.take_due(now, &mut due);
                    assert!(due.is_sorted_by_key(|due| due.deadline), "the earliest first");
                    for Due { deadline, waker, .. } in due {
                        assert!(deadline <= now);
                        assert!(model.remove(&(deadline, number_of(waker))).is_some());
                    }
                }
                assert!(model.keys().all(|key| key.0 > now), "all that is due");
            }
        }
        timers.begin_look();
        timers.end_look();
        assert_eq!(timers.earliest(), model.keys().next().map_or(NEVER, |key| key.0));
    }
}

#[test]
fn what_was_taken_back_does_not_pile_up() {
    let timers = leaked();
    for round in 0..if cfg!(miri) { 5 } else { 3000 } {
        let armed: Vec<Timer> = (0..64).map(|n| put(timers, n, Waker::noop().clone())).collect();
        let own = (round % 2 == 0).then_some(timers);
        armed.into_iter().for_each(|timer| drop(timer.take(own)));
    }
    let heap = lock(&timers.heap);
    assert!(heap.len() <= 2 * STALE, "{}", heap.len());
    let records = timers.records.count();
    assert!(records <= 128, "places are used again");
}

#[test]
fn a_look_at_many_that_were_taken_back_comes_to_the_first_that_is_left() {
    const MANY: usize = if cfg!(miri) { 200 } else { 900 };
    let timers = leaked();
    let armed: Vec<Timer> = (0..MANY as u64 + 100).map(|n| put(timers, n, Waker::noop().clone())).collect();
    let taken = armed.iter().take(MANY).filter_map(|timer| timer.take(Some(timers)));
    assert_eq!(taken.count(), MANY);
    let mut looks = 0;
    while timers.earliest() != MANY as u64 {
        timers.begin_look();
        timers.end_look();
        assert!(timers.earliest() <= MANY as u64, "never too late");
        looks += 1;
        assert!(looks < MANY / BATCH + 3);
    }
}

#[test]
fn a_timer_takes_at_most_49_bytes() {
    let bytes = size_of::<Record>() + size_of::<(u64, u32, u32)>() + size_of::<Group>() / GROUP
        - size_of::<[Record; GROUP]>() / GROUP;
    assert!(bytes <= 49, "{bytes}");
}
