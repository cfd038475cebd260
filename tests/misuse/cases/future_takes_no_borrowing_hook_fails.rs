//! A future may be forgotten, and its hook would then look at a place that is gone.

use std::sync::atomic::{AtomicBool, Ordering};

fn main() {
    let stop = AtomicBool::new(false);
    let hook = timebox::Hook::inline(|| stop.store(true, Ordering::Relaxed));
    let call = timebox::future::interruptible(hook, async { Ok::<_, String>(()) });
    std::mem::forget(call);
}
