/// Identifies a thread among all living threads. The destructors of thread-locals can use it, unlike std's `ThreadId`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadKey(usize);

impl ThreadKey {
    pub(crate) fn current() -> Self {
        thread_local!(static KEY: std::cell::Cell<u8> = const { std::cell::Cell::new(0) });
        #[cfg(timebox_loom)]
        return Self(loom_thread_key());
        #[cfg(not(timebox_loom))]
        KEY.with(|key| Self(std::ptr::from_ref(key).addr()))
    }
}

#[cfg(timebox_loom)]
fn loom_thread_key() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    loom::thread_local!(static KEY: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    KEY.with(|key| *key)
}
