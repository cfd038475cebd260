//! Bad input for async scopes: panics everywhere, leaks, blocked executors, wakers that misbehave.

use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use timebox::{
    CancellationToken, Deadline, Timebox, TimeoutError, checkpoint, deadline, future, is_expired,
    with_timeout,
};

use crate::runtimes::{on_each_runtime, yield_now};
use crate::support::{HANG, LONG, SHORT, bounded, let_the_watchdog_pass, next, rounds, wait_for};

on_each_runtime!(
    a_panic_in_a_poll_passes_through_and_leaves_nothing_behind,
    a_panic_in_a_drop_at_expiry_leaves_nothing_behind,
    a_future_leaked_in_the_middle_harms_nobody,
    code_in_a_poll_that_blocks_the_executor_is_stopped,
    deeply_nested_futures_expire,
);

async fn a_panic_in_a_poll_passes_through_and_leaves_nothing_behind() {
    future::timeout(LONG, async {
        let before = deadline();
        let panicking = future::timeout_value(LONG / 2, async {
            yield_now().await;
            panic!("a future of the test panics, as it should");
        });
        let payload = AssertUnwindSafe(panicking).catch_unwind().await.map(|result: Result<(), _>| result);
        assert!(payload.unwrap_err().is::<&str>());
        assert_eq!(deadline(), before);
        yield_now().await;
        checkpoint()
    })
    .await
    .unwrap();
    assert_eq!(deadline(), Deadline::NEVER);
}

async fn a_panic_in_a_drop_at_expiry_leaves_nothing_behind() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(is_expired());
            panic!("a destructor of the test panics, as it should");
        }
    }
    future::timeout(LONG, async {
        let before = deadline();
        let bounded = future::timeout_value(SHORT, async {
            let _bomb = Bomb;
            pending::<()>().await;
        });
        // Either the panic or the expiry may win; nothing of it may stay.
        if let Err(payload) = AssertUnwindSafe(bounded).catch_unwind().await {
            assert!(payload.is::<&str>());
        }
        assert_eq!(deadline(), before);
        future::timeout_value(SHORT, pending::<()>()).await.unwrap_err();
        checkpoint()
    })
    .await
    .unwrap();
    assert_eq!(deadline(), Deadline::NEVER);
}

async fn a_future_leaked_in_the_middle_harms_nobody() {
    for _ in 0..10 {
        let mut leaked = Box::pin(future::timeout_value(SHORT / 4, pending::<()>()));
        let _ = futures::poll!(&mut leaked);
        std::mem::forget(leaked);
    }
    assert_eq!(deadline(), Deadline::NEVER);
    let error = future::timeout_value(SHORT, pending::<()>()).await.unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
    let_the_watchdog_pass();
}

async fn code_in_a_poll_that_blocks_the_executor_is_stopped() {
    let start = Instant::now();
    let error = future::timeout(SHORT, async {
        let mut number = 1_u64;
        loop {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).rotate_left(7));
            if number == 0 {
                break;
            }
            checkpoint()?;
        }
        Ok::<_, TimeoutError>(())
    })
    .await
    .unwrap_err();
    assert!(error.is_timeout() && error.settled());
    assert!(start.elapsed() >= SHORT && start.elapsed() < HANG);
}

async fn deeply_nested_futures_expire() {
    fn nest(depth: u32) -> std::pin::Pin<Box<dyn Future<Output = timebox::Result<()>> + Send>> {
        if depth == 0 {
            return Box::pin(pending());
        }
        Box::pin(future::timeout(LONG, nest(depth - 1)))
    }
    let error = Timebox::new(SHORT).label("outermost").run_future(nest(100)).await.unwrap_err();
    assert_eq!(error.label(), Some("outermost"));
}

#[test]
fn a_scope_expires_while_all_threads_of_its_executor_are_blocked() {
    bounded(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let all_in = Arc::new(std::sync::Barrier::new(2));
        let tasks = [(); 2].map(|()| {
            let all_in = Arc::clone(&all_in);
            runtime.spawn(async move {
                // Both workers are in these polls at once, and no timer of the runtime can run.
                all_in.wait();
                future::timeout(SHORT, async {
                    loop {
                        checkpoint()?;
                    }
                    #[expect(unreachable_code, reason = "names the type")]
                    Ok::<(), TimeoutError>(())
                })
                .await
            })
        });
        for task in tasks {
            assert!(runtime.block_on(task).unwrap().unwrap_err().is_timeout());
        }
    });
}

/// A waker that does what it was told to.
struct Waking<F: Fn() + Send + Sync>(F);

impl<F: Fn() + Send + Sync> Wake for Waking<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// Polls once; what `wake` does happens when the future is to be polled again.
fn poll_with<F: Future>(
    future: &mut std::pin::Pin<Box<F>>,
    wake: impl Fn() + Send + Sync + 'static,
) -> Poll<F::Output> {
    let waker = Waker::from(Arc::new(Waking(wake)));
    future.as_mut().poll(&mut Context::from_waker(&waker))
}

#[test]
fn a_panicking_waker_stops_neither_the_watchdog_nor_another_future() {
    bounded(|| {
        let (woken, wait) = channel::<()>();
        let woken = Mutex::new(woken);
        let mut bad = Box::pin(future::timeout_value(SHORT, pending::<()>()));
        let polled = poll_with(&mut bad, move || {
            woken.lock().unwrap().send(()).unwrap();
            panic!("a waker of the test panics, as it should");
        });
        if polled.is_pending() {
            next(&wait);
        }
        pollster::block_on(future::timeout_value(SHORT, pending::<()>())).unwrap_err();
        let_the_watchdog_pass();
        assert!(poll_with(&mut bad, || ()).is_ready());
    });
}

#[test]
fn a_waker_that_panics_in_cancel_does_not_reach_the_canceller() {
    bounded(|| {
        let token = CancellationToken::new();
        let (woken, wait) = channel();
        let woken = Mutex::new(woken);
        let mut bad = Box::pin(token.clone().cancelled_owned());
        let polled = poll_with(&mut bad, move || {
            woken.lock().unwrap().send(()).unwrap();
            panic!("a waker of the test panics, as it should");
        });
        assert!(polled.is_pending());
        assert!(token.cancel_with("first"));
        next(&wait);
        assert!(poll_with(&mut bad, || ()).is_ready());
    });
}

/// Sends what is ambient where it is woken.
fn report(to: Sender<Deadline>) -> impl Fn() + Send + Sync + 'static {
    let to = Mutex::new(to);
    move || to.lock().unwrap().send(deadline()).unwrap()
}

#[test]
fn a_task_run_inside_its_waker_sees_no_ambient_scope() {
    bounded(|| {
        // Woken by the watchdog ...
        let (seen, wait) = channel();
        let mut expiring = Box::pin(future::timeout_value(SHORT, pending::<()>()));
        if poll_with(&mut expiring, report(seen)).is_pending() {
            assert_eq!(next(&wait), Deadline::NEVER);
        }
        // ... and by a cancel inside a scope, wherever that wakes it.
        with_timeout(LONG, |scope| {
            let token = CancellationToken::new();
            let (seen, wait) = channel();
            let mut waiting = Box::pin(token.clone().cancelled_owned());
            assert!(poll_with(&mut waiting, report(seen)).is_pending());
            token.cancel();
            assert_eq!(next(&wait), Deadline::NEVER);
            assert_ne!(scope.deadline(), Deadline::NEVER);
            scope.checkpoint()
        })
        .unwrap();
    });
}

#[test]
fn a_waker_may_drop_its_own_future() {
    bounded(|| {
        let slot: Arc<Mutex<Option<_>>> = Arc::default();
        let (done, wait) = channel();
        let done = Mutex::new(done);
        let inside = Arc::clone(&slot);
        let mut bounded = Box::pin(future::timeout_value(SHORT, pending::<()>()));
        let mut keep = slot.lock().unwrap();
        let polled = poll_with(&mut bounded, move || {
            let future = inside.lock().unwrap().take();
            drop::<Option<std::pin::Pin<Box<dyn Future<Output = _> + Send>>>>(future);
            done.lock().unwrap().send(()).unwrap();
        });
        if polled.is_pending() {
            *keep = Some(bounded as _);
            drop(keep);
            next(&wait);
            let_the_watchdog_pass();
        }
    });
}

#[test]
fn dropping_while_expiring_loses_no_other_expiry() {
    bounded(|| {
        let threads: Vec<_> = (0..4_u64)
            .map(|thread| {
                thread::spawn(move || {
                    for round in 0..u64::from(rounds(500)) {
                        let limit = Duration::from_micros((round * 7919 + thread * 104_729) % 300);
                        let mut short = Box::pin(future::timeout_value(limit, pending::<()>()));
                        let _ = poll_with(&mut short, || ());
                        if round % 50 == 0 {
                            pollster::block_on(future::timeout_value(limit, pending::<()>())).unwrap_err();
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_panic_in_the_first_poll_leaves_nothing_armed() {
    let held = Arc::new(());
    let inside = Arc::clone(&held);
    let woken = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&woken);
    let mut bad = Box::pin(future::timeout_value(
        SHORT,
        poll_fn(move |_| -> Poll<()> {
            let _ = &inside;
            panic!("a future of the test panics, as it should");
        }),
    ));
    let polled = catch_unwind(AssertUnwindSafe(|| {
        poll_with(&mut bad, move || {
            count.fetch_add(1, SeqCst);
        })
    }));
    assert!(polled.is_err());
    drop(bad);
    assert_eq!((Arc::strong_count(&held), Arc::strong_count(&woken)), (1, 1));
}

#[test]
fn a_future_that_is_ready_at_once_leaves_no_waker_behind() {
    let woken = Arc::new(AtomicBool::new(false));
    for limit in [SHORT, LONG] {
        let flag = Arc::clone(&woken);
        let mut ready = Box::pin(future::timeout_value(limit, async { 7 }));
        assert!(poll_with(&mut ready, move || flag.store(true, SeqCst)).is_ready());
        wait_for("the waker's end", || Arc::strong_count(&woken) == 1);
    }
    assert!(!woken.load(SeqCst));
}
