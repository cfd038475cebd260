//! The label of a function's scope.

use std::future::Future;
use std::pin::Pin;

use pollster::block_on;
use timebox::{TimeoutError, timeboxed};

use crate::spin;

#[timeboxed("1ms")]
fn free() -> timebox::Result<()> {
    spin()
}

#[timeboxed("1ms")]
async fn later() -> timebox::Result<()> {
    spin()
}

#[timeboxed("1ms")]
fn boxed() -> Pin<Box<dyn Future<Output = timebox::Result<()>>>> {
    Box::pin(async { spin() })
}

#[timeboxed("1ms")]
fn generic<T>(_: T) -> timebox::Result<()> {
    spin()
}

struct Client<T>(T);

impl<T> Client<T> {
    #[timeboxed("1ms")]
    fn method(&self) -> timebox::Result<&T> {
        spin()?;
        Ok(&self.0)
    }

    #[timeboxed("1ms")]
    async fn later(&self) -> timebox::Result<()> {
        spin()
    }
}

trait Load {
    fn load(&self) -> timebox::Result<()>;

    #[timeboxed("1ms")]
    fn by_default(&self) -> timebox::Result<()> {
        spin()
    }
}

impl Load for Client<u8> {
    #[timeboxed("1ms")]
    fn load(&self) -> timebox::Result<()> {
        spin()
    }
}

#[track_caller]
fn assert_label<T>(result: Result<T, TimeoutError>, label: &str) {
    assert_eq!(result.err().unwrap().label(), Some(label));
}

#[test]
fn it_is_the_path_of_the_function() {
    #[timeboxed("1ms")]
    fn nested() -> timebox::Result<()> {
        spin()
    }

    assert_label(free(), concat!(module_path!(), "::free"));
    assert_label(block_on(later()), "macros::label::later");
    assert_label(block_on(boxed()), "macros::label::boxed");
    assert_label(generic(1), "macros::label::generic");
    assert_label(nested(), "macros::label::it_is_the_path_of_the_function::nested");

    let client = Client(1_u8);
    let generic = client.method().unwrap_err();
    // How the parameter is written is up to the compiler.
    let parts = generic.label().unwrap().split(['<', '>']).collect::<Vec<_>>();
    assert!(matches!(parts[..], ["macros::label::Client", _, "::method"]), "{parts:?}");
    let later = block_on(client.later()).unwrap_err();
    assert!(later.label().unwrap().ends_with(">::later"), "{later}");
    assert_label(client.load(), "<macros::label::Client<u8> as macros::label::Load>::load");
    assert_label(client.by_default(), "macros::label::Load::by_default");
}

#[test]
fn it_may_be_any_expression() {
    #[timeboxed("1ms", label = "fixed")]
    fn fixed() -> timebox::Result<()> {
        spin()
    }
    #[timeboxed("1ms", label = format!("load {id}"))]
    async fn load(id: u32) -> timebox::Result<()> {
        spin()
    }
    assert_label(fixed(), "fixed");
    assert_label(block_on(load(7)), "load 7");
}

#[test]
fn the_scope_is_opened_at_the_attribute() {
    let line = line!() + 1;
    #[timeboxed("1ms")]
    fn here() -> timebox::Result<()> {
        spin()
    }
    let opened = here().unwrap_err().location();
    assert_eq!((opened.file(), opened.line()), (file!(), line));
}

#[test]
fn with_track_caller_the_scope_is_opened_at_the_call() {
    #[timeboxed("1ms")]
    #[track_caller]
    fn tracked() -> timebox::Result<()> {
        spin()
    }
    let line = line!() + 1;
    let opened = tracked().unwrap_err().location();
    assert_eq!(opened.line(), line);
}
