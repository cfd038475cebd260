//! The twin: what is asked of a scope in `scope_is_not_send_passes.rs` is refused where it does not hold.

trait NotSend<Which> {
    fn holds() {}
}

struct ForAll;
impl<T: ?Sized> NotSend<ForAll> for T {}

struct ForSend;
impl<T: ?Sized + Send> NotSend<ForSend> for T {}

fn main() {
    <timebox::CancellationToken as NotSend<_>>::holds();
}
