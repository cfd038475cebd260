//! A shield of a future holds in whichever scope polls it.

use std::future::pending;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use timebox::{TimeoutError, future, timeout_value, token, with_timeout};

use crate::support::{LONG, SHORT, counting, let_the_watchdog_pass, poll_once, wait_for};

#[test]
fn a_shield_begun_elsewhere_holds_in_the_scope_that_polls_it_now() {
    let mut shielded = Box::pin(future::shield(LONG, future::sleep(SHORT * 4)));
    assert!(poll_once(&mut shielded).is_pending());
    let result = pollster::block_on(future::timeout(SHORT, async {
        shielded.await?;
        Ok::<_, TimeoutError>(7)
    }));
    assert_eq!(result.unwrap(), 7);
}

#[test]
fn a_shield_holds_in_a_future_that_has_left_a_cancelled_scope() {
    let mut work = Box::pin(future::timeout(LONG, async {
        let _token = token();
        future::shield(LONG, future::sleep(SHORT * 4)).await?;
        Ok::<_, TimeoutError>(7)
    }));
    with_timeout(LONG, |scope| {
        assert!(poll_once(&mut work).is_pending());
        scope.token().cancel();
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
    let result = timeout_value(SHORT, || pollster::block_on(work.as_mut())).unwrap();
    assert_eq!(result.unwrap(), 7);
}

#[test]
fn a_shield_suspends_the_hooks_of_the_scopes_it_is_polled_in_now_and_no_others() {
    let mut shielded = Box::pin(future::shield(LONG, pending::<()>()));
    let (hook, left) = counting();
    with_timeout(LONG, |before| {
        let _registration = before.on_cancel(hook);
        assert!(poll_once(&mut shielded).is_pending());
        let (hook, now) = counting();
        with_timeout(LONG, |scope| {
            let _registration = scope.on_cancel(hook);
            assert!(poll_once(&mut shielded).is_pending());
            scope.token().cancel();
            let_the_watchdog_pass();
            assert_eq!(now.load(SeqCst), 0);
            Ok::<_, TimeoutError>(())
        })?;
        assert_eq!(now.load(SeqCst), 0);
        before.token().cancel();
        let_the_watchdog_pass();
        assert_eq!(left.load(SeqCst), 0);
        // On another thread it is not around this scope any more.
        let moved = thread::spawn(move || {
            assert!(poll_once(&mut shielded).is_pending());
            shielded
        });
        let shielded = moved.join().unwrap();
        wait_for("the hook", || left.load(SeqCst) == 1);
        drop(shielded);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}
