//! The twin: its token and handle may outlive it.

fn main() {
    let mut kept = None;
    let _ = timebox::with_timeout(timebox::Limit::NONE, |scope| -> timebox::Result<()> {
        kept = Some((scope.token(), scope.handle()));
        Ok(())
    });
    drop(kept);
}
