//! The twin: a future's hook owns what it uses; a call's hook may borrow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn main() {
    let stop = Arc::new(AtomicBool::new(false));
    let owned = Arc::clone(&stop);
    let hook = timebox::Hook::inline(move || owned.store(true, Ordering::Relaxed));
    drop(timebox::future::interruptible(hook, async { Ok::<_, String>(()) }));

    let hook = timebox::Hook::inline(|| stop.store(true, Ordering::Relaxed));
    let _ = timebox::interruptible(hook, || Ok::<_, String>(()));
}
