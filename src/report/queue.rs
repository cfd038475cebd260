//! A bounded queue with a thread behind it. The thread is started when there is work, and ends when there was none for
//! long.
//!
//! Invariant: `submitted` is `served + waiting.len()`, plus one while the thread works on an item. Items are served in
//! the order in which they were submitted.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, lock};
use crate::time::clock;

/// A thread with nothing to do waits this long for work, then ends. Shorter in tests.
const KEEP_ALIVE: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(10) };

/// How many items may wait.
pub(super) const CAPACITY: usize = 64;

#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    /// The queue's thread waits here for an item.
    work: Condvar,
    progress: Condvar,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    submitted: u64,
    served: u64,
    /// Whether the queue has a thread, or one is being started.
    has_thread: bool,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) const fn new() -> Self {
        let state =
            State { waiting: VecDeque::new(), submitted: 0, served: 0, has_thread: false, closed: false };
        Self { state: Mutex::new(state), work: Condvar::new(), progress: Condvar::new() }
    }

    /// Queues the item. If the queue is full, gives the item back. `start` starts a thread that calls
    /// [`serve`](Self::serve), and returns whether it could. If it could not, the item waits for the next try.
    ///
    /// This waits for nobody, and allocates nothing once there is a thread.
    pub(super) fn submit(&self, item: T, start: impl FnOnce() -> bool) -> Result<(), T> {
        let mut state = lock(&self.state);
        if state.waiting.len() >= CAPACITY {
            return Err(item);
        }
        if state.waiting.capacity() < CAPACITY {
            state.waiting.reserve_exact(CAPACITY);
        }
        state.waiting.push_back(item);
        state.submitted += 1;
        let must_start = !std::mem::replace(&mut state.has_thread, true);
        drop(state);
        if must_start {
            self.start(start);
        } else {
            self.work.notify_one();
        }
        Ok(())
    }

    fn start(&self, start: impl FnOnce() -> bool) {
        if !start() {
            lock(&self.state).has_thread = false;
        }
    }

    /// Serves one item after another, until there was none for long, or the queue is closed and empty.
    pub(super) fn serve(&self, mut serve: impl FnMut(T)) {
        let mut state = lock(&self.state);
        loop {
            if let Some(item) = state.waiting.pop_front() {
                drop(state);
                serve(item);
                state = lock(&self.state);
                state.served += 1;
                self.progress.notify_all();
                continue;
            }
            let closed = state.closed;
            let timed_out = if closed {
                true
            } else {
                let (woken, timeout) =
                    self.work.wait_timeout(state, KEEP_ALIVE).unwrap_or_else(PoisonError::into_inner);
                state = woken;
                timeout.timed_out()
            };
            if timed_out && state.waiting.is_empty() {
                state.has_thread = false;
                return;
            }
        }
    }

    /// Lets the queue's thread end once it has served all that was submitted.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.work.notify_one();
    }

    /// Waits until everything that was submitted before this call is served. `false` if the time `until` comes first.
    pub(super) fn wait(&self, until: u64, start: impl FnOnce() -> bool) -> bool {
        let mut state = lock(&self.state);
        let target = state.submitted;
        if state.served < target && !std::mem::replace(&mut state.has_thread, true) {
            drop(state);
            self.start(start);
            state = lock(&self.state);
        }
        while state.served < target {
            let left = until.saturating_sub(clock::real_now());
            if left == 0 {
                return false;
            }
            let left = Duration::from_nanos(left);
            state = self.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    fn never() -> u64 {
        clock::real_now() + 60_000_000_000
    }

    #[test]
    fn a_thread_ends_without_work_and_another_begins_with_it() {
        let queue = Arc::new(Queue::new());
        let (ended, ends) = channel();
        let (sender, served) = channel();
        for n in 0..3 {
            let (thread, sender, ended) = (Arc::clone(&queue), sender.clone(), ended.clone());
            let start = || {
                std::thread::spawn(move || {
                    thread.serve(|n: u32| sender.send(n).unwrap());
                    ended.send(()).unwrap();
                });
                true
            };
            queue.submit(n, start).unwrap();
            ends.recv().unwrap();
        }
        assert_eq!(served.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert!(queue.wait(0, || unreachable!()));
    }

    #[test]
    fn work_waits_for_a_thread_that_cannot_be_had() {
        let queue = Arc::new(Queue::new());
        for n in 0..CAPACITY {
            queue.submit(n, || false).unwrap();
        }
        assert_eq!(queue.submit(CAPACITY, || unreachable!("the queue is full")), Err(CAPACITY));
        assert!(!queue.wait(clock::real_now(), || false));
        let (sender, served) = channel();
        let thread = Arc::clone(&queue);
        let start = || {
            std::thread::spawn(move || thread.serve(|n| sender.send(n).unwrap()));
            true
        };
        assert!(queue.wait(never(), start));
        assert!(served.try_iter().eq(0..CAPACITY));
    }

    #[test]
    fn a_closed_queue_ends_its_thread_once_it_is_empty() {
        let queue = Queue::new();
        queue.submit(1, || true).unwrap();
        queue.submit(2, || unreachable!()).unwrap();
        queue.close();
        let mut served = Vec::new();
        queue.serve(|n| served.push(n));
        assert_eq!(served, [1, 2]);
    }
}
