//! A scope is a place on its thread's stack: another thread can hold a handle to it, not the scope.

fn main() {
    let _ = timebox::with_timeout(timebox::Limit::NONE, |scope: &timebox::Scope| -> timebox::Result<()> {
        std::thread::scope(|threads| {
            threads.spawn(|| scope.checkpoint());
        });
        Ok(())
    });
}
