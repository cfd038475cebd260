//! What an error tells: every accessor, its one line, and what it converts into.

use std::error::Error;
use std::fmt;
use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use timebox::{
    CancellationToken, Cause, Hook, Limit, Quota, ScopeId, ScopeInfo, Timebox, TimeoutError, checkpoint,
    interruptible, shield, timeout, timeout_value, token, with_timeout,
};

use crate::support::{LONG, SHORT, bounded, next, outlast, rounds, unhurried};

fn expired() -> TimeoutError {
    Timebox::new(SHORT).label("load feed").run(|scope| Err::<(), _>(outlast(scope))).unwrap_err()
}

fn cancelled(reason: &'static str) -> TimeoutError {
    with_timeout(LONG, |scope| {
        scope.token().cancel_with(reason);
        scope.checkpoint()
    })
    .unwrap_err()
}

#[test]
fn an_expiry_is_a_timeout_and_no_cancellation() {
    let error = expired();
    assert_eq!(error.cause(), Cause::Deadline);
    assert!(error.is_timeout() && !error.is_cancelled());
    assert_eq!(error.reason(), None);
}

#[test]
fn a_spent_quota_is_a_timeout_too() {
    let error = Quota::new(Duration::ZERO).timeout(|| Ok::<_, TimeoutError>(())).unwrap_err();
    assert_eq!(error.cause(), Cause::Quota);
    assert!(error.is_timeout() && !error.is_cancelled());
}

#[test]
fn a_cancellation_is_no_timeout_and_has_a_reason() {
    let error = cancelled("user went away");
    assert_eq!(error.cause(), Cause::Cancelled);
    assert!(error.is_cancelled() && !error.is_timeout());
    assert_eq!(error.reason(), Some("user went away"));
    assert!(error.to_string().contains("user went away"), "{error}");
}

#[test]
fn a_cancellation_without_a_reason_has_none() {
    let token = CancellationToken::new();
    token.cancel();
    assert_eq!(token.checkpoint().unwrap_err().reason(), None);
}

#[test]
fn the_label_is_the_scopes() {
    assert_eq!(expired().label(), Some("load feed"));
    assert_eq!(cancelled("x").label(), None);
}

#[test]
fn the_scope_is_the_one_that_is_over() {
    with_timeout(LONG, |outer| {
        let (id, error) = with_timeout(SHORT, |inner| Ok::<_, TimeoutError>((inner.id(), outlast(inner))))?;
        assert_eq!(error.scope(), id);
        assert_ne!(error.scope(), outer.id());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_scope_id_is_never_used_twice() {
    let mut seen = std::collections::HashSet::new();
    for _ in 0..rounds(1000) {
        assert!(seen.insert(with_timeout(LONG, |scope| Ok::<ScopeId, TimeoutError>(scope.id())).unwrap()));
    }
    let id = seen.into_iter().next().unwrap();
    assert!(!id.to_string().is_empty() && !format!("{id:?}").is_empty());
}

#[test]
fn the_location_is_the_call_that_opened_the_scope() {
    let line = line!() + 1;
    let error = timeout(SHORT, || timebox::sleep(LONG)).unwrap_err();
    assert_eq!((error.location().file(), error.location().line()), (file!(), line));

    let error = expired();
    assert_eq!(error.location().file(), file!());
}

#[test]
fn every_way_into_a_scope_is_located_at_its_caller() {
    let zero = Duration::ZERO;
    let quota = Quota::new(zero);
    let base = line!();
    let errors = [
        timeout(zero, || Ok::<_, TimeoutError>(())).unwrap_err(),
        with_timeout(zero, |_| Ok::<_, TimeoutError>(())).unwrap_err(),
        timebox::timeout_value(zero, || ()).unwrap_err(),
        Timebox::new(zero).run(|_| Ok::<_, TimeoutError>(())).unwrap_err(),
        Timebox::new(zero).run_value(|_| ()).unwrap_err(),
        Timebox::new(zero).run_or_else(|_| Ok::<_, TimeoutError>(()), Err).unwrap_err(),
        timebox::handle().enter(zero, |_| Ok::<_, TimeoutError>(())).unwrap_err(),
        quota.timeout(|| Ok::<_, TimeoutError>(())).unwrap_err(),
    ];
    for (error, line) in errors.iter().zip(base + 2..) {
        assert_eq!((error.location().file(), error.location().line()), (file!(), line), "{error}");
    }
}

#[test]
fn where_it_was_interrupted_is_the_call_that_failed() {
    with_timeout(SHORT, |scope| {
        outlast(scope);
        let base = line!();
        let errors = [
            checkpoint().unwrap_err(),
            scope.checkpoint().unwrap_err(),
            timebox::sleep(LONG).unwrap_err(),
            scope.sleep(LONG).unwrap_err(),
            timebox::require(LONG).unwrap_err(),
            interruptible(|| (), || Ok::<_, io::Error>(())).unwrap_err(),
            scope.interruptible(|| (), || Ok::<_, io::Error>(())).unwrap_err(),
            timebox::interruptible_outcome(|| (), || ()).unwrap_err(),
            scope.token().checkpoint().unwrap_err(),
            timeout(LONG, || Ok::<_, TimeoutError>(())).unwrap_err(),
        ];
        for (error, line) in errors.iter().zip(base + 2..) {
            let place = error.interrupted_at();
            assert_eq!((place.file(), place.line()), (file!(), line), "{error}");
        }
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn the_limit_is_what_was_asked_for() {
    assert_eq!(expired().limit(), Some(SHORT));
    assert_eq!(cancelled("x").limit(), Some(LONG));
    let instant = Instant::now();
    assert_eq!(timeout(instant, || Ok::<_, TimeoutError>(())).unwrap_err().limit(), None);
}

#[test]
fn elapsed_and_overshoot_tell_how_late_it_was() {
    with_timeout(SHORT, |scope| {
        outlast(scope);
        let before = scope.checkpoint().unwrap_err();
        // Code that does not check: its delay must show.
        thread::sleep(SHORT);
        let after = scope.checkpoint().unwrap_err();
        assert!(before.elapsed() >= SHORT);
        assert!(after.elapsed() >= before.elapsed() + SHORT);
        assert!(after.overshoot() >= before.overshoot() + SHORT);
        assert!(after.overshoot() <= after.elapsed());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn elapsed_is_limit_and_overshoot() {
    let error = expired();
    let difference = error.elapsed().abs_diff(SHORT + error.overshoot());
    assert!(difference < Duration::from_millis(1), "{error:?}");
}

#[test]
fn elapsed_stands_still_once_the_error_was_raised() {
    let error = expired();
    let (elapsed, overshoot) = (error.elapsed(), error.overshoot());
    thread::sleep(Duration::from_millis(2));
    assert_eq!((error.elapsed(), error.overshoot()), (elapsed, overshoot));
}

#[test]
fn a_body_that_ran_was_started() {
    assert!(expired().started() && cancelled("x").started());
    assert!(!timeout(Duration::ZERO, || Ok::<_, TimeoutError>(())).unwrap_err().started());
}

#[test]
fn whatever_happens_in_a_sync_scope_is_settled() {
    assert!(expired().settled() && cancelled("x").settled());
    assert!(timeout(Duration::ZERO, || Ok::<_, TimeoutError>(())).unwrap_err().settled());
}

#[test]
fn the_chain_lists_the_open_scopes_innermost_first() {
    unhurried(|limit| {
        Timebox::new(limit)
            .label("outer")
            .run_value(|outer| {
                Timebox::new(LONG).run_value(|middle| {
                    Timebox::new(Limit::NONE).label("inner").run_value(|inner| {
                        let error = outlast(inner);
                        let chain: Vec<&ScopeInfo> = error.chain().collect();
                        let ids: Vec<ScopeId> = chain.iter().map(|scope| scope.id()).collect();
                        assert_eq!(ids, [inner.id(), middle.id(), outer.id()]);
                        let labels: Vec<_> = chain.iter().map(|scope| scope.label()).collect();
                        assert_eq!(labels, [Some("inner"), None, Some("outer")]);
                        let limits: Vec<_> = chain.iter().map(|scope| scope.limit()).collect();
                        assert_eq!(limits, [None, Some(LONG), Some(limit)]);
                        assert!(chain.iter().all(|scope| scope.location().file() == file!()));
                        assert_eq!(chain[2].location(), error.location());
                        assert_eq!(error.scope(), outer.id());
                    })
                })
            })
            .ok()?
            .ok()?
            .ok()
    });
}

#[test]
fn the_chain_can_be_walked_from_both_ends() {
    let error = timeout(LONG, || timeout(Duration::ZERO, || Ok::<_, TimeoutError>(()))).unwrap_err();
    let chain = error.chain();
    assert_eq!(chain.len(), 2);
    assert_eq!(chain.clone().next().unwrap().limit(), Some(Duration::ZERO));
    assert_eq!(chain.clone().next_back().unwrap().limit(), Some(LONG));
    assert_eq!(chain.rev().count(), 2);
}

#[test]
fn the_chain_ends_at_a_shield() {
    with_timeout(LONG, |outer| {
        let error = shield(SHORT, || timeout(LONG, || timebox::sleep(LONG)).unwrap_err());
        assert!(error.chain().all(|scope| scope.id() != outer.id()), "{error:?}");
        assert_eq!(error.chain().next_back().unwrap().limit(), Some(SHORT));
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn an_expiry_has_no_source_unless_a_foreign_call_failed() {
    assert!(expired().source().is_none());
}

#[test]
fn the_source_is_the_error_of_the_call_that_was_interrupted() {
    let (send, receive) = std::sync::mpsc::channel();
    let error = with_timeout(LONG, |scope| {
        let call = || {
            scope.token().cancel();
            receive.recv().expect("the hook lives as long as the call");
            Err::<(), _>(io::Error::other("stopped by the server"))
        };
        scope.interruptible(move || send.send(()), call)
    })
    .unwrap_err();
    let source: &io::Error = error.source().unwrap().downcast_ref().unwrap();
    assert_eq!(source.to_string(), "stopped by the server");
    assert_eq!(error.clone().source().unwrap().to_string(), "stopped by the server");
}

#[test]
fn it_displays_as_one_line_with_limit_elapsed_and_overshoot_apart() {
    let quota = Quota::new(Duration::ZERO);
    for error in [
        expired(),
        cancelled("user\nwent away"),
        timeout(Duration::ZERO, || Ok::<_, TimeoutError>(())).unwrap_err(),
        timeout(Instant::now(), || Ok::<_, TimeoutError>(())).unwrap_err(),
        quota.timeout(|| Ok::<_, TimeoutError>(())).unwrap_err(),
        timeout(LONG, || timebox::require(LONG * 2)).unwrap_err(),
        Timebox::new(Duration::ZERO).label("two\nlines").run_value(|_| ()).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(!text.is_empty() && !text.contains('\n'), "{text}");
        assert!(!format!("{error:?}").is_empty());
    }
    let text = expired().to_string();
    for part in ["load feed", &format!("{SHORT:?}"), "limit", "over"] {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

#[test]
fn as_an_io_error_it_is_timed_out_and_never_interrupted() {
    for error in [expired(), cancelled("x")] {
        let scope = error.scope();
        let io = io::Error::from(error);
        assert_eq!(io.kind(), io::ErrorKind::TimedOut);
        let inner = io.get_ref().unwrap().downcast_ref::<TimeoutError>().unwrap();
        assert_eq!(inner.scope(), scope);
    }
}

#[test]
fn it_is_as_small_as_a_pointer() {
    assert_eq!(size_of::<TimeoutError>(), size_of::<usize>());
    assert_eq!(size_of::<Option<TimeoutError>>(), size_of::<usize>());
}

#[test]
fn it_can_be_cloned_and_carried_anywhere() {
    fn anywhere<T: Error + Clone + Send + Sync + UnwindSafe + RefUnwindSafe + Unpin + 'static>(
        value: T,
    ) -> T {
        value
    }
    let error = anywhere(expired());
    let clone = error.clone();
    let elapsed = thread::spawn(move || clone.elapsed()).join().unwrap();
    assert_eq!(elapsed, error.elapsed());
}

#[test]
fn the_error_of_a_requirement_says_what_was_needed_and_what_was_left() {
    let error = timeout(LONG, || timebox::require(LONG * 2)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(", needed 7200s, left ") && !text.contains('\n'), "{text}");
}

#[test]
fn an_error_without_a_duration_says_so() {
    let passed = std::time::Instant::now();
    let text = timeout(passed, || Ok::<_, TimeoutError>(())).unwrap_err().to_string();
    assert!(text.contains(": until an instant, elapsed "), "{text}");
    let text = timebox::with_timeout(None::<Duration>, |scope| {
        scope.token().cancel();
        scope.checkpoint()
    })
    .unwrap_err()
    .to_string();
    assert!(!text.contains("limit") && !text.contains("instant"), "{text}");
}

/// A foreign error whose destructor uses the crate.
#[derive(Debug)]
struct AsksWhenDropped;

impl fmt::Display for AsksWhenDropped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("interrupted")
    }
}

impl std::error::Error for AsksWhenDropped {}

impl Drop for AsksWhenDropped {
    fn drop(&mut self) {
        let _ = checkpoint();
    }
}

#[test]
fn a_source_may_use_the_crate_when_it_is_dropped() {
    bounded(|| {
        timeout_value(LONG, || {
            let (fire, fired) = channel();
            let hook = Hook::inline(move || fire.send(()));
            let call = || {
                token().cancel();
                next(&fired);
                Err::<(), _>(AsksWhenDropped)
            };
            let error = interruptible(hook, call).unwrap_err();
            assert!(std::error::Error::source(&error).is_some());
            drop(error);
            // The next error takes the place of the one with the source.
            checkpoint().unwrap_err();
            interruptible(Hook::inline(|| ()), || Err::<(), _>(AsksWhenDropped)).unwrap_err();
        })
        .unwrap();
    });
}
