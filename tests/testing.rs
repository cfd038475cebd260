//! The mock clock and injected expiry: what `timebox::testing` promises.

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use timebox::testing::{self, MockClock, Point, expire_at, expire_at_checkpoint, try_for_each_checkpoint};
use timebox::{
    CancellationToken, Hook, Limit, Quota, Timebox, TimeoutError, checkpoint, future, is_expired, shield,
    sleep, timeout,
};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);
/// An hour but for a nanosecond.
const ALMOST_HOUR: Duration = Duration::new(3599, 999_999_999);

type Done = Result<(), TimeoutError>;

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

mod clock {
    use super::*;

    #[test]
    fn a_scope_expires_exactly_at_its_limit_and_not_before() {
        MockClock::new().run(|clock| {
            let error = timeout(HOUR, || -> Done {
                clock.advance(ALMOST_HOUR);
                checkpoint()?;
                clock.advance(NANO);
                checkpoint()
            });
            let error = error.unwrap_err();
            assert_eq!((error.elapsed(), error.overshoot()), (HOUR, Duration::ZERO));
        });
    }

    #[test]
    fn time_does_not_move_by_itself() {
        MockClock::new().run(|clock| {
            timeout(NANO, || {
                std::thread::sleep(Duration::from_millis(5));
                checkpoint()
            })
            .unwrap();
            assert_eq!(clock.elapsed(), Duration::ZERO);
        });
    }

    #[test]
    fn a_sleep_on_the_test_s_thread_moves_it_to_its_end() {
        MockClock::new().run(|clock| {
            sleep(HOUR).unwrap();
            assert_eq!(clock.elapsed(), HOUR);
            timeout(2 * HOUR, || sleep(HOUR)).unwrap();
            assert_eq!(clock.elapsed(), 2 * HOUR);
        });
    }

    #[test]
    fn a_sleep_moves_it_no_further_than_to_the_expiry_of_its_scope() {
        MockClock::new().run(|clock| {
            let error = timeout(SECOND, || sleep(HOUR)).unwrap_err();
            assert_eq!((error.elapsed(), error.overshoot()), (SECOND, Duration::ZERO));
            assert_eq!(clock.elapsed(), SECOND);
        });
    }

    #[test]
    fn expiries_happen_in_order_and_their_hooks_have_run_when_advance_returns() {
        MockClock::new().run(|clock| {
            let order = Arc::new(std::sync::Mutex::new(Vec::new()));
            let log = |name: &'static str| {
                let order = Arc::clone(&order);
                move || order.lock().unwrap().push(name)
            };
            let tokens: Vec<_> = [3, 1, 2]
                .map(|n| timeout(n * SECOND, || Ok::<_, TimeoutError>(timebox::token())).unwrap())
                .into();
            let names = ["three", "one", "two"];
            let _registrations: Vec<_> = tokens
                .iter()
                .zip(names)
                .map(|(token, name)| {
                    let hook = if name == "two" { Hook::new(log(name)) } else { Hook::inline(log(name)) };
                    token.on_cancel(hook)
                })
                .collect();
            clock.advance(2 * SECOND);
            assert_eq!(*order.lock().unwrap(), ["one", "two"]);
            assert!(tokens[1].is_cancelled() && tokens[2].is_cancelled() && !tokens[0].is_cancelled());
            clock.advance(SECOND);
            assert_eq!(*order.lock().unwrap(), ["one", "two", "three"]);
        });
    }

    #[test]
    fn a_hook_that_a_hook_sets_off_has_run_too() {
        MockClock::new().run(|clock| {
            let second = CancellationToken::new();
            let ran = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&ran);
            let _second = second.on_cancel(move || counted.fetch_add(1, Ordering::SeqCst));
            let first = timeout(SECOND, || Ok::<_, TimeoutError>(timebox::token())).unwrap();
            let cancelled = second.clone();
            let _first = first.on_cancel(move || cancelled.cancel());
            clock.advance(SECOND);
            assert_eq!(ran.load(Ordering::SeqCst), 1);
        });
    }

    #[test]
    fn the_scopes_around_the_test_do_not_count_inside() {
        let outer = timeout(Duration::from_millis(5), || {
            while !is_expired() {}
            MockClock::new().run(|_| {
                checkpoint()?;
                timeout(SECOND, checkpoint)
            })?;
            checkpoint()
        });
        assert_eq!(outer.unwrap_err().limit(), Some(Duration::from_millis(5)));
    }

    #[test]
    fn an_instant_is_taken_on_the_clock_s_scale() {
        MockClock::new().run(|clock| {
            let in_an_hour = clock.now() + HOUR;
            let result = timeout(in_an_hour, || -> Done {
                clock.advance(ALMOST_HOUR);
                checkpoint()?;
                clock.advance(NANO);
                checkpoint()
            });
            assert!(result.is_err());
        });
    }

    #[test]
    fn a_thread_that_enters_a_handle_follows_the_clock_and_waits_for_it() {
        let clock = MockClock::new();
        clock.run(|clock| {
            let error = timeout(HOUR, || {
                let handle = timebox::handle();
                std::thread::scope(|threads| {
                    let (send, entered) = std::sync::mpsc::channel();
                    let worker = threads.spawn(move || {
                        handle.enter(Limit::NONE, |_| {
                            send.send(()).unwrap();
                            sleep(2 * HOUR)
                        })
                    });
                    entered.recv().unwrap();
                    clock.advance(HOUR);
                    worker.join().unwrap()
                })
            });
            let error = error.unwrap_err();
            assert_eq!((error.limit(), error.elapsed()), (Some(HOUR), HOUR));
        });
    }

    #[test]
    fn a_sleep_on_another_thread_does_not_move_it() {
        MockClock::new().run(|clock| {
            let slept = CancellationToken::new();
            let (handle, tell) = (timebox::handle(), slept.clone());
            let (send, entered) = std::sync::mpsc::channel();
            let worker = std::thread::spawn(move || {
                handle.enter(Limit::NONE, |_| {
                    send.send(()).unwrap();
                    sleep(HOUR)?;
                    tell.cancel();
                    Ok::<_, TimeoutError>(())
                })
            });
            entered.recv().unwrap();
            let mut moved = Duration::ZERO;
            while !slept.is_cancelled() {
                clock.advance(HOUR / 4);
                moved += HOUR / 4;
            }
            worker.join().unwrap().unwrap();
            assert_eq!(clock.elapsed(), moved);
        });
    }

    #[test]
    fn a_hook_has_the_move_in_progress_go_on() {
        MockClock::new().run(|clock| {
            let moved = clock.clone();
            let token = timeout(SECOND, || Ok::<_, TimeoutError>(timebox::token())).unwrap();
            let _registration = token.on_cancel(move || moved.advance(2 * SECOND));
            clock.advance(SECOND);
            assert_eq!(clock.elapsed(), 3 * SECOND);
        });
    }

    #[test]
    fn what_was_read_from_it_is_forgotten_outside() {
        let left = timeout(HOUR, || {
            MockClock::new().run(|clock| {
                clock.advance(ALMOST_HOUR);
                checkpoint()
            })?;
            timeout(HOUR / 2, || Ok::<_, TimeoutError>(timebox::remaining()))
        });
        assert!(left.unwrap().is_some_and(|left| left <= HOUR / 2));
    }

    #[test]
    fn a_token_keeps_the_clock_that_it_was_made_under() {
        let clock = MockClock::new();
        let token = clock.run(|_| timeout(HOUR, || Ok::<_, TimeoutError>(timebox::token())).unwrap());
        assert!(!token.is_cancelled());
        clock.advance(HOUR);
        assert!(token.is_cancelled());
        let real = timeout(HOUR, || Ok::<_, TimeoutError>(timebox::token())).unwrap();
        clock.run(|clock| clock.advance(10 * HOUR));
        assert!(!real.is_cancelled());
    }

    #[test]
    fn a_quota_counts_mock_time() {
        MockClock::new().run(|clock| {
            let quota = Quota::new(HOUR);
            quota.timeout(|| sleep(HOUR / 2)).unwrap();
            assert_eq!(quota.remaining(), HOUR / 2);
            clock.advance(HOUR);
            assert_eq!(quota.remaining(), HOUR / 2);
            assert!(quota.timeout(|| sleep(HOUR)).is_err());
            assert!(quota.is_exhausted());
        });
    }

    #[test]
    fn a_future_expires_when_the_clock_is_moved() {
        MockClock::new().run(|clock| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let task = tokio::task::LocalSet::new();
                let error = task
                    .run_until(async {
                        let limited =
                            tokio::task::spawn_local(future::timeout(HOUR, future::sleep(2 * HOUR)));
                        tokio::task::yield_now().await;
                        clock.advance(ALMOST_HOUR);
                        tokio::task::yield_now().await;
                        assert!(!limited.is_finished());
                        clock.advance(NANO);
                        limited.await.unwrap()
                    })
                    .await;
                let error = error.unwrap_err();
                assert_eq!((error.elapsed(), error.overshoot()), (HOUR, Duration::ZERO));
            });
        });
    }

    #[test]
    fn a_future_made_under_it_follows_it_on_another_thread() {
        let clock = MockClock::new();
        let future = clock.run(|_| future::timeout(HOUR, future::sleep(2 * HOUR)));
        let (send, polled) = std::sync::mpsc::channel();
        let worker = std::thread::spawn(move || {
            let mut future = std::pin::pin!(future);
            pollster::block_on(std::future::poll_fn(|context| {
                let poll = future.as_mut().poll(context);
                let _ = send.send(());
                poll
            }))
        });
        polled.recv().unwrap();
        clock.advance(HOUR);
        assert_eq!(worker.join().unwrap().unwrap_err().elapsed(), HOUR);
    }

    #[test]
    fn a_future_of_another_clock_still_ends_with_the_scope_it_is_polled_in() {
        let clock = MockClock::new();
        let future = clock.run(|_| future::timeout(HOUR, future::sleep(2 * HOUR)));
        let error = timeout(Duration::from_millis(10), || pollster::block_on(future)).unwrap_err();
        assert_eq!(error.limit(), Some(Duration::from_millis(10)));
    }

    #[test]
    fn the_deadlines_of_a_future_of_another_clock_are_not_compared_with_those_around_it() {
        let clock = MockClock::new();
        clock.advance(10 * HOUR);
        let mut future = clock.run(|_| Box::pin(future::timeout(HOUR, future::sleep(2 * HOUR))));
        let mut poll = || timeout(HOUR, || Ok::<_, TimeoutError>(poll(future.as_mut()))).unwrap();
        assert!(poll().is_pending());
        clock.advance(ALMOST_HOUR);
        assert!(poll().is_pending());
        clock.advance(NANO);
        assert!(poll().is_ready());
    }

    #[test]
    fn a_future_of_another_clock_keeps_its_token_from_poll_to_poll() {
        let tokens = RefCell::new(Vec::new());
        let takes = std::future::poll_fn(|_| {
            tokens.borrow_mut().push(timebox::token());
            Poll::<()>::Pending
        });
        let mut future = MockClock::new().run(|_| Box::pin(future::timeout_value(HOUR, takes)));
        let mut poll = || timeout(HOUR, || Ok::<_, TimeoutError>(poll(future.as_mut()))).unwrap();
        assert!(poll().is_pending() && poll().is_pending());
        tokens.borrow()[0].cancel();
        assert!(poll().is_ready());
    }

    #[test]
    fn a_sleep_keeps_the_clock_of_its_first_poll() {
        let mut sleep = Box::pin(future::sleep(HOUR));
        assert!(poll(sleep.as_mut()).is_pending());
        MockClock::new().run(|clock| {
            clock.advance(2 * HOUR);
            assert!(poll(sleep.as_mut()).is_pending());
        });
    }

    #[test]
    fn a_future_made_outside_follows_the_clock_of_its_first_poll() {
        let mut future = Box::pin(future::timeout(HOUR, future::sleep(2 * HOUR)));
        let clock = MockClock::new();
        clock.run(|_| assert!(poll(future.as_mut()).is_pending()));
        clock.advance(ALMOST_HOUR);
        assert!(poll(future.as_mut()).is_pending());
        clock.advance(NANO);
        assert!(poll(future.as_mut()).is_ready());
    }

    #[test]
    fn a_grace_is_mock_time() {
        MockClock::new().run(|clock| {
            let mut limited = std::pin::pin!(
                Timebox::new(SECOND).grace(SECOND).run_future_value(std::future::pending::<()>())
            );
            let mut poll = || {
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                std::future::Future::poll(limited.as_mut(), &mut context)
            };
            assert!(poll().is_pending());
            clock.advance(SECOND);
            assert!(poll().is_pending());
            clock.advance(SECOND);
            assert!(poll().is_ready());
        });
    }

    #[test]
    fn an_interruptible_call_is_interrupted_by_who_moves_the_clock() {
        MockClock::new().run(|clock| {
            let (stop, stopped) = std::sync::mpsc::channel();
            let error = timeout(SECOND, || {
                timebox::interruptible(Hook::inline(move || stop.send(())), || {
                    clock.advance(SECOND);
                    stopped.recv().map_or(Ok(()), |()| Err("stopped"))
                })
            });
            assert!(error.is_err_and(|error| error.is_timeout()));
        });
    }

    #[test]
    fn parallel_tests_do_not_see_each_other() {
        let clocks = [MockClock::new(), MockClock::new()];
        std::thread::scope(|threads| {
            for (clock, hours) in clocks.iter().zip([1, 5]) {
                threads.spawn(move || {
                    clock.run(|clock| {
                        for _ in 0..1000 {
                            clock.advance(hours * SECOND);
                        }
                    });
                });
            }
        });
        assert_eq!(clocks.map(|clock| clock.elapsed()), [1000 * SECOND, 5000 * SECOND]);
    }

    #[test]
    fn a_shield_lasts_its_mock_time() {
        MockClock::new().run(|clock| {
            timeout(SECOND, || -> Done {
                clock.advance(SECOND);
                shield(SECOND, || -> Done {
                    checkpoint()?;
                    clock.advance(SECOND);
                    assert!(checkpoint().is_err());
                    Ok(())
                })
            })
            .unwrap();
        });
    }
}

/// How often a hook fires, to the very firing: nothing is waited for that must not come.
mod firings {
    use super::*;

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

    const KINDS: [Kind; 2] = [Hook::new, Hook::inline];

    #[test]
    fn one_made_once_fires_once() {
        for kind in KINDS {
            MockClock::new().run(|clock| {
                let fired = Count::default();
                let outcome = timeout(SECOND, || {
                    timebox::interruptible_outcome(fired.counting(kind).once(), || clock.advance(HOUR))
                });
                assert_eq!((outcome.unwrap().fires, fired.get()), (1, 1));
            });
        }
    }

    #[test]
    fn one_that_repeats_fires_at_each_interval() {
        for kind in KINDS {
            MockClock::new().run(|clock| {
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
    }

    #[test]
    fn one_of_an_interruptible_call_repeats_at_growing_intervals() {
        for kind in KINDS {
            MockClock::new().run(|clock| {
                let fired = Count::default();
                let half = Duration::from_micros(500);
                let call = || {
                    clock.advance(SECOND);
                    let mut fires = 1;
                    for doubled in [1, 2, 4, 8, 16, 32, 64, 128, 128, 128] {
                        clock.advance(doubled * half - NANO);
                        assert_eq!(fired.get(), fires);
                        clock.advance(NANO);
                        fires += 1;
                        assert_eq!(fired.get(), fires);
                    }
                };
                timeout(SECOND, || timebox::interruptible_outcome(fired.counting(kind), call).map(drop))
                    .unwrap();
            });
        }
    }

    #[test]
    fn inline_ones_go_first() {
        MockClock::new().run(|clock| {
            let order = Arc::new(std::sync::Mutex::new(Vec::new()));
            let log = |name: &'static str| {
                let order = Arc::clone(&order);
                move || order.lock().unwrap().push(name)
            };
            let token = CancellationToken::new();
            let _blocking = token.on_cancel(Hook::new(log("blocking")));
            let _inline = token.on_cancel(Hook::inline(log("inline")));
            token.cancel();
            clock.advance(NANO);
            assert_eq!(*order.lock().unwrap(), ["inline", "blocking"]);
        });
    }

    #[test]
    fn one_that_panicked_does_not_fire_again() {
        for kind in KINDS {
            MockClock::new().run(|clock| {
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
    }

    #[test]
    fn one_made_on_an_expired_scope_fires_at_once_and_dies_with_the_scope() {
        for kind in KINDS {
            MockClock::new().run(|clock| {
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
    }

    #[test]
    fn one_made_on_a_cancelled_scope_does_not_fire_at_its_deadline_too() {
        for kind in KINDS {
            MockClock::new().run(|clock| {
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
    }

    #[test]
    fn one_that_a_cancel_has_set_off_has_run_before_the_clock_moves_on() {
        for kind in KINDS {
            MockClock::new().run(|clock| {
                let token = CancellationToken::new();
                let fired = Count::default();
                let _registration = token.on_cancel(fired.counting(kind));
                token.cancel();
                clock.advance(Duration::ZERO);
                assert_eq!(fired.get(), 1);
            });
        }
    }

    #[test]
    fn one_that_a_cancel_has_set_off_may_move_the_clock() {
        for kind in KINDS {
            MockClock::new().run(|clock| {
                let token = CancellationToken::new();
                let moved = clock.clone();
                let _registration = token.on_cancel(kind(Box::new(move || moved.advance(SECOND))));
                token.cancel();
                clock.advance(SECOND);
                assert_eq!(clock.elapsed(), 2 * SECOND);
            });
        }
    }

    #[test]
    fn one_made_on_an_expired_scope_waits_for_a_shield_to_close() {
        for kind in KINDS {
            MockClock::new().run(|clock| {
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
    }

    #[test]
    fn one_that_repeats_pauses_while_a_shield_is_open() {
        for kind in KINDS {
            MockClock::new().run(|clock| {
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
    }

    #[test]
    fn one_whose_future_has_moved_to_another_scope_does_not_fire_for_the_first() {
        for kind in KINDS {
            MockClock::new().run(|clock| {
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
                assert!(poll(pin!(first)).is_pending());
                timeout(2 * HOUR, || {
                    poll_query();
                    clock.advance(HOUR);
                    assert_eq!(fired.get(), 0);
                    Ok::<_, TimeoutError>(())
                })
                .unwrap();
            });
        }
    }

    #[test]
    fn one_that_comes_to_a_scope_that_is_over_fires_one_time_for_it() {
        for kind in KINDS {
            MockClock::new().run(|clock| {
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
    }

    #[test]
    fn one_that_repeats_or_escalates_stops_when_its_future_has_left_the_scope() {
        for kind in KINDS {
            MockClock::new().run(|clock| {
                let (first, second) = (Count::default(), Count::default());
                let hook =
                    first.counting(kind).every(SECOND).then(SECOND, second.counting(kind).every(SECOND));
                let mut query =
                    Box::pin(future::interruptible(hook, std::future::pending::<Result<(), String>>()));
                let mut poll =
                    || assert!(query.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
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
    }
}

mod injection {
    use super::*;

    #[test]
    fn the_nth_point_finds_the_innermost_scope_expired() {
        for n in 1..=4 {
            let mut passed = 0;
            let result = expire_at_checkpoint(n, || {
                timeout(HOUR, || -> Done {
                    checkpoint()?;
                    passed += 1;
                    sleep(Duration::ZERO)?;
                    passed += 1;
                    timebox::interruptible(|| (), || Ok::<_, TimeoutError>(()))??;
                    passed += 1;
                    Ok(())
                })
            });
            let error = result.unwrap_err();
            assert!(error.is_timeout());
            assert_eq!(passed, n.saturating_sub(2));
            assert_eq!(error.started(), n > 1);
            assert_eq!(error.limit(), if n == 1 { None } else { Some(HOUR) });
        }
    }

    #[test]
    fn in_a_shield_that_point_passes_and_the_next_one_outside_fails() {
        let mut inside = None;
        let result = expire_at_checkpoint(2, || {
            timeout(HOUR, || -> Done {
                inside = Some(shield(HOUR, checkpoint).is_ok());
                checkpoint()
            })
        });
        assert_eq!(inside, Some(true));
        assert_eq!(result.unwrap_err().limit(), Some(HOUR));
    }

    #[test]
    fn what_is_around_the_harness_does_not_expire() {
        timeout(HOUR, || -> Done {
            shield(HOUR, || {
                assert!(expire_at_checkpoint(1, || shield(HOUR, checkpoint)).is_ok());
                assert!(expire_at_checkpoint(1, checkpoint).is_err());
            });
            checkpoint()
        })
        .unwrap();
    }

    #[test]
    fn a_shield_s_own_limit_is_injected_on_request() {
        let result = testing::expire_in_shields_at(2, || {
            timeout(HOUR, || -> Done {
                assert!(shield(SECOND, checkpoint).is_err());
                checkpoint()
            })
        });
        assert!(result.is_ok());
    }

    #[test]
    fn a_labelled_scope_expires_wherever_it_is_opened() {
        let attempt = || Timebox::new(HOUR).label("attempt").run(|_| checkpoint());
        let failed = expire_at("attempt", || (0..3).filter(|_| attempt().is_err()).count());
        assert_eq!(failed, 3);
    }

    #[test]
    fn hooks_have_run_when_the_point_is_passed_on() {
        let fired = Arc::new(AtomicU32::new(0));
        expire_at_checkpoint(2, || {
            timeout(HOUR, || -> Done {
                let counted = Arc::clone(&fired);
                let _registration = timebox::on_cancel(move || counted.fetch_add(1, Ordering::SeqCst));
                assert!(checkpoint().is_err());
                assert_eq!(fired.load(Ordering::SeqCst), 1);
                Ok(())
            })
        })
        .unwrap();
    }

    #[test]
    fn points_on_a_thread_that_enters_a_handle_count() {
        let result = expire_at_checkpoint(3, || {
            timeout(HOUR, || -> Done {
                let handle = timebox::handle();
                std::thread::spawn(move || handle.enter(Limit::NONE, |_| checkpoint())).join().unwrap()
            })
        });
        assert!(result.is_err());
    }

    #[test]
    fn each_time_a_scope_s_future_is_pending_is_a_point() {
        let result = expire_at_checkpoint(3, || {
            pollster::block_on(future::timeout(HOUR, async {
                checkpoint()?;
                let mut yielded = false;
                std::future::poll_fn(|context| {
                    context.waker().wake_by_ref();
                    if std::mem::replace(&mut yielded, true) {
                        std::task::Poll::Ready(())
                    } else {
                        std::task::Poll::Pending
                    }
                })
                .await;
                Ok::<_, TimeoutError>(())
            }))
        });
        assert!(!result.unwrap_err().settled());
    }
}

mod sweep {
    use super::*;

    #[test]
    fn runs_the_body_once_more_than_it_has_points() {
        let runs = Cell::new(0);
        let report = testing::for_each_checkpoint(|| -> Done {
            runs.set(runs.get() + 1);
            timeout(HOUR, || {
                checkpoint()?;
                checkpoint()
            })
        });
        assert_eq!((runs.get(), report.points().len()), (4, 3));
    }

    #[test]
    fn a_failing_point_is_named_with_its_number_and_place() {
        let report = try_for_each_checkpoint(|| {
            let balance = Cell::new(0);
            let result = (|| -> Done {
                checkpoint()?;
                balance.set(1);
                checkpoint()?; // the bug
                balance.set(0);
                checkpoint()
            })();
            assert_eq!(balance.get(), 0, "not rolled back");
            result
        });
        let failed: Vec<_> = report.failures().map(Point::number).collect();
        assert_eq!(failed, [2]);
        let text = report.to_string();
        assert!(text.contains("not rolled back") && text.contains("expire_at_checkpoint(2, ..)"), "{text}");
        assert!(text.contains(&report.points()[1].location().to_string()));
        assert!(std::panic::catch_unwind(|| report.assert()).is_err());
    }

    #[test]
    fn a_body_that_is_not_deterministic_is_reported() {
        let runs = Cell::new(0);
        let report = try_for_each_checkpoint(|| {
            runs.set(runs.get() + 1);
            for _ in runs.get()..4 {
                let _ = checkpoint();
            }
        });
        assert!(!report.is_deterministic());
        assert!(report.to_string().contains("not deterministic"));
    }

    #[test]
    fn sweeps_futures() {
        let report = pollster::block_on(testing::future::for_each_checkpoint(|| {
            future::timeout(HOUR, async {
                checkpoint()?;
                checkpoint()
            })
        }));
        assert_eq!(report.points().len(), 3);
    }
}

mod gaps {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn a_missing_checkpoint_is_named_by_both_ends() {
        let panic = catch_unwind(|| {
            testing::assert_checkpoints(Duration::from_millis(10), || {
                checkpoint().unwrap();
                std::thread::sleep(Duration::from_millis(20));
                checkpoint().unwrap();
            });
        });
        let message = *panic.unwrap_err().downcast::<String>().unwrap();
        assert_eq!(message.matches(file!()).count(), 2, "{message}");
    }

    #[test]
    fn after_a_sleep_there_may_be_one() {
        let panic = catch_unwind(|| {
            testing::assert_checkpoints(Duration::from_millis(10), || {
                sleep(Duration::from_millis(1)).unwrap();
                std::thread::sleep(Duration::from_millis(20));
                checkpoint().unwrap();
            });
        });
        assert!(panic.is_err());
    }

    #[test]
    fn a_sleep_is_no_gap() {
        // Were it one, it would be too long each time. A busy machine makes gaps too, but not ever longer ones.
        let mut gap = Duration::from_millis(10);
        while catch_unwind(|| {
            testing::assert_checkpoints(gap, || timeout(HOUR, || sleep(2 * gap)).unwrap());
        })
        .is_err()
        {
            gap *= 2;
            assert!(gap < Duration::from_secs(10), "a sleep counts as a gap");
        }
    }
}

/// Found by the programs of `tests/model`.
mod moments {
    use super::*;

    #[test]
    fn an_error_tells_what_a_quota_had_left_also_when_another_limit_came_first() {
        MockClock::new().run(|clock| {
            let quota = Quota::new(HOUR);
            let limits =
                |error: &TimeoutError| error.chain().map(timebox::ScopeInfo::limit).collect::<Vec<_>>();
            let refused = timeout(SECOND, || {
                clock.advance(SECOND);
                quota.timeout(|| Ok::<_, TimeoutError>(()))
            });
            assert_eq!(limits(&refused.unwrap_err()), [Some(HOUR), Some(SECOND)]);
            let reserved = timeout(SECOND, || {
                Timebox::new(&quota).reserve(NANO).run(|_| {
                    clock.advance(SECOND);
                    checkpoint()
                })
            });
            assert_eq!(limits(&reserved.unwrap_err()), [Some(HOUR), Some(SECOND)]);
        });
    }

    #[test]
    fn a_cancel_at_the_very_deadline_is_not_the_earlier_cause() {
        MockClock::new().run(|_| {
            let token = CancellationToken::new();
            assert!(token.cancel());
            let error = Timebox::new(Duration::ZERO).cancel_on(&token).run(|_| checkpoint()).unwrap_err();
            assert_eq!(error.cause(), timebox::Cause::Deadline);
        });
    }

    #[test]
    fn a_token_is_over_since_it_was_cancelled_not_since_its_parent_was() {
        MockClock::new().run(|clock| {
            let parent = CancellationToken::new();
            let child = parent.child_token();
            assert!(child.cancel());
            clock.advance(SECOND);
            assert!(parent.cancel());
            let error = Timebox::new(clock.now()).cancel_on(&child).run(|_| checkpoint()).unwrap_err();
            assert_eq!((error.cause(), error.overshoot()), (timebox::Cause::Cancelled, SECOND));
        });
    }

    #[test]
    fn the_fallback_is_given_the_last_error_that_named_its_scope() {
        MockClock::new().run(|clock| {
            let scope = Timebox::new(SECOND);
            let told = scope.run_or_else(
                |_| {
                    clock.advance(SECOND);
                    assert!(checkpoint().is_err());
                    clock.advance(SECOND);
                    timebox::token().checkpoint().map(|()| Duration::ZERO)
                },
                |timed_out| Ok(timed_out.overshoot()),
            );
            assert_eq!(told.unwrap(), SECOND);
        });
    }

    #[test]
    fn a_panic_in_a_poll_ends_what_the_scope_spends() {
        MockClock::new().run(|clock| {
            let quota = Quota::new(HOUR);
            let panics = future::timeout_value(
                &quota,
                std::future::poll_fn(|_| -> Poll<()> {
                    clock.advance(SECOND);
                    panic!("the future of a test panics, as it should")
                }),
            );
            let mut panics = Box::pin(panics);
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| poll(panics.as_mut())));
            assert!(caught.is_err());
            clock.advance(SECOND);
            assert_eq!(quota.remaining(), HOUR - SECOND);
        });
    }

    #[test]
    fn in_the_grace_of_what_is_around_it_a_future_is_woken_at_its_own_deadline() {
        MockClock::new().run(|clock| {
            let own = future::timeout_value(4 * SECOND, std::future::pending::<()>());
            let around = Timebox::new(2 * SECOND).grace(10 * SECOND);
            let mut both = pin!(around.run_future_value(own));
            assert!(poll(both.as_mut()).is_pending());
            clock.advance(2 * SECOND);
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            assert!(both.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            clock.advance(2 * SECOND - NANO);
            assert_eq!(woken.0.load(Ordering::SeqCst), 0);
            clock.advance(NANO);
            assert_eq!(woken.0.load(Ordering::SeqCst), 1);
            let Poll::Ready(Ok(Err(error))) = poll(both.as_mut()) else { panic!("both are over") };
            assert_eq!(error.limit(), Some(2 * SECOND), "the outermost that is over");
        });
    }

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_future_is_woken_by_the_surroundings_of_its_last_poll() {
        MockClock::new().run(|clock| {
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            let moved = future::timeout_value(3 * HOUR, std::future::pending::<()>());
            let moved = RefCell::new(Some(Box::pin(moved)));
            let poll = || {
                let mut moved = moved.borrow_mut();
                let moved = moved.as_mut().unwrap().as_mut();
                assert!(moved.poll(&mut Context::from_waker(&waker)).is_pending());
            };
            let ok = || Ok::<_, TimeoutError>(());
            timeout(2 * HOUR, || {
                poll();
                ok()
            })
            .unwrap();
            timeout(HOUR, || {
                poll();
                clock.advance(HOUR);
                assert_ne!(woken.0.swap(0, Ordering::SeqCst), 0);
                ok()
            })
            .unwrap();
            // What it has left does not wake it any more.
            poll();
            clock.advance(ALMOST_HOUR);
            assert_eq!(woken.0.load(Ordering::SeqCst), 0);
            timeout(3 * HOUR, || {
                poll();
                moved.take();
                assert_eq!(Arc::strong_count(&woken), 2, "no scope has kept the waker");
                ok()
            })
            .unwrap();
        });
    }

    #[test]
    fn a_wait_that_is_dropped_keeps_no_task() {
        let token = CancellationToken::new();
        let endless = || std::future::pending::<()>();
        let waits: [Pin<Box<dyn Future<Output = ()> + '_>>; 6] = [
            Box::pin(async { future::sleep(HOUR).await.unwrap() }),
            Box::pin(async { future::timeout_value(HOUR, endless()).await.unwrap() }),
            Box::pin(token.cancelled()),
            Box::pin(token.clone().cancelled_owned()),
            Box::pin(async { token.run_until_cancelled(endless()).await.unwrap() }),
            Box::pin(async { token.clone().run_until_cancelled_owned(endless()).await.unwrap() }),
        ];
        for mut wait in waits {
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            drop((wait, waker));
            assert_eq!(Arc::strong_count(&woken), 1);
        }
    }

    #[test]
    fn the_scope_of_a_drop_is_that_of_the_polls() {
        struct Cancels;

        impl Drop for Cancels {
            fn drop(&mut self) {
                timebox::token().cancel();
            }
        }

        let token = RefCell::new(None);
        let cancels = Cancels;
        let mut pending = Box::pin(future::timeout_value(HOUR, async {
            let _cancels = cancels;
            *token.borrow_mut() = Some(timebox::token());
            std::future::pending::<()>().await;
        }));
        assert!(poll(pending.as_mut()).is_pending());
        drop(pending);
        assert!(token.take().is_some_and(|token| token.is_cancelled()));
    }

    #[test]
    fn a_future_that_was_never_polled_is_dropped_outside_of_its_scope() {
        struct Asks;

        impl Drop for Asks {
            fn drop(&mut self) {
                assert_eq!(timebox::deadline(), timebox::Deadline::NEVER);
            }
        }

        let asks = Asks;
        drop(future::timeout_value(SECOND, async move {
            let _asks = asks;
        }));
    }

    #[test]
    fn a_token_that_reached_its_deadline_cancels_what_is_linked_to_it() {
        MockClock::new().run(|clock| {
            let token = timeout(SECOND, || Ok::<_, TimeoutError>(timebox::token())).unwrap();
            let linked = || Timebox::new(HOUR).cancel_on(&token);
            let error = linked().run(|_| {
                clock.advance(SECOND);
                checkpoint()
            });
            assert!(error.unwrap_err().is_cancelled());
            let refused = linked().run(|_| checkpoint()).unwrap_err();
            assert!(refused.is_cancelled() && !refused.started());
        });
    }

    #[test]
    fn a_future_that_survives_a_limit_is_still_cancelled_by_its_token() {
        MockClock::new().run(|clock| {
            let token = CancellationToken::new();
            let endless = Timebox::new(HOUR).cancel_on(&token).run_future_value(std::future::pending::<()>());
            let mut endless = pin!(endless);
            let mut limited = Box::pin(future::timeout_value(SECOND, endless.as_mut()));
            assert!(poll(limited.as_mut()).is_pending());
            clock.advance(SECOND);
            assert!(poll(limited.as_mut()).is_ready());
            drop(limited);
            assert!(poll(endless.as_mut()).is_pending());
            token.cancel();
            let Poll::Ready(Err(error)) = poll(endless.as_mut()) else { panic!("it was cancelled") };
            assert!(error.is_cancelled());
        });
    }

    #[test]
    fn a_future_whose_token_is_cancelled_ends_itself_though_a_limit_around_it_is_over() {
        MockClock::new().run(|clock| {
            let token = CancellationToken::new();
            let endless = Timebox::new(HOUR).cancel_on(&token).run_future_value(std::future::pending::<()>());
            let mut limited = pin!(future::timeout_value(SECOND, endless));
            assert!(poll(limited.as_mut()).is_pending());
            clock.advance(SECOND);
            token.cancel();
            assert!(matches!(poll(limited.as_mut()), Poll::Ready(Ok(Err(_)))));
        });
    }
}
