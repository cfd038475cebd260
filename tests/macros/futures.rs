//! `async fn`, alone, in implementations and in traits.

use std::cell::Cell;
use std::fmt::Display;
use std::future::{Future, pending, ready};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use pollster::block_on;
use timebox::{TimeoutError, future, remaining, timeboxed};

use crate::MyError;

#[timeboxed("5ms")]
async fn endless() -> timebox::Result<()> {
    pending().await
}

#[test]
fn a_future_ends_at_its_limit() {
    let error = block_on(endless()).unwrap_err();
    assert!(error.is_timeout() && !error.settled());
    assert_eq!(error.limit(), Some(Duration::from_millis(5)));
}

#[test]
fn the_limit_begins_with_the_first_poll() {
    let started = Cell::new(false);
    let limit = || {
        started.set(true);
        Duration::from_secs(3600)
    };
    #[timeboxed(limit = limit())]
    async fn waits(limit: impl FnOnce() -> Duration) -> timebox::Result<()> {
        assert!(remaining().is_some());
        pending().await
    }

    let mut waits = pin!(waits(limit));
    assert!(!started.get());
    assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(started.get());
    assert_eq!(remaining(), None);
}

struct Client {
    name: String,
    calls: u32,
}

impl Client {
    #[timeboxed("1m")]
    async fn name(&self) -> timebox::Result<&str> {
        future::sleep(Duration::ZERO).await?;
        Ok(&self.name)
    }

    #[timeboxed("1m")]
    async fn calls(&mut self, more: u32) -> Result<&mut u32, MyError> {
        self.calls += more;
        future::sleep(Duration::ZERO).await?;
        Ok(&mut self.calls)
    }

    #[timeboxed("1m")]
    async fn into_name(self) -> timebox::Result<String> {
        future::sleep(Duration::ZERO).await?;
        Ok(self.name)
    }

    #[timeboxed("1m")]
    async fn either<'a>(&self, one: &'a str, _other: &str) -> timebox::Result<&'a str> {
        ready(()).await;
        Ok(one)
    }
}

trait Fetch {
    async fn fetch(&self, key: &str) -> Result<String, MyError>;

    #[timeboxed("1m")]
    async fn fetch_both(&self, one: &str, other: &str) -> Result<String, MyError> {
        Ok(self.fetch(one).await? + &self.fetch(other).await?)
    }
}

impl Fetch for Client {
    #[timeboxed("1m")]
    async fn fetch(&self, key: &str) -> Result<String, MyError> {
        future::sleep(Duration::ZERO).await?;
        Ok(format!("{}{key}", self.name))
    }
}

#[test]
fn methods_take_self_in_each_form() {
    let mut client = Client { name: "c".into(), calls: 0 };
    block_on(async {
        assert_eq!(client.name().await.unwrap(), "c");
        *client.calls(2).await.unwrap() += 1;
        assert_eq!(client.calls, 3);
        assert_eq!(client.either("one", "other").await.unwrap(), "one");
        assert_eq!(client.fetch("1").await.unwrap(), "c1");
        assert_eq!(client.fetch_both("1", "2").await.unwrap(), "c1c2");
        assert_eq!(client.into_name().await.unwrap(), "c");
    });
}

#[timeboxed("1m")]
async fn of_generics<T, const N: usize>(item: T, (times, mut more): (usize, usize)) -> Result<Vec<T>, MyError>
where
    T: Clone + Send,
{
    more += N;
    future::sleep(Duration::ZERO).await?;
    Ok(vec![item; times + more])
}

#[timeboxed("1m")]
async fn of_an_opaque_type() -> Result<impl Iterator<Item = u32>, MyError> {
    future::sleep(Duration::ZERO).await?;
    Ok(0..3)
}

/// Neither `return` nor the last expression has the type of the trait object.
#[timeboxed("1m")]
async fn of_a_trait_object(text: &str) -> Result<Box<dyn Display + Send>, MyError> {
    if text.is_empty() {
        return Ok(Box::new("empty"));
    }
    let number: u32 = text.parse()?;
    Ok(Box::new(number))
}

#[timeboxed("1m")]
async fn never_fails() -> Result<u32, MyError> {
    Ok(5)
}

#[test]
fn signatures_keep_their_meaning() {
    block_on(async {
        assert_eq!(of_generics::<_, 2>('x', (1, 1)).await.unwrap(), ['x'; 4]);
        assert_eq!(of_an_opaque_type().await.unwrap().sum::<u32>(), 3);
        assert_eq!(of_a_trait_object("").await.unwrap().to_string(), "empty");
        assert_eq!(of_a_trait_object("5").await.unwrap().to_string(), "5");
        assert!(matches!(of_a_trait_object("x").await, Err(MyError::Parse(_))));
        assert_eq!(never_fails().await.unwrap(), 5);
    });
}

#[timeboxed("1m", fallback = |_| Ok(0))]
async fn sum(numbers: Vec<Cell<u32>>) -> timebox::Result<u32> {
    future::sleep(Duration::ZERO).await?;
    Ok(numbers.into_iter().map(|number| number.get()).sum())
}

#[test]
fn a_future_is_send_if_its_body_is() {
    fn is_send<F: Future + Send>(future: F) -> F {
        future
    }
    assert!(block_on(is_send(endless())).is_err());
    let mut client = Client { name: String::new(), calls: 0 };
    assert_eq!(block_on(is_send(client.name())).unwrap(), "");
    block_on(is_send(client.calls(1))).unwrap();
    // A `Cell` may be moved to another thread, but not borrowed by two.
    assert_eq!(block_on(is_send(of_generics::<_, 0>(Cell::new(1), (1, 0)))).unwrap().len(), 1);
    assert_eq!(block_on(is_send(sum(vec![Cell::new(1), Cell::new(2)]))).unwrap(), 3);
}

#[test]
fn a_future_need_not_be_send() {
    #[timeboxed("1m")]
    async fn counts(of: Rc<Cell<u32>>) -> timebox::Result<u32> {
        future::sleep(Duration::ZERO).await?;
        of.set(of.get() + 1);
        Ok(of.get())
    }
    assert_eq!(block_on(counts(Rc::default())).unwrap(), 1);
}

#[test]
fn a_grace_lets_the_future_end_by_itself() {
    #[timeboxed("1ms", grace = "1h")]
    async fn cleans_up() -> Result<&'static str, TimeoutError> {
        match future::sleep(Duration::from_secs(3600)).await {
            Ok(()) => Ok("done"),
            Err(_) => Ok("rolled back"),
        }
    }
    // The future may not even be polled, on a machine that is so slow.
    if let Err(error) = block_on(cleans_up()).map(|outcome| assert_eq!(outcome, "rolled back")) {
        assert!(!error.started());
    }
}
