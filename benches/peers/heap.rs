//! The watchdog that is written first: a mutex, a heap, a condition variable, one shared flag per scope.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

const RUNNING: u8 = 0;
const EXPIRED: u8 = 1;
const LEFT: u8 = 2;

/// Whether a scope is over; its body asks, the watchdog writes.
pub(crate) struct Flag(AtomicU8);

impl Flag {
    pub(crate) fn is_expired(&self) -> bool {
        self.0.load(Relaxed) == EXPIRED
    }
}

struct Entry {
    at: Instant,
    flag: Arc<Flag>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

#[derive(Default)]
struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    /// Entries whose scope was left. They go when they come up, or when they are half of the heap: without that, a
    /// heap under short scopes with long limits grows by hundreds of megabytes a second.
    left: usize,
}

/// The one thread, and what it shares with the scopes.
#[derive(Default)]
pub(crate) struct Watchdog {
    queue: Mutex<Queue>,
    earlier: Condvar,
}

impl Watchdog {
    pub(crate) fn get() -> &'static Watchdog {
        static WATCHDOG: OnceLock<&'static Watchdog> = OnceLock::new();
        WATCHDOG.get_or_init(|| {
            let watchdog: &'static Watchdog = Box::leak(Box::default());
            std::thread::spawn(|| watchdog.watch());
            watchdog
        })
    }

    #[inline]
    pub(crate) fn timeout<R>(&self, limit: Duration, body: impl FnOnce(&Flag) -> R) -> R {
        let flag = Arc::new(Flag(AtomicU8::new(RUNNING)));
        self.arm(Instant::now() + limit, Arc::clone(&flag));
        let result = body(&flag);
        flag.0.store(LEFT, Release);
        self.disarm();
        result
    }

    fn arm(&self, at: Instant, flag: Arc<Flag>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let first = queue.heap.peek().is_none_or(|Reverse(entry)| at < entry.at);
        queue.heap.push(Reverse(Entry { at, flag }));
        if first {
            self.earlier.notify_one();
        }
    }

    fn disarm(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.left += 1;
        if queue.left > 64 && queue.left * 2 > queue.heap.len() {
            queue.heap.retain(|Reverse(entry)| entry.flag.0.load(Relaxed) == RUNNING);
            queue.left = 0;
        }
    }

    fn watch(&self) -> ! {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            while let Some(Reverse(entry)) = queue.heap.peek() {
                let left = entry.flag.0.load(Relaxed) == LEFT;
                if !left && entry.at > now {
                    break;
                }
                let entry = queue.heap.pop();
                if left {
                    queue.left = queue.left.saturating_sub(1);
                } else if let Some(Reverse(entry)) = entry {
                    entry.flag.0.store(EXPIRED, Release);
                }
            }
            let next = queue.heap.peek().map(|Reverse(entry)| entry.at - now);
            queue = match next {
                Some(wait) => {
                    self.earlier.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.earlier.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}
