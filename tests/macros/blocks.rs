//! Functions and methods that are not async.

use std::error::Error;
use std::fmt::{Debug, Display};
use std::time::Duration;

use timebox::{TimeoutError, checkpoint, remaining, timeboxed};

use crate::{MyError, spin};

#[timeboxed("5ms")]
fn endless() -> timebox::Result<()> {
    spin()
}

#[test]
fn a_function_ends_at_its_limit() {
    let error = endless().unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(error.limit(), Some(Duration::from_millis(5)));
}

#[timeboxed("1m 30s")]
fn finds(text: &str, sign: char) -> Result<usize, Box<dyn Error>> {
    if text.is_empty() {
        return Err("nothing there".into());
    }
    for (at, found) in text.char_indices() {
        checkpoint()?;
        if found == sign {
            return Ok(at);
        }
    }
    Err(Box::from("not found"))
}

#[test]
fn the_body_returns_as_it_did() {
    assert_eq!(finds("haystack", 'y').unwrap(), 2);
    assert_eq!(finds("", 'y').unwrap_err().to_string(), "nothing there");
    assert_eq!(finds("haystack", 'z').unwrap_err().to_string(), "not found");
}

#[test]
fn the_body_is_in_the_scope() {
    #[timeboxed("1h")]
    fn left() -> timebox::Result<Option<Duration>> {
        Ok(remaining())
    }
    assert!(left().unwrap().unwrap() <= Duration::from_secs(3600));
    assert_eq!(remaining(), None);
}

#[test]
fn the_error_may_be_of_any_type_that_takes_it_up() {
    #[timeboxed("1ms")]
    fn mine(text: &str) -> Result<u32, MyError> {
        if !text.is_empty() {
            return Ok(text.parse()?);
        }
        Ok(spin()?)
    }
    #[timeboxed("1ms")]
    fn with_anyhow() -> anyhow::Result<u32> {
        Ok(spin()?)
    }
    #[timeboxed("1ms")]
    fn of_io() -> std::io::Result<()> {
        Ok(spin()?)
    }
    #[timeboxed("1ms")]
    fn generic<E: From<TimeoutError>>() -> Result<u32, E> {
        Ok(spin()?)
    }
    type Short<T> = Result<T, MyError>;
    #[timeboxed("1ms")]
    fn alias() -> Short<()> {
        Ok(spin()?)
    }

    assert!(matches!(mine(""), Err(MyError::Timeout(_))));
    assert!(matches!(mine("x"), Err(MyError::Parse(_))));
    assert!(with_anyhow().unwrap_err().is::<TimeoutError>());
    assert_eq!(of_io().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert!(matches!(generic::<MyError>(), Err(MyError::Timeout(_))));
    assert!(alias().is_err());
}

struct Store {
    names: Vec<String>,
    reads: usize,
    limit: Duration,
}

impl Store {
    fn new() -> Self {
        Self { names: vec!["a".into(), "b".into()], reads: 0, limit: Duration::from_secs(60) }
    }

    /// Borrows from `self`.
    #[timeboxed("1m")]
    fn first(&self) -> timebox::Result<&str> {
        checkpoint()?;
        Ok(&self.names[0])
    }

    /// Borrows mutably from `self`.
    #[timeboxed("1m")]
    fn name(&mut self, at: usize) -> Result<&mut String, MyError> {
        self.reads += 1;
        Ok(&mut self.names[at])
    }

    #[timeboxed("1m")]
    fn into_names(mut self) -> timebox::Result<Vec<String>> {
        self.names.push("end".into());
        Ok(self.names)
    }

    /// Of two lifetimes, one.
    #[timeboxed(limit = self.limit)]
    fn longest<'a>(&self, one: &'a str, other: &'a str) -> timebox::Result<&'a str> {
        checkpoint()?;
        Ok(if one.len() > other.len() { one } else { other })
    }

    #[timeboxed("1m")]
    fn boxed(self: Box<Self>) -> timebox::Result<usize> {
        Ok(self.names.len())
    }

    #[timeboxed("1m")]
    fn made() -> timebox::Result<Self> {
        Ok(Self::new())
    }
}

#[test]
fn methods_take_self_in_each_form() {
    let mut store = Store::made().unwrap();
    assert_eq!(store.first().unwrap(), "a");
    store.name(1).unwrap().push('!');
    assert_eq!((store.names[1].as_str(), store.reads), ("b!", 1));
    assert_eq!(store.longest("short", "longer").unwrap(), "longer");
    assert_eq!(Box::new(Store::new()).boxed().unwrap(), 2);
    assert_eq!(store.into_names().unwrap(), ["a", "b!", "end"]);
}

trait Load {
    const KEY: &'static str;

    fn key(&self) -> &'static str {
        Self::KEY
    }

    #[timeboxed("1m")]
    fn load(&self, prefix: &str) -> Result<String, MyError> {
        checkpoint()?;
        Ok(format!("{prefix}{}", self.key()))
    }

    fn store(&mut self, value: String) -> Result<(), MyError>;
}

impl Load for Store {
    const KEY: &'static str = "names";

    #[timeboxed("1m")]
    fn store(&mut self, value: String) -> Result<(), MyError> {
        self.names.push(value);
        Ok(())
    }
}

#[test]
fn traits_have_limits_in_their_defaults_and_implementations() {
    let mut store = Store::new();
    assert_eq!(store.load("the ").unwrap(), "the names");
    store.store("c".into()).unwrap();
    assert_eq!(store.names.len(), 3);
}

struct Point {
    x: u32,
    y: u32,
}

#[timeboxed("1m")]
fn of_patterns(
    (a, mut b): (u32, u32),
    Point { x, y }: Point,
    _: &str,
    [first, ..]: [u32; 3],
) -> timebox::Result<u32> {
    b += 1;
    Ok(a + b + x + y + first)
}

#[timeboxed("1m")]
fn of_generics<'a, T, const N: usize>(
    items: &'a [T; N],
    show: impl Fn(&T) -> String,
) -> timebox::Result<(&'a T, String)>
where
    T: Debug + Ord,
{
    let largest = items.iter().max().expect("not empty");
    Ok((largest, show(largest)))
}

#[timeboxed("1m")]
fn of_an_opaque_type(below: u32) -> Result<impl Iterator<Item = u32> + Clone, MyError> {
    checkpoint()?;
    Ok((0..below).filter(move |number| number % 2 == below % 2))
}

#[timeboxed("1m")]
fn of_a_trait_object(one: bool) -> Result<Box<dyn Display>, MyError> {
    if one {
        return Ok(Box::new(1));
    }
    Ok(Box::new("other"))
}

/// # Safety
///
/// The pointer is valid.
#[timeboxed("1m")]
unsafe fn of_a_pointer(pointer: *const u32) -> timebox::Result<u32> {
    // SAFETY: the caller's promise.
    Ok(unsafe { *pointer })
}

#[test]
fn signatures_keep_their_meaning() {
    assert_eq!(of_patterns((1, 2), Point { x: 10, y: 20 }, "", [100, 0, 0]).unwrap(), 134);
    assert_eq!(of_generics(&[3, 1, 2], |number| format!("<{number}>")).unwrap(), (&3, "<3>".into()));
    assert_eq!(of_an_opaque_type(5).unwrap().collect::<Vec<_>>(), [1, 3]);
    assert_eq!(of_a_trait_object(true).unwrap().to_string(), "1");
    assert_eq!(of_a_trait_object(false).unwrap().to_string(), "other");
    // SAFETY: a reference is a valid pointer.
    assert_eq!(unsafe { of_a_pointer(&7) }.unwrap(), 7);
}

#[timeboxed("1m")]
fn fibonacci(of: u32) -> timebox::Result<u32> {
    Ok(if of < 2 { of } else { fibonacci(of - 1)? + fibonacci(of - 2)? })
}

#[test]
fn a_function_may_call_itself() {
    assert_eq!(fibonacci(10).unwrap(), 55);
}

#[test]
fn arguments_are_moved_into_the_body_and_dropped_in_the_scope() {
    struct AsksOnDrop<'a>(&'a mut Option<Duration>);
    impl Drop for AsksOnDrop<'_> {
        fn drop(&mut self) {
            *self.0 = remaining();
        }
    }
    #[timeboxed("1h")]
    fn takes(asks: AsksOnDrop<'_>) -> timebox::Result<bool> {
        Ok(asks.0.is_none())
    }

    let mut seen = None;
    assert!(takes(AsksOnDrop(&mut seen)).unwrap());
    assert!(seen.is_some());
}

#[test]
fn a_panic_passes_through() {
    #[timeboxed("1m")]
    fn panics(really: bool) -> timebox::Result<()> {
        assert!(!really, "on purpose");
        Ok(())
    }
    let panic = std::panic::catch_unwind(|| panics(true)).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
    assert_eq!(remaining(), None);
    panics(false).unwrap();
}

macro_rules! limited {
    ($name:ident, $limit:literal, $output:ty, $value:expr) => {
        #[timeboxed($limit)]
        fn $name() -> $output {
            let value = $value;
            checkpoint()?;
            Ok(value)
        }
    };
}
limited!(by_a_macro, "1m", Result<u32, MyError>, 2);

#[test]
fn a_macro_may_write_the_function() {
    assert_eq!(by_a_macro().unwrap(), 2);
}

#[test]
fn the_body_does_not_see_variables_of_the_expansion() {
    #[timeboxed("1m", fallback = Ok(outcome + timed_out))]
    fn names(timebox: u32, outcome: u32, timed_out: u32, value: u32, error: u32) -> Result<u32, MyError> {
        Ok(timebox + outcome + timed_out + value + error)
    }
    assert_eq!(names(1, 2, 3, 4, 5).unwrap(), 15);
    #[timeboxed("1m")]
    async fn later(timebox: u32, result: u32) -> Result<u32, MyError> {
        Ok(timebox + result)
    }
    assert_eq!(pollster::block_on(later(1, 2)).unwrap(), 3);
}
