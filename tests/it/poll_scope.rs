//! Work that is polled by hand and gives several values has one scope for all of its polls.

use std::future::{pending, poll_fn};
use std::panic::Location;
use std::pin::pin;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pollster::block_on;
use timebox::future::{PollScope, ScopeTemplate, sleep, timeout_value};
use timebox::{
    CancellationToken, Limit, Quota, Timebox, TimeoutError, checkpoint, deadline, handle, on_cancel, token,
};

use crate::support::{LONG, SHORT, bounded, counting, let_the_watchdog_pass};

fn scope(timebox: Timebox) -> PollScope {
    PollScope::new(timebox, Location::caller())
}

/// Polls once, for a value that is ready.
fn ready<T>(scope: &mut PollScope, mut value: impl FnMut() -> T) -> Result<T, TimeoutError> {
    let mut context = Context::from_waker(Waker::noop());
    match scope.poll(&mut context, |_| Poll::Ready(value())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it is ready"),
    }
}

async fn outlast(scope: &mut PollScope) -> TimeoutError {
    let mut silence = pin!(pending::<()>());
    poll_fn(|cx| scope.poll(cx, |cx| silence.as_mut().poll(cx))).await.expect_err("the scope ends")
}

#[test]
fn all_polls_are_in_one_scope() {
    let mut scope = scope(Timebox::new(LONG));
    let seen = |scope: &mut PollScope| scope.enter(|scope| (scope.id(), deadline())).unwrap();
    let begun = seen(&mut scope);
    for _ in 0..3 {
        assert_eq!(ready(&mut scope, deadline).unwrap(), begun.1);
    }
    assert_eq!(seen(&mut scope), begun);
}

#[test]
fn what_is_made_in_one_poll_lasts_until_the_scope_is_dropped() {
    let (hook, fires) = counting();
    let mut hook = Some(hook);
    let mut scope = scope(Timebox::new(LONG));
    let made = || (handle(), on_cancel(hook.take().expect("polled once")));
    let (handle, _registration) = ready(&mut scope, made).unwrap();
    ready(&mut scope, || checkpoint().unwrap()).unwrap();
    handle.token().cancel_with("enough");
    let_the_watchdog_pass();
    assert_eq!(fires.load(SeqCst), 1);
    assert_eq!(ready(&mut scope, || checkpoint().unwrap_err()).unwrap().reason(), Some("enough"));
}

#[test]
fn a_hook_dies_with_the_scope() {
    let (hook, fires) = counting();
    let mut hook = Some(hook);
    let mut scope = scope(Timebox::new(LONG));
    let made = || (handle(), on_cancel(hook.take().expect("polled once")));
    let (handle, _registration) = ready(&mut scope, made).unwrap();
    drop(scope);
    handle.token().cancel();
    let_the_watchdog_pass();
    assert_eq!(fires.load(SeqCst), 0);
}

#[test]
fn the_task_is_woken_at_the_deadline_after_a_value_too() {
    bounded(|| {
        block_on(async {
            let mut scope = scope(Timebox::new(SHORT).label("download"));
            ready(&mut scope, || ()).unwrap();
            let error = outlast(&mut scope).await;
            assert!(error.is_timeout() && !error.settled());
            assert_eq!((error.label(), error.limit()), (Some("download"), Some(SHORT)));
            // It is over for what is dropped in it.
            assert!(scope.enter(timebox::Scope::is_expired).unwrap());
        });
    });
}

#[test]
fn the_task_is_woken_by_a_token() {
    bounded(|| {
        block_on(async {
            let token = CancellationToken::new();
            let mut scope = scope(Timebox::new(LONG).cancel_on(&token));
            ready(&mut scope, || ()).unwrap();
            token.cancel_with("shutdown");
            assert_eq!(outlast(&mut scope).await.reason(), Some("shutdown"));
        });
    });
}

#[test]
fn a_value_that_is_ready_wins_over_the_deadline() {
    let mut scope = scope(Timebox::new(SHORT));
    let late = || {
        std::thread::sleep(SHORT);
        7
    };
    assert_eq!(ready(&mut scope, late).unwrap(), 7);
    assert_eq!(ready(&mut scope, || 8).unwrap(), 8);
}

#[test]
fn within_the_grace_the_work_gets_the_error() {
    bounded(|| {
        block_on(async {
            let mut scope = scope(Timebox::new(SHORT).grace(LONG));
            let mut work = pin!(async { sleep(LONG).await.unwrap_err() });
            let error = poll_fn(|cx| scope.poll(cx, |cx| work.as_mut().poll(cx))).await.unwrap();
            assert_eq!(error.limit(), Some(SHORT));
        });
    });
}

#[test]
fn a_scope_without_time_is_not_entered() {
    let mut none = scope(Timebox::new(Duration::ZERO).label("none"));
    let error = none.enter(|_| unreachable!()).unwrap_err();
    assert!(!error.started() && error.label() == Some("none"));
    assert!(!block_on(async { outlast(&mut scope(Timebox::new(Duration::ZERO))).await }).started());
}

#[test]
fn the_scopes_around_a_poll_are_around_the_scope() {
    bounded(|| {
        block_on(async {
            let mut inner = scope(Timebox::new(LONG).label("inner"));
            ready(&mut inner, || ()).unwrap();
            let outer = timeout_value(SHORT, outlast(&mut inner)).await.unwrap_err();
            assert_eq!((outer.limit(), outer.label()), (Some(SHORT), None));
            // It survives the limit under which it was polled.
            assert!(ready(&mut inner, || checkpoint().is_ok()).unwrap());
        });
    });
}

#[test]
fn a_panic_passes_through() {
    let mut scope = scope(Timebox::new(LONG));
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ready(&mut scope, || std::panic::resume_unwind(Box::new("mine")))
    }));
    assert_eq!(polled.unwrap_err().downcast_ref(), Some(&"mine"));
    assert_eq!(deadline(), timebox::Deadline::NEVER);
}

#[test]
fn its_debug_output_shows_no_field() {
    let timebox = || Timebox::new(LONG).field("user", "hidden");
    let shown = format!("{:?} {:?}", scope(timebox()), template(timebox()));
    assert!(shown.starts_with("PollScope") && !shown.contains("hidden"), "{shown}");
}

fn template(timebox: Timebox) -> ScopeTemplate {
    ScopeTemplate::new(timebox, Location::caller())
}

#[test]
fn each_scope_of_a_template_is_a_scope_of_its_own() {
    let requests = template(Timebox::new(LONG).label("request").field("server", 7));
    let (mut one, mut other) = (requests.scope(), requests.scope());
    let begun = one.enter(|scope| (scope.id(), deadline(), token())).unwrap();
    std::thread::sleep(SHORT);
    let begun_later = other.enter(|scope| (scope.id(), deadline())).unwrap();
    assert!(begun.0 != begun_later.0 && begun.1 < begun_later.1);
    begun.2.cancel_with("one of them");
    assert!(ready(&mut other, || checkpoint().is_ok()).unwrap());
    let error = ready(&mut one, || checkpoint().unwrap_err()).unwrap();
    assert_eq!((error.label(), error.reason()), (Some("request"), Some("one of them")));
    assert_eq!(error.fields().collect::<Vec<_>>(), [("server", "7")]);
    assert_eq!((requests.label(), requests.clone().label()), (Some("request"), Some("request")));
}

#[test]
fn the_scopes_of_a_template_have_all_of_its_settings() {
    bounded(|| {
        block_on(async {
            let error = outlast(&mut template(Timebox::new(SHORT).label("request")).scope()).await;
            assert_eq!((error.label(), error.limit()), (Some("request"), Some(SHORT)));

            let requests = template(Timebox::new(SHORT).grace(LONG));
            for _ in 0..2 {
                let (mut scope, mut work) = (requests.scope(), pin!(sleep(LONG)));
                let slept = poll_fn(|cx| scope.poll(cx, |cx| work.as_mut().poll(cx))).await;
                assert_eq!(slept.unwrap().unwrap_err().limit(), Some(SHORT));
            }

            let shutdown = CancellationToken::new();
            let requests = template(Timebox::new(Limit::NONE).cancel_on(&shutdown));
            let (mut one, mut other) = (requests.scope(), requests.scope());
            ready(&mut one, || ()).unwrap();
            shutdown.cancel_with("shutdown");
            assert_eq!(outlast(&mut one).await.reason(), Some("shutdown"));
            assert!(!other.enter(|_| ()).unwrap_err().started());

            let mut strict = template(Timebox::new(SHORT).strict()).scope();
            let late = ready(&mut strict, || std::thread::sleep(2 * SHORT));
            assert!(late.unwrap_err().settled());
        });
    });
}

#[test]
fn the_scopes_of_a_template_share_its_quota() {
    let requests = template(Timebox::new(&Quota::new(2 * LONG)));
    let lasts = |scope: &mut PollScope| {
        let spent = scope.enter(|_| {
            std::thread::sleep(SHORT);
            token().cancel();
            checkpoint().unwrap_err()
        });
        spent.unwrap().limit().unwrap()
    };
    let (first, second) = (lasts(&mut requests.scope()), lasts(&mut requests.scope()));
    assert!(first <= 2 * LONG && second + SHORT <= first, "{first:?}, {second:?}");
}

#[test]
fn the_scopes_of_a_template_are_within_its_handle() {
    let mut outer = scope(Timebox::new(LONG).label("outer"));
    let (around, token) = outer.enter(|_| (handle(), token())).unwrap();
    let requests = template(Timebox::new(LONG).label("request").within(&around));
    let mut request = requests.scope();
    assert!(ready(&mut request, || checkpoint().is_ok()).unwrap());
    token.cancel_with("outer");
    let error = ready(&mut request, || checkpoint().unwrap_err()).unwrap();
    assert_eq!((error.label(), error.reason()), (Some("outer"), Some("outer")));
    assert!(!requests.scope().enter(|_| ()).unwrap_err().started());
}
