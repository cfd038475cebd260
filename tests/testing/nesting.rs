//! Futures that are polled in one scope after another: by what they are over, and what wakes them.

use super::*;

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
            let begun = std::time::Instant::now();
            // The watchdog may be about to drop the waker that it has woken.
            while Arc::strong_count(&woken) > 2 {
                assert!(begun.elapsed() < Duration::from_secs(20), "no scope has kept the waker");
                std::thread::yield_now();
            }
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
