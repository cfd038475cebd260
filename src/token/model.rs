//! Loom models of hooks and nodes. They run the code of this room and of `sync/callback.rs` itself.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use loom::thread;

use super::hook::{Entry, Hook, Unsaid};
use super::node::{Node, Tie};
use crate::error::{Cause, ScopeId, ScopeInfo};
use crate::sync::mutants::Mutant;
use crate::time::NEVER;
use crate::watchdog::global;
use crate::watchdog::model::{explore, models, pass_time, run_out, timers};

fn node(parent: Option<&Arc<Node>>, deadline: u64) -> Arc<Node> {
    node_of(parent, deadline, false)
}

/// Of a future if it may roam.
fn node_of(parent: Option<&Arc<Node>>, deadline: u64, roams: bool) -> Arc<Node> {
    let location = std::panic::Location::caller();
    let info = ScopeInfo { id: ScopeId::next(), label: None, location, limit: None };
    Node::new(parent, info, 1, deadline, Cause::Deadline, roams)
}

/// A flag that a hook must not see.
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
        // The assertion is made outside the run, where no panic is caught.
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

/// Fired and fired again on one thread, ended on another.
fn end_while_it_fires() {
    let (runs, ended) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let entry = Entry::of(Hook::inline(counted(&runs, &ended)), Unsaid::Backoff);
    let fires = Arc::clone(&entry);
    let watchdog = thread::spawn(move || {
        fires.run();
        fires.run();
    });
    entry.revoke();
    ended.from_now_on(true);
    watchdog.join().unwrap();
    assert_never_late(&runs);
    assert!(runs.load(SeqCst) <= 2);
    assert_eq!(timers(global()), 0, "a timer is left behind");
    run_out(global());
}

/// The first hook still runs when the one it escalates to fires; both end.
fn end_while_it_escalates() {
    let (runs, ended) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let then = Hook::inline(counted(&runs, &ended)).once();
    let hook = Hook::inline(counted(&runs, &ended)).once().then(std::time::Duration::from_nanos(5), then);
    let entry = Entry::of(hook, Unsaid::Backoff);
    let fires = Arc::clone(&entry);
    let first = thread::spawn(move || fires.run());
    pass_time(global());
    entry.revoke();
    ended.from_now_on(true);
    first.join().unwrap();
    run_out(global());
    assert_never_late(&runs);
    assert_eq!(timers(global()), 0, "a timer is left behind");
}

/// Its future leaves the scope while it fires: from then on it does not, for that one.
fn retire_while_it_fires() {
    let (runs, left) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let entry = Entry::of(Hook::inline(counted(&runs, &left)), Unsaid::Backoff);
    let fires = Arc::clone(&entry);
    let watchdog = thread::spawn(move || fires.run());
    entry.retire(true);
    left.from_now_on(true);
    watchdog.join().unwrap();
    assert_never_late(&runs);
    assert_eq!(timers(global()), 0, "a timer is left behind");
    run_out(global());
}

/// Its future goes from one scope that is over to another: a hook that is to fire once does so, for either.
fn move_while_it_fires() {
    let (runs, never) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let entry = Entry::of(Hook::inline(counted(&runs, &never)), Unsaid::Once);
    let fires = Arc::clone(&entry);
    let watchdog = thread::spawn(move || fires.run());
    entry.retire(false);
    entry.again().run();
    watchdog.join().unwrap();
    assert_eq!(runs.load(SeqCst), 1);
    run_out(global());
}

/// The hook ends itself: nobody waits for anybody.
fn end_from_inside() {
    let own: Arc<std::sync::Mutex<Option<Arc<Entry>>>> = Arc::default();
    let inside = Arc::clone(&own);
    let hook = Hook::inline(move || {
        let entry = inside.lock().unwrap().take();
        entry.into_iter().for_each(|entry| entry.revoke());
    });
    let entry = Entry::of(hook, Unsaid::Backoff);
    *own.lock().unwrap() = Some(Arc::clone(&entry));
    let fires = Arc::clone(&entry);
    let watchdog = thread::spawn(move || fires.run());
    entry.revoke();
    watchdog.join().unwrap();
    entry.run();
    assert!(entry.fires() <= 1);
    run_out(global());
}

/// A shield opens and closes while the hook fires: what was due fires afterwards.
fn shield_while_it_fires() {
    let (runs, shielded) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let entry = Entry::of(Hook::inline(counted(&runs, &shielded)), Unsaid::Once);
    let fires = Arc::clone(&entry);
    let watchdog = thread::spawn(move || fires.run());
    entry.suspend();
    entry.wait_until_idle();
    shielded.from_now_on(true);
    thread::yield_now();
    shielded.from_now_on(false);
    entry.resume();
    watchdog.join().unwrap();
    // Fired directly, or posted to the watchdog on leaving.
    run_out(global());
    assert_never_late(&runs);
    assert_eq!(runs.load(SeqCst), 1);
    entry.revoke();
}

/// A hook that is registered while the node is cancelled fires once, or is refused.
fn register_while_cancelled() {
    let (runs, never) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let root = node(None, NEVER);
    let inner = node(Some(&root), NEVER);
    let cancelled = Arc::clone(&root);
    let canceller = thread::spawn(move || assert!(cancelled.cancel(None)));
    let entry = Entry::of(Hook::inline(counted(&runs, &never)), Unsaid::Once);
    let registered = inner.add_hook(&entry, Tie::Scope).is_some();
    canceller.join().unwrap();
    run_out(global());
    assert_eq!(runs.load(SeqCst), usize::from(registered));
}

/// When `cancel` has returned, all beneath say so, those made meanwhile included; and only one call is first.
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

/// When a call of `cancel` has returned, the first or not, all beneath say so.
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

/// A child goes while its parent is cancelled.
fn cancel_while_a_child_goes() {
    let root = node(None, NEVER);
    let child = node(Some(&root), 10);
    let goes = thread::spawn(move || drop(child));
    assert!(root.cancel(None));
    goes.join().unwrap();
    assert_eq!(timers(global()), 0, "a timer is left behind");
    run_out(global());
}

/// A future's node changes surroundings while both are cancelled: it is over through the new ones.
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

/// Two futures, each polled in a scope entered by the other's handle: one is beneath the other at most.
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

/// A future is polled elsewhere while the scope that it was polled in closes: there it stays.
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

/// A hook comes to a future beside a shield that is about to close: once that has, it fires.
fn register_while_a_shield_closes() {
    let (runs, never) = (Arc::new(AtomicUsize::new(0)), Forbidden::new());
    let future = node(None, NEVER);
    future.suspend_hooks();
    let entry = Entry::of(Hook::inline(counted(&runs, &never)), Unsaid::Once);
    let shielded = Arc::clone(&future);
    let closer = thread::spawn(move || shielded.resume_hooks());
    let key = future.add_hook(&entry, Tie::Future).unwrap();
    closer.join().unwrap();
    assert!(future.cancel(None));
    run_out(global());
    assert_eq!(runs.load(SeqCst), 1);
    entry.revoke();
    future.remove_hook(key, &entry);
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
    a_child_can_go_while_its_parent_is_cancelled: cancel_while_a_child_goes;
    a_child_that_moved_is_over_with_its_new_parent: cancel_while_a_child_moves;
    a_cancel_that_is_not_the_first_returns_when_all_are_over: cancel_twice;
    of_two_futures_one_is_beneath_the_other_at_most: move_beneath_each_other;
    a_future_stays_where_it_was_moved_to: move_while_the_scope_closes;
    a_hook_that_comes_beside_a_shield_fires_when_that_closes: register_while_a_shield_closes;
    #[should_panic(expected = "it has not been told")]
    fails_where_a_cancel_does_not_spread_for_another: cancel_twice, NoSecondSpread;
    #[should_panic(expected = "each is beneath the other")]
    fails_without_the_lock_of_moves: move_beneath_each_other, NoMoveLock;
    #[should_panic(expected = "ran when it must not")]
    fails_without_the_wait_of_the_end: end_while_it_fires, NoRevoke;
    #[should_panic(expected = "ran when it must not")]
    fails_without_a_look_whether_it_was_left: retire_while_it_fires, NoRetire;
    #[should_panic(expected = "ran when it must not")]
    fails_without_the_wait_of_the_shield: shield_while_it_fires, NoShieldWait;
}
