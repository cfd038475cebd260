//! `Timebox::strict`: a late success is refused, and nothing else is changed by it.

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::thread;

use timebox::{
    CancellationToken, Cause, Quota, Timebox, TimeoutError, checkpoint, future, is_expired, shield, timeout,
    with_timeout,
};

use crate::runtimes::on_each_runtime;
use crate::support::{Failure, LONG, SHORT, outlast, unhurried_future};

/// Takes longer than `SHORT`, and asks nobody whether it should stop.
fn late<T>(value: T) -> T {
    thread::sleep(SHORT * 2);
    value
}

#[test]
fn a_late_ok_is_refused() {
    let line = line!() + 1;
    let result = Timebox::new(SHORT).label("report").strict().run(|_| Ok::<_, TimeoutError>(late(7)));
    let error = result.unwrap_err();
    assert_eq!((error.cause(), error.label(), error.limit()), (Cause::Deadline, Some("report"), Some(SHORT)));
    assert!(error.started() && error.settled());
    assert!(error.elapsed() >= SHORT * 2 && error.overshoot() >= SHORT / 2, "{error:?}");
    assert_eq!(error.interrupted_at().line(), line);
}

#[test]
fn a_late_value_is_refused() {
    let error = Timebox::new(SHORT).strict().run_value(|_| late(7)).unwrap_err();
    assert!(error.is_timeout() && error.started() && error.settled());
}

#[test]
fn without_it_a_late_ok_is_returned() {
    assert_eq!(Timebox::new(SHORT).run(|_| Ok::<_, TimeoutError>(late(7))).unwrap(), 7);
    assert_eq!(Timebox::new(SHORT).run_value(|_| late(7)).unwrap(), 7);
}

#[test]
fn what_comes_in_time_is_returned() {
    assert_eq!(Timebox::new(LONG).strict().run(|_| Ok::<_, TimeoutError>(7)).unwrap(), 7);
    assert_eq!(Timebox::new(LONG).strict().run_value(|_| 7).unwrap(), 7);
    assert_eq!(Timebox::new(None::<Quota>.as_ref()).strict().run_value(|_| 7).unwrap(), 7);
}

#[test]
fn a_late_error_is_returned_unchanged() {
    let result = Timebox::new(SHORT).strict().run(|_| Err::<(), _>(Failure::Own(late("mine"))));
    assert!(matches!(result, Err(Failure::Own("mine"))), "{result:?}");
}

#[test]
fn a_late_ok_falls_back() {
    let answer = Timebox::new(SHORT).strict().run_or_else(
        |_| Ok::<_, Failure>(late("exact")),
        |timed_out| {
            assert!(timed_out.is_timeout() && timed_out.started());
            Ok("estimate")
        },
    );
    assert_eq!(answer.unwrap(), "estimate");
}

#[test]
fn an_ok_that_is_late_for_the_scope_around_does_not_fall_back() {
    with_timeout(SHORT, |outer| {
        let strict = Timebox::new(LONG).strict();
        let result = strict.run_or_else(|_| Ok::<_, Failure>(late("exact")), |error| unreachable!("{error}"));
        assert_eq!(result.unwrap_err().timebox().scope(), outer.id());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn an_ok_after_a_cancel_is_refused() {
    let token = CancellationToken::new();
    let error = Timebox::new(LONG).cancel_on(&token).strict().run_value(|_| token.cancel_with("not needed"));
    assert_eq!(error.unwrap_err().reason(), Some("not needed"));
}

#[test]
fn an_ok_with_a_spent_quota_is_refused() {
    let quota = Quota::new(SHORT);
    let error = Timebox::new(&quota).strict().run_value(|_| late(())).unwrap_err();
    assert_eq!((error.cause(), error.limit()), (Cause::Quota, Some(SHORT)));
}

#[test]
fn a_refused_value_is_dropped_inside_the_scope() {
    struct Lease<'a>(&'a Cell<Option<bool>>);
    impl Drop for Lease<'_> {
        fn drop(&mut self) {
            self.0.set(Some(is_expired()));
        }
    }
    let dropped = Cell::new(None);
    let result = Timebox::new(SHORT).strict().run_value(|_| late(Lease(&dropped)));
    assert!(result.is_err());
    assert_eq!(dropped.get(), Some(true));
}

#[test]
fn a_strict_scope_within_a_shield_does_not_see_what_the_shield_hides() {
    let value = with_timeout(SHORT, |scope| {
        outlast(scope);
        shield(LONG, || Timebox::new(LONG).strict().run_value(|_| late(7)))
    });
    assert_eq!(value.unwrap(), 7);
}

#[test]
fn the_scope_around_a_strict_one_keeps_its_own_late_result() {
    let result = timeout(SHORT, || {
        let inner = Timebox::new(SHORT / 2).strict().run_value(|_| late(7));
        assert!(inner.is_err() && checkpoint().is_err());
        Ok::<_, TimeoutError>(7)
    });
    assert_eq!(result.unwrap(), 7);
}

// ===== Futures =====

on_each_runtime!(
    a_late_ok_of_a_future_is_refused,
    a_late_value_of_a_future_is_refused,
    without_it_a_late_ok_of_a_future_is_returned,
    a_future_that_is_done_in_time_is_returned,
    a_late_error_of_a_future_is_returned_unchanged,
    a_late_ok_of_a_future_falls_back,
    a_future_that_is_late_for_the_scope_around_does_not_fall_back,
    a_late_ok_in_a_grace_is_refused,
    a_refused_value_of_a_future_is_dropped_inside_the_scope,
);

async fn a_late_ok_of_a_future_is_refused() {
    let strict = Timebox::new(SHORT).label("report").strict();
    let line = line!() + 1;
    let result = strict.run_future(async { Ok::<_, TimeoutError>(late(7)) });
    let error = result.await.unwrap_err();
    assert_eq!((error.cause(), error.label(), error.limit()), (Cause::Deadline, Some("report"), Some(SHORT)));
    // It was not cut off: it has come to its end.
    assert!(error.started() && error.settled());
    assert!(error.elapsed() >= SHORT * 2 && error.overshoot() >= SHORT / 2, "{error:?}");
    assert_eq!(error.interrupted_at().line(), line);
}

async fn a_late_value_of_a_future_is_refused() {
    let error = Timebox::new(SHORT).strict().run_future_value(async { late(7) }).await.unwrap_err();
    assert!(error.is_timeout() && error.started() && error.settled());
}

async fn without_it_a_late_ok_of_a_future_is_returned() {
    let late_ok = async { Ok::<_, TimeoutError>(late(7)) };
    assert_eq!(Timebox::new(SHORT).run_future(late_ok).await.unwrap(), 7);
    assert_eq!(Timebox::new(SHORT).run_future_value(async { late(7) }).await.unwrap(), 7);
}

async fn a_future_that_is_done_in_time_is_returned() {
    let strict = Timebox::new(LONG).strict();
    assert_eq!(strict.clone().run_future(async { Ok::<_, TimeoutError>(7) }).await.unwrap(), 7);
    assert_eq!(strict.run_future_value(async { 7 }).await.unwrap(), 7);
}

async fn a_late_error_of_a_future_is_returned_unchanged() {
    let failing = async { Err::<(), _>(Failure::Own(late("mine"))) };
    let result = Timebox::new(SHORT).strict().run_future(failing).await;
    assert!(matches!(result, Err(Failure::Own("mine"))), "{result:?}");
}

async fn a_late_ok_of_a_future_falls_back() {
    let exact = async { Ok::<_, Failure>(late("exact")) };
    let answer = Timebox::new(SHORT).strict().run_future_or_else(exact, |timed_out| {
        assert!(timed_out.is_timeout() && timed_out.started() && timed_out.settled());
        Ok("estimate")
    });
    assert_eq!(answer.await.unwrap(), "estimate");
}

async fn a_future_that_is_late_for_the_scope_around_does_not_fall_back() {
    unhurried_future(|limit| async move {
        let exact = async move {
            thread::sleep(2 * limit);
            Ok::<_, Failure>("exact")
        };
        let strict = Timebox::new(LONG).strict().run_future_or_else(exact, |error| unreachable!("{error}"));
        let result = future::timeout_value(limit, strict).await;
        // The outer scope is not strict: what has begun in it has come to its end.
        let error = result.ok()?.unwrap_err().timebox();
        assert_eq!(error.limit(), Some(limit));
        Some(())
    })
    .await;
}

async fn a_late_ok_in_a_grace_is_refused() {
    let strict = Timebox::new(SHORT).grace(LONG).strict();
    let result = strict.run_future(async {
        assert!(future::sleep(LONG).await.is_err());
        Ok::<_, TimeoutError>("cleaned up")
    });
    let error = result.await.unwrap_err();
    assert!(error.is_timeout() && error.settled());
}

async fn a_refused_value_of_a_future_is_dropped_inside_the_scope() {
    struct Lease(Arc<Mutex<Option<bool>>>);
    impl Drop for Lease {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = Some(is_expired());
        }
    }
    let dropped = Arc::new(Mutex::new(None));
    let lease = Arc::clone(&dropped);
    let result = Timebox::new(SHORT).strict().run_future_value(async move { late(Lease(lease)) });
    assert!(result.await.is_err());
    assert_eq!(*dropped.lock().unwrap(), Some(true));
}
