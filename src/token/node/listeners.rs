//! The hooks and tasks that are registered with a node. They are started or woken when the node is over.

use std::sync::Arc;
use std::task::{Poll, Waker};

use super::data::{HookOwner, ListedHook, Node, State};
use super::wake_list;
use crate::sync::Ordering;
use crate::sync::callback::drop_quietly;
use crate::token::hook::Entry;

impl Node {
    /// Calls `insert`, which adds a child, a hook or a task to the state. The end of the node propagates to what was
    /// added.
    ///
    /// `None` if a fork has lost the lock. Without `even_if_over`, also `None` if the node is over, because its end may
    /// have propagated before this call.
    pub(super) fn register<K>(
        self: &Arc<Self>,
        even_if_over: bool,
        insert: impl FnOnce(&mut State) -> K,
    ) -> Option<K> {
        self.ensure_listed();
        let mut state = self.state.lock()?;
        // Relaxed: under the lock.
        if !even_if_over && self.over.load(Ordering::Relaxed) {
            return None;
        }
        Some(insert(&mut state))
    }

    /// Registers a hook, and returns its key. `None` if the node is over, or if a fork has lost the node's lock.
    pub(crate) fn add_hook(self: &Arc<Self>, entry: &Arc<Entry>, owner: HookOwner) -> Option<usize> {
        if crate::sync::fork::Process::current().is_child() {
            // A fork loses the timers of the scopes that are open. So these scopes get new timers here: otherwise their
            // deadlines would not fire the hook.
            self.walk(|node| {
                node.update();
            });
        }
        self.register(false, |state| state.list_hook(entry, owner))
    }

    /// Registers a hook with a node that is over, so that the hook ends with the scope. The caller fires the hook.
    /// `None` if the node's lock was lost in a fork.
    pub(crate) fn add_fired_hook(self: &Arc<Self>, entry: &Arc<Entry>, owner: HookOwner) -> Option<usize> {
        self.register(true, |state| state.list_hook(entry, owner))
    }

    pub(crate) fn remove_hook(&self, key: usize, entry: &Arc<Entry>) {
        let Some(mut state) = self.state.lock() else { return };
        // The scope may have removed the hook already. Then `key` may be that of another hook.
        if state.hooks.get(key).is_some_and(|hook| Arc::ptr_eq(&hook.entry, entry)) {
            let hook = state.hooks.remove(key);
            drop(state);
            hook.resume();
            drop_quietly(hook);
        }
    }

    fn scoped_hooks(&self, into: &mut Vec<(Arc<Entry>, HookOwner)>) {
        if let Some(state) = self.state.lock() {
            let scoped = state.hooks.iter().filter(|(_, hook)| hook.owner.is_of_scope());
            into.extend(scoped.map(|(_, hook)| (Arc::clone(&hook.entry), hook.owner)));
        }
    }

    /// The hooks of this node's future, and of all futures inside it which it polls and drops itself. Hooks of outer
    /// futures come first. A future that entered the scope by a handle is left out: another task may poll and drop it.
    fn polled_hooks(self: &Arc<Self>) -> Vec<(Arc<Entry>, HookOwner)> {
        let mut entries = Vec::new();
        let mut stack = vec![Arc::clone(self)];
        while let Some(node) = stack.pop() {
            node.scoped_hooks(&mut entries);
            let children = node.inner_children();
            stack.extend(children.into_iter().filter(|child| child.parent_mode.is_reparentable()));
        }
        entries
    }

    /// Called when the scope of a future is over, before the future is dropped. Runs the future's hooks that are due
    /// and have not run yet.
    ///
    /// Pending until each of these hooks has run. Then `waker` is woken. A hook that ends with the scope does not run
    /// again after that, so the drop of the future need not wait for it.
    ///
    /// Does not wait for a hook that a shield suspends. If no thread can be had for a hook, wakes `waker` at once, so
    /// that the next poll tries again.
    pub(crate) fn poll_hooks(self: &Arc<Self>, waker: &Waker) -> Poll<()> {
        let waiter = Arc::as_ptr(self).addr();
        let mut entries = self.polled_hooks();
        entries.retain(|(entry, owner)| {
            entry.poll_first_run(waiter, waker, owner.ends_with_scope()).is_pending()
        });
        if entries.is_empty() {
            return Poll::Ready(());
        }
        if !wake_list::run_soon(entries.into_iter().map(|(entry, _)| entry).collect()) {
            waker.wake_by_ref();
        }
        Poll::Pending
    }

    /// Registers a task, which is woken when the node is over. Returns `None` if the node is over already, or if its
    /// lock was lost in a fork.
    pub(crate) fn add_waker(self: &Arc<Self>, waker: &Waker) -> Option<usize> {
        let waker = waker.clone();
        self.register(false, |state| state.wakers.insert(waker))
    }

    /// Replaces the waker of a registered task. `false` if the node is over, or if a fork has lost the lock.
    pub(crate) fn update_waker(&self, key: usize, waker: &Waker) -> bool {
        let same = |state: &State| state.wakers.get(key).map(|listed| listed.will_wake(waker));
        match self.state.lock().and_then(|state| same(&state)) {
            Some(true) => true,
            Some(false) => self
                .with_waker(waker, |state, waker| {
                    let listed = state.wakers.get_mut(key)?;
                    std::mem::swap(listed, waker.as_mut()?);
                    Some(())
                })
                .flatten()
                .is_some(),
            None => false,
        }
    }

    pub(crate) fn remove_waker(&self, key: usize) {
        // The node may be over. Then the end of the node has taken all wakers out, and `try_remove` finds none.
        let waker = self.state.lock().and_then(|mut state| state.wakers.try_remove(key));
        drop(waker);
    }

    /// Calls `swap` with the locked state and a clone of `waker`. `swap` may exchange the clone for another waker,
    /// which is dropped after the unlocking. A waker's clone and drop run foreign code, so both happen without the
    /// lock. `None` if a fork has lost the lock.
    pub(super) fn with_waker<R>(
        &self,
        waker: &Waker,
        swap: impl FnOnce(&mut State, &mut Option<Waker>) -> R,
    ) -> Option<R> {
        let mut waker = Some(waker.clone());
        let mut state = self.state.lock()?;
        let result = swap(&mut state, &mut waker);
        drop(state);
        drop(waker);
        Some(result)
    }
}

impl State {
    fn list_hook(&mut self, entry: &Arc<Entry>, owner: HookOwner) -> usize {
        let suspensions = if owner == HookOwner::Future { self.suspensions } else { 0 };
        (0..suspensions).for_each(|_| entry.suspend());
        self.hooks.insert(ListedHook { entry: Arc::clone(entry), owner, suspensions })
    }
}

#[cfg(all(test, not(timebox_loom)))]
mod tests {
    use std::panic::Location;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;
    use crate::error::{Cause, ScopeInfo};
    use crate::sync::waits::Ending;
    use crate::time::clock;
    use crate::token::Hook;
    use crate::token::hook::DefaultRepeat;
    use crate::token::node::NodeSpec;

    const HANG: Duration = Duration::from_secs(40);

    struct Task(Mutex<Sender<()>>);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            let _ = self.0.lock().unwrap().send(());
        }
    }

    fn task() -> (Waker, Receiver<()>) {
        let (wake, woken) = channel();
        (Waker::from(Arc::new(Task(Mutex::new(wake)))), woken)
    }

    fn node(parent: Option<&Arc<Node>>) -> Arc<Node> {
        let info = ScopeInfo::at(Location::caller());
        Node::new(parent, NodeSpec { cause: Cause::Deadline, reparentable: true, ..NodeSpec::token(info, 1) })
    }

    fn add(node: &Arc<Node>, owner: HookOwner, hook: Hook<'static>) -> Arc<Entry> {
        let entry = Entry::from_hook(hook, DefaultRepeat::Once);
        node.add_hook(&entry, owner).unwrap();
        entry
    }

    fn await_hooks(node: &Arc<Node>) {
        let (waker, woken) = task();
        while node.poll_hooks(&waker).is_pending() {
            woken.recv_timeout(HANG).expect("it is woken");
        }
    }

    #[test]
    fn awaiting_hooks_blocks_no_poll_and_lasts_until_the_last_run_has_ended() {
        for kind in [Hook::new as fn(_) -> _, Hook::inline] {
            let future = node(None);
            let (go, gone) = channel();
            let (begins, runs) = channel();
            let action: Box<dyn FnMut() + Send> = Box::new(move || {
                begins.send(()).unwrap();
                gone.recv_timeout(HANG).unwrap();
            });
            let beneath = node(Some(&future));
            let entry = add(&beneath, HookOwner::Scope, kind(action));
            future.cancel(None);
            // Each poll brings another waker. The waker of the last poll is woken, and no earlier one.
            let (first, first_is_woken) = task();
            assert!(future.poll_hooks(&first).is_pending());
            runs.recv_timeout(HANG).unwrap();
            let (waker, woken) = task();
            for _ in 0..100 {
                assert!(future.poll_hooks(&Waker::noop().clone()).is_pending());
            }
            assert!(future.poll_hooks(&waker).is_pending());
            assert!(woken.try_recv().is_err());
            go.send(()).unwrap();
            woken.recv_timeout(HANG).unwrap();
            assert!(future.poll_hooks(&waker).is_ready());
            assert_eq!(entry.fires(), 1);
            assert!(first_is_woken.try_recv().is_err());
        }
    }

    #[test]
    fn a_hook_that_was_awaited_does_not_begin_again_and_what_it_escalates_to_neither() {
        let future = node(None);
        let runs = Arc::new(AtomicU32::new(0));
        let counts = |runs: &Arc<AtomicU32>| {
            let runs = Arc::clone(runs);
            move || runs.fetch_add(1, SeqCst)
        };
        let then = Hook::inline(counts(&runs)).every(Duration::ZERO);
        let hook = Hook::new(counts(&runs)).every(Duration::ZERO).then(Duration::from_millis(1), then);
        let entry = add(&future, HookOwner::Scope, hook);
        future.cancel(None);
        await_hooks(&future);
        let before = runs.load(SeqCst);
        assert!(before > 0 && !entry.is_running());
        // Waits 5 ms. A hook that has not ended would run again in this time.
        let (waker, woken) = task();
        crate::thread::schedule(clock::now() + 5_000_000, waker);
        woken.recv_timeout(HANG).unwrap();
        assert_eq!(runs.load(SeqCst), before);
    }

    #[test]
    fn a_hook_that_will_never_run_is_not_awaited() {
        let (waker, _) = task();
        let future = node(None);
        let suspended = add(&future, HookOwner::Scope, Hook::inline(|| ()));
        let ended = add(&future, HookOwner::Scope, Hook::inline(|| ()));
        let panicking =
            add(&future, HookOwner::Scope, Hook::new(|| panic!("a hook of the test panics, as it should")));
        add(&future, HookOwner::Token, Hook::new(|| std::thread::sleep(HANG)));
        suspended.suspend();
        ended.revoke(Ending::Registration);
        panicking.run();
        assert!(future.poll_hooks(&waker).is_ready());
        assert_eq!(suspended.fires(), 0);
        suspended.resume();
        await_hooks(&future);
        assert_eq!(suspended.fires(), 1);
    }

    #[test]
    fn a_task_is_woken_when_what_it_awaits_is_ended_or_left() {
        let revoke: fn(&Entry) = |entry| entry.revoke(Ending::Registration);
        for leave in [revoke, |entry| entry.retire(false)] {
            let future = node(None);
            // `runs.again()` is a second entry of the same hook. Its run waits for `go`, so `entry` has yet to run.
            let (go, gone) = channel::<()>();
            let hook = Hook::new(move || gone.recv());
            let entry = add(&future, HookOwner::Future, hook);
            let runs = Arc::clone(&entry);
            std::thread::scope(|threads| {
                threads.spawn(move || runs.again().run());
                while !entry.is_running() {
                    std::thread::yield_now();
                }
                let (waker, woken) = task();
                assert!(future.poll_hooks(&waker).is_pending());
                let left = Arc::clone(&entry);
                threads.spawn(move || leave(&left));
                go.send(()).unwrap();
                while future.poll_hooks(&waker).is_pending() {
                    woken.recv_timeout(HANG).expect("it is woken");
                }
            });
        }
    }

    /// `Inline::wake` polls the task itself. So the task is polled on the thread that cancels, on the watchdog, and on
    /// threads that have run a hook.
    #[test]
    fn a_task_that_is_polled_where_it_is_woken_awaits_hooks_too() {
        struct Inline {
            node: Arc<Node>,
            ready: Mutex<Sender<()>>,
        }
        impl Wake for Inline {
            fn wake(self: Arc<Self>) {
                if self.node.poll_hooks(&Arc::clone(&self).into()).is_ready() {
                    let _ = self.ready.lock().unwrap().send(());
                }
            }
        }
        let future = node(None);
        let entries = [Hook::new(|| ()), Hook::inline(|| ()), Hook::new(|| ()), Hook::inline(|| ())]
            .map(|hook| add(&future, HookOwner::Scope, hook));
        let (ready, is_ready) = channel();
        let task = Waker::from(Arc::new(Inline { node: Arc::clone(&future), ready: Mutex::new(ready) }));
        future.add_waker(&task);
        future.cancel(None);
        // The watchdog calls `Inline::wake`, and so polls the task.
        crate::watchdog::global().post(task);
        is_ready.recv_timeout(HANG).unwrap();
        assert!(entries.iter().all(|entry| entry.fires() == 1));
    }
}
