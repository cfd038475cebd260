//! Futures that are moved, dropped and polled by hand: what surrounds a poll is what counts in it.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use futures::future::join_all;
use timebox::{
    CancellationToken, Deadline, Limit, Timebox, TimeoutError, checkpoint, deadline, future, is_expired,
    timeout_value, with_timeout,
};

use crate::runtimes::{on_each_runtime, yield_now};
use crate::support::{LONG, SHORT, bounded, rounds, wait_for};

on_each_runtime!(
    a_future_can_be_polled_under_one_short_limit_after_another,
    a_future_with_a_scope_of_its_own_can_be_too,
    a_future_moved_out_of_a_scope_loses_it,
    an_expired_future_is_dropped_inside_its_scope,
    a_pending_future_is_dropped_inside_its_scope,
    a_future_that_was_never_polled_does_nothing,
);

/// One poll whose wake-ups nobody hears.
fn poll_once<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Writes down what is ambient when it is dropped.
struct OnDrop(Arc<Mutex<Option<Ambient>>>);

/// The deadline, whether it is over, and the label of the scope that is.
type Ambient = (Deadline, bool, Option<String>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let label = checkpoint().err().and_then(|error| error.label().map(str::to_owned));
        *self.0.lock().unwrap() = Some((deadline(), is_expired(), label));
    }
}

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
    let mut limit = SHORT;
    loop {
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
        if polled.is_pending() {
            wait_for("the deadline left behind", || outer.has_passed());
            assert!(inner.await.unwrap() > outer);
            break;
        }
        // The machine was too busy to poll in time.
        limit *= 4;
    }
}

async fn an_expired_future_is_dropped_inside_its_scope() {
    let seen = Arc::default();
    let guard = OnDrop(Arc::clone(&seen));
    Timebox::new(SHORT)
        .label("request")
        .run_future_value(async move {
            let _guard = guard;
            pending::<()>().await;
        })
        .await
        .unwrap_err();
    let (deadline, expired, label) = seen.lock().unwrap().take().expect("dropped with the expiry");
    assert!(expired && deadline.has_passed());
    assert_eq!(label.as_deref(), Some("request"));
}

async fn a_pending_future_is_dropped_inside_its_scope() {
    let seen = Arc::default();
    let guard = OnDrop(Arc::clone(&seen));
    let mut bounded = Box::pin(future::timeout_value(LONG, async move {
        let _guard = guard;
        pending::<()>().await;
    }));
    assert!(poll_once(&mut bounded).is_pending());
    drop(bounded);
    let (seen, expired, _) = seen.lock().unwrap().take().expect("dropped");
    assert!(seen != Deadline::NEVER && !expired);
    assert_eq!(deadline(), Deadline::NEVER);
}

async fn a_future_that_was_never_polled_does_nothing() {
    let held = Arc::new(());
    let inside = Arc::clone(&held);
    let never = future::timeout_value(SHORT, async move {
        drop(inside);
        unreachable!("not polled")
    });
    drop(never);
    assert_eq!(Arc::strong_count(&held), 1);
    drop(future::sleep(SHORT));
    drop(future::interruptible(|| (), async { Ok::<_, String>(()) }));
    drop(future::shield(LONG, async {}));
    drop(Timebox::new(SHORT).grace(LONG).run_future_value(async {}));
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
fn a_future_is_dropped_inside_its_scope_on_whichever_thread() {
    let seen = Arc::default();
    let guard = OnDrop(Arc::clone(&seen));
    let mut bounded = Box::pin(future::timeout_value(SHORT, async move {
        let _guard = guard;
        pending::<()>().await;
    }));
    assert!(poll_once(&mut bounded).is_pending());
    thread::spawn(move || {
        wait_for("the deadline", || matches!(poll_once(&mut bounded), Poll::Ready(Err(_))));
    })
    .join()
    .unwrap();
    assert!(seen.lock().unwrap().take().unwrap().1);
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
fn the_task_that_polled_last_is_woken() {
    #[derive(Default)]
    struct Count(AtomicU32);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let (first, last) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let mut bounded = Box::pin(future::timeout_value(SHORT * 5, pending::<()>()));
    for count in [&first, &last] {
        let waker = Waker::from(Arc::clone(count));
        let polled = bounded.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            // The machine was too busy to poll twice in time.
            return;
        }
    }
    wait_for("the wake", || last.0.load(SeqCst) > 0);
    drop(bounded);
    assert_eq!((Arc::strong_count(&first), Arc::strong_count(&last)), (1, 1));
}

#[test]
fn a_spawned_task_inherits_nothing() {
    bounded(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            future::timeout_value(LONG, async {
                assert_eq!(tokio::spawn(async { deadline() }).await.unwrap(), Deadline::NEVER);
            })
            .await
            .unwrap();
        });
    });
}

#[test]
fn a_handle_carries_a_scope_into_a_spawned_task() {
    bounded(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let error = with_timeout(SHORT, |scope| {
            let entered = scope.handle().enter_future(LONG, async {
                pending::<()>().await;
                Ok::<_, TimeoutError>(())
            });
            let error = runtime.block_on(runtime.spawn(entered)).unwrap().unwrap_err();
            assert_eq!(error.scope(), scope.id());
            Err::<(), _>(error)
        })
        .unwrap_err();
        assert_eq!(error.limit(), Some(SHORT));
        assert!(!error.settled() || !error.started());
    });
}

#[test]
fn tasks_that_move_between_workers_keep_their_own_scopes() {
    bounded(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
        runtime.block_on(async {
            let tasks = (1..=64).map(|number| {
                let label = format!("task {number}");
                tokio::spawn(Timebox::new(LONG * number).label(label.clone()).run_future(async move {
                    let (outer, mut homes) = (deadline(), std::collections::HashSet::new());
                    for turn in 0..rounds(200) {
                        homes.insert(thread::current().id());
                        assert_eq!(deadline(), outer);
                        if turn % 10 == 0 {
                            future::timeout(LONG / 2, async {
                                assert!(deadline() < outer);
                                tokio::task::yield_now().await;
                                checkpoint()
                            })
                            .await?;
                        }
                        tokio::task::yield_now().await;
                    }
                    timebox::token().cancel();
                    assert_eq!(checkpoint().unwrap_err().label(), Some(label.as_str()));
                    Ok::<_, TimeoutError>(homes.len())
                }))
            });
            for task in join_all(tasks).await {
                assert!(task.unwrap().unwrap() >= 1);
            }
        });
    });
}
