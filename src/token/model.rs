//! Loom models of hooks and nodes. They run the code of `token/` and of `sync/callback.rs`.

use std::sync::Arc;
use std::task::{Poll, Wake, Waker};

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use loom::thread;

use super::hook::{DefaultRepeat, Entry, Hook};
use super::node::{HookOwner, Node, NodeSpec};
use crate::error::{Cause, ScopeInfo};
use crate::sync::model::models;
use crate::sync::waits::Ending;
use crate::time::NEVER;
use crate::watchdog::global;
use crate::watchdog::model::{pass_time, run_out, timers};

fn node(parent: Option<&Arc<Node>>, deadline: u64) -> Arc<Node> {
    node_of(parent, deadline, false)
}

fn node_of(parent: Option<&Arc<Node>>, deadline: u64, reparentable: bool) -> Arc<Node> {
    let location = std::panic::Location::caller();
    let info = ScopeInfo::at(location);
    Node::new(parent, NodeSpec { info, entered: 1, deadline, cause: Cause::Deadline, reparentable })
}

#[derive(Clone)]
struct Forbidden(Arc<AtomicBool>);

impl Forbidden {
    fn new() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    fn from_now_on(&self, forbidden: bool) {
        self.0.store(forbidden, SeqCst);
    }
}

fn counted(runs: &Arc<AtomicUsize>, ended: &Forbidden) -> impl FnMut() + Send + 'static {
    let (runs, ended) = (Arc::clone(runs), ended.clone());
    move || {
        runs.fetch_add(1, SeqCst);
        // Counts a late run, so that `assert_never_late` panics later. The callback would catch a panic in this
        // closure.
        if ended.0.load(SeqCst) {
            runs.fetch_add(100, SeqCst);
        }
        thread::yield_now();
        if ended.0.load(SeqCst) {
            runs.fetch_add(100, SeqCst);
        }
    }
}

fn assert_never_late(runs: &AtomicUsize) {
    assert!(runs.load(SeqCst) < 100, "ran when it must not");
}

fn end_while_it_fires() {
    let (runs, ended) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let entry = Entry::from_hook(Hook::inline(counted(&runs, &ended)), DefaultRepeat::Backoff);
    let fires = Arc::clone(&entry);
    let watchdog = thread::spawn(move || {
        fires.run();
        fires.run();
    });
    entry.revoke(Ending::Registration);
    ended.from_now_on(true);
    watchdog.join().unwrap();
    assert_never_late(&runs);
    assert!(runs.load(SeqCst) <= 2);
    assert_eq!(timers(global()), 0, "a timer is left behind");
    run_out(global());
}

/// A hook escalates to a second hook, which may fire while the first hook still runs. Then both are ended.
fn end_while_it_escalates() {
    let (runs, ended) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let then = Hook::inline(counted(&runs, &ended)).once();
    let hook = Hook::inline(counted(&runs, &ended)).once().then(std::time::Duration::from_nanos(5), then);
    let entry = Entry::from_hook(hook, DefaultRepeat::Backoff);
    let fires = Arc::clone(&entry);
    let first = thread::spawn(move || fires.run());
    pass_time(global());
    entry.revoke(Ending::Registration);
    ended.from_now_on(true);
    first.join().unwrap();
    run_out(global());
    assert_never_late(&runs);
    assert_eq!(timers(global()), 0, "a timer is left behind");
}

/// A future leaves a scope while the future's hook fires for that scope. Once the future has left, the hook does not
/// fire for that scope.
fn retire_while_it_fires() {
    let (runs, left) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let entry = Entry::from_hook(Hook::inline(counted(&runs, &left)), DefaultRepeat::Backoff);
    let fires = Arc::clone(&entry);
    let watchdog = thread::spawn(move || fires.run());
    entry.retire(true);
    left.from_now_on(true);
    watchdog.join().unwrap();
    assert_never_late(&runs);
    assert_eq!(timers(global()), 0, "a timer is left behind");
    run_out(global());
}

/// A future moves from one scope to another, and both scopes are over. The future's hook fires only once.
fn move_while_it_fires() {
    let (runs, never) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let entry = Entry::from_hook(Hook::inline(counted(&runs, &never)), DefaultRepeat::Once);
    let fires = Arc::clone(&entry);
    let watchdog = thread::spawn(move || fires.run());
    entry.retire(false);
    entry.again().run();
    watchdog.join().unwrap();
    assert_eq!(runs.load(SeqCst), 1);
    run_out(global());
}

/// The hook ends itself while another thread ends it too. Neither thread waits for ever.
fn end_from_inside() {
    let own: Arc<std::sync::Mutex<Option<Arc<Entry>>>> = Arc::default();
    let inside = Arc::clone(&own);
    let hook = Hook::inline(move || {
        let entry = inside.lock().unwrap().take();
        entry.into_iter().for_each(|entry| entry.revoke(Ending::Registration));
    });
    let entry = Entry::from_hook(hook, DefaultRepeat::Backoff);
    *own.lock().unwrap() = Some(Arc::clone(&entry));
    let fires = Arc::clone(&entry);
    let watchdog = thread::spawn(move || fires.run());
    entry.revoke(Ending::Registration);
    watchdog.join().unwrap();
    entry.run();
    assert!(entry.fires() <= 1);
    run_out(global());
}

/// A shield opens and closes while the hook fires. A run that becomes due in between begins once the shield has closed.
fn shield_while_it_fires() {
    let (runs, shielded) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let entry = Entry::from_hook(Hook::inline(counted(&runs, &shielded)), DefaultRepeat::Once);
    let fires = Arc::clone(&entry);
    let watchdog = thread::spawn(move || fires.run());
    entry.suspend();
    entry.wait_until_idle();
    shielded.from_now_on(true);
    thread::yield_now();
    shielded.from_now_on(false);
    entry.resume();
    watchdog.join().unwrap();
    // If the shield has held the run back, `resume` has posted the hook to the watchdog, which now runs it.
    run_out(global());
    assert_never_late(&runs);
    assert_eq!(runs.load(SeqCst), 1);
    entry.revoke(Ending::Registration);
}

fn register_while_cancelled() {
    let (runs, never) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let root = node(None, NEVER);
    let inner = node(Some(&root), NEVER);
    let cancelled = Arc::clone(&root);
    let canceller = thread::spawn(move || assert!(cancelled.cancel(None)));
    let entry = Entry::from_hook(Hook::inline(counted(&runs, &never)), DefaultRepeat::Once);
    let registered = inner.add_hook(&entry, HookOwner::Scope).is_some();
    canceller.join().unwrap();
    run_out(global());
    assert_eq!(runs.load(SeqCst), usize::from(registered));
}

/// Two threads cancel the root while a third makes nodes beneath it. Afterwards these nodes are over. Exactly one of
/// the two `cancel` calls returns `true`.
fn cancel_while_the_tree_grows() {
    let root = node(None, NEVER);
    let (grows, cancels) = (Arc::clone(&root), Arc::clone(&root));
    let grower = thread::spawn(move || {
        let child = node(Some(&grows), NEVER);
        (node(Some(&child), NEVER), child)
    });
    let other = thread::spawn(move || cancels.cancel(None));
    let first = root.cancel(None);
    let other_first = other.join().unwrap();
    assert!(first != other_first, "one is first");
    let (grandchild, child) = grower.join().unwrap();
    assert!(child.is_over() && grandchild.is_over());
}

/// Two threads cancel the root. Each of the two calls returns only after the child is over.
fn cancel_twice() {
    let root = node(None, NEVER);
    let child = node(Some(&root), NEVER);
    let cancel = |root: Arc<Node>, child: Arc<Node>| {
        root.cancel(None);
        assert!(root.is_over() && child.is_over(), "it has not been told");
    };
    let (other, beneath) = (Arc::clone(&root), Arc::clone(&child));
    let other = thread::spawn(move || cancel(other, beneath));
    cancel(root, child);
    other.join().unwrap();
}

/// Makes a lazy token (`node.rs`, invariant 6).
fn token(parent: &Arc<Node>) -> Arc<Node> {
    Node::new(Some(parent), NodeSpec::token(ScopeInfo::at(std::panic::Location::caller()), 1))
}

/// The parent of a lazy token is cancelled while a task registers with the token. If the registration is refused, the
/// token is over. Otherwise the task is woken.
fn wait_while_the_parent_is_cancelled() {
    let root = node(None, NEVER);
    let child = token(&root);
    let canceller = thread::spawn(move || assert!(root.cancel(None)));
    let task = Arc::new(Task::default());
    let was_over = child.is_over();
    let waits = child.add_waker(&Arc::clone(&task).into()).is_some();
    assert!(!was_over || child.is_over(), "it is not over any more");
    assert!(waits || child.is_over(), "it is refused before it is over");
    canceller.join().unwrap();
    assert!(!waits || task.is_woken(), "it is not woken");
    assert!(child.is_over());
}

/// A lazy token has no children yet, and two threads each make a token beneath it. Then one of the threads cancels the
/// root. When `cancel` has returned, the token of this thread is over.
fn cancel_after_a_token_was_made() {
    let root = node(None, NEVER);
    let child = token(&root);
    let around = Arc::clone(&child);
    let other = thread::spawn(move || token(&around));
    let beneath = token(&child);
    root.cancel(None);
    assert!(beneath.is_over() && child.is_over(), "it has not been told");
    assert!(other.join().unwrap().is_over());
}

fn cancel_while_a_child_is_dropped() {
    let root = node(None, NEVER);
    let child = node(Some(&root), 10);
    let goes = thread::spawn(move || drop(child));
    assert!(root.cancel(None));
    goes.join().unwrap();
    assert_eq!(timers(global()), 0, "a timer is left behind");
    run_out(global());
}

fn cancel_while_a_child_moves() {
    let (old, new) = (node(None, NEVER), node(None, NEVER));
    let child = node(Some(&old), NEVER);
    let (cancelled, moved, to) = (Arc::clone(&new), Arc::clone(&child), Arc::clone(&new));
    let mover = thread::spawn(move || moved.set_parent(Some(&to)));
    assert!(cancelled.cancel(None));
    mover.join().unwrap();
    assert!(child.is_over());
    assert!(!old.is_over());
}

/// Each of two threads moves one future beneath the other, at the same time. At most one of the two moves succeeds.
fn move_beneath_each_other() {
    let (one, two) = (node_of(None, NEVER, true), node_of(None, NEVER, true));
    let (moved, to) = (Arc::clone(&one), Arc::clone(&two));
    let mover = thread::spawn(move || moved.set_parent(Some(&to)));
    two.set_parent(Some(&one));
    mover.join().unwrap();
    let go_round = one.parent().is_some() && two.parent().is_some();
    two.set_parent(None);
    assert!(!go_round, "each is beneath the other");
}

/// A future loses its parent (`set_parent(None)`) while the parent's scope closes. The future stays without a parent:
/// the close does not move it to the root.
fn move_while_the_scope_closes() {
    let root = node(None, NEVER);
    let scope = node(Some(&root), NEVER);
    let future = node_of(Some(&scope), NEVER, true);
    let moved = Arc::clone(&future);
    let mover = thread::spawn(move || moved.set_parent(None));
    scope.close();
    mover.join().unwrap();
    assert!(future.parent().is_none());
}

/// A hook is registered with a future while a shield of the future closes. The hook must not stay suspended: it fires
/// when the future is cancelled afterwards.
fn register_while_a_shield_closes() {
    let (runs, never) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let future = node(None, NEVER);
    future.suspend_hooks();
    let entry = Entry::from_hook(Hook::inline(counted(&runs, &never)), DefaultRepeat::Once);
    let shielded = Arc::clone(&future);
    let closer = thread::spawn(move || shielded.resume_hooks());
    let key = future.add_hook(&entry, HookOwner::Future).unwrap();
    closer.join().unwrap();
    assert!(future.cancel(None));
    run_out(global());
    assert_eq!(runs.load(SeqCst), 1);
    entry.revoke(Ending::Registration);
    future.remove_hook(key, &entry);
}

fn end_each_other() {
    type Other = Arc<std::sync::Mutex<Option<Arc<Entry>>>>;
    let hook = |other: &Other| {
        let other = Arc::clone(other);
        let end = move || {
            let other = other.lock().unwrap().take();
            other.into_iter().for_each(|other| other.revoke(Ending::Registration));
        };
        Entry::from_hook(Hook::inline(end), DefaultRepeat::Once)
    };
    let (of_one, of_two) = (Other::default(), Other::default());
    let (one, two) = (hook(&of_one), hook(&of_two));
    *of_one.lock().unwrap() = Some(Arc::clone(&two));
    *of_two.lock().unwrap() = Some(Arc::clone(&one));
    // Leaks references, so that no entry is dropped. If the model fails, loom has already destroyed the locks in the
    // entries, and a drop would use them.
    [&one, &one, &one, &two, &two, &two].into_iter().for_each(|entry| std::mem::forget(Arc::clone(entry)));
    let fires = Arc::clone(&one);
    let first = thread::spawn(move || fires.run());
    two.run();
    first.join().unwrap();
    assert!(one.fires() + two.fires() >= 1);
    assert!(!one.is_running() && !two.is_running());
}

/// A task: whether it is woken, and the condition variable on which its thread waits.
#[derive(Default)]
struct Task(loom::sync::Mutex<bool>, loom::sync::Condvar);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }
}

impl Task {
    fn is_woken(&self) -> bool {
        *self.0.lock().unwrap()
    }

    fn block_on(self: &Arc<Self>, mut poll: impl FnMut(&Waker) -> Poll<()>) {
        while poll(&Arc::clone(self).into()).is_pending() {
            // Otherwise a task that wakes itself in each poll would never let another thread run.
            thread::yield_now();
            let mut woken = self.0.lock().unwrap();
            while !std::mem::replace(&mut *woken, false) {
                woken = self.1.wait(woken).unwrap();
            }
        }
    }
}

/// The scope of a future is cancelled. The future's task awaits the hook of an inner future. Once `poll_hooks` is
/// ready, the hook has run, and does not run again.
fn await_hooks_in_a_task() {
    let (runs, ended) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    // Uses the timers before other threads exist, because loom does not see what orders the first use.
    crate::thread::schedule(NEVER, Waker::noop().clone()).cancel();
    let future = node(None, NEVER);
    let beneath = node_of(Some(&future), NEVER, true);
    let entry = Entry::from_hook(Hook::inline(counted(&runs, &ended)), DefaultRepeat::Backoff);
    beneath.add_hook(&entry, HookOwner::Future).unwrap();
    assert!(future.cancel(None));
    Arc::new(Task::default()).block_on(|waker| future.poll_hooks(waker));
    ended.from_now_on(true);
    assert!(entry.fires() >= 1, "it was not waited for");
    run_out(global());
    assert_never_late(&runs);
    assert_eq!(timers(global()), 0, "a timer is left behind");
    entry.revoke(Ending::Registration);
}

fn await_a_hook_that_ends() {
    let (runs, never) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let future = node(None, NEVER);
    let entry = Entry::from_hook(Hook::inline(counted(&runs, &never)), DefaultRepeat::Once);
    future.add_hook(&entry, HookOwner::Scope).unwrap();
    // Leaks the node: if the model fails, loom destroys the node's locks before the node would be dropped.
    std::mem::forget(Arc::clone(&future));
    let (fires, ends) = (Arc::clone(&entry), Arc::clone(&entry));
    let threads =
        [thread::spawn(move || fires.run()), thread::spawn(move || ends.revoke(Ending::Registration))];
    Arc::new(Task::default()).block_on(|waker| future.poll_hooks(waker));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(runs.load(SeqCst) <= 1);
    run_out(global());
}

models! {
    a_hook_that_was_ended_never_runs: end_while_it_fires;
    an_escalation_ends_with_its_hook: end_while_it_escalates;
    a_hook_stays_behind_in_a_scope_that_was_left: retire_while_it_fires;
    a_hook_that_moves_is_not_lost: move_while_it_fires;
    a_hook_can_end_itself: end_from_inside;
    a_shielded_hook_fires_afterwards: shield_while_it_fires;
    a_hook_fires_once_or_is_refused: register_while_cancelled;
    a_cancelled_tree_is_over_to_the_last_leaf: cancel_while_the_tree_grows;
    a_task_that_waits_for_a_lazy_token_is_woken: wait_while_the_parent_is_cancelled;
    a_token_beneath_a_lazy_one_is_over_when_cancel_returns: cancel_after_a_token_was_made;
    #[should_panic(expected = "it is not woken")]
    fails_without_a_second_look_at_the_parent: wait_while_the_parent_is_cancelled, NoSecondLook;
    a_child_can_go_while_its_parent_is_cancelled: cancel_while_a_child_is_dropped;
    a_child_that_moved_is_over_with_its_new_parent: cancel_while_a_child_moves;
    a_cancel_that_is_not_the_first_returns_when_all_are_over: cancel_twice;
    of_two_futures_one_is_beneath_the_other_at_most: move_beneath_each_other;
    a_future_stays_where_it_was_moved_to: move_while_the_scope_closes;
    a_hook_that_comes_beside_a_shield_fires_when_that_closes: register_while_a_shield_closes;
    a_task_awaits_the_hooks_of_its_future: await_hooks_in_a_task;
    a_task_awaits_a_hook_that_is_ended: await_a_hook_that_ends;
    #[should_panic(expected = "deadlock")]
    fails_where_a_task_says_too_late_that_it_waits: await_a_hook_that_ends, LateWaiter;
    two_hooks_that_end_each_other_both_return: end_each_other;
    #[should_panic(expected = "on a `None` value")] // a deadlock: the hook's run has caught the panic that says so
    fails_where_nobody_looks_for_a_circle: end_each_other, NoCircle;
    #[should_panic(expected = "it has not been told")]
    fails_where_a_cancel_does_not_propagate_for_another: cancel_twice, NoSecondSpread;
    #[should_panic(expected = "each is beneath the other")]
    fails_without_the_lock_of_moves: move_beneath_each_other, NoMoveLock;
    #[should_panic(expected = "ran when it must not")]
    fails_without_the_wait_of_the_end: end_while_it_fires, NoRevoke;
    #[should_panic(expected = "ran when it must not")]
    fails_without_a_look_whether_it_was_left: retire_while_it_fires, NoRetire;
    #[should_panic(expected = "ran when it must not")]
    fails_without_the_wait_of_the_shield: shield_while_it_fires, NoShieldWait;
}
