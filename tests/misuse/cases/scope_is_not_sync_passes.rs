//! Compiles only as long as a scope is not `Sync`: else the two impls below would both be meant.
//! (What the compiler says of it is in `scope_goes_to_no_thread_fails`.)

trait NotSync<Which> {
    fn holds() {}
}

struct ForAll;
impl<T: ?Sized> NotSync<ForAll> for T {}

struct ForSync;
impl<T: ?Sized + Sync> NotSync<ForSync> for T {}

fn main() {
    <timebox::Scope as NotSync<_>>::holds();
}
