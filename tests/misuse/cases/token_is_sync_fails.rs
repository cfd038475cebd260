//! The twin: what is asked of a scope in `scope_is_not_sync_passes.rs` is refused where it does not hold.

trait NotSync<Which> {
    fn holds() {}
}

struct ForAll;
impl<T: ?Sized> NotSync<ForAll> for T {}

struct ForSync;
impl<T: ?Sized + Sync> NotSync<ForSync> for T {}

fn main() {
    <timebox::CancellationToken as NotSync<_>>::holds();
}
