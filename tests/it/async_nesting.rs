//! A future is in the scopes of whoever polls it: they may be others in the next poll.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;

use timebox::{
    CancellationToken, Deadline, Limit, Timebox, TimeoutError, checkpoint, deadline, future, handle,
    timeout_value, token, with_timeout,
};

use crate::runtimes::{on_each_runtime, yield_now};
use crate::support::{LONG, SHORT, bounded, next, poll_once, unhurried, unhurried_future, wait_for};

on_each_runtime!(
    a_future_can_be_polled_under_one_short_limit_after_another,
    a_future_with_a_scope_of_its_own_can_be_too,
    a_future_moved_out_of_a_scope_loses_it,
);

async fn a_future_can_be_polled_under_one_short_limit_after_another() {
    let finish = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&finish);
    let mut task = pin!(async move {
        let mut turns = 0;
        while !flag.load(SeqCst) {
            turns += 1;
            yield_now().await;
        }
        turns
    });
    for _ in 0..3 {
        let error = future::timeout_value(SHORT / 4, &mut task).await.unwrap_err();
        // The limit cut off nothing but its hold on the future.
        assert_eq!(error.limit(), Some(SHORT / 4));
    }
    finish.store(true, SeqCst);
    assert!(future::timeout_value(LONG, &mut task).await.unwrap() >= 3);
}

async fn a_future_with_a_scope_of_its_own_can_be_too() {
    let rounds = AtomicU32::new(0);
    let mut work = pin!(future::timeout_value(LONG, async {
        while rounds.load(SeqCst) < 3 {
            yield_now().await;
        }
        7
    }));
    let value = loop {
        match future::timeout_value(SHORT, work.as_mut()).await {
            Ok(value) => break value,
            Err(error) => assert_eq!(error.limit(), Some(SHORT)),
        }
        rounds.fetch_add(1, SeqCst);
    };
    assert_eq!(value.unwrap(), 7);
}

async fn a_future_moved_out_of_a_scope_loses_it() {
    unhurried_future(|limit| async move {
        let mut inner = Box::pin(future::timeout(LONG, async {
            yield_now().await;
            checkpoint()?;
            Ok::<_, TimeoutError>(deadline())
        }));
        let (polled, outer) = with_timeout(limit, |outer| {
            let polled = poll_once(&mut inner);
            assert!(deadline() == outer.deadline());
            Ok::<_, TimeoutError>((polled, outer.deadline()))
        })
        .unwrap();
        if polled.is_ready() {
            return None;
        }
        wait_for("the deadline left behind", || outer.has_passed());
        assert!(inner.await.unwrap() > outer);
        Some(())
    })
    .await;
}

#[test]
fn a_scope_goes_with_its_future_from_thread_to_thread() {
    let mut bounded = Box::pin(future::timeout(LONG, async {
        let (first, home) = (deadline(), thread::current().id());
        assert_ne!(first, Deadline::NEVER);
        yield_now().await;
        assert_ne!(thread::current().id(), home);
        assert_eq!(deadline(), first);
        yield_now().await;
        checkpoint()?;
        Ok::<_, TimeoutError>(deadline() == first)
    }));
    assert!(poll_once(&mut bounded).is_pending());
    assert_eq!(deadline(), Deadline::NEVER);
    let mut bounded = thread::spawn(move || {
        assert!(poll_once(&mut bounded).is_pending());
        assert_eq!(deadline(), Deadline::NEVER);
        bounded
    })
    .join()
    .unwrap();
    let Poll::Ready(same) = poll_once(&mut bounded) else { unreachable!("it ends in its third poll") };
    assert!(same.unwrap());
}

#[test]
fn a_future_moved_into_a_scope_takes_it_on() {
    let mut inner = Box::pin(future::timeout_value(LONG, async {
        loop {
            yield_now().await;
        }
    }));
    assert!(poll_once(&mut inner).is_pending());
    with_timeout(SHORT, |outer| {
        wait_for("the outer expiry", || outer.is_expired());
        let Poll::Ready(Err::<(), _>(error)) = poll_once(&mut inner) else {
            unreachable!("the scope around the poll is over")
        };
        assert_eq!(error.scope(), outer.id());
        assert!(!error.settled());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn the_deadline_of_an_async_scope_is_fixed_when_its_first_poll_begins() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let deadlines = Arc::clone(&seen);
    let mut inner = Box::pin(future::timeout_value(
        LONG,
        poll_fn(move |_| -> Poll<()> {
            deadlines.lock().unwrap().push(deadline());
            Poll::Pending
        }),
    ));
    assert!(poll_once(&mut inner).is_pending());
    timeout_value(LONG / 2, || assert!(poll_once(&mut inner).is_pending())).unwrap();
    timeout_value(Limit::NONE, || assert!(poll_once(&mut inner).is_pending())).unwrap();
    let seen = seen.lock().unwrap();
    // In the second poll what was around it was earlier.
    assert!(seen[1] < seen[0]);
    assert_eq!(seen[2], seen[0]);
}

#[test]
fn the_error_names_the_surroundings_of_the_poll_that_failed() {
    let cancelled = CancellationToken::new();
    let mut inner = Box::pin(future::timeout_value(LONG, pending::<()>()));
    let first = Timebox::new(LONG).label("first").run_value(|_| poll_once(&mut inner).is_pending());
    assert!(first.unwrap());
    Timebox::new(LONG)
        .label("second")
        .cancel_on(&cancelled)
        .run_value(|_| {
            cancelled.cancel();
            let Poll::Ready(Err(error)) = poll_once(&mut inner) else { unreachable!("cancelled") };
            assert_eq!(error.label(), Some("second"));
            assert!(error.chain().all(|scope| scope.label() != Some("first")));
        })
        .unwrap();
}

#[test]
fn a_future_moved_out_of_a_cancelled_scope_loses_its_end_too() {
    let mut inner = Box::pin(future::timeout(LONG, async {
        yield_now().await;
        checkpoint()
    }));
    with_timeout(LONG, |outer| {
        assert!(poll_once(&mut inner).is_pending());
        // While it is beneath, but not polled any more before it is moved.
        outer.token().cancel();
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
    let Poll::Ready(result) = poll_once(&mut inner) else { unreachable!("it ends in its second poll") };
    result.unwrap();
}

#[test]
fn a_future_may_be_linked_to_the_token_of_a_scope_within_it() {
    bounded(|| {
        let (send, tokens) = channel();
        let inner = future::timeout_value(LONG, async move {
            send.send(token()).unwrap();
            pending::<()>().await;
        });
        let mut inner = Box::pin(inner);
        assert!(poll_once(&mut inner).is_pending());
        let token = next(&tokens);
        let mut outer = Box::pin(Timebox::new(LONG).cancel_on(&token).run_future_value(inner));
        assert!(poll_once(&mut outer).is_pending());
        token.cancel();
        assert!(poll_once(&mut outer).is_ready());
    });
}

#[test]
fn a_future_may_be_polled_within_its_own_handle() {
    bounded(|| {
        let (send, handles) = channel();
        let mut task = Box::pin(future::timeout_value(LONG, async move {
            send.send(handle()).unwrap();
            pending::<()>().await;
        }));
        assert!(poll_once(&mut task).is_pending());
        next(&handles)
            .enter(LONG, |_| {
                assert!(poll_once(&mut task).is_pending());
                checkpoint()
            })
            .unwrap();
    });
}

#[test]
fn a_future_s_scope_has_one_identity_in_all_its_polls() {
    let mut ids = Vec::new();
    let seen = poll_fn(move |cx| {
        ids.push(timebox::require(LONG * 2).unwrap_err().scope());
        cx.waker().wake_by_ref();
        if ids.len() < 3 { Poll::Pending } else { Poll::Ready(std::mem::take(&mut ids)) }
    });
    let ids = pollster::block_on(future::timeout_value(LONG, seen)).unwrap();
    assert_eq!(ids, [ids[0]; 3]);
}

#[test]
fn a_scope_entered_by_a_handle_loses_the_deadline_that_the_handle_s_future_has_left() {
    unhurried(|limit| {
        let (sent, received) = channel();
        let mut work = Box::pin(future::timeout_value(LONG, async move {
            sent.send(handle()).unwrap();
            pending::<()>().await;
        }));
        let (entered, is_in) = channel();
        let (go, left) = channel();
        let deadlines = timeout_value(limit, || {
            if poll_once(&mut work).is_ready() {
                return None;
            }
            let handle = next(&received);
            let thread = thread::spawn(move || {
                handle.enter(LONG, |scope| {
                    entered.send(scope.deadline()).unwrap();
                    let _ = left.recv();
                    scope.checkpoint()?;
                    with_timeout(LONG, |inner| inner.checkpoint())?;
                    scope.sleep(SHORT)?;
                    checkpoint()
                })
            });
            // None is sent where the entry was too late.
            let inside = is_in.recv().ok()?;
            Some((thread, inside, deadline()))
        });
        let (thread, inside, around) = deadlines.unwrap()?;
        assert_eq!(inside, around);
        assert!(poll_once(&mut work).is_pending());
        if around.has_passed() {
            // It may have passed before the future has left it.
            return None;
        }
        wait_for("the deadline left behind", || around.has_passed());
        go.send(()).unwrap();
        thread.join().unwrap().unwrap();
        Some(())
    });
}

#[test]
fn a_future_driven_inside_a_poll_ends_when_what_is_around_that_poll_is_over() {
    bounded(|| {
        let inner = || futures::executor::block_on(future::timeout_value(LONG, pending::<()>()));
        let outer = future::timeout(SHORT, async { inner() });
        let error = pollster::block_on(outer).unwrap_err();
        assert_eq!(error.limit(), Some(SHORT));
    });
}
