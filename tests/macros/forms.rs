//! Forms of functions that an expansion could easily break.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use pollster::block_on;
use timebox::{TimeoutError, checkpoint, timeboxed};

use crate::MyError;

struct Bytes(Vec<u8>);

impl Bytes {
    #[timeboxed("1m")]
    fn either<'a, 'b: 'a>(&'a mut self, other: &'b mut [u8]) -> timebox::Result<&'a mut [u8]> {
        if other.is_empty() {
            return Ok(&mut self.0[..]);
        }
        Ok(other)
    }

    #[timeboxed("1m", fallback = |late| Err(Box::from(late)))]
    async fn first(&mut self) -> Result<&mut u8, Box<dyn Error + Send + Sync>> {
        Ok(&mut self.0[0])
    }

    #[timeboxed("1m", fallback = Ok(&self.0))]
    fn whole(&self, mut after: usize) -> timebox::Result<&[u8]> {
        while after > 0 {
            checkpoint()?;
            after -= 1;
        }
        Ok(&self.0)
    }

    #[timeboxed("1m")]
    fn pinned(self: Pin<&mut Self>) -> timebox::Result<usize> {
        let bytes = self.get_mut();
        bytes.0.push(0);
        Ok(bytes.0.len())
    }

    #[timeboxed("1m")]
    async fn shared(self: Arc<Self>) -> timebox::Result<usize> {
        Ok(self.0.len())
    }

    #[timeboxed("1m")]
    fn bytes(&self) -> timebox::Result<impl Iterator<Item = &u8>> {
        Ok(self.0.iter())
    }

    #[timeboxed("1m")]
    fn of_an_opaque_error(&self) -> Result<u8, impl Error + From<TimeoutError> + use<>> {
        self.0.first().copied().ok_or_else(|| io::Error::other("empty"))
    }

    #[timeboxed("1m")]
    fn push_later(&mut self) -> impl Future<Output = timebox::Result<usize>> + Send + use<'_> {
        async {
            self.0.push(1);
            Ok(self.0.len())
        }
    }
}

#[test]
fn borrows_pass_through_the_scope() {
    let mut bytes = Bytes(vec![1, 2]);
    assert_eq!(bytes.either(&mut []).unwrap(), [1, 2]);
    *block_on(bytes.first()).unwrap() = 3;
    assert_eq!(bytes.whole(2).unwrap(), [3, 2]);
    assert_eq!(Pin::new(&mut bytes).pinned().unwrap(), 3);
    assert_eq!(bytes.bytes().unwrap().sum::<u8>(), 5);
    assert_eq!(bytes.of_an_opaque_error().unwrap(), 3);
    assert_eq!(block_on(bytes.push_later()).unwrap(), 4);
    assert_eq!(block_on(Arc::new(bytes).shared()).unwrap(), 4);
}

#[timeboxed("1m")]
async fn of_opaque_arguments(
    text: impl AsRef<str> + Send,
    value: &(impl Debug + ?Sized + Sync),
) -> timebox::Result<String> {
    Ok(format!("{} {value:?}", text.as_ref()))
}

#[timeboxed("1m")]
async fn countdown(from: u32) -> timebox::Result<u32> {
    Ok(if from == 0 { 0 } else { 1 + Box::pin(countdown(from - 1)).await? })
}

type Measure<'a> = Box<dyn Fn(&str) -> usize + 'a>;

#[timeboxed("1m")]
fn of_higher_lifetimes(cut: &dyn for<'x> Fn(&'x str) -> &'x str) -> timebox::Result<Measure<'_>> {
    Ok(Box::new(move |text| cut(text).len()))
}

/// # Safety
///
/// The pointer is valid until the future has ended.
#[timeboxed("1m")]
async unsafe fn of_a_pointer(pointer: *const u8) -> timebox::Result<u8> {
    // SAFETY: the caller's promise.
    Ok(unsafe { *pointer })
}

#[test]
fn async_functions_take_what_others_take() {
    assert_eq!(block_on(of_opaque_arguments("a", "b")).unwrap(), "a \"b\"");
    assert_eq!(block_on(countdown(3)).unwrap(), 3);
    assert_eq!(of_higher_lifetimes(&|text| &text[1..]).unwrap()("cut"), 2);
    // SAFETY: a reference is a valid pointer.
    assert_eq!(block_on(unsafe { of_a_pointer(&7) }).unwrap(), 7);
}

trait Count: Sync {
    #[timeboxed("1m")]
    fn count(&self) -> Result<u32, MyError> {
        Ok(1)
    }

    #[timeboxed("1m")]
    fn sized(&self) -> Result<u32, MyError>
    where
        Self: Sized,
    {
        self.count()
    }

    #[timeboxed("1m")]
    fn later(&self) -> impl Future<Output = Result<u32, MyError>> + Send
    where
        Self: Sized,
    {
        async { self.count() }
    }
}

impl Count for u8 {}

#[test]
fn generic_code_calls_methods_of_traits() {
    fn send_later<T: Count>(of: &T) -> impl Future<Output = Result<u32, MyError>> + Send {
        of.later()
    }
    let object: &dyn Count = &1_u8;
    assert_eq!(object.count().unwrap() + 1_u8.sized().unwrap(), 2);
    assert_eq!(block_on(send_later(&1_u8)).unwrap(), 1);
}

#[timeboxed("1m")]
fn of_items() -> timebox::Result<u32> {
    use std::collections::BTreeMap;
    const ONE: u32 = 1;
    struct Function(u32);
    fn two() -> Function {
        Function(ONE + 1)
    }
    let found = 'outer: loop {
        for number in 0.. {
            if number == 3 {
                break 'outer number;
            }
        }
    };
    Ok(BTreeMap::from([(0, two().0)])[&0] + found)
}

#[timeboxed("1m")]
async fn of_items_later() -> timebox::Result<u32> {
    struct Function(u32);
    fn two() -> Function {
        Function(2)
    }
    let map = HashMap::from([(0, two())]);
    Ok(map[&0].0)
}

macro_rules! with_body {
    ($self_:ident, $output:ty, $body:block) => {
        impl Bytes {
            #[timeboxed("1m")]
            fn by_a_macro(&$self_) -> $output $body

            #[timeboxed("1m")]
            async fn by_a_macro_later(&$self_) -> $output $body
        }
    };
}
with_body!(self, timebox::Result<usize>, { Ok(self.0.len()) });

#[test]
fn bodies_have_items_and_come_from_macros() {
    assert_eq!(of_items().unwrap() + block_on(of_items_later()).unwrap(), 7);
    let bytes = Bytes(vec![1]);
    assert_eq!(bytes.by_a_macro().unwrap() + block_on(bytes.by_a_macro_later()).unwrap(), 2);
}
