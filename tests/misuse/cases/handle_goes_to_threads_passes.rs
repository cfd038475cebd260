//! What goes to other threads instead of a scope: its token and its handle.

fn main() {
    let _ = timebox::with_timeout(timebox::Limit::NONE, |scope: &timebox::Scope| -> timebox::Result<()> {
        let (handle, token) = (scope.handle(), scope.token());
        std::thread::scope(|threads| {
            threads.spawn(|| handle.enter(timebox::Limit::NONE, |scope| scope.checkpoint()));
            threads.spawn(|| token.is_cancelled());
        });
        Ok(())
    });
}
