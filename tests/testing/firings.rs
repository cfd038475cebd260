//! How often a hook fires, to the very firing: nothing is waited for that must not come.

use super::*;
use std::sync::mpsc::{Receiver, channel};

#[derive(Clone, Default)]
struct Count(Arc<AtomicU32>);

impl Count {
    fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    fn counting(&self, kind: Kind) -> Hook<'static> {
        let Self(count) = self.clone();
        kind(Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }))
    }
}

type Kind = fn(Box<dyn FnMut() + Send>) -> Hook<'static>;

/// Runs the test with hooks of either kind, each under a clock of its own.
fn each_kind(test: impl Fn(Kind, &MockClock)) {
    for kind in [Hook::new as Kind, Hook::inline] {
        MockClock::new().run(|clock| test(kind, clock));
    }
}

#[test]
fn one_made_once_fires_once() {
    each_kind(|kind, clock| {
        let fired = Count::default();
        let outcome = timeout(SECOND, || {
            timebox::interruptible_outcome(fired.counting(kind).once(), || clock.advance(HOUR))
        });
        assert_eq!((outcome.unwrap().fires, fired.get()), (1, 1));
    });
}

#[test]
fn one_that_repeats_fires_at_each_interval() {
    each_kind(|kind, clock| {
        let fired = Count::default();
        let outcome = timeout(SECOND, || {
            let hook = fired.counting(kind).every(SECOND);
            timebox::interruptible_outcome(hook, || clock.advance(5 * SECOND))
        });
        assert_eq!((outcome.unwrap().fires, fired.get()), (5, 5));
        clock.advance(HOUR);
        assert_eq!(fired.get(), 5, "it died with the call");
    });
}

#[test]
fn one_of_a_future_that_outlives_its_scope_fires_no_more_once_that_is_left() {
    each_kind(|kind, clock| {
        let fired = Count::default();
        let hook = fired.counting(kind).every(SECOND);
        let call = std::future::pending::<Result<(), TimeoutError>>();
        let mut call = Box::pin(future::interruptible(hook, call));
        let in_a_scope = timebox::timeout_value(SECOND, || {
            assert!(poll(call.as_mut()).is_pending());
            clock.advance(3 * SECOND);
        });
        in_a_scope.unwrap();
        assert_eq!(fired.get(), 3);
        clock.advance(HOUR);
        assert_eq!(fired.get(), 3);
    });
}

#[test]
fn one_of_an_interruptible_call_repeats_at_growing_intervals() {
    each_kind(|kind, clock| {
        let fired = Count::default();
        let half = Duration::from_micros(500);
        let call = || {
            clock.advance(SECOND);
            let mut times = 1;
            for doubled in [1, 2, 4, 8, 16, 32, 64, 128, 128, 128] {
                clock.advance((doubled * half).saturating_sub(NANO));
                assert_eq!(fired.get(), times);
                clock.advance(NANO);
                times += 1;
                assert_eq!(fired.get(), times);
            }
        };
        timeout(SECOND, || timebox::interruptible_outcome(fired.counting(kind), call).map(drop)).unwrap();
    });
}

#[test]
fn inline_ones_go_first() {
    MockClock::new().run(|clock| {
        let token = CancellationToken::new();
        let blocking = Count::default();
        let (counted, before) = (blocking.clone(), Arc::new(AtomicU32::new(1)));
        let told = Arc::clone(&before);
        let _inline = token.on_cancel(Hook::inline(move || {
            // The other, were it under way, would be on a runner by the time that this one is.
            let later = CancellationToken::new();
            let (ran, runs) = channel();
            let _later = later.on_cancel(move || ran.send(()));
            later.cancel();
            runs.recv_timeout(30 * SECOND).unwrap();
            told.store(counted.get(), Ordering::SeqCst);
        }));
        let _blocking = token.on_cancel(blocking.counting(Hook::new));
        token.cancel();
        clock.advance(NANO);
        assert_eq!((before.load(Ordering::SeqCst), blocking.get()), (0, 1));
    });
}

#[test]
fn one_that_panicked_does_not_fire_again() {
    each_kind(|kind, clock| {
        let fired = Count::default();
        let Count(count) = fired.clone();
        let hook = kind(Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
            panic!("a hook of the test panics, as it should");
        }));
        timeout(SECOND, || {
            timebox::interruptible_outcome(hook.every(SECOND), || clock.advance(HOUR)).map(drop)
        })
        .unwrap();
        assert_eq!(fired.get(), 1);
    });
}

#[test]
fn one_made_on_an_expired_scope_fires_at_once_and_dies_with_the_scope() {
    each_kind(|kind, clock| {
        let fired = Count::default();
        let registration = timeout(HOUR, || {
            timebox::token().cancel();
            let registration = timebox::on_cancel(fired.counting(kind).every(SECOND));
            assert_eq!(fired.get(), 1);
            clock.advance(2 * SECOND);
            Ok::<_, TimeoutError>(registration)
        })
        .unwrap();
        assert_eq!(fired.get(), 3);
        clock.advance(HOUR);
        assert_eq!(fired.get(), 3);
        drop(registration);
    });
}

#[test]
fn one_made_after_the_deadline_fires_at_once_and_not_again() {
    each_kind(|kind, clock| {
        let fired = Count::default();
        timeout(SECOND, || {
            clock.advance(SECOND);
            let _registration = timebox::on_cancel(fired.counting(kind));
            assert_eq!(fired.get(), 1);
            clock.advance(HOUR);
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
        assert_eq!(fired.get(), 1);
    });
}

#[test]
fn one_made_on_a_cancelled_scope_does_not_fire_at_its_deadline_too() {
    each_kind(|kind, clock| {
        let fired = Count::default();
        timeout(SECOND, || {
            timebox::token().cancel();
            let _registration = timebox::on_cancel(fired.counting(kind));
            clock.advance(HOUR);
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
        assert_eq!(fired.get(), 1);
    });
}

#[test]
fn one_that_a_cancel_has_set_off_has_run_before_the_clock_moves_on() {
    each_kind(|kind, clock| {
        let token = CancellationToken::new();
        let fired = Count::default();
        let _registration = token.on_cancel(fired.counting(kind));
        token.cancel();
        clock.advance(Duration::ZERO);
        assert_eq!(fired.get(), 1);
    });
}

#[test]
fn one_that_a_cancel_has_set_off_may_move_the_clock() {
    each_kind(|kind, clock| {
        let token = CancellationToken::new();
        let moved = clock.clone();
        let _registration = token.on_cancel(kind(Box::new(move || moved.advance(SECOND))));
        token.cancel();
        clock.advance(SECOND);
        assert_eq!(clock.elapsed(), 2 * SECOND);
    });
}

#[test]
fn one_made_on_an_expired_scope_waits_for_a_shield_to_close() {
    each_kind(|kind, clock| {
        let fired = Count::default();
        timeout(SECOND, || {
            timebox::token().cancel();
            let _registration = timebox::on_cancel(fired.counting(kind).every(SECOND));
            let before = fired.get();
            shield(2 * HOUR, || {
                clock.advance(HOUR);
                assert_eq!(fired.get(), before);
            });
            clock.advance(2 * SECOND);
            assert!(fired.get() > before);
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn one_that_repeats_pauses_while_a_shield_is_open() {
    each_kind(|kind, clock| {
        let fired = Count::default();
        let call = || {
            clock.advance(2 * SECOND);
            let before = fired.get();
            assert!(before > 0);
            shield(2 * HOUR, || {
                clock.advance(HOUR);
                assert_eq!(fired.get(), before);
            });
            clock.advance(2 * SECOND);
            assert!(fired.get() > before);
        };
        timeout(SECOND, || {
            timebox::interruptible_outcome(fired.counting(kind).every(SECOND), call).map(drop)
        })
        .unwrap();
    });
}

#[test]
fn one_whose_future_has_moved_to_another_scope_does_not_fire_for_the_first() {
    each_kind(|kind, clock| {
        let fired = Count::default();
        let query = std::future::pending::<Result<(), String>>();
        let query = RefCell::new(Box::pin(future::interruptible(fired.counting(kind), query)));
        let poll_query = || assert!(poll(query.borrow_mut().as_mut()).is_pending());
        let first = future::timeout_value(
            SECOND,
            std::future::poll_fn(|_| {
                poll_query();
                Poll::<()>::Pending
            }),
        );
        let mut first = pin!(first);
        assert!(poll(first.as_mut()).is_pending());
        timeout(2 * HOUR, || {
            poll_query();
            clock.advance(HOUR);
            assert_eq!(fired.get(), 0);
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn one_that_comes_to_a_scope_that_is_over_fires_one_time_for_it() {
    each_kind(|kind, clock| {
        let fired = Count::default();
        let query = std::future::pending::<Result<(), String>>();
        let mut query = Box::pin(future::interruptible(fired.counting(kind).once(), query));
        assert!(poll(query.as_mut()).is_pending());
        timeout(HOUR, || {
            timebox::token().cancel();
            for _ in 0..3 {
                assert!(poll(query.as_mut()).is_pending());
                clock.advance(Duration::ZERO);
            }
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
        assert_eq!(fired.get(), 1);
    });
}

#[test]
fn one_that_repeats_or_escalates_stops_when_its_future_has_left_the_scope() {
    each_kind(|kind, clock| {
        let (first, second) = (Count::default(), Count::default());
        let hook = first.counting(kind).every(SECOND).then(SECOND, second.counting(kind).every(SECOND));
        let mut query = Box::pin(future::interruptible(hook, std::future::pending::<Result<(), String>>()));
        let mut poll = || assert!(query.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let both = || (first.get(), second.get());
        let in_scope = |poll: &mut dyn FnMut()| {
            let before = both();
            timeout(SECOND, || {
                poll();
                clock.advance(4 * SECOND);
                Ok::<_, TimeoutError>(())
            })
            .unwrap();
            assert!(both().0 > before.0 + 1 && both().1 > before.1 + 1, "{before:?} {:?}", both());
        };
        in_scope(&mut poll);
        poll();
        let outside = both();
        clock.advance(HOUR);
        assert_eq!(both(), outside);
        // In another scope that is over it begins anew.
        in_scope(&mut poll);
    });
}

/// A hook that runs until what it escalates to, after three seconds, comes; how that went, and when.
fn waits_for_its_escalation(clock: &MockClock) -> (Hook<'static>, Receiver<(bool, Duration)>) {
    let (come, comes) = channel();
    let (done, is_done) = channel();
    let clock = clock.clone();
    let first = move || done.send((comes.recv_timeout(30 * SECOND).is_ok(), clock.elapsed()));
    let second = Hook::new(move || come.send(())).once();
    (Hook::new(first).once().then(3 * SECOND, second), is_done)
}

#[test]
fn one_that_still_runs_escalates() {
    MockClock::new().run(|clock| {
        let (hook, is_done) = waits_for_its_escalation(clock);
        timebox::timeout_value(SECOND, || {
            let _registration = timebox::on_cancel(hook);
            clock.advance(4 * SECOND);
            assert_eq!(is_done.try_recv(), Ok((true, 4 * SECOND)));
        })
        .unwrap();
    });
}

#[test]
fn one_that_a_cancel_has_set_off_and_that_still_runs_escalates() {
    MockClock::new().run(|clock| {
        let (hook, is_done) = waits_for_its_escalation(clock);
        let token = CancellationToken::new();
        let _registration = token.on_cancel(hook);
        token.cancel();
        clock.advance(3 * SECOND);
        assert_eq!(is_done.try_recv(), Ok((true, 3 * SECOND)));
    });
}

/// A foreign call and an open shield in one future, polled in either order.
fn beside_a_shield(test: impl Fn(Pin<&mut dyn Future<Output = ()>>, &Count, &MockClock)) {
    for shield_first in [false, true] {
        each_kind(|kind, clock| {
            let fired = Count::default();
            let call = std::future::pending::<Result<(), TimeoutError>>();
            let mut call = Box::pin(future::interruptible(fired.counting(kind), call));
            let mut cleanup = Box::pin(future::shield(HOUR, std::future::pending::<()>()));
            let mut both = pin!(std::future::poll_fn(|cx| {
                let before = shield_first && cleanup.as_mut().poll(cx).is_ready();
                let beside = call.as_mut().poll(cx).is_ready();
                let after = !shield_first && cleanup.as_mut().poll(cx).is_ready();
                assert!(!(before || beside || after));
                Poll::Pending
            }));
            test(both.as_mut(), &fired, clock);
        });
    }
}

#[test]
fn one_beside_an_async_shield_does_not_fire_while_that_is_open_whichever_came_first() {
    beside_a_shield(|both, fired, clock| {
        let mut scope = pin!(Timebox::new(SECOND).grace(HOUR).run_future_value(both));
        assert!(poll(scope.as_mut()).is_pending());
        clock.advance(10 * SECOND);
        assert_eq!(fired.get(), 0);
    });
}

#[test]
fn one_that_moves_with_an_async_shield_does_not_fire_in_the_next_scope_either() {
    beside_a_shield(|mut both, fired, clock| {
        {
            let mut scope = pin!(future::timeout_value(HOUR, both.as_mut()));
            assert!(poll(scope.as_mut()).is_pending());
        }
        let mut scope = pin!(Timebox::new(SECOND).grace(HOUR).run_future_value(both));
        assert!(poll(scope.as_mut()).is_pending());
        clock.advance(10 * SECOND);
        assert_eq!(fired.get(), 0);
    });
}
