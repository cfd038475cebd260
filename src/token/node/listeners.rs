//! Who is told when a node is over: hooks and tasks; and the shields that are pending in its future.

use std::sync::Arc;
use std::task::{Poll, Waker};

use super::found::{self, Found};
use super::{Hooked, Node, State, Tie};
use crate::sync::Ordering;
use crate::sync::callback::drop_quietly;
use crate::token::hook::Entry;

impl Node {
    /// Registers a hook; `None` if the node is over, so that it would never be told.
    pub(crate) fn add_hook(self: &Arc<Self>, entry: &Arc<Entry>, tie: Tie) -> Option<usize> {
        if crate::sync::fork::Process::current().is_child() {
            // The timers of the scopes that were open at the fork are lost there; who asks anew is told all the same.
            self.walk(|node| {
                node.update();
            });
        }
        self.enlist();
        let mut state = self.state.lock()?;
        // Relaxed: under the lock.
        if self.over.load(Ordering::Relaxed) {
            return None;
        }
        Some(state.list_hook(entry, tie))
    }

    /// Registers a hook with a node that is over: not to be fired, but to end with the scope.
    pub(crate) fn add_fired_hook(self: &Arc<Self>, entry: &Arc<Entry>, tie: Tie) -> Option<usize> {
        self.enlist();
        Some(self.state.lock()?.list_hook(entry, tie))
    }

    pub(crate) fn remove_hook(&self, key: usize, entry: &Arc<Entry>) {
        let Some(mut state) = self.state.lock() else { return };
        // The scope may have ended it, and the place be another's.
        if state.hooks.get(key).is_some_and(|hooked| Arc::ptr_eq(&hooked.entry, entry)) {
            let hooked = state.hooks.remove(key);
            drop(state);
            hooked.resume();
            drop_quietly(hooked);
        }
    }

    /// A shield opens: keeps the hooks that belong to the scope from firing, and waits for those that do.
    pub(crate) fn suspend_hooks(&self) {
        let Some(mut state) = self.state.lock() else { return };
        state.suspensions += 1;
        let mut entries = Vec::new();
        for (_, hooked) in state.hooks.iter_mut().filter(|(_, hooked)| hooked.tie.is_of_scope()) {
            hooked.suspensions += 1;
            // Under the lock: whoever takes it off the list resumes it as often.
            hooked.entry.suspend();
            entries.push(Arc::clone(&hooked.entry));
        }
        drop(state);
        entries.iter().for_each(|entry| entry.wait_until_idle());
    }

    /// It closes: what is due fires.
    pub(crate) fn resume_hooks(&self) {
        let Some(mut state) = self.state.lock() else { return };
        state.suspensions -= 1;
        let mut entries = Vec::new();
        for (_, hooked) in state.hooks.iter_mut().filter(|(_, hooked)| hooked.suspensions > 0) {
            hooked.suspensions -= 1;
            entries.push(Arc::clone(&hooked.entry));
        }
        drop(state);
        entries.iter().for_each(|entry| entry.resume());
    }

    /// The hooks that belong to the scope, or were made in its code.
    fn scoped_hooks(&self, into: &mut Vec<(Arc<Entry>, Tie)>) {
        if let Some(state) = self.state.lock() {
            let scoped = state.hooks.iter().filter(|(_, hooked)| hooked.tie.is_of_scope());
            into.extend(scoped.map(|(_, hooked)| (Arc::clone(&hooked.entry), hooked.tie)));
        }
    }

    /// Those of this node and of the nodes beneath that are of futures too: these are polled, and dropped, by this one.
    /// What was entered by a handle is on its own. From the outside in.
    fn polled_hooks(self: &Arc<Self>) -> Vec<(Arc<Entry>, Tie)> {
        let mut entries = Vec::new();
        let mut stack = vec![Arc::clone(self)];
        while let Some(node) = stack.pop() {
            node.scoped_hooks(&mut entries);
            stack.extend(node.inner_children().into_iter().filter(|child| child.stand.roams()));
        }
        entries
    }

    /// Its future is over and about to be dropped: has those hooks in it run that are due and have not yet. Pending until
    /// each has run, or never will, and none runs any more; then `waker` is woken. Those that end with the scope do not begin
    /// again after that, so to drop the future waits for none.
    ///
    /// A hook that a shield holds back is not waited for. Where no thread can be had the task is woken at once, to try again.
    pub(crate) fn poll_hooks(self: &Arc<Self>, waker: &Waker) -> Poll<()> {
        let waiter = Arc::as_ptr(self).addr();
        let mut entries = self.polled_hooks();
        entries
            .retain(|(entry, tie)| entry.poll_first_run(waiter, waker, tie.ends_with_scope()).is_pending());
        if entries.is_empty() {
            return Poll::Ready(());
        }
        if !found::run_soon(entries.into_iter().map(|(entry, _)| entry).collect()) {
            waker.wake_by_ref();
        }
        Poll::Pending
    }

    /// Has a task woken when it is over; `None` if it is.
    pub(crate) fn add_waker(self: &Arc<Self>, waker: &Waker) -> Option<usize> {
        let waker = waker.clone();
        self.enlist();
        let mut state = self.state.lock()?;
        if self.over.load(Ordering::Relaxed) {
            drop(state);
            drop(waker);
            return None;
        }
        Some(state.wakers.insert(waker))
    }

    /// Wakes another task in place of the one before; `false` if it is over.
    pub(crate) fn update_waker(&self, key: usize, waker: &Waker) -> bool {
        let same = |state: &State| state.wakers.get(key).map(|place| place.will_wake(waker));
        match self.state.lock().and_then(|state| same(&state)) {
            Some(true) => return true,
            Some(false) => {}
            None => return false,
        }
        // To clone and to drop a waker is foreign code: not under the lock.
        let mut waker = waker.clone();
        let Some(mut state) = self.state.lock() else { return false };
        let Some(place) = state.wakers.get_mut(key) else { return false };
        std::mem::swap(place, &mut waker);
        drop(state);
        drop(waker);
        true
    }

    pub(crate) fn remove_waker(&self, key: usize) {
        // When it is over all of them are gone.
        let waker = self.state.lock().and_then(|mut state| state.wakers.try_remove(key));
        drop(waker);
    }

    // ===== Shields =====

    /// A shield is pending in its future, until this time at most.
    pub(crate) fn add_shield(&self, until: u64) -> Option<usize> {
        Some(self.state.lock()?.shields.insert(until))
    }

    pub(crate) fn remove_shield(&self, key: usize) {
        let Some(mut state) = self.state.lock() else { return };
        state.shields.try_remove(key);
        let last = state.shields.is_empty();
        let held_up = if last { state.held_up.take() } else { None };
        drop(state);
        Found { wakers: held_up.into_iter().collect(), ..Found::default() }.hand_over();
    }

    /// Whether a shield is pending in its future.
    pub(crate) fn has_shields(&self) -> bool {
        self.state.lock().is_some_and(|state| !state.shields.is_empty())
    }

    /// Until when the shields that are pending in its future last; with the last of them the task is woken.
    pub(crate) fn shielded_until(&self, waker: &Waker) -> u64 {
        // To clone and to drop a waker is foreign code: not under the lock.
        let mut waker = Some(waker.clone());
        let Some(mut state) = self.state.lock() else { return 0 };
        let until = state.shields.iter().map(|shield| *shield.1).max();
        if until.is_some() {
            std::mem::swap(&mut state.held_up, &mut waker);
        }
        drop(state);
        drop(waker);
        until.unwrap_or(0)
    }
}

impl State {
    fn list_hook(&mut self, entry: &Arc<Entry>, tie: Tie) -> usize {
        let suspensions = if tie == Tie::Future { self.suspensions } else { 0 };
        (0..suspensions).for_each(|_| entry.suspend());
        self.hooks.insert(Hooked { entry: Arc::clone(entry), tie, suspensions })
    }
}

impl Hooked {
    /// It is on the list no more.
    pub(super) fn resume(&self) {
        (0..self.suspensions).for_each(|_| self.entry.resume());
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
    use crate::time::{NEVER, clock};
    use crate::token::Hook;
    use crate::token::hook::Unsaid;

    const HANG: Duration = Duration::from_secs(40);

    /// A task that says when it is woken.
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
        Node::new(parent, info, 1, NEVER, Cause::Deadline, true)
    }

    fn add(node: &Arc<Node>, tie: Tie, hook: Hook<'static>) -> Arc<Entry> {
        let entry = Entry::of(hook, Unsaid::Once);
        node.add_hook(&entry, tie).unwrap();
        entry
    }

    /// Polls until that is ready.
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
            let entry = add(&beneath, Tie::Scope, kind(action));
            future.cancel(None);
            // Each time another waker: that of the last poll is woken.
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
        let entry = add(&future, Tie::Scope, hook);
        future.cancel(None);
        await_hooks(&future);
        let before = runs.load(SeqCst);
        assert!(before > 0 && !entry.is_running());
        // Time for it, and for the watchdog.
        let (waker, woken) = task();
        crate::thread::schedule(clock::now() + 5_000_000, waker);
        woken.recv_timeout(HANG).unwrap();
        assert_eq!(runs.load(SeqCst), before);
    }

    #[test]
    fn a_hook_that_will_never_run_is_not_awaited() {
        let (waker, _) = task();
        let future = node(None);
        let suspended = add(&future, Tie::Scope, Hook::inline(|| ()));
        let ended = add(&future, Tie::Scope, Hook::inline(|| ()));
        let panicking =
            add(&future, Tie::Scope, Hook::new(|| panic!("a hook of the test panics, as it should")));
        add(&future, Tie::Token, Hook::new(|| std::thread::sleep(HANG)));
        suspended.suspend();
        ended.revoke(Ending::Registration);
        panicking.run();
        assert!(future.poll_hooks(&waker).is_ready());
        assert_eq!(suspended.fires(), 0);
        // From then on it may.
        suspended.resume();
        await_hooks(&future);
        assert_eq!(suspended.fires(), 1);
    }

    #[test]
    fn a_task_is_woken_when_what_it_awaits_is_ended_or_left() {
        let revoke: fn(&Entry) = |entry| entry.revoke(Ending::Registration);
        for leave in [revoke, |entry| entry.retire(false)] {
            let future = node(None);
            // It hangs elsewhere, so that here it is yet to run.
            let (go, gone) = channel::<()>();
            let hook = Hook::new(move || gone.recv());
            let entry = add(&future, Tie::Future, hook);
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

    /// An executor that polls inside of `wake`, here on the watchdog or a runner.
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
            .map(|hook| add(&future, Tie::Scope, hook));
        let (ready, is_ready) = channel();
        let task = Waker::from(Arc::new(Inline { node: Arc::clone(&future), ready: Mutex::new(ready) }));
        future.add_waker(&task);
        future.cancel(None);
        // The first poll comes from whoever wakes it.
        crate::thread::post(task);
        is_ready.recv_timeout(HANG).unwrap();
        assert!(entries.iter().all(|entry| entry.fires() == 1));
    }
}
