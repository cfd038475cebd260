//! A scope ends with its closure: it cannot be carried out.

fn main() {
    let mut kept = None;
    let _ = timebox::with_timeout(timebox::Limit::NONE, |scope| -> timebox::Result<()> {
        kept = Some(scope);
        Ok(())
    });
    drop(kept);
}
