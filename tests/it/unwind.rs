//! Unwinding: a panic passes through unchanged, and `checkpoint_or_unwind` stops code that cannot return an error.
#![cfg(panic = "unwind")]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::sync::{Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use timebox::{
    CancellationToken, Deadline, Limit, TimeoutError, checkpoint, checkpoint_or_unwind, deadline, handle,
    is_expired, shield, sleep, timeout, timeout_value, with_timeout,
};

use crate::support::{HANG, LONG, SHORT, bounded, outlast, rounds, wait_for};

thread_local! {
    /// Panic messages shown on this thread.
    static SHOWN: Cell<u32> = const { Cell::new(0) };
}

/// How many panic messages `body` shows on this thread.
fn messages(body: impl FnOnce()) -> u32 {
    static COUNTING: Once = Once::new();
    COUNTING.call_once(|| {
        let shown_before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            SHOWN.set(SHOWN.get() + 1);
            shown_before(info);
        }));
    });
    let before = SHOWN.get();
    body();
    SHOWN.get() - before
}

/// Code that cannot return an error, and never returns otherwise.
fn spin() {
    loop {
        checkpoint_or_unwind();
    }
}

/// Unwinds through a scope inside; that stops it only where it was not even begun.
fn spin_inside() {
    if let Err(error) = timeout_value(LONG, spin) {
        assert!(!error.started(), "caught too early: {error}");
    }
    spin();
}

#[test]
fn a_panic_passes_through_unchanged() {
    struct Payload(u32);
    let payload = catch_unwind(|| timeout_value(LONG, || timeout_value(LONG, || panic_any(Payload(7)))));
    assert_eq!(payload.map(drop).unwrap_err().downcast::<Payload>().unwrap().0, 7);
}

#[test]
fn after_a_panic_the_outer_scope_is_the_innermost_again() {
    with_timeout(LONG, |outer| {
        let before = deadline();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            timeout_value(SHORT, || {
                timeout_value(SHORT / 2, || panic!("a body of the test panics, as it should")).unwrap();
            })
        }));
        assert!(caught.is_err());
        assert_eq!(deadline(), before);
        outer.checkpoint()
    })
    .unwrap();
    assert_eq!(deadline(), Deadline::NEVER);
}

#[test]
fn a_panic_in_a_scope_that_is_over_is_still_the_panic() {
    let caught = catch_unwind(|| {
        with_timeout(SHORT, |scope| -> timebox::Result<()> {
            outlast(scope);
            panic!("a body of the test panics, as it should")
        })
    });
    assert!(caught.unwrap_err().is::<&str>());
}

#[test]
fn code_that_cannot_return_an_error_is_unwound() {
    let start = Instant::now();
    let error = timeout_value(SHORT, spin).unwrap_err();
    assert!(error.is_timeout() && error.started());
    assert_eq!(error.limit(), Some(SHORT));
    assert!(start.elapsed() >= SHORT && start.elapsed() < HANG);
}

#[test]
fn where_it_was_unwound_is_told() {
    let line = line!() + 3;
    let error = with_timeout(SHORT, |scope| -> timebox::Result<()> {
        wait_for("expiry", || scope.is_expired());
        checkpoint_or_unwind();
        unreachable!("unwound")
    })
    .unwrap_err();
    assert_eq!((error.interrupted_at().file(), error.interrupted_at().line()), (file!(), line));
}

#[test]
fn unwinding_shows_no_panic_message() {
    assert_eq!(messages(|| drop(timeout_value(SHORT, spin))), 0);
    // The counter counts.
    assert_eq!(messages(|| drop(catch_unwind(|| panic!("a message of the test, as it should")))), 1);
}

#[test]
fn unwinding_runs_the_destructors_on_its_way() {
    struct Count<'a>(&'a Cell<u32>);
    impl Drop for Count<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let dropped = Cell::new(0);
    timeout_value(SHORT, || {
        let _one = Count(&dropped);
        let _two = Count(&dropped);
        spin();
    })
    .unwrap_err();
    assert_eq!(dropped.get(), 2);
}

#[test]
fn it_is_caught_by_the_scope_that_is_over_and_by_none_inside() {
    with_timeout(LONG, |outermost| {
        let error = with_timeout(SHORT, |over| -> timebox::Result<()> {
            spin_inside();
            unreachable!("unwound through, {over:?}")
        })
        .unwrap_err();
        assert_eq!(error.limit(), Some(SHORT));
        assert_ne!(error.scope(), outermost.id());
        checkpoint()
    })
    .unwrap();
}

#[test]
fn a_method_of_an_outer_scope_unwinds_to_that_scope() {
    let error = with_timeout(LONG, |outer| -> timebox::Result<()> {
        let _: timebox::Result<()> = with_timeout(LONG * 2, |_inner| {
            outer.token().cancel_with("enough");
            outer.checkpoint_or_unwind();
            unreachable!("unwound")
        });
        unreachable!("unwound through")
    })
    .unwrap_err();
    assert_eq!(error.reason(), Some("enough"));
}

#[test]
fn on_another_thread_it_is_caught_where_the_handle_was_entered() {
    bounded(|| {
        with_timeout(SHORT, |scope| {
            let handle = scope.handle();
            let error = thread::spawn(move || {
                handle.enter(LONG, |_| -> timebox::Result<()> {
                    spin_inside();
                    unreachable!("unwound through")
                })
            })
            .join()
            .expect("caught in `enter`")
            .unwrap_err();
            assert_eq!(error.scope(), scope.id());
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn through_a_handle_it_reaches_the_scope_that_is_over_on_this_stack() {
    let error = with_timeout(LONG, |over| -> timebox::Result<()> {
        let _ = over.handle().enter(LONG, |_| -> timebox::Result<()> {
            over.token().cancel_with("enough");
            checkpoint_or_unwind();
            unreachable!("unwound")
        });
        unreachable!("unwound through")
    })
    .unwrap_err();
    assert_eq!(error.reason(), Some("enough"));
}

#[test]
fn a_panic_out_of_a_handles_scope_leaves_the_threads_own_as_they_were() {
    let root = handle();
    with_timeout(LONG, |outer| {
        let entered =
            || root.enter(SHORT, |_| -> timebox::Result<()> { panic!("as it should, in this test") });
        assert!(catch_unwind(AssertUnwindSafe(entered)).unwrap_err().is::<&str>());
        assert_eq!(deadline(), outer.deadline());
        outer.checkpoint()
    })
    .unwrap();
}

#[test]
fn out_of_a_shield_that_is_over_it_is_caught_by_the_scope_around() {
    let error = with_timeout(LONG, |_| -> timebox::Result<()> {
        shield(SHORT, || {
            spin_inside();
        });
        unreachable!("unwound through")
    })
    .unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
}

#[test]
fn where_nothing_would_catch_it_does_nothing() {
    checkpoint_or_unwind();
    shield(SHORT, || {
        wait_for("the end of the shield", is_expired);
        checkpoint_or_unwind();
    });
    let token = CancellationToken::new();
    token.cancel();
    checkpoint_or_unwind();
}

#[test]
fn while_the_thread_is_panicking_it_does_nothing() {
    struct Check<'a>(&'a Cell<bool>);
    impl Drop for Check<'_> {
        fn drop(&mut self) {
            assert!(thread::panicking() && is_expired());
            // A second unwinding out of a destructor would abort the process.
            checkpoint_or_unwind();
            self.0.set(true);
        }
    }
    let passed = Cell::new(false);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        with_timeout(SHORT, |scope| -> timebox::Result<()> {
            let _check = Check(&passed);
            outlast(scope);
            panic!("a body of the test panics, as it should")
        })
    }));
    assert!(caught.unwrap_err().is::<&str>());
    assert!(passed.get());
}

#[test]
fn a_caught_unwinding_may_be_resumed() {
    let error = timeout(SHORT, || -> timebox::Result<()> {
        let payload = catch_unwind(spin).unwrap_err();
        resume_unwind(payload)
    })
    .unwrap_err();
    assert!(error.is_timeout());
}

#[test]
fn a_swallowed_unwinding_comes_again_at_the_next_checkpoint() {
    let swallowed = Cell::new(0);
    let error = timeout_value(SHORT, || {
        for _ in 0..3 {
            catch_unwind(spin).unwrap_err();
            swallowed.set(swallowed.get() + 1);
            assert!(checkpoint().is_err());
        }
        spin();
    })
    .unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(swallowed.get(), 3);
}

#[test]
fn a_body_that_swallowed_the_unwinding_has_its_result() {
    let value = timeout_value(SHORT, || {
        catch_unwind(spin).unwrap_err();
        7
    });
    assert_eq!(value.unwrap(), 7);
}

#[test]
fn it_poisons_a_std_mutex() {
    let mutex = Mutex::new(());
    timeout_value(SHORT, || {
        let _guard = mutex.lock();
        spin();
    })
    .unwrap_err();
    assert!(mutex.is_poisoned());
}

#[test]
fn after_unwinding_everything_is_as_before() {
    with_timeout(LONG, |outer| {
        for _ in 0..rounds(20) {
            timeout_value(Duration::from_micros(200), spin_inside).unwrap_err();
            assert_eq!(deadline(), outer.deadline());
            assert!(!thread::panicking());
        }
        sleep(Duration::from_millis(1))
    })
    .unwrap();
    let root = handle();
    root.enter(LONG, |scope| scope.checkpoint()).unwrap();
}

#[test]
fn an_unwinding_out_of_a_shield_that_is_over_ends_at_the_scope_around_it() {
    let result = timeout_value(LONG, || {
        let around = timeout_value(LONG, || {
            shield(SHORT, || {
                loop {
                    checkpoint_or_unwind();
                }
            })
        });
        assert!(around.is_err());
        "goes on"
    });
    assert_eq!(result.unwrap(), "goes on");
}

#[test]
fn an_unwinding_with_a_scope_of_another_thread_ends_where_that_was_entered() {
    let handle = || timeout_value(LONG, || (timebox::handle(), timebox::token())).unwrap();
    let ((first, _), (second, token)) = (handle(), handle());
    let worker = std::thread::spawn(move || {
        first.enter(Limit::NONE, |_| {
            let entered = second.enter(Limit::NONE, |_| {
                timeout_value(LONG, || {
                    token.cancel();
                    checkpoint_or_unwind();
                })
            });
            assert!(entered.unwrap_err().is_cancelled());
            Ok::<_, TimeoutError>("goes on")
        })
    });
    assert_eq!(worker.join().unwrap().unwrap(), "goes on");
}
