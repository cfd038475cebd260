//! The argument `fallback`.

use std::cell::Cell;
use std::future::pending;
use std::time::Duration;

use pollster::block_on;
use timebox::{Limit, TimeoutError, checkpoint, remaining, timeboxed};

use crate::{MyError, spin};

struct Cache {
    last: String,
    calls: Cell<u32>,
}

impl Cache {
    fn last(&self, timed_out: &TimeoutError) -> String {
        assert!(timed_out.is_timeout());
        self.calls.set(self.calls.get() + 1);
        self.last.clone()
    }

    #[timeboxed("1ms", fallback = |timed_out| Ok(self.last(&timed_out)))]
    fn of_a_closure(&self) -> Result<String, MyError> {
        Ok(spin()?)
    }

    /// The body borrows mutably what the fallback uses.
    #[timeboxed("1ms", fallback = |timed_out| Ok(self.last(&timed_out) + &key))]
    fn of_what_the_body_borrows(&mut self, key: String) -> Result<String, MyError> {
        self.last.push_str(&key);
        Ok(spin()?)
    }

    #[timeboxed("1ms", fallback = |timed_out| Ok(self.last(&timed_out) + &key))]
    async fn of_a_future(&mut self, key: String) -> Result<String, MyError> {
        self.last.push_str(&key);
        pending().await
    }
}

#[test]
fn it_runs_at_the_limit_after_the_scope_has_been_left() {
    #[timeboxed("1ms", fallback = |_| Ok(remaining()))]
    fn leaves() -> timebox::Result<Option<Duration>> {
        spin()
    }
    assert_eq!(leaves().unwrap(), None);
}

#[test]
fn it_sees_the_arguments() {
    let mut cache = Cache { last: "old".into(), calls: Cell::new(0) };
    assert_eq!(cache.of_a_closure().unwrap(), "old");
    assert!(cache.of_what_the_body_borrows("1".into()).unwrap().ends_with('1'));
    assert!(block_on(cache.of_a_future("2".into())).unwrap().ends_with('2'));
    assert_eq!(cache.calls.get(), 3);
}

#[test]
fn it_may_be_a_function_or_a_value() {
    fn no_answer(timed_out: TimeoutError) -> anyhow::Result<u32> {
        Err(anyhow::Error::new(timed_out).context("no answer"))
    }
    #[timeboxed("1ms", fallback = no_answer)]
    fn of_a_function() -> anyhow::Result<u32> {
        Ok(spin()?)
    }
    #[timeboxed("1ms", fallback = Ok(text.len()))]
    fn of_a_value(text: &str) -> Result<usize, MyError> {
        Ok(spin()?)
    }
    #[timeboxed("1ms", fallback = Ok(text.parse()?))]
    async fn of_a_value_that_fails(text: &str) -> Result<u32, MyError> {
        pending().await
    }

    assert_eq!(of_a_function().unwrap_err().to_string(), "no answer");
    assert_eq!(of_a_value("text").unwrap(), 4);
    assert!(matches!(block_on(of_a_value_that_fails("text")), Err(MyError::Parse(_))));
}

#[test]
fn it_does_not_run_for_other_results() {
    #[timeboxed("1m", fallback = |_| unreachable!("it is in time"))]
    fn parse(text: &str) -> Result<u32, MyError> {
        checkpoint()?;
        Ok(text.parse()?)
    }
    #[timeboxed("1m", fallback = |_| unreachable!("it is in time"))]
    async fn parse_later(text: &str) -> Result<u32, MyError> {
        Ok(text.parse()?)
    }
    assert_eq!(parse("5").unwrap(), 5);
    assert!(matches!(parse("x"), Err(MyError::Parse(_))));
    assert_eq!(block_on(parse_later("5")).unwrap(), 5);
    assert!(matches!(block_on(parse_later("x")), Err(MyError::Parse(_))));
}

#[test]
fn the_expiry_of_an_outer_scope_passes_it() {
    #[timeboxed(limit = Limit::NONE, fallback = |_| unreachable!("it is not its own limit"))]
    fn inner() -> timebox::Result<u32> {
        spin()
    }
    #[timeboxed("1ms", label = "outer")]
    fn outer() -> timebox::Result<u32> {
        inner()
    }
    assert_eq!(outer().unwrap_err().label(), Some("outer"));
}
