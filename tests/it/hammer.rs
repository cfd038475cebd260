//! Everything at once, by chance: nothing hangs, nothing is late, and nothing stays behind.

use std::future::{Future, pending};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use timebox::{
    CancellationToken, Deadline, Handle, Hook, Quota, Timebox, TimeoutError, checkpoint, deadline, future,
    handle, interruptible, on_cancel, shield, timeout, token,
};

use crate::support::{LONG, bounded, let_the_watchdog_pass};

/// A small generator of numbers, the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn limit(&mut self) -> Duration {
        if self.below(4) == 0 { LONG } else { Duration::from_micros(self.below(400)) }
    }
}

/// What the threads share, and pick from.
struct Shared {
    tokens: Mutex<Vec<CancellationToken>>,
    handles: Mutex<Vec<Handle>>,
    quota: Quota,
    /// Hooks that looked at a call that was over.
    late: AtomicU32,
}

impl Shared {
    fn pick<T: Clone>(from: &Mutex<Vec<T>>, chance: &mut Chance) -> Option<T> {
        let from = from.lock().unwrap();
        let index = usize::try_from(chance.below(from.len().max(1) as u64)).unwrap();
        from.get(index).cloned()
    }

    fn leave<T>(to: &Mutex<Vec<T>>, value: T, chance: &mut Chance) {
        let mut to = to.lock().unwrap();
        if to.len() < 16 {
            to.push(value);
        } else {
            let index = usize::try_from(chance.below(16)).unwrap();
            let before = std::mem::replace(&mut to[index], value);
            drop(to);
            drop(before);
        }
    }
}

/// One thing that a program might do in a scope, and others within it.
fn act(shared: &Arc<Shared>, chance: &mut Chance, depth: u32) -> timebox::Result<()> {
    if depth == 0 {
        return checkpoint();
    }
    match chance.below(12) {
        0 => timeout(chance.limit(), || act(shared, chance, depth - 1)),
        1 => shield(chance.limit(), || act(shared, chance, depth - 1)),
        2 => timeout(&shared.quota, || act(shared, chance, depth - 1)),
        3 => timebox::sleep(Duration::from_micros(chance.below(200))),
        4 => {
            Shared::leave(&shared.tokens, token(), chance);
            Shared::leave(&shared.handles, handle(), chance);
            act(shared, chance, depth - 1)
        }
        5 => {
            if let Some(token) = Shared::pick(&shared.tokens, chance) {
                token.cancel();
            }
            act(shared, chance, depth - 1)
        }
        6 => match Shared::pick(&shared.handles, chance) {
            Some(handle) => handle.enter(chance.limit(), |_| act(shared, chance, depth - 1)),
            None => Ok(()),
        },
        7 => {
            let child = Shared::pick(&shared.tokens, chance).unwrap_or_default().child_token();
            let inner = Timebox::new(chance.limit()).cancel_on(&child);
            inner.run(|_| act(shared, chance, depth - 1))
        }
        8 | 9 => {
            let in_the_call = AtomicBool::new(true);
            let look = || {
                shared.late.fetch_add(u32::from(!in_the_call.load(SeqCst)), SeqCst);
            };
            let hook = if chance.below(2) == 0 { Hook::inline(look) } else { Hook::new(look) };
            let called = interruptible(hook.every(Duration::ZERO), || act(shared, chance, depth - 1));
            in_the_call.store(false, SeqCst);
            called?
        }
        10 => {
            let registration = on_cancel(|| ());
            let result = act(shared, chance, depth - 1);
            if chance.below(2) == 0 {
                drop(registration);
            } else {
                std::mem::forget(registration);
            }
            result
        }
        _ => {
            let mut bounded = Box::pin(future::timeout_value(chance.limit(), pending::<()>()));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..chance.below(3) {
                if bounded.as_mut().poll(&mut context).is_ready() {
                    break;
                }
            }
            act(shared, chance, depth - 1)
        }
    }
}

#[test]
fn everything_at_once_ends_and_leaves_nothing_behind() {
    bounded(|| {
        let shared = Arc::new(Shared {
            tokens: Mutex::default(),
            handles: Mutex::default(),
            quota: Quota::new(LONG),
            late: AtomicU32::new(0),
        });
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let mut chance = Chance(seed);
                    for _ in 0..if cfg!(miri) { 10 } else { 4000 } {
                        let limit = chance.limit();
                        let _ = timeout(limit, || act(&shared, &mut chance, 8));
                        assert_eq!(deadline(), Deadline::NEVER);
                        assert!(checkpoint().is_ok());
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let_the_watchdog_pass();
        assert_eq!(shared.late.load(SeqCst), 0);
        // Nobody is inside the quota any more.
        let left = shared.quota.remaining();
        thread::sleep(Duration::from_millis(2));
        assert_eq!(shared.quota.remaining(), left);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}
