//! A mock clock that moves by itself.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;

use super::*;

const REAL_TIME: Duration = Duration::from_secs(40);

/// What would else hang.
fn bounded(test: impl FnOnce() + Send + 'static) {
    let (send, done) = channel::<()>();
    let test = thread::spawn(move || {
        let _done = send;
        test();
    });
    let hangs = done.recv_timeout(REAL_TIME) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
    assert!(!hangs, "it hangs");
    test.join().unwrap();
}

#[test]
fn under_block_on_the_clock_goes_to_the_next_timer_when_the_future_waits() {
    bounded(|| {
        let clock = MockClock::new();
        let order = Mutex::new(Vec::new());
        let sleeps = [3, 1, 2].map(|n| {
            let (order, clock) = (&order, &clock);
            async move {
                future::sleep(n * HOUR).await.unwrap();
                order.lock().unwrap().push((n, clock.elapsed()));
            }
        });
        clock.block_on(futures::future::join_all(sleeps));
        assert_eq!(*order.lock().unwrap(), [1, 2, 3].map(|n| (n, n * HOUR)));
        assert_eq!(clock.elapsed(), 3 * HOUR);
    });
}

#[test]
fn under_block_on_limits_graces_and_shields_are_exact() {
    bounded(|| {
        let clock = MockClock::new();
        let error = clock.block_on(future::timeout(HOUR, future::sleep(2 * HOUR))).unwrap_err();
        assert_eq!((error.elapsed(), error.overshoot()), (HOUR, Duration::ZERO));
        let nothing = std::future::pending::<()>();
        let error = clock.block_on(Timebox::new(HOUR).grace(SECOND).run_future_value(nothing)).unwrap_err();
        assert!(!error.settled());
        assert_eq!(clock.elapsed(), 2 * HOUR + SECOND);
        let rolls_back = async {
            let _ = future::sleep(2 * HOUR).await;
            future::shield(HOUR, future::sleep(SECOND)).await
        };
        clock.block_on(Timebox::new(HOUR).grace(HOUR).run_future(rolls_back)).unwrap();
        assert_eq!(clock.elapsed(), 3 * HOUR + 2 * SECOND);
    });
}

#[test]
fn under_block_on_a_future_that_wakes_itself_does_not_wait() {
    bounded(|| {
        let clock = MockClock::new();
        let mut left = 1000;
        let busy = std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            left -= 1;
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        let sleep = pin!(future::sleep(NANO));
        let beside = futures::future::select(busy, sleep);
        assert!(matches!(clock.block_on(beside), futures::future::Either::Left(_)));
        assert_eq!(clock.elapsed(), Duration::ZERO);
    });
}

#[test]
fn under_block_on_a_future_may_be_woken_from_outside() {
    bounded(|| {
        let clock = MockClock::new();
        let token = CancellationToken::new();
        let canceller = thread::spawn({
            let token = token.clone();
            move || token.cancel()
        });
        clock.block_on(token.cancelled());
        canceller.join().unwrap();
        assert_eq!(clock.elapsed(), Duration::ZERO);
    });
}

/// Starts threads under the clock, each with its number from 1, calls `meanwhile` when all are there, and waits for
/// them.
fn with_threads(
    clock: &MockClock,
    count: u32,
    thread: impl Fn(u32) + Sync,
    meanwhile: impl FnOnce(&MockClock),
) {
    let (handle, thread) = (timebox::handle(), &thread);
    thread::scope(|threads| {
        let ends = (1..=count).map(|n| {
            let (hold, handle, end) = (clock.hold(), handle.clone(), CancellationToken::new());
            let ends = end.clone().drop_guard();
            threads.spawn(move || {
                let entered = handle.enter(Limit::NONE, |_| {
                    let _ends = ends;
                    drop(hold);
                    thread(n);
                    Ok::<_, TimeoutError>(())
                });
                entered.unwrap();
            });
            end
        });
        let ends: Vec<_> = ends.collect();
        meanwhile(clock);
        ends.iter().for_each(|end| clock.block_on(end.cancelled()));
    });
}

#[test]
fn when_all_threads_sleep_it_goes_to_the_first_that_wakes() {
    bounded(|| {
        for _ in 0..20 {
            let order = Mutex::new(Vec::new());
            MockClock::auto_advancing().run(|clock| {
                let sleeps = |n: u32| {
                    for turn in 0..3 {
                        sleep(n * HOUR + turn * SECOND).unwrap();
                        order.lock().unwrap().push((timebox::now(), n));
                    }
                };
                with_threads(clock, 5, sleeps, |_| ());
                assert_eq!(clock.elapsed(), 15 * HOUR + 3 * SECOND);
                let order = order.lock().unwrap();
                assert!(order.is_sorted_by_key(|(time, _)| *time), "{order:?}");
                assert_eq!(order.len(), 15);
            });
        }
    });
}

#[test]
fn a_thread_that_works_holds_it() {
    bounded(|| {
        let (send, begun) = channel();
        let (go_on, may_go_on) = channel();
        let ends = Mutex::new((send, may_go_on));
        MockClock::auto_advancing().run(|clock| {
            let works = |n| {
                if n == 1 {
                    return sleep(HOUR).unwrap();
                }
                let ends = ends.lock().unwrap();
                ends.0.send(()).unwrap();
                // A wait that the clock does not know of.
                ends.1.recv().unwrap();
                assert_eq!(clock.elapsed(), Duration::ZERO);
                sleep(SECOND).unwrap();
                assert_eq!(clock.elapsed(), SECOND);
            };
            // From outside of the clock.
            let outside = thread::spawn(move || {
                begun.recv().unwrap();
                go_on.send(()).unwrap();
            });
            with_threads(clock, 2, works, |_| ());
            assert_eq!(clock.elapsed(), HOUR);
            outside.join().unwrap();
        });
    });
}

#[test]
fn a_sleep_on_the_test_s_thread_waits_for_the_others() {
    bounded(|| {
        for _ in 0..20 {
            MockClock::auto_advancing().run(|clock| {
                let woken = AtomicU32::new(0);
                let sleeps = |n| {
                    sleep(n * SECOND).unwrap();
                    woken.fetch_add(1, Ordering::SeqCst);
                };
                with_threads(clock, 3, sleeps, |clock| {
                    sleep(HOUR).unwrap();
                    assert_eq!((woken.load(Ordering::SeqCst), clock.elapsed()), (3, HOUR));
                });
            });
        }
    });
}

#[test]
fn a_limit_ends_a_sleep_under_it_and_a_cancel_does() {
    bounded(|| {
        MockClock::auto_advancing().run(|clock| {
            let error = timeout(SECOND, || sleep(HOUR)).unwrap_err();
            assert_eq!((error.elapsed(), clock.elapsed()), (SECOND, SECOND));
            let error = timeout(HOUR, || {
                let token = timebox::token();
                let ended = Mutex::new(None);
                let waits = |_| *ended.lock().unwrap() = Some(sleep(2 * HOUR).unwrap_err());
                with_threads(clock, 1, waits, |_| {
                    sleep(SECOND).unwrap();
                    token.cancel_with("enough");
                });
                Err::<(), _>(ended.into_inner().unwrap().unwrap())
            });
            assert_eq!(error.unwrap_err().reason(), Some("enough"));
            assert_eq!(clock.elapsed(), 2 * SECOND);
        });
    });
}

#[test]
fn a_hold_keeps_it_where_it_is() {
    bounded(|| {
        MockClock::auto_advancing().run(|clock| {
            let hold = clock.hold();
            let (send, released) = channel();
            let still = clock.clone();
            let release = thread::spawn(move || {
                let before = still.elapsed();
                send.send(before).unwrap();
                drop(hold);
            });
            sleep(HOUR).unwrap();
            assert_eq!(released.recv(), Ok(Duration::ZERO));
            release.join().unwrap();
        });
    });
}

#[test]
fn a_hook_that_sleeps_by_it_does_not_hold_it_for_ever() {
    bounded(|| {
        MockClock::auto_advancing().run(|clock| {
            let handle = timebox::handle();
            let (send, slept) = futures::channel::oneshot::channel();
            let mut send = Some(send);
            let error = timeout(SECOND, || {
                let hook = move || {
                    let slept = handle.enter(Limit::NONE, |_| sleep(HOUR));
                    send.take().map(|send| send.send(slept.is_ok()))
                };
                let call = || if clock.block_on(slept) == Ok(true) { Err("stopped") } else { Ok(()) };
                timebox::interruptible(Hook::new(hook).once(), call)
            });
            assert!(error.is_err_and(|error| error.is_timeout()));
        });
    });
}

#[test]
fn it_does_not_move_before_abandoned_work_has_begun() {
    bounded(|| {
        for _ in 0..100 {
            MockClock::auto_advancing().run(|clock| {
                let slept = timebox::abandon(HOUR, || sleep(SECOND).is_ok()).unwrap();
                assert!(slept);
                assert_eq!(clock.elapsed(), SECOND);
                let error = timebox::abandon(HOUR, || sleep(2 * HOUR).is_ok());
                // The work has ended by its own scope, or was left to.
                assert!(error.map_or_else(|error| error.is_timeout(), |slept| !slept));
                assert_eq!(clock.elapsed(), HOUR + SECOND);
            });
        }
    });
}

#[test]
fn a_sleep_of_no_length_is_no_time_for_the_others() {
    bounded(|| {
        MockClock::auto_advancing().run(|clock| {
            let sleeps = |n| {
                if n == 1 {
                    return sleep(SECOND).unwrap();
                }
                for _ in 0..100 {
                    sleep(Duration::ZERO).unwrap();
                    assert_eq!(clock.elapsed(), Duration::ZERO);
                }
            };
            with_threads(clock, 2, sleeps, |_| ());
            assert_eq!(clock.elapsed(), SECOND);
        });
    });
}

#[test]
fn clocks_do_not_move_each_other() {
    bounded(|| {
        let other = MockClock::auto_advancing();
        MockClock::auto_advancing().run(|clock| {
            other.run(|other| {
                sleep(HOUR).unwrap();
                assert_eq!((other.elapsed(), clock.elapsed()), (HOUR, Duration::ZERO));
            });
            sleep(SECOND).unwrap();
            assert_eq!((other.elapsed(), clock.elapsed()), (HOUR, SECOND));
        });
    });
}

#[test]
fn a_runtime_moves_it_when_it_is_idle() {
    bounded(|| {
        let clock = MockClock::new();
        let idle = clock.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .on_thread_park(move || {
                idle.advance_to_next();
            })
            .build()
            .unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        clock.run(|_| {
            runtime.block_on(async {
                let tasks = [3_u32, 1, 2].map(|n| {
                    let order = Arc::clone(&order);
                    tokio::spawn(async move {
                        for turn in 1..=10 {
                            future::sleep(n * HOUR).await.unwrap();
                            order.lock().unwrap().push(n * turn);
                        }
                    })
                });
                for task in tasks {
                    task.await.unwrap();
                }
            });
        });
        assert!(order.lock().unwrap().is_sorted());
        assert_eq!(clock.elapsed(), 30 * HOUR);
    });
}

#[test]
fn the_next_timer_is_one_step() {
    let clock = MockClock::new();
    assert!(!clock.advance_to_next());
    let tokens =
        clock.run(|_| [2, 1].map(|n| timeout(n * HOUR, || Ok::<_, TimeoutError>(timebox::token())).unwrap()));
    assert!(clock.advance_to_next());
    assert_eq!((clock.elapsed(), tokens[0].is_cancelled(), tokens[1].is_cancelled()), (HOUR, false, true));
    assert!(clock.advance_to_next() && tokens[0].is_cancelled());
    assert!(!clock.advance_to_next());
}
