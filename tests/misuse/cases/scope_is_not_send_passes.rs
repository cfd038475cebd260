//! Compiles only as long as a scope is not `Send`: else the two impls below would both be meant.
//! (The compiler's own refusal lists every private field, and would change with each of them.)

trait NotSend<Which> {
    fn holds() {}
}

struct ForAll;
impl<T: ?Sized> NotSend<ForAll> for T {}

struct ForSend;
impl<T: ?Sized + Send> NotSend<ForSend> for T {}

fn main() {
    <timebox::Scope as NotSend<_>>::holds();
}
