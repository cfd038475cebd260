//! What is around a poll may be something else in the next: what a future has told its surroundings goes with it.

use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};
use std::thread;

use timebox::{
    CancellationToken, Hook, Timebox, TimeoutError, checkpoint, future, handle, on_cancel, timeout_value,
    token, with_timeout,
};

use crate::support::{LONG, SHORT, bounded, let_the_watchdog_pass, next, outlast};

/// One poll whose wake-ups nobody hears.
fn poll_once<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// A hook that counts how often it fired.
fn counting() -> (Hook<'static>, Arc<AtomicU32>) {
    let fires = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&fires);
    (Hook::inline(move || counted.fetch_add(1, SeqCst)), fires)
}

/// As [`counting`], on a runner.
fn counting_on_a_runner() -> (Hook<'static>, Arc<AtomicU32>) {
    let fires = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&fires);
    (Hook::new(move || counted.fetch_add(1, SeqCst)), fires)
}

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
    with_timeout(SHORT, |before| {
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
        outlast(before);
        let_the_watchdog_pass();
        assert_eq!(left.load(SeqCst), 0);
        // On another thread it is not around this scope any more.
        let moved = thread::spawn(move || {
            assert!(poll_once(&mut shielded).is_pending());
            shielded
        });
        let shielded = moved.join().unwrap();
        let_the_watchdog_pass();
        assert_eq!(left.load(SeqCst), 1);
        drop(shielded);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

/// An error-prone call that never ends.
type Never = Result<(), String>;

/// With many hooks of either kind that count.
fn many_times(run: impl Fn(Hook<'static>, Arc<AtomicU32>) + Send + 'static) {
    bounded(move || {
        for make in [counting, counting_on_a_runner] {
            for _ in 0..50 {
                let (hook, fires) = make();
                run(hook, fires);
            }
        }
    });
}

#[test]
fn a_hook_runs_before_its_future_is_dropped_without_a_grace() {
    many_times(|hook, fires| {
        let again = Arc::clone(&fires);
        let begun = AtomicBool::new(false);
        let call = poll_fn(|_| {
            begun.store(true, SeqCst);
            Poll::<Never>::Pending
        });
        let query = async {
            let _registration = on_cancel(move || again.fetch_add(1, SeqCst));
            future::interruptible(hook.once(), call).await
        };
        let error = pollster::block_on(future::timeout_value(SHORT / 10, query)).unwrap_err();
        assert!(!error.settled());
        // On a busy machine it may be over before the call begins.
        assert_eq!(fires.load(SeqCst), 1 + u32::from(begun.load(SeqCst)));
    });
}

#[test]
fn a_hook_that_comes_to_a_scope_that_is_over_runs_before_its_future_is_dropped_there() {
    many_times(|hook, fires| {
        let mut call = Box::pin(future::interruptible(hook.once(), pending::<Never>()));
        timeout_value(LONG, || assert!(poll_once(&mut call).is_pending())).unwrap();
        let mut over = Box::pin(future::timeout_value(LONG, async move {
            token().cancel();
            call.await
        }));
        // Pending until the hook has run.
        assert!(pollster::block_on(&mut over).is_err());
        assert_eq!(fires.load(SeqCst), 1);
    });
}

#[test]
fn the_hooks_of_futures_within_run_too_and_on_no_thread_of_the_callers() {
    bounded(|| {
        let (ran, runs) = channel();
        let query = Box::pin(future::timeout(LONG, async move {
            let hook = Hook::new(move || ran.send(thread::current().id())).once();
            future::interruptible(hook, pending::<Never>()).await
        }));
        let token = CancellationToken::new();
        let by_hand = token.clone();
        let mut query = Box::pin(Timebox::new(LONG).cancel_on(&token).run_future(query));
        assert!(poll_once(&mut query).is_pending());
        by_hand.cancel();
        let error = pollster::block_on(&mut query).unwrap_err();
        assert!(error.is_cancelled());
        assert_ne!(runs.try_recv().unwrap(), thread::current().id());
    });
}

#[test]
fn a_task_polled_by_a_hook_on_the_watchdog_itself_waits_for_no_hook() {
    struct Inline(std::sync::Mutex<Option<Pin<Box<dyn Future<Output = bool> + Send>>>>);
    impl std::task::Wake for Inline {
        fn wake(self: Arc<Self>) {
            let waker = Waker::from(Arc::clone(&self));
            let Some(mut task) = self.0.lock().unwrap().take() else { return };
            if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                *self.0.lock().unwrap() = Some(task);
            }
        }
    }
    bounded(|| {
        let (hook, fires) = counting();
        let (done, end) = channel();
        let query = async move {
            let result = future::timeout_value(SHORT, future::interruptible(hook, pending::<Never>())).await;
            done.send(result.is_err()).is_ok()
        };
        let task = Arc::new(Inline(std::sync::Mutex::new(Some(Box::pin(query)))));
        // From then on the watchdog wakes it, which polls it there.
        Waker::from(Arc::clone(&task)).wake();
        assert!(next(&end));
        assert!(fires.load(SeqCst) >= 1);
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
fn a_token_that_survives_its_future_is_not_ended_by_what_is_around_the_drop() {
    struct OnDrop(std::sync::mpsc::Sender<bool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.send(checkpoint().is_err()).unwrap();
        }
    }
    let (sent, received) = channel();
    let (dropped, over) = channel();
    let mut work = Box::pin(future::timeout_value(LONG, async move {
        let _guard = OnDrop(dropped);
        sent.send(token()).unwrap();
        pending::<()>().await;
    }));
    assert!(poll_once(&mut work).is_pending());
    let token = received.recv().unwrap();
    with_timeout(LONG, |scope| {
        scope.token().cancel();
        drop(work);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
    assert!(!token.is_cancelled());
    assert!(over.recv().unwrap(), "the scope around the drop counts in it");
}

#[test]
fn a_scope_entered_by_a_handle_loses_the_deadline_that_the_handle_s_future_has_left() {
    let (sent, received) = channel();
    let mut work = Box::pin(future::timeout_value(LONG, async move {
        sent.send(handle()).unwrap();
        pending::<()>().await;
    }));
    let (entered, is_in) = channel();
    let (go, left) = channel();
    let (thread, before) = with_timeout(SHORT * 10, |scope| {
        assert!(poll_once(&mut work).is_pending());
        let handle = received.recv().unwrap();
        let thread = thread::spawn(move || {
            handle.enter(LONG, |scope| {
                entered.send(scope.deadline()).unwrap();
                left.recv().unwrap();
                scope.checkpoint()?;
                with_timeout(LONG, |inner| inner.checkpoint())?;
                scope.sleep(SHORT)?;
                checkpoint()
            })
        });
        let before = next(&is_in);
        Ok::<_, TimeoutError>((thread, before == scope.deadline()))
    })
    .unwrap();
    assert!(before);
    assert!(poll_once(&mut work).is_pending());
    timebox::sleep(SHORT * 11).unwrap();
    go.send(()).unwrap();
    thread.join().unwrap().unwrap();
}

#[test]
fn a_future_driven_inside_a_poll_ends_when_what_is_around_that_poll_is_over() {
    bounded(|| {
        let inner = || smol::block_on(future::timeout_value(LONG, pending::<()>()));
        let outer = future::timeout(SHORT, async { inner() });
        let error = pollster::block_on(outer).unwrap_err();
        assert_eq!(error.limit(), Some(SHORT));
    });
}
