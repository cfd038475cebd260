//! The twin: a handle goes to the other thread and enters a child there.

fn main() {
    let _ = timebox::with_timeout(timebox::Limit::NONE, |scope: &timebox::Scope| -> timebox::Result<()> {
        let handle = scope.handle();
        std::thread::scope(|threads| {
            threads.spawn(|| handle.enter(timebox::Limit::NONE, |scope| scope.checkpoint()));
        });
        Ok(())
    });
}
