//! Nor can it be looked at from there.

fn shared<T: Sync>(_: &T) {}

fn main() {
    let _ = timebox::with_timeout(timebox::Limit::NONE, |scope| -> timebox::Result<()> {
        shared(scope);
        Ok(())
    });
}
