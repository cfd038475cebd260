//! An alarm: a thread of this crate sleeps on it until a time, or until another thread rings it.
//!
//! It is an event count: the sleeper takes a key, looks for work, and sleeps unless the alarm was rung since the key
//! was taken. The alarm also records whether the thread runs. This record and the count of rings are in one word. So a
//! thread that rings learns in the same step whether a running thread will notice the ring.

use super::primitive::{AtomicU32, Ordering, const_fn, mutant};

/// A bit of the alarm's word: the thread runs, or is being started.
const RUNNING: u32 = 1;
/// A bit that is set together with `RUNNING` while the thread is being started. The start may fail.
const STARTING: u32 = 2;
/// The bits of the word from this one up count rings.
const RING: u32 = 4;

/// The state of an [`Alarm`] at one moment. A wait with this key ends if the alarm has been rung since that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u32);

#[derive(Debug)]
pub(crate) struct Alarm {
    word: AtomicU32,
    futex: Futex,
}

impl Alarm {
    const_fn! {
        pub(crate) fn new() -> Self {
            Self { word: AtomicU32::new(0), futex: Futex::new() }
        }
    }

    /// The key for [`wait`](Self::wait). Take it before looking for work: then a ring that comes after the look ends
    /// the wait.
    pub(crate) fn key(&self) -> Key {
        // Acquire: pairs with the Release in `ring`, so that a look for work after this call sees the work for which
        // the alarm was rung.
        Key(self.word.load(Ordering::Acquire))
    }

    /// Sleeps until `until` (nanoseconds), or until there has been a ring since `key` was taken. May return earlier.
    pub(crate) fn wait(&self, key: Key, until: u64) {
        self.futex.sleep(&self.word, key.0, until);
    }

    /// Wakes the alarm's thread. Returns `false` if there is no thread, and none is being started.
    pub(crate) fn ring(&self) -> bool {
        // Release: pairs with the Acquire in `key`.
        let before = self.word.fetch_add(RING, Ordering::Release);
        self.futex.wake(&self.word);
        before & RUNNING != 0
    }

    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        // Relaxed: a hint only. A caller that must be sure calls `start`.
        self.word.load(Ordering::Relaxed) & RUNNING != 0
    }

    /// Makes the calling thread the alarm's thread, and returns `true`. `false`: the alarm has a thread, or a thread is
    /// being started for it.
    pub(crate) fn start(&self) -> bool {
        // AcqRel: pairs with `retire`. A thread that starts sees the writes of the thread that retired before it. A
        // thread that retires sees the writes of the threads that called `start` before it.
        self.word.fetch_or(RUNNING, Ordering::AcqRel) & RUNNING == 0
    }

    /// Claims the alarm for a thread that the caller is about to start. Returns `false` if the alarm has a thread, or
    /// another caller is starting one. The alarm is [reliable](Self::is_reliable) once [`started`](Self::started) is
    /// called. If the thread cannot be started, [`forget`](Self::forget) takes the claim back.
    #[cfg(not(timebox_loom))]
    pub(crate) fn claim(&self) -> bool {
        // AcqRel: as in `start`.
        let order = (Ordering::AcqRel, Ordering::Relaxed);
        let claim = |word| (word & RUNNING == 0).then_some(word | RUNNING | STARTING);
        self.word.fetch_update(order.0, order.1, claim).is_ok()
    }

    #[cfg(not(timebox_loom))]
    pub(crate) fn started(&self) {
        // Relaxed: the bit publishes no data. A thread arms its deadline before it reads the bit, and the arm itself
        // makes sure that the watchdog sees the deadline.
        self.word.fetch_and(!STARTING, Ordering::Relaxed);
    }

    /// Whether the thread runs. `false` while the thread is only being started, since the start may fail.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn is_reliable(&self) -> bool {
        // Relaxed: as in `started`.
        self.word.load(Ordering::Relaxed) & (RUNNING | STARTING) == RUNNING
    }

    /// Tries to end the alarm's thread. `true`: recorded that the thread no longer runs. `false`: the alarm has been
    /// rung since `key` was taken, so the thread must go on.
    pub(crate) fn retire(&self, key: Key) -> bool {
        if mutant!(BlindRetire) {
            self.word.fetch_and(!RUNNING, Ordering::AcqRel);
            self.futex.wake(&self.word);
            return true;
        }
        // AcqRel/Acquire: pairs with `start` and `ring`.
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let retired = self.word.compare_exchange(key.0, key.0 & !RUNNING, order.0, order.1).is_ok();
        #[cfg(timebox_loom)]
        self.futex.wake(&self.word);
        retired
    }

    /// Records that no thread runs, even if the alarm has been rung.
    pub(crate) fn forget(&self) {
        self.word.fetch_and(!(RUNNING | STARTING), Ordering::AcqRel);
        #[cfg(timebox_loom)]
        self.futex.wake(&self.word);
    }
}

/// A futex with an absolute time, on the clock of [`super::os::monotonic_nanos`].
#[cfg(all(any(target_os = "linux", target_os = "android"), not(timebox_loom)))]
mod futex {
    use super::AtomicU32;

    #[derive(Debug)]
    pub(super) struct Futex;

    impl Futex {
        pub(super) const fn new() -> Self {
            Self
        }

        #[allow(clippy::unused_self)] // the other `Futex` types use `self`
        pub(super) fn sleep(&self, word: &AtomicU32, key: u32, until: u64) {
            let time = libc::timespec {
                tv_sec: (until / 1_000_000_000).try_into().unwrap_or(i32::MAX.into()),
                #[allow(clippy::cast_possible_wrap, clippy::cast_possible_truncation)] // less than a billion
                tv_nsec: (until % 1_000_000_000) as libc::c_long,
            };
            let command = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
            let no_word = std::ptr::null::<u32>();
            // SAFETY: `word` and `time` live through the call; the fifth argument is not used by this command. The
            // result is not needed, since the caller looks for work after each outcome (woken, timed out, a signal, the
            // word already changed).
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    word.as_ptr(),
                    command,
                    key,
                    &raw const time,
                    no_word,
                    u32::MAX,
                );
            }
        }

        #[allow(clippy::unused_self)]
        pub(super) fn wake(&self, word: &AtomicU32) {
            let command = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
            // SAFETY: this command uses `word` only as an address.
            unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), command, 1) };
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", timebox_loom)))]
mod futex {
    use super::{AtomicU32, Ordering};
    use parking_lot::{Condvar, Mutex};
    use std::time::Duration;

    #[derive(Debug)]
    pub(super) struct Futex {
        lock: Mutex<()>,
        rung: Condvar,
    }

    impl Futex {
        pub(super) const fn new() -> Self {
            Self { lock: Mutex::new(()), rung: Condvar::new() }
        }

        pub(super) fn sleep(&self, word: &AtomicU32, key: u32, until: u64) {
            let mut guard = self.lock.lock();
            // Relaxed: `wake` takes the lock after the word has changed. So either this load sees the change, or `wake`
            // notifies this wait.
            if word.load(Ordering::Relaxed) == key {
                let left = until.saturating_sub(super::super::os::monotonic_nanos());
                self.rung.wait_for(&mut guard, Duration::from_nanos(left));
            }
        }

        pub(super) fn wake(&self, _word: &AtomicU32) {
            drop(self.lock.lock());
            self.rung.notify_one();
        }
    }
}

/// The futex of a loom model, in which time passes only when the model moves it: see `watchdog/model.rs`.
#[cfg(timebox_loom)]
mod futex {
    use super::{AtomicU32, Ordering};
    use loom::sync::{Condvar, Mutex};

    use super::super::model::{now, set_now};

    #[derive(Debug)]
    pub(super) struct Futex {
        /// While the thread sleeps: the key, and the time until which it sleeps.
        asleep: Mutex<Option<(u32, u64)>>,
        changed: Condvar,
    }

    impl Futex {
        pub(super) fn new() -> Self {
            Self { asleep: Mutex::new(None), changed: Condvar::new() }
        }

        pub(super) fn sleep(&self, word: &AtomicU32, key: u32, until: u64) {
            let mut asleep = self.asleep.lock().unwrap();
            *asleep = Some((key, until));
            self.changed.notify_all();
            while word.load(Ordering::Relaxed) == key && now() < until {
                asleep = self.changed.wait(asleep).unwrap();
            }
            *asleep = None;
            self.changed.notify_all();
        }

        pub(super) fn wake(&self, _word: &AtomicU32) {
            let asleep = self.asleep.lock().unwrap();
            self.changed.notify_all();
            drop(asleep);
        }
    }

    impl super::Alarm {
        /// Waits until the thread sleeps and nothing has woken it. Returns the time until which it sleeps; `None` if
        /// the thread has retired.
        pub(crate) fn model_until(&self) -> Option<u64> {
            let mut asleep = self.futex.asleep.lock().unwrap();
            loop {
                match *asleep {
                    Some((key, until)) if now() < until && self.key().0 == key => {
                        return Some(until);
                    }
                    None if !self.is_running() => return None,
                    _ => asleep = self.futex.changed.wait(asleep).unwrap(),
                }
            }
        }

        pub(crate) fn model_advance(&self, time: u64) {
            let asleep = self.futex.asleep.lock().unwrap();
            set_now(time);
            self.futex.changed.notify_all();
            drop(asleep);
        }
    }
}

use futex::Futex;
