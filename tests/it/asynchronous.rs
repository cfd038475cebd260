//! Async scopes, on every executor: whose result wins, whose expiry is named, and what the body sees.

use std::future::{Future, pending, poll_fn, ready};
use std::io;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use futures::future::{join, join_all};
use timebox::future::{self, FutureExt};
use timebox::{
    CancellationToken, Cause, Deadline, Limit, Quota, Timebox, TimeoutError, checkpoint, deadline, handle,
    is_expired, remaining, timeout, token,
};

use crate::runtimes::{on_each_runtime, yield_now};
use crate::support::{Failure, LONG, SHORT, unhurried_future, wait_for};

on_each_runtime!(
    a_ready_value_is_returned,
    an_error_of_the_future_is_returned_unchanged,
    a_pending_future_expires_and_was_cut_off,
    a_busy_future_expires,
    a_scope_over_at_entry_does_not_poll_its_future,
    a_ready_value_wins_over_a_passed_deadline,
    a_value_that_is_ready_once_over_wins,
    a_limit_counts_from_the_first_poll,
    an_inner_expiry_leaves_the_outer_scope_alone,
    an_outer_expiry_is_named_through_inner_scopes,
    of_equal_deadlines_the_outermost_is_named,
    the_scope_is_ambient_in_every_poll,
    between_polls_the_scope_is_nowhere,
    a_sleep_sleeps,
    a_sleep_ends_early_with_its_scope,
    a_cancel_from_another_thread_ends_the_future,
    a_cancel_in_the_body_ends_the_future,
    a_told_token_ends_the_future,
    a_sync_scope_in_a_poll_is_bounded_by_the_async_one,
    an_async_scope_in_a_sync_one_is_bounded_by_it,
    many_futures_expire_each_at_its_own_limit,
    a_future_entered_by_handle_ends_with_its_scope,
    a_quota_is_shared_by_futures,
    a_dropped_future_leaves_its_quota,
    a_future_that_is_done_has_left_its_scope,
    errors_convert_and_tell_their_story,
    the_methods_of_futures_do_the_same,
    the_chain_lists_async_scopes_and_what_is_around_them,
    reserve_leaves_the_outer_future_time,
);

async fn a_ready_value_is_returned() {
    assert_eq!(future::timeout(LONG, async { Ok::<_, TimeoutError>(7) }).await.unwrap(), 7);
    assert_eq!(future::timeout_value(LONG, ready(7)).await.unwrap(), 7);
    let later = async {
        yield_now().await;
        7
    };
    assert_eq!(future::timeout_value(Limit::NONE, later).await.unwrap(), 7);
}

async fn an_error_of_the_future_is_returned_unchanged() {
    let result = future::timeout(LONG, ready(Err::<(), _>(Failure::Own("no such row")))).await;
    assert!(matches!(result, Err(Failure::Own("no such row"))));
}

async fn a_pending_future_expires_and_was_cut_off() {
    let start = Instant::now();
    let error = future::timeout_value(SHORT, pending::<()>()).await.unwrap_err();
    assert!(start.elapsed() >= SHORT && error.elapsed() >= SHORT);
    assert_eq!((error.cause(), error.limit()), (Cause::Deadline, Some(SHORT)));
    assert!(error.started() && !error.settled());
}

async fn a_busy_future_expires() {
    let busy = async {
        while deadline() != Deadline::NEVER {
            yield_now().await;
        }
    };
    let error = future::timeout_value(SHORT, busy).await.unwrap_err();
    assert!(error.is_timeout() && !error.settled());
}

async fn a_scope_over_at_entry_does_not_poll_its_future() {
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let spent = Quota::new(Duration::ZERO);
    let not_polled = || poll_fn(|_| -> Poll<()> { unreachable!("not polled") });
    for builder in [
        Timebox::new(Duration::ZERO),
        Timebox::new(Instant::now()),
        Timebox::new(&spent),
        Timebox::new(LONG).cancel_on(&cancelled),
        Timebox::new(Duration::ZERO).grace(LONG),
    ] {
        let error = builder.run_future_value(not_polled()).await.unwrap_err();
        assert!(!error.started() && error.settled());
    }
    let in_a_grace = Timebox::new(LONG).grace(LONG).run_future_value(async {
        token().cancel();
        let error = future::timeout_value(LONG, not_polled()).await.unwrap_err();
        assert!(!error.started() && error.is_cancelled());
    });
    in_a_grace.await.unwrap();
    // Without a grace the future around it is dropped where it stands.
    let error = future::timeout_value(LONG, async {
        token().cancel();
        let _ = future::timeout_value(LONG, not_polled()).await;
        unreachable!("a body does not run on after an await because its scope is over");
    });
    let error = error.await.unwrap_err();
    assert!(error.started() && !error.settled() && error.is_cancelled());
}

async fn a_ready_value_wins_over_a_passed_deadline() {
    let slow_poll = async {
        wait_for("the deadline", is_expired);
        Ok::<_, TimeoutError>(7)
    };
    assert_eq!(future::timeout(SHORT, slow_poll).await.unwrap(), 7);
}

async fn a_value_that_is_ready_once_over_wins() {
    unhurried_future(|limit| async move {
        // Wakes nobody: only the expiry brings the second poll.
        let mut polls = 0;
        let second_poll = poll_fn(move |_| {
            polls += 1;
            if polls == 1 { Poll::Pending } else { Poll::Ready(is_expired()) }
        });
        // On a busy machine the limit may pass within the first poll: then the future is rightly dropped.
        let is_expired = future::timeout_value(limit, second_poll).await.ok()?;
        assert!(is_expired);
        Some(())
    })
    .await;
}

async fn a_limit_counts_from_the_first_poll() {
    let bounded = future::timeout_value(LONG, async { deadline() });
    let built = Timebox::new(LONG).run_future_value(async { deadline() });
    let made = Instant::now();
    thread::sleep(SHORT);
    assert!(bounded.await.unwrap() >= Deadline::at(made + LONG + SHORT / 2));
    assert!(built.await.unwrap() >= Deadline::at(made + LONG + SHORT / 2));
}

async fn an_inner_expiry_leaves_the_outer_scope_alone() {
    let sum = future::timeout(LONG, async {
        let before = deadline();
        let mut expired = 0;
        for _ in 0..3 {
            let error = future::timeout_value(SHORT / 4, pending::<()>()).await.unwrap_err();
            assert_eq!(error.limit(), Some(SHORT / 4));
            expired += 1;
        }
        assert_eq!(deadline(), before);
        checkpoint()?;
        Ok::<_, TimeoutError>(expired)
    });
    assert_eq!(sum.await.unwrap(), 3);
}

async fn an_outer_expiry_is_named_through_inner_scopes() {
    let inner =
        || future::timeout(LONG, future::timeout(Limit::NONE, future::timeout_value(LONG, pending::<()>())));
    let error = Timebox::new(SHORT).label("outer").run_future(inner()).await.unwrap_err();
    assert_eq!(error.label(), Some("outer"));
    assert_eq!(error.limit(), Some(SHORT));
    assert!(!error.settled() || !error.started());
}

async fn of_equal_deadlines_the_outermost_is_named() {
    unhurried_future(|limit| async move {
        let deadline = Deadline::after(limit);
        let inner = Timebox::new(deadline).label("inner").run_future_value(pending::<()>());
        let error = Timebox::new(deadline).label("outer").run_future(inner).await.unwrap_err();
        assert_eq!(error.label(), Some("outer"));
        error.started().then_some(())
    })
    .await;
}

async fn the_scope_is_ambient_in_every_poll() {
    future::timeout(LONG, async {
        let (seen, token) = (deadline(), token());
        assert_ne!(seen, Deadline::NEVER);
        for _ in 0..50 {
            yield_now().await;
            assert_eq!(deadline(), seen);
        }
        token.cancel();
        checkpoint()
    })
    .await
    .unwrap_err();
}

async fn between_polls_the_scope_is_nowhere() {
    let inside = future::timeout_value(LONG, async {
        for _ in 0..20 {
            assert!(remaining().is_some());
            yield_now().await;
        }
    });
    let beside = async {
        for _ in 0..20 {
            assert_eq!(deadline(), Deadline::NEVER);
            yield_now().await;
        }
    };
    join(inside, beside).await.0.unwrap();
    assert_eq!(deadline(), Deadline::NEVER);
}

async fn a_sleep_sleeps() {
    let start = Instant::now();
    future::sleep(SHORT).await.unwrap();
    assert!(start.elapsed() >= SHORT);
    future::timeout(LONG, future::sleep(SHORT)).await.unwrap();
    assert!(start.elapsed() >= SHORT * 2);
    future::sleep(Duration::ZERO).await.unwrap();
}

async fn a_sleep_ends_early_with_its_scope() {
    let error = future::timeout(SHORT, async {
        let error = future::sleep(LONG).await.unwrap_err();
        assert!(is_expired());
        Err::<(), _>(error)
    })
    .await
    .unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
    let error = future::timeout(LONG, async {
        token().cancel();
        future::sleep(LONG).await
    })
    .await
    .unwrap_err();
    assert!(error.is_cancelled());
}

async fn a_cancel_from_another_thread_ends_the_future() {
    let (send, receive) = std::sync::mpsc::channel::<CancellationToken>();
    let canceller = thread::spawn(move || receive.recv().unwrap().cancel_with("user went away"));
    let error = future::timeout_value(LONG, async move {
        send.send(token()).unwrap();
        pending::<()>().await;
    })
    .await
    .unwrap_err();
    assert!(canceller.join().unwrap());
    assert_eq!((error.cause(), error.reason()), (Cause::Cancelled, Some("user went away")));
    assert!(!error.settled());
}

async fn a_cancel_in_the_body_ends_the_future() {
    let error = future::timeout_value(LONG, async {
        token().cancel();
        pending::<()>().await;
    })
    .await
    .unwrap_err();
    assert!(error.is_cancelled() && !error.settled());
}

async fn a_told_token_ends_the_future() {
    let token = CancellationToken::new();
    let bounded =
        Timebox::new(Limit::NONE).label("request").cancel_on(&token).run_future_value(pending::<()>());
    let cancel = async {
        yield_now().await;
        token.cancel_with("shutting down");
    };
    let error = join(bounded, cancel).await.0.unwrap_err();
    assert_eq!((error.label(), error.reason()), (Some("request"), Some("shutting down")));
}

async fn a_sync_scope_in_a_poll_is_bounded_by_the_async_one() {
    let error = Timebox::new(SHORT)
        .label("request")
        .run_future(async { timebox::timeout(LONG, || timebox::sleep(LONG)) })
        .await
        .unwrap_err();
    assert_eq!(error.label(), Some("request"));
    assert!(error.settled());
}

async fn an_async_scope_in_a_sync_one_is_bounded_by_it() {
    let error = timebox::with_timeout(SHORT, |outer| {
        let error = pollster::block_on(future::timeout_value(LONG, pending::<()>())).unwrap_err();
        assert_eq!(error.scope(), outer.id());
        Err::<(), _>(error)
    })
    .unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
}

async fn many_futures_expire_each_at_its_own_limit() {
    let futures = (1..=if cfg!(miri) { 20 } else { 200 }).map(|number| async move {
        let limit = Duration::from_micros(number * 7919 % 20_000);
        let start = Instant::now();
        let error = future::timeout_value(limit, pending::<()>()).await.unwrap_err();
        assert!(start.elapsed() >= limit);
        assert_eq!(error.limit(), Some(limit));
    });
    join_all(futures).await;
}

async fn a_future_entered_by_handle_ends_with_its_scope() {
    let root = handle();
    let inside = timebox::with_timeout(LONG, |scope| Ok::<_, TimeoutError>(scope.handle())).unwrap();
    let error = future::timeout_value(LONG, async {
        // Under the handle's scope, not under the one it is polled in.
        let seen = root.enter_future(Limit::NONE, async { Ok::<_, TimeoutError>(deadline()) }).await.unwrap();
        assert_eq!(seen, Deadline::NEVER);
        let entered = inside.enter_future(Limit::NONE, async {
            pending::<()>().await;
            Ok::<_, TimeoutError>(())
        });
        let cancel = async {
            yield_now().await;
            inside.token().cancel_with("the handle's");
        };
        join(entered, cancel).await.0.unwrap_err()
    })
    .await
    .unwrap();
    assert_eq!(error.reason(), Some("the handle's"));
}

async fn a_quota_is_shared_by_futures() {
    let quota = Quota::new(SHORT);
    let work = || future::timeout_value(&quota, pending::<()>());
    let (first, second) = join(work(), work()).await;
    assert_eq!(first.unwrap_err().cause(), Cause::Quota);
    assert_eq!(second.unwrap_err().cause(), Cause::Quota);
    assert!(quota.is_exhausted());
}

async fn a_dropped_future_leaves_its_quota() {
    let quota = Quota::new(LONG);
    {
        let mut entrant = std::pin::pin!(future::timeout_value(&quota, pending::<()>()));
        poll_fn(|context| {
            assert!(entrant.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
    }
    let left = quota.remaining();
    thread::sleep(Duration::from_millis(2));
    assert_eq!(quota.remaining(), left);
}

async fn a_future_that_is_done_has_left_its_scope() {
    let quota = Quota::new(LONG);
    let (fired, hook) = std::sync::mpsc::channel();
    let kept = std::sync::Mutex::new(None);
    let mut done = std::pin::pin!(future::timeout_value(&quota, async {
        std::mem::forget(timebox::on_cancel(move || fired.send(())));
        *kept.lock().unwrap() = Some(timebox::token());
    }));
    done.as_mut().await.unwrap();
    // The future itself is still there; its scope is not.
    let left = quota.remaining();
    thread::sleep(Duration::from_millis(2));
    assert_eq!(quota.remaining(), left);
    let token = kept.lock().unwrap().take().unwrap();
    assert!(token.cancel_with("first"));
    assert!(hook.recv().is_err(), "the hook was ended, not fired");
}

async fn errors_convert_and_tell_their_story() {
    let line = line!() + 1;
    let error = future::timeout_value(SHORT, pending::<()>()).await.unwrap_err();
    assert_eq!((error.location().file(), error.location().line()), (file!(), line));
    assert_eq!(error.chain().len(), 1);
    let line = line!() + 1;
    let built = Timebox::new(Duration::ZERO).run_future_value(pending::<()>());
    let error = built.await.unwrap_err();
    assert_eq!((error.location().file(), error.location().line()), (file!(), line));
    let cut_off = future::timeout(SHORT, async {
        pending::<()>().await;
        Ok::<_, io::Error>(())
    });
    assert_eq!(cut_off.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

async fn the_chain_lists_async_scopes_and_what_is_around_them() {
    let inner = Timebox::new(LONG).label("inner").run_future(async {
        token().cancel();
        checkpoint()
    });
    let outer = Timebox::new(LONG).label("outer").run_future(inner);
    let error = timebox::with_timeout(LONG, |_| pollster::block_on(outer)).unwrap_err();
    let labels: Vec<_> = error.chain().map(timebox::ScopeInfo::label).collect();
    assert_eq!(labels, [Some("inner"), Some("outer"), None]);
    assert_eq!(error.label(), Some("inner"));
}

async fn reserve_leaves_the_outer_future_time() {
    future::timeout(LONG, async {
        let outer = deadline();
        let inner =
            Timebox::new(Limit::NONE).reserve(LONG / 4).run_future_value(async { deadline() }).await?;
        assert!(inner < outer);
        let error = Timebox::new(LONG).reserve(LONG * 2).run_future_value(async {}).await.unwrap_err();
        assert!(!error.started());
        checkpoint()
    })
    .await
    .unwrap();
}

async fn the_methods_of_futures_do_the_same() {
    let value = async { 7 }.timebox_value(LONG).await;
    assert_eq!(value.unwrap(), 7);
    let result = async { Err::<(), _>(Failure::Own("no such row")) }.timebox(LONG).await;
    assert!(matches!(result, Err(Failure::Own(_))));
    let error = pending::<()>().timebox_value(SHORT).timebox(LONG).await.unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
}

#[test]
fn a_future_without_any_time_is_not_polled() {
    let polled =
        || future::timeout_value(Duration::ZERO, poll_fn(|_| -> Poll<()> { panic!("it was polled") }));
    assert!(!pollster::block_on(polled()).unwrap_err().started());
    let nested = timeout(LONG, || pollster::block_on(polled()));
    assert!(!nested.unwrap_err().started());
}
