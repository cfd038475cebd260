//! The shields of futures: how long they hold up a scope, and whom their end wakes.

use super::*;

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
