//! What follows a mock clock, and how.

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
fn the_scopes_of_a_template_follow_the_clock_of_their_test() {
    let timebox = Timebox::new(HOUR).label("request");
    let requests = future::ScopeTemplate::new(timebox, std::panic::Location::caller());
    MockClock::new().run(|clock| {
        let mut scope = requests.scope();
        scope.enter(|_| ()).unwrap();
        clock.advance(ALMOST_HOUR);
        assert!(scope.enter(|_| checkpoint().is_ok()).unwrap());
        clock.advance(NANO);
        let error = scope.enter(|_| checkpoint().unwrap_err()).unwrap();
        assert_eq!((error.elapsed(), error.label()), (HOUR, Some("request")));
    });
    assert!(requests.scope().enter(|_| checkpoint().is_ok()).unwrap());
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
            clock.advance(3 * HOUR / 4);
            timeout(HOUR, checkpoint)
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
                    let limited = tokio::task::spawn_local(future::timeout(HOUR, future::sleep(2 * HOUR)));
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

/// To the nanosecond.
fn ends_on_the_hour(clock: &MockClock, mut has_ended: impl FnMut() -> bool) {
    clock.advance(ALMOST_HOUR);
    assert!(!has_ended());
    clock.advance(NANO);
    assert!(has_ended());
}

#[test]
fn the_deadlines_of_a_future_of_another_clock_are_not_compared_with_those_around_it() {
    let clock = MockClock::new();
    clock.advance(10 * HOUR);
    let mut future = clock.run(|_| Box::pin(future::timeout(HOUR, future::sleep(2 * HOUR))));
    let mut poll = || timeout(HOUR, || Ok::<_, TimeoutError>(poll(future.as_mut()))).unwrap();
    assert!(poll().is_pending());
    ends_on_the_hour(&clock, || poll().is_ready());
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

/// An hour of this future, begun outside, does not pass on a mock clock.
fn keeps_the_real_clock(future: impl Future) {
    let mut future = pin!(future);
    assert!(poll(future.as_mut()).is_pending());
    MockClock::new().run(|clock| {
        clock.advance(2 * HOUR);
        assert!(poll(future.as_mut()).is_pending());
    });
}

#[test]
fn a_sleep_keeps_the_clock_of_its_first_poll() {
    keeps_the_real_clock(future::sleep(HOUR));
}

#[test]
fn a_future_made_outside_follows_the_clock_of_its_first_poll() {
    let mut future = Box::pin(future::timeout(HOUR, future::sleep(2 * HOUR)));
    let clock = MockClock::new();
    clock.run(|_| assert!(poll(future.as_mut()).is_pending()));
    ends_on_the_hour(&clock, || poll(future.as_mut()).is_ready());
}

#[test]
fn a_future_begun_outside_is_not_judged_by_the_clock() {
    keeps_the_real_clock(future::timeout_value(HOUR, std::future::pending::<()>()));
}

#[test]
fn a_future_s_shield_made_under_it_ends_by_it_elsewhere() {
    let clock = MockClock::new();
    let mut shield = clock.run(|_| Box::pin(future::shield(HOUR, future::sleep(2 * HOUR))));
    assert!(poll(shield.as_mut()).is_pending());
    ends_on_the_hour(&clock, || match poll(shield.as_mut()) {
        Poll::Ready(slept) => slept.is_err(),
        Poll::Pending => false,
    });
}

#[test]
fn what_has_no_limit_does_not_end_however_far_it_is_moved() {
    MockClock::new().run(|clock| {
        let limited = timeout(HOUR, || {
            clock.advance(Duration::MAX);
            checkpoint()
        });
        assert!(limited.is_err());
        timeout(Limit::NONE, checkpoint).unwrap();
        timeout(Limit::NONE, || {
            clock.advance(Duration::MAX);
            checkpoint()
        })
        .unwrap();
    });
}

#[test]
fn a_sleep_of_any_length_ends() {
    MockClock::new().run(|_| timeout(Limit::NONE, || sleep(Duration::MAX)).unwrap());
    MockClock::new().run(|_| {
        sleep(Duration::MAX).unwrap();
        timeout(Limit::NONE, checkpoint).unwrap();
    });
}

/// A limit of an hour ends after an hour.
fn limits_work(clock: &MockClock) {
    let before = clock.elapsed();
    let error = timeout(HOUR, || sleep(2 * HOUR)).unwrap_err();
    assert_eq!((error.elapsed(), error.overshoot()), (HOUR, Duration::ZERO));
    let error = timeout(HOUR, || {
        let _token = timebox::token();
        sleep(2 * HOUR)
    });
    assert!(error.is_err());
    let mut limited = pin!(future::timeout(HOUR, future::sleep(2 * HOUR)));
    assert!(poll(limited.as_mut()).is_pending());
    ends_on_the_hour(clock, || poll(limited.as_mut()).is_ready());
    assert_eq!(clock.elapsed(), before + 3 * HOUR);
}

#[test]
fn limits_work_after_a_sleep_of_any_length() {
    MockClock::new().run(|clock| {
        for _ in 0..5 {
            sleep(Duration::MAX).unwrap();
            limits_work(clock);
            timeout(Limit::NONE, || sleep(Duration::MAX)).unwrap();
            limits_work(clock);
            timeout(Limit::NONE, || {
                let _token = timebox::token();
                sleep(Duration::MAX)
            })
            .unwrap();
            limits_work(clock);
        }
    });
}

#[test]
fn limits_work_however_far_it_is_moved() {
    MockClock::new().run(|clock| {
        for _ in 0..10 {
            clock.advance(Duration::MAX);
            limits_work(clock);
        }
        clock.advance_to(Deadline::NEVER);
        limits_work(clock);
    });
}

#[test]
fn a_sleep_that_never_ends_ends_with_its_scope() {
    MockClock::new().run(|clock| {
        let error = timeout(100_000 * HOUR, || sleep(Duration::MAX)).unwrap_err();
        assert_eq!((error.elapsed(), clock.elapsed()), (100_000 * HOUR, 100_000 * HOUR));
        let mut slept = pin!(future::sleep(Duration::MAX));
        assert!(poll(slept.as_mut()).is_pending());
        clock.advance(Duration::MAX);
        assert!(poll(slept.as_mut()).is_pending());
        let mut limited = pin!(future::timeout(HOUR, future::sleep(Duration::MAX)));
        assert!(poll(limited.as_mut()).is_pending());
        ends_on_the_hour(clock, || poll(limited.as_mut()).is_ready());
    });
}

#[test]
fn a_sleep_that_never_ends_goes_past_all_timers() {
    MockClock::new().run(|clock| {
        let token = timeout(200_000 * HOUR, || Ok::<_, TimeoutError>(timebox::token())).unwrap();
        sleep(Duration::MAX).unwrap();
        assert!(token.is_cancelled() && clock.elapsed() > 200_000 * HOUR);
    });
}

#[test]
fn code_under_test_asks_it_the_time() {
    assert!(timebox::now().elapsed() < HOUR);
    MockClock::new().run(|clock| {
        let start = timebox::now();
        assert_eq!(start, clock.now());
        sleep(HOUR).unwrap();
        assert_eq!((timebox::now() - start, timebox::now()), (HOUR, clock.now()));
        let in_an_hour = timebox::now() + HOUR;
        assert_eq!(timeout(in_an_hour, || sleep(2 * HOUR)).unwrap_err().elapsed(), HOUR);
        sleep(Duration::MAX).unwrap();
        assert_eq!(timebox::now(), clock.now());
    });
    // Of its own clock, wherever it is polled.
    let clock = MockClock::new();
    clock.advance(HOUR);
    let mut future = Box::pin(clock.run(|_| future::timeout_value(HOUR, async { timebox::now() })));
    assert_eq!(poll(future.as_mut()).map(Result::unwrap), Poll::Ready(clock.now()));
}

#[test]
fn a_grace_is_mock_time() {
    MockClock::new().run(|clock| {
        let mut limited =
            std::pin::pin!(Timebox::new(SECOND).grace(SECOND).run_future_value(std::future::pending::<()>()));
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

#[test]
fn a_handle_measures_what_is_left_by_the_clock_of_its_scope() {
    MockClock::new().run(|clock| {
        timeout(HOUR, || {
            let handle = timebox::handle();
            clock.advance(HOUR / 4);
            let elsewhere = || (handle.remaining(), handle.is_expired());
            let ask = || std::thread::scope(|threads| threads.spawn(elsewhere).join().unwrap());
            assert_eq!(handle.remaining(), Some(HOUR * 3 / 4));
            assert_eq!(ask(), (Some(HOUR * 3 / 4), false));
            clock.advance(HOUR);
            assert_eq!(ask(), (Some(Duration::ZERO), true));
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}
