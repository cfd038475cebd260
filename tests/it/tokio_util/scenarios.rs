//! The situations that tokio-util's own suite tries, and the ways in which its users write a token down.

use std::collections::HashSet;
use std::fmt::Debug;
use std::future::{Future, pending};
use std::hash::{BuildHasher, Hash, RandomState};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use futures::channel::oneshot;

use super::{CancellationToken, DropGuard, DropGuardRef, WaitForCancellationFuture};

/// A waker that counts.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A task that polls by hand.
struct Task {
    wakes: Arc<Wakes>,
    waker: Waker,
}

impl Task {
    fn new() -> Self {
        let wakes = Arc::new(Wakes::default());
        Self { waker: Waker::from(Arc::clone(&wakes)), wakes }
    }

    fn poll<F: Future>(&self, future: &mut Pin<&mut F>) -> Poll<F::Output> {
        future.as_mut().poll(&mut Context::from_waker(&self.waker))
    }

    fn wakes(&self) -> usize {
        self.wakes.0.load(SeqCst)
    }
}

// ===== Waiting =====

#[test]
fn who_waits_is_woken_and_who_waits_later_is_ready() {
    let (task, token) = (Task::new(), CancellationToken::new());
    assert!(!token.is_cancelled());
    let mut waits = pin!(token.cancelled());
    assert_eq!(task.poll(&mut waits), Poll::Pending);
    assert_eq!(task.wakes(), 0);
    let mut waits_later = pin!(token.cancelled());
    token.cancel();
    assert_eq!(task.wakes(), 1);
    assert!(token.is_cancelled());
    assert_eq!(task.poll(&mut waits), Poll::Ready(()));
    assert_eq!(task.poll(&mut waits_later), Poll::Ready(()));
}

#[test]
fn who_waits_with_the_token_is_woken_and_who_waits_later_is_ready() {
    let (task, token) = (Task::new(), CancellationToken::new());
    let mut waits = pin!(token.clone().cancelled_owned());
    assert_eq!(task.poll(&mut waits), Poll::Pending);
    assert_eq!(task.wakes(), 0);
    let mut waits_later = pin!(token.clone().cancelled_owned());
    token.cancel();
    assert_eq!(task.wakes(), 1);
    assert!(token.is_cancelled());
    assert_eq!(task.poll(&mut waits), Poll::Ready(()));
    assert_eq!(task.poll(&mut waits_later), Poll::Ready(()));
}

#[test]
fn a_wait_with_the_last_token_can_be_dropped() {
    let task = Task::new();
    {
        let mut waits = pin!(CancellationToken::new().cancelled_owned());
        assert_eq!(task.poll(&mut waits), Poll::Pending);
    }
    assert_eq!(task.wakes(), 0);
    assert_eq!(Arc::strong_count(&task.wakes), 2, "the waker was kept");
}

// ===== The tree =====

#[test]
fn a_child_is_cancelled_by_its_parent() {
    let (task, parent) = (Task::new(), CancellationToken::new());
    let child = parent.child_token();
    assert!(!child.is_cancelled());
    let (mut child_waits, mut parent_waits) = (pin!(child.cancelled()), pin!(parent.cancelled()));
    assert_eq!(task.poll(&mut child_waits), Poll::Pending);
    assert_eq!(task.poll(&mut parent_waits), Poll::Pending);
    assert_eq!(task.wakes(), 0);
    parent.cancel();
    assert_eq!(task.wakes(), 2);
    assert!(parent.is_cancelled() && child.is_cancelled());
    assert_eq!(task.poll(&mut child_waits), Poll::Ready(()));
    assert_eq!(task.poll(&mut parent_waits), Poll::Ready(()));
}

#[test]
fn a_grandchild_is_cancelled_though_the_child_between_was_dropped() {
    let (task, root) = (Task::new(), CancellationToken::new());
    let between = root.child_token();
    let leaf = between.child_token();
    drop(between);
    assert!(!leaf.is_cancelled());
    let (mut leaf_waits, mut root_waits) = (pin!(leaf.cancelled()), pin!(root.cancelled()));
    assert_eq!(task.poll(&mut leaf_waits), Poll::Pending);
    assert_eq!(task.poll(&mut root_waits), Poll::Pending);
    root.cancel();
    assert_eq!(task.wakes(), 2);
    assert!(root.is_cancelled() && leaf.is_cancelled());
    assert_eq!(task.poll(&mut leaf_waits), Poll::Ready(()));
    assert_eq!(task.poll(&mut root_waits), Poll::Ready(()));
}

#[test]
fn a_child_is_cancelled_without_its_parent() {
    let (task, parent) = (Task::new(), CancellationToken::new());
    let first = parent.child_token();
    let (mut first_waits, mut parent_waits) = (pin!(first.cancelled()), pin!(parent.cancelled()));
    assert_eq!(task.poll(&mut first_waits), Poll::Pending);
    assert_eq!(task.poll(&mut parent_waits), Poll::Pending);
    first.cancel();
    assert_eq!(task.wakes(), 1);
    assert!(first.is_cancelled() && !parent.is_cancelled());
    assert_eq!(task.poll(&mut first_waits), Poll::Ready(()));
    assert_eq!(task.poll(&mut parent_waits), Poll::Pending);

    let second = parent.child_token();
    let mut second_waits = pin!(second.cancelled());
    assert_eq!(task.poll(&mut second_waits), Poll::Pending);
    assert_eq!(task.poll(&mut parent_waits), Poll::Pending);
    parent.cancel();
    assert_eq!(task.wakes(), 3);
    assert!(parent.is_cancelled() && second.is_cancelled());
    assert_eq!(task.poll(&mut second_waits), Poll::Ready(()));
    assert_eq!(task.poll(&mut parent_waits), Poll::Ready(()));
}

#[test]
fn a_child_of_a_cancelled_token_is_cancelled_from_the_first() {
    for child_goes_first in [true, false] {
        let (task, parent) = (Task::new(), CancellationToken::new());
        parent.cancel();
        let child = parent.child_token();
        assert!(child.is_cancelled());
        {
            let (mut child_waits, mut parent_waits) = (pin!(child.cancelled()), pin!(parent.cancelled()));
            assert_eq!(task.poll(&mut child_waits), Poll::Ready(()));
            assert_eq!(task.poll(&mut parent_waits), Poll::Ready(()));
            assert_eq!(task.wakes(), 0);
        }
        if child_goes_first {
            drop(child);
            drop(parent);
        } else {
            drop(parent);
            drop(child);
        }
    }
}

#[test]
fn children_may_go_in_any_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let parent = CancellationToken::new();
        let mut children = [(); 3].map(|()| Some(parent.child_token()));
        for index in order {
            children[index] = None;
            assert!(!parent.is_cancelled());
            assert!(children.iter().flatten().all(|child| !child.is_cancelled()));
        }
        parent.cancel();
        assert!(parent.is_cancelled());
    }
}

#[test]
fn a_cancel_reaches_all_beneath_and_nothing_else() {
    let (task, root) = (Task::new(), CancellationToken::new());
    let token = root.child_token();
    let sibling = root.child_token();
    let (child, other_child) = (token.child_token(), token.child_token());
    let (grandchild, other_grandchild) = (child.child_token(), child.child_token());
    let great_grandchild = grandchild.child_token();

    let beneath = [&token, &child, &other_child, &grandchild, &other_grandchild, &great_grandchild];
    let beside = [&root, &sibling];
    let wait = |token: &&CancellationToken| Box::pin(CancellationToken::clone(token).cancelled_owned());
    let mut beneath_wait = beneath.each_ref().map(wait);
    let mut beside_wait = beside.each_ref().map(wait);
    for waits in beneath_wait.iter_mut().chain(&mut beside_wait) {
        assert_eq!(task.poll(&mut waits.as_mut()), Poll::Pending);
    }

    token.cancel();
    assert_eq!(task.wakes(), beneath.len());
    assert!(beneath.iter().all(|token| token.is_cancelled()));
    assert!(beside.iter().all(|token| !token.is_cancelled()));
    for waits in &mut beneath_wait {
        assert_eq!(task.poll(&mut waits.as_mut()), Poll::Ready(()));
    }
    for waits in &mut beside_wait {
        assert_eq!(task.poll(&mut waits.as_mut()), Poll::Pending);
    }
    assert_eq!(task.wakes(), beneath.len());
}

#[test]
fn a_parent_that_goes_before_its_children_cancels_none() {
    let parent = CancellationToken::new();
    let (first, second) = (parent.child_token(), parent.child_token());
    drop(parent);
    assert!(!first.is_cancelled() && !second.is_cancelled());
    drop(first);
    assert!(!second.is_cancelled());
    second.cancel();
    assert!(second.is_cancelled());
}

// ===== Running until cancelled =====

#[test]
fn a_future_runs_until_it_is_done_or_the_token_is_cancelled() {
    let task = Task::new();
    {
        let token = CancellationToken::new();
        let mut run = pin!(token.run_until_cancelled(pending::<()>()));
        assert_eq!(task.poll(&mut run), Poll::Pending);
        token.cancel();
        assert_eq!(task.poll(&mut run), Poll::Ready(None));
    }
    {
        let token = CancellationToken::new();
        let (send, receive) = oneshot::channel::<i32>();
        let mut run = pin!(token.run_until_cancelled(async { receive.await.unwrap() }));
        assert_eq!(task.poll(&mut run), Poll::Pending);
        send.send(42).unwrap();
        assert_eq!(task.poll(&mut run), Poll::Ready(Some(42)));
    }
}

#[test]
fn a_future_is_not_polled_once_the_token_is_cancelled() {
    let (task, token) = (Task::new(), CancellationToken::new());
    let mut run = pin!(token.run_until_cancelled(async { unreachable!("polled after the cancel") }));
    token.cancel();
    assert_eq!(task.poll(&mut run), Poll::Ready(None::<()>));
}

#[test]
fn a_future_that_keeps_the_token_runs_until_it_is_done_or_the_token_is_cancelled() {
    let task = Task::new();
    {
        let token = CancellationToken::new();
        let take = |token: CancellationToken| token.run_until_cancelled_owned(pending::<()>());
        let mut run = pin!(take(token.clone()));
        assert_eq!(task.poll(&mut run), Poll::Pending);
        token.cancel();
        assert_eq!(task.poll(&mut run), Poll::Ready(None));
    }
    {
        let (send, receive) = oneshot::channel::<i32>();
        let run = CancellationToken::new().run_until_cancelled_owned(async { receive.await.unwrap() });
        let mut run = pin!(run);
        assert_eq!(task.poll(&mut run), Poll::Pending);
        send.send(42).unwrap();
        assert_eq!(task.poll(&mut run), Poll::Ready(Some(42)));
    }
}

// ===== Traits =====

#[test]
fn tokens_and_waits_go_to_other_threads_and_survive_panics() {
    fn goes<T: Send + Sync>() {}
    fn survives<T: UnwindSafe + RefUnwindSafe>() {}
    fn is_a_value<T: Clone + Debug + Default + Eq + Hash + Unpin + 'static>() {}
    goes::<CancellationToken>();
    goes::<WaitForCancellationFuture<'static>>();
    goes::<DropGuard>();
    goes::<DropGuardRef<'static>>();
    survives::<CancellationToken>();
    is_a_value::<CancellationToken>();
}

#[test]
fn a_token_equals_its_clones_and_nothing_else() {
    let token = CancellationToken::new();
    assert_eq!(token, token.clone());
    assert_ne!(token, token.child_token());
    assert_ne!(token, CancellationToken::new());
}

#[test]
fn a_token_has_the_hash_of_its_clones() {
    let (token, other, hasher) = (CancellationToken::new(), CancellationToken::new(), RandomState::new());
    assert_eq!(hasher.hash_one(&token), hasher.hash_one(token.clone()));
    // By chance one pair in 2^64 is equal.
    assert_ne!(hasher.hash_one(&token), hasher.hash_one(&other));
}

// ===== As users write it =====

#[test]
#[allow(clippy::mutable_key_type, reason = "equality and hash are by identity")]
fn tokens_are_kept_in_a_set() {
    let tokens: Vec<_> = (0..10).map(|_| CancellationToken::new()).collect();
    let mut running: HashSet<_> = tokens.iter().cloned().collect();
    assert!(running.remove(&tokens[3]) && !running.contains(&tokens[3]));
    assert_eq!(running.len(), 9);
}

#[test]
fn cancelling_is_a_statement_wherever_one_may_stand() {
    struct Server {
        token: CancellationToken,
    }

    impl Server {
        #[allow(clippy::semicolon_if_nothing_returned, reason = "a user may write it so")]
        fn stop(&self) {
            self.token.cancel()
        }
    }

    fn on_signal(handler: impl Fn() + Send + 'static) {
        handler();
    }

    let server = Server { token: CancellationToken::new() };
    server.stop();
    let token = server.token.child_token();
    match "1".parse::<u8>() {
        Ok(_) => token.cancel(),
        Err(_) => unreachable!("it is a number"),
    }
    let token = CancellationToken::new();
    on_signal({
        let token = token.clone();
        move || token.cancel()
    });
    assert!(token.is_cancelled());
}

#[test]
fn a_token_is_an_arm_of_select() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (token, other) = (CancellationToken::new(), CancellationToken::new());
        tokio::select! {
            biased;
            () = token.cancelled() => unreachable!("not yet"),
            () = std::future::ready(()) => token.cancel(),
        }
        tokio::select! {
            () = token.cancelled() => other.cancel(),
            () = pending() => {}
        }
        assert!(other.is_cancelled());
        let task = tokio::spawn(other.child_token().cancelled_owned());
        task.await.unwrap();
    });
}

#[test]
fn a_guard_cancels_on_drop_and_lends_its_token() {
    let token = CancellationToken::new();
    let guard: DropGuard = token.clone().drop_guard();
    assert_eq!(guard.token(), &token);
    let child = guard.token().child_token();
    drop(guard);
    assert!(token.is_cancelled() && child.is_cancelled());

    let token = CancellationToken::new();
    let back: CancellationToken = token.clone().drop_guard().disarm();
    assert!(!back.is_cancelled());

    let guard: DropGuardRef<'_> = token.drop_guard_ref();
    assert_eq!(guard.token(), &token);
    let back: &CancellationToken = guard.disarm();
    assert!(!back.is_cancelled());
    drop(token.drop_guard_ref());
    assert!(token.is_cancelled());
}
