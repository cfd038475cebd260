//! A registration may be forgotten too.

fn main() {
    let count = std::sync::atomic::AtomicU32::new(0);
    let registration = timebox::on_cancel(|| count.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    std::mem::forget(registration);
}
