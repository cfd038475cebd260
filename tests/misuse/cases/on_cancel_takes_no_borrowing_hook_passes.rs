//! The twin: it owns what it uses.

fn main() {
    let count = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let registration = timebox::on_cancel(move || count.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    std::mem::forget(registration);
}
