//! Compiles only as long as a scope is not `Sync`: else the two impls below would both be meant.
//! (The compiler's own refusal lists every private field, and would change with each of them.)

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
