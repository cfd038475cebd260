//! The token by itself: the tree, who is first, and the futures made of it.

use std::future::{Future, pending, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};
use std::thread;

use pollster::block_on;
use timebox::{CancellationToken, Cause, DropGuard, Hook, timeout_value, token, with_timeout};

use crate::support::{LONG, SHORT, bounded, let_the_watchdog_pass, next, rounds, wait_for};

#[test]
fn a_new_token_is_not_cancelled() {
    for token in [CancellationToken::new(), CancellationToken::default()] {
        assert!(!token.is_cancelled());
        assert_eq!(token.cause(), None);
        assert!(token.checkpoint().is_ok());
    }
}

#[test]
fn the_first_to_cancel_is_told_so() {
    let token = CancellationToken::new();
    assert!(token.cancel_with("first"));
    assert!(!token.cancel_with("late"));
    assert!(!token.cancel_with("too late"));
    assert!(token.is_cancelled());
    assert_eq!(token.cause(), Some(Cause::Cancelled));
}

#[test]
fn exactly_one_of_many_threads_is_first() {
    for _ in 0..rounds(50) {
        let token = CancellationToken::new();
        let first: u32 = thread::scope(|threads| {
            let cancel = || u32::from(token.cancel_with("me"));
            let threads: Vec<_> = (0..4).map(|_| threads.spawn(cancel)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(first, 1);
    }
}

#[test]
fn the_reason_of_the_first_is_kept() {
    let token = CancellationToken::new();
    assert!(token.cancel_with("shutting down"));
    token.cancel_with(String::from("something else"));
    let error = token.checkpoint().unwrap_err();
    assert_eq!(error.reason(), Some("shutting down"));
    assert!(error.is_cancelled());
}

#[test]
fn a_checkpoint_of_a_token_says_where_it_was() {
    let token = CancellationToken::new();
    token.cancel();
    let line = line!() + 1;
    let error = token.checkpoint().unwrap_err();
    assert_eq!((error.interrupted_at().file(), error.interrupted_at().line()), (file!(), line));
}

#[test]
fn clones_are_the_same_token() {
    let token = CancellationToken::new();
    let clone = token.clone();
    drop(token.clone());
    assert!(clone.cancel_with("first"));
    assert!(token.is_cancelled() && !token.cancel_with("second"));
}

#[test]
fn a_parent_cancels_its_children_and_theirs() {
    let parent = CancellationToken::new();
    let children: Vec<_> = (0..10).map(|_| parent.child_token()).collect();
    let grandchildren: Vec<_> = children.iter().map(CancellationToken::child_token).collect();
    parent.cancel_with("all of you");
    for token in children.iter().chain(&grandchildren) {
        assert!(token.is_cancelled() && !token.cancel_with("second"));
        assert_eq!(token.cause(), Some(Cause::Cancelled));
        assert_eq!(token.checkpoint().unwrap_err().reason(), Some("all of you"));
    }
}

#[test]
fn a_child_leaves_its_parent_and_siblings_alone() {
    let parent = CancellationToken::new();
    let (child, sibling) = (parent.child_token(), parent.child_token());
    assert!(child.cancel_with("first"));
    assert!(!parent.is_cancelled() && !sibling.is_cancelled());
    assert!(parent.cancel_with("first") && sibling.is_cancelled());
}

#[test]
fn a_grandchild_is_reached_through_a_dropped_child() {
    let parent = CancellationToken::new();
    let grandchild = parent.child_token().child_token().child_token();
    parent.cancel();
    assert!(grandchild.is_cancelled());
}

#[test]
fn a_child_of_a_cancelled_token_is_born_cancelled() {
    let token = CancellationToken::new();
    token.cancel_with("before");
    let child = token.child_token();
    assert!(child.is_cancelled() && child.child_token().is_cancelled());
    assert_eq!(child.checkpoint().unwrap_err().reason(), Some("before"));
}

#[test]
fn a_dropped_parent_cancels_nothing() {
    let parent = CancellationToken::new();
    let child = parent.child_token();
    drop(parent);
    assert!(!child.is_cancelled());
    assert!(child.cancel_with("first"));
}

#[test]
fn all_beneath_is_cancelled_when_cancel_returns() {
    // On other threads too: each sees it the moment it learns that `cancel` has returned.
    for _ in 0..rounds(100) {
        let parent = CancellationToken::new();
        let leaf = parent.child_token().child_token();
        let (tell, told) = channel();
        let thread = thread::spawn(move || {
            next(&told);
            leaf.is_cancelled()
        });
        parent.cancel();
        tell.send(()).unwrap();
        assert!(thread.join().unwrap());
    }
}

#[test]
fn a_deep_tree_is_cancelled_and_dropped_without_trouble() {
    const DEPTH: u32 = if cfg!(miri) { 100 } else { 20_000 };
    let root = CancellationToken::new();
    let mut leaf = root.child_token();
    for _ in 0..DEPTH {
        leaf = leaf.child_token();
    }
    root.cancel_with("all of you");
    assert!(leaf.is_cancelled());
    for _ in 0..DEPTH {
        leaf = leaf.child_token();
    }
    assert_eq!(leaf.reason().as_deref(), Some("all of you"));
    drop(root);
}

#[test]
fn a_guard_cancels_when_it_is_dropped() {
    let token = CancellationToken::new();
    let guard: DropGuard = token.clone().drop_guard();
    assert!(!token.is_cancelled());
    drop(guard);
    assert!(token.is_cancelled());
}

#[test]
fn a_disarmed_guard_gives_the_token_back() {
    let token = CancellationToken::new();
    let back = token.clone().drop_guard().disarm();
    assert!(!token.is_cancelled());
    assert!(back.cancel_with("first") && token.is_cancelled());
}

#[test]
fn cancelled_is_ready_once_the_token_is() {
    bounded(|| {
        let token = CancellationToken::new();
        let other = token.clone();
        let thread = thread::spawn(move || other.cancel_with("enough"));
        block_on(token.cancelled());
        assert!(token.is_cancelled());
        block_on(token.cancelled());
        assert!(thread.join().unwrap());
    });
}

#[test]
fn cancelled_is_pending_before_and_wakes_its_task() {
    let token = CancellationToken::new();
    let woken = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut cancelled = pin!(token.cancelled());
    assert!(cancelled.as_mut().poll(&mut context).is_pending());
    assert!(cancelled.as_mut().poll(&mut context).is_pending());
    assert_eq!(woken.0.load(SeqCst), 0);
    token.cancel();
    crate::support::wait_for("the wake", || woken.0.load(SeqCst) > 0);
    assert!(cancelled.as_mut().poll(&mut context).is_ready());
}

#[test]
fn the_last_waker_is_the_one_that_is_woken() {
    let token = CancellationToken::new();
    let (first, last) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let mut cancelled = pin!(token.cancelled());
    for count in [&first, &last] {
        let waker = Waker::from(Arc::clone(count));
        assert!(cancelled.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    token.cancel();
    crate::support::wait_for("the wake", || last.0.load(SeqCst) > 0);
    assert_eq!(first.0.load(SeqCst), 0);
}

#[test]
fn a_dropped_wait_is_not_woken() {
    let token = CancellationToken::new();
    let woken = Arc::new(Count::default());
    {
        let waker = Waker::from(Arc::clone(&woken));
        let mut cancelled = pin!(token.cancelled());
        assert!(cancelled.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(Arc::strong_count(&woken), 1);
    token.cancel();
    let_the_watchdog_pass();
    assert_eq!(woken.0.load(SeqCst), 0);
}

#[test]
fn cancelled_owned_keeps_its_token() {
    bounded(|| {
        let parent = CancellationToken::new();
        let cancelled = parent.child_token().cancelled_owned();
        let thread = thread::spawn(move || block_on(cancelled));
        parent.cancel();
        thread.join().unwrap();
    });
}

#[test]
fn run_until_cancelled_returns_what_was_ready() {
    let token = CancellationToken::new();
    assert_eq!(block_on(token.run_until_cancelled(ready(7))), Some(7));
}

#[test]
fn run_until_cancelled_gives_up_on_cancellation() {
    bounded(|| {
        let token = CancellationToken::new();
        let other = token.clone();
        let thread = thread::spawn(move || other.cancel_with("enough"));
        assert_eq!(block_on(token.run_until_cancelled(pending::<()>())), None);
        thread.join().unwrap();
    });
}

#[test]
fn run_until_cancelled_on_a_cancelled_token_waits_for_nothing() {
    let token = CancellationToken::new();
    token.cancel();
    let never_ready = pending::<()>();
    let mut run = pin!(token.run_until_cancelled(never_ready));
    let polled = run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(polled, Poll::Ready(None));
}

#[test]
fn a_hook_of_a_token_fires_once_it_is_cancelled() {
    let token = CancellationToken::new();
    let child = token.child_token();
    let (fired, wait) = channel();
    let on_child = {
        let fired = fired.clone();
        child.on_cancel(move || fired.send("child"))
    };
    let on_parent = token.on_cancel(move || fired.send("parent"));
    token.cancel();
    let mut both = [next(&wait), next(&wait)];
    both.sort_unstable();
    assert_eq!(both, ["child", "parent"]);
    drop((on_child, on_parent));
}

#[test]
fn a_hook_of_a_token_dies_with_its_registration() {
    let token = CancellationToken::new();
    let fired = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&fired);
    drop(token.on_cancel(Hook::inline(move || count.fetch_add(1, SeqCst))));
    assert_eq!(Arc::strong_count(&fired), 1);
    token.cancel();
    let_the_watchdog_pass();
    assert_eq!(fired.load(SeqCst), 0);
}

#[test]
fn a_hook_on_a_cancelled_token_runs_at_once_on_this_thread() {
    let token = CancellationToken::new();
    token.cancel();
    let (fired, wait) = channel();
    let _registration = token.on_cancel(move || fired.send(thread::current().id()));
    assert_eq!(wait.try_recv().unwrap(), thread::current().id());
}

#[test]
fn a_hook_on_a_child_of_a_cancelled_token_runs_at_once_and_once() {
    for has_a_hook_before in [false, true] {
        let token = CancellationToken::new();
        let child = token.child_token();
        let before = has_a_hook_before.then(|| child.on_cancel(|| ()));
        token.cancel();
        let (fired, wait) = channel();
        let hook = Hook::new(move || fired.send(thread::current().id())).every(LONG);
        let _registration = child.on_cancel(hook);
        assert_eq!(wait.try_recv().unwrap(), thread::current().id());
        child.cancel();
        token.cancel();
        let_the_watchdog_pass();
        assert!(wait.try_recv().is_err());
        drop(before);
    }
}

#[test]
fn a_token_is_reached_through_any_of_those_around_it_that_nobody_waits_for() {
    let root = CancellationToken::new();
    let mut line = vec![root.clone()];
    (0..20).for_each(|_| line.push(line.last().unwrap().child_token()));
    let leaf = line.pop().unwrap();
    let woken = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut wait = pin!(leaf.cancelled());
    assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    line[10].cancel_with("in the middle");
    assert_eq!(woken.0.load(SeqCst), 1);
    assert!(wait.poll(&mut Context::from_waker(&waker)).is_ready());
    let over = line.iter().position(CancellationToken::is_cancelled);
    assert_eq!(over, Some(10));
    assert_eq!(leaf.reason().as_deref(), Some("in the middle"));
    root.cancel_with("all");
    assert_eq!(line[9].reason().as_deref(), Some("all"));
    assert_eq!(line[11].child_token().reason().as_deref(), Some("in the middle"));
}

#[test]
fn debug_tells_the_state() {
    let token = CancellationToken::new();
    let before = format!("{token:?}");
    token.cancel();
    assert_ne!(format!("{token:?}"), before);
}

#[test]
fn cancelling_while_others_make_children_misses_none() {
    const MANY: u32 = if cfg!(miri) { 10 } else { 50 };
    for _ in 0..rounds(50) {
        let root = CancellationToken::new();
        let leaves: Vec<_> = thread::scope(|threads| {
            let makers: Vec<_> = (0..3)
                .map(|_| {
                    threads.spawn(|| (0..MANY).map(|_| root.child_token().child_token()).collect::<Vec<_>>())
                })
                .collect();
            root.cancel();
            makers.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(leaves.iter().all(CancellationToken::is_cancelled));
    }
}

/// Counts its woken.
#[derive(Default)]
struct Count(AtomicU32);

impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn a_guard_that_borrows_cancels_when_it_is_dropped_and_not_when_it_is_disarmed() {
    let token = CancellationToken::new();
    assert_eq!(token.drop_guard_ref().disarm(), &token);
    assert!(!token.is_cancelled());
    drop(token.drop_guard_ref());
    assert!(token.is_cancelled());
}

#[test]
fn a_future_run_with_an_owned_token_ends_with_it() {
    let token = CancellationToken::new();
    let run =
        |token: &CancellationToken| pollster::block_on(token.clone().run_until_cancelled_owned(async { 7 }));
    assert_eq!(run(&token), Some(7));
    token.cancel();
    assert_eq!(run(&token), None);
}

#[test]
fn a_hook_made_on_a_token_keeps_the_token() {
    let parent = CancellationToken::new();
    let (fired, wait) = channel();
    let _registration = parent.child_token().on_cancel(move || fired.send(()));
    parent.cancel();
    next(&wait);

    let (fired, wait) = channel();
    let of_a_scope = timeout_value(SHORT, || token().on_cancel(move || fired.send(())));
    let _registration = of_a_scope.unwrap();
    next(&wait);
}

#[test]
fn a_future_that_is_given_up_is_dropped_at_once() {
    let held = Arc::new(());
    let inside = Arc::clone(&held);
    let token = CancellationToken::new();
    let mut run = pin!(token.run_until_cancelled(async move {
        pending::<()>().await;
        drop(inside);
    }));
    let mut context = Context::from_waker(Waker::noop());
    assert!(run.as_mut().poll(&mut context).is_pending());
    token.cancel();
    assert_eq!(run.as_mut().poll(&mut context), Poll::Ready(None));
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn an_error_whose_source_holds_a_token_of_its_scope_is_freed() {
    #[derive(Debug, thiserror::Error)]
    #[error("holds {0:?}")]
    struct Holds(CancellationToken, Arc<()>);

    let alive = Arc::new(());
    let holds = Arc::clone(&alive);
    let result = with_timeout(LONG, |scope| {
        let token = scope.token();
        let (fire, fired) = channel();
        timebox::interruptible(Hook::inline(move || fire.send(())), || {
            token.cancel();
            next(&fired);
            Err::<(), _>(Holds(token, holds))
        })
    });
    assert!(result.unwrap_err().started());
    wait_for("the error is freed", || Arc::strong_count(&alive) == 1);
}

#[test]
fn tokens_are_equal_if_they_are_the_same() {
    let token = CancellationToken::new();
    assert_eq!(token, token.clone());
    assert_ne!(token, CancellationToken::new());
    assert_ne!(token, token.child_token());
}
