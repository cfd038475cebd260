//! The twin: its token can be looked at from everywhere.

fn shared<T: Sync>(_: &T) {}

fn main() {
    let _ = timebox::with_timeout(timebox::Limit::NONE, |scope| -> timebox::Result<()> {
        shared(&scope.token());
        Ok(())
    });
}
