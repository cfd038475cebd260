//! A bounded queue with a thread behind it. The thread is started when there is work, and ends when no work has come
//! for `KEEP_ALIVE`. While somebody [holds](Queue::hold) the queue, the thread stays.
//!
//! Invariant: `submitted` is `served + waiting.len()`, plus one while the thread works on an item. Items are served in
//! the order in which they were submitted.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, lock, wait};
use crate::time::clock;

/// A thread with nothing to do waits this long for work, then ends.
const KEEP_ALIVE: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(10) };

pub(super) const CAPACITY: usize = 64;

#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    capacity: usize,
    /// The queue's thread waits here for an item.
    work: Condvar,
    progress: Condvar,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    submitted: u64,
    served: u64,
    /// Whether the queue has a thread, or a thread is being started.
    has_thread: bool,
    /// How many holders the queue has: see [`Queue::hold`].
    holds: usize,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) const fn new(capacity: usize) -> Self {
        let waiting = VecDeque::new();
        let state = State { waiting, submitted: 0, served: 0, has_thread: false, holds: 0, closed: false };
        Self { state: Mutex::new(state), capacity, work: Condvar::new(), progress: Condvar::new() }
    }

    /// Queues the item. If the queue is full, returns the item as an `Err`. `start` must start a thread that calls
    /// [`serve`](Self::serve), and returns `false` if it could not. If so, the item waits until a later call starts
    /// a thread.
    ///
    /// This does not wait until there is room, nor until the item is served. It allocates nothing while somebody
    /// [holds](Self::hold) the queue, because `hold` has made the room.
    pub(super) fn submit(&self, item: T, start: impl FnOnce() -> bool) -> Result<(), T> {
        let mut state = lock(&self.state);
        if state.waiting.capacity() < self.capacity {
            drop(state);
            self.make_room();
            state = lock(&self.state);
        }
        let result = if state.waiting.len() < self.capacity {
            state.waiting.push_back(item);
            state.submitted += 1;
            Ok(())
        } else {
            Err(item)
        };
        let must_start = !std::mem::replace(&mut state.has_thread, true);
        drop(state);
        if must_start {
            self.start(start);
        } else if result.is_ok() {
            self.work.notify_one();
        }
        result
    }

    /// Allocates the room for all items. Does that without the lock, since an allocation may block.
    fn make_room(&self) {
        let mut room = VecDeque::with_capacity(self.capacity);
        let mut state = lock(&self.state);
        // A queue without room has no items, so the swap loses none.
        if state.waiting.capacity() < self.capacity {
            std::mem::swap(&mut state.waiting, &mut room);
        }
        drop(state);
    }

    /// Does in advance what the first [`submit`](Self::submit) would do: makes the room, and starts the thread. The
    /// thread stays until [`release`](Self::release).
    pub(super) fn hold(&self, start: impl FnOnce() -> bool) {
        self.make_room();
        let mut state = lock(&self.state);
        state.holds += 1;
        let must_start = !std::mem::replace(&mut state.has_thread, true);
        drop(state);
        if must_start {
            self.start(start);
        }
    }

    pub(super) fn release(&self) {
        let mut state = lock(&self.state);
        state.holds = state.holds.saturating_sub(1);
        drop(state);
        self.work.notify_one();
    }

    fn start(&self, start: impl FnOnce() -> bool) {
        if !start() {
            lock(&self.state).has_thread = false;
        }
    }

    /// Serves one item after another. Returns if the queue is closed and empty, or if no item has come for
    /// `KEEP_ALIVE`. While the queue is held, it waits for items without a limit.
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
            let timed_out = if state.closed {
                true
            } else if state.holds > 0 {
                state = wait(&self.work, state);
                false
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

    /// Waits until everything that was submitted before this call is served, and returns `true`. Returns `false` if the
    /// time `until` comes first.
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
        let queue = Arc::new(Queue::new(CAPACITY));
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
        let queue = Arc::new(Queue::new(CAPACITY));
        for n in 0..CAPACITY {
            queue.submit(n, || false).unwrap();
        }
        assert_eq!(queue.submit(CAPACITY, || false), Err(CAPACITY), "the queue is full");
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
    fn the_thread_of_a_queue_that_is_held_waits_for_work() {
        let queue = Arc::new(Queue::new(CAPACITY));
        let (sender, served) = channel();
        let (thread, ended) = (Arc::clone(&queue), sender.clone());
        let start = || {
            std::thread::spawn(move || {
                thread.serve(|n| sender.send(Some(n)).unwrap());
                ended.send(None).unwrap();
            });
            true
        };
        queue.hold(start);
        assert!(served.recv_timeout(3 * KEEP_ALIVE).is_err(), "the thread has ended");
        queue.submit(1, || unreachable!("there is a thread")).unwrap();
        assert_eq!(served.recv().unwrap(), Some(1));
        queue.release();
        assert_eq!(served.recv().unwrap(), None);
    }

    #[test]
    fn a_closed_queue_ends_its_thread_once_it_is_empty() {
        let queue = Queue::new(CAPACITY);
        queue.submit(1, || true).unwrap();
        queue.submit(2, || unreachable!()).unwrap();
        queue.close();
        let mut served = Vec::new();
        queue.serve(|n| served.push(n));
        assert_eq!(served, [1, 2]);
    }
}
