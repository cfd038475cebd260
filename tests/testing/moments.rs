//! What happens at one moment, or where surroundings change: found by the programs of `tests/model`, and by mutations.

use super::*;

#[test]
fn an_error_tells_what_a_quota_had_left_also_when_another_limit_came_first() {
    MockClock::new().run(|clock| {
        let quota = Quota::new(HOUR);
        let limits = |error: &TimeoutError| error.chain().map(timebox::ScopeInfo::limit).collect::<Vec<_>>();
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
        assert!(token.cancel_with("first"));
        let error = Timebox::new(Duration::ZERO).cancel_on(&token).run(|_| checkpoint()).unwrap_err();
        assert_eq!(error.cause(), timebox::Cause::Deadline);
    });
}

#[test]
fn a_token_is_over_since_it_was_cancelled_not_since_its_parent_was() {
    MockClock::new().run(|clock| {
        let parent = CancellationToken::new();
        let child = parent.child_token();
        assert!(child.cancel_with("first"));
        clock.advance(SECOND);
        assert!(parent.cancel_with("first"));
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
        assert_eq!(quota.remaining() + SECOND, HOUR);
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
        // The first time that it is found to be over it has itself polled once more.
        for _ in 0..2 {
            assert!(both.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            assert_eq!(woken.0.load(Ordering::SeqCst), 2, "the inner and the outer");
        }
        clock.advance(SECOND + ALMOST_SECOND);
        assert_eq!(woken.0.load(Ordering::SeqCst), 2);
        clock.advance(NANO);
        assert_eq!(woken.0.load(Ordering::SeqCst), 3);
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

/// A future that says in each poll whether it is over, and whose scope somebody has a token of.
fn asking<'a>(
    token: &'a RefCell<Option<CancellationToken>>,
    over: &'a Cell<bool>,
) -> Pin<Box<impl Future<Output = Result<(), TimeoutError>> + use<'a>>> {
    Box::pin(future::timeout_value(
        HOUR,
        std::future::poll_fn(|_| {
            token.borrow_mut().get_or_insert_with(timebox::token);
            over.set(is_expired());
            Poll::Pending
        }),
    ))
}

#[test]
fn a_future_is_over_with_the_surroundings_it_has_come_to_and_not_with_those_it_has_left() {
    let (token, over) = (RefCell::new(None), Cell::new(false));
    let mut moved = asking(&token, &over);
    let left = timeout(HOUR, || {
        assert!(poll(moved.as_mut()).is_pending());
        Ok::<_, TimeoutError>(timebox::token())
    });
    left.unwrap().cancel();
    assert!(token.borrow().as_ref().is_some_and(|token| !token.is_cancelled()));
    timeout(HOUR, || {
        assert!(poll(moved.as_mut()).is_pending());
        assert!(!over.get());
        timebox::token().cancel();
        assert!(token.borrow().as_ref().is_some_and(CancellationToken::is_cancelled));
        assert!(poll(moved.as_mut()).is_ready());
        assert!(over.get());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_future_that_two_others_poll_in_turn_is_beneath_the_last() {
    let (token, over) = (RefCell::new(None), Cell::new(false));
    let shared = RefCell::new(asking(&token, &over));
    let polling = |tokens: &mut Vec<CancellationToken>| {
        let own = CancellationToken::new();
        tokens.push(own.clone());
        let polls_it = std::future::poll_fn(|_| poll(shared.borrow_mut().as_mut()));
        Box::pin(Timebox::new(HOUR).cancel_on(&own).run_future(polls_it))
    };
    let mut tokens = Vec::new();
    let (mut first, mut last) = (polling(&mut tokens), polling(&mut tokens));
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(last.as_mut()).is_pending());
    let is_over = || token.borrow().as_ref().is_some_and(CancellationToken::is_cancelled);
    tokens[0].cancel();
    assert!(!is_over());
    tokens[1].cancel();
    assert!(is_over());
}

#[test]
fn a_future_whose_scope_has_been_left_is_over_with_what_was_around_that() {
    let (token, over) = (RefCell::new(None), Cell::new(false));
    let mut moved = asking(&token, &over);
    timeout(HOUR, || {
        timeout(HOUR, || {
            assert!(poll(moved.as_mut()).is_pending());
            Ok::<_, TimeoutError>(())
        })?;
        timebox::token().cancel();
        assert!(token.borrow().as_ref().is_some_and(CancellationToken::is_cancelled));
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
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
        assert!(error.unwrap_err().is_timeout());
        let refused = linked().run(|_| checkpoint()).unwrap_err();
        assert!(refused.is_timeout() && !refused.started());
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

#[test]
fn a_future_polled_under_a_grace_survives_a_poll_that_comes_late() {
    MockClock::new().run(|clock| {
        let mut inner = Box::pin(future::timeout_value(HOUR, std::future::pending::<()>()));
        {
            let around = Timebox::new(2 * SECOND).grace(2 * SECOND);
            let mut around = pin!(around.run_future_value(inner.as_mut()));
            assert!(poll(around.as_mut()).is_pending());
            clock.advance(3 * SECOND);
            assert!(poll(around.as_mut()).is_pending());
            clock.advance(3 * SECOND);
            let Poll::Ready(Err(error)) = poll(around.as_mut()) else { panic!("the grace has passed") };
            assert_eq!(error.limit(), Some(2 * SECOND));
        }
        assert!(poll(inner.as_mut()).is_pending());
    });
}

#[test]
fn a_future_survives_the_scope_that_a_shield_beside_it_holds_up() {
    MockClock::new().run(|clock| {
        let mut inner = Box::pin(future::timeout_value(HOUR, std::future::pending::<()>()));
        {
            let mut beside = Box::pin(future::shield(8 * SECOND, std::future::pending::<()>()));
            let both = std::future::poll_fn(|cx| {
                assert!(beside.as_mut().poll(cx).is_pending());
                inner.as_mut().poll(cx).map(drop)
            });
            let mut around = pin!(future::timeout_value(SECOND, both));
            for _ in 0..8 {
                assert!(poll(around.as_mut()).is_pending());
                clock.advance(SECOND);
            }
            assert!(poll(around.as_mut()).is_ready());
        }
        assert!(poll(inner.as_mut()).is_pending());
    });
}

#[test]
fn a_scope_that_waits_for_a_shield_is_woken_when_that_is_gone() {
    MockClock::new().run(|clock| {
        let shield = RefCell::new(Some(Box::pin(future::shield(HOUR, std::future::pending::<()>()))));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let inside = std::future::poll_fn(|cx| match &mut *shield.borrow_mut() {
            Some(shield) => shield.as_mut().poll(cx),
            None => Poll::Pending,
        });
        let mut around = pin!(future::timeout_value(SECOND, inside));
        assert!(around.as_mut().poll(&mut context).is_pending());
        clock.advance(SECOND);
        for _ in 0..2 {
            assert!(around.as_mut().poll(&mut context).is_pending(), "it waits for the shield");
        }
        let before = woken.0.load(Ordering::SeqCst);
        // Somebody else ends it.
        drop(shield.take());
        assert_eq!(woken.0.load(Ordering::SeqCst), before + 1);
        assert!(around.as_mut().poll(&mut context).is_ready());
    });
}

#[test]
fn the_task_of_a_shield_is_woken_once_at_its_max() {
    MockClock::new().run(|clock| {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let stays = Cell::new(true);
        let until_over =
            std::future::poll_fn(
                |_| if stays.get() || !is_expired() { Poll::Pending } else { Poll::Ready(()) },
            );
        let mut shield = pin!(future::shield(SECOND, until_over));
        assert!(shield.as_mut().poll(&mut context).is_pending());
        for _ in 0..2 {
            clock.advance(SECOND);
            assert!(shield.as_mut().poll(&mut context).is_pending());
            assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        }
        stays.set(false);
        assert!(shield.as_mut().poll(&mut context).is_ready());
    });
}

#[cfg(panic = "unwind")]
#[test]
fn a_check_while_panicking_does_not_take_the_turn_of_one_that_looks_at_the_clock() {
    struct Check;
    impl Drop for Check {
        fn drop(&mut self) {
            timebox::checkpoint_or_unwind();
        }
    }
    let clock = MockClock::new();
    let checked = std::sync::Barrier::new(2);
    std::thread::scope(|threads| {
        let thread = threads.spawn(|| {
            clock.run(|_| {
                timeout(SECOND, || {
                    let _panicked = std::panic::catch_unwind(|| {
                        let _check = Check;
                        std::panic::resume_unwind(Box::new(()));
                    });
                    checked.wait();
                    checked.wait();
                    checkpoint()
                })
            })
        });
        checked.wait();
        clock.advance(SECOND);
        checked.wait();
        assert!(thread.join().unwrap().is_err());
    });
}
