//! Other attributes above and below.

use std::future::pending;

use timebox::{TimeoutError, checkpoint, remaining, timeboxed};

#[timeboxed("1m")]
#[test]
fn it_may_stand_above_test() -> Result<(), TimeoutError> {
    assert!(remaining().is_some());
    checkpoint()
}

#[test]
#[timeboxed("1m")]
fn it_may_stand_below_test() -> Result<(), TimeoutError> {
    assert!(remaining().is_some());
    checkpoint()
}

#[timeboxed("1h")]
#[tokio::test]
async fn it_stands_above_the_test_of_tokio() -> Result<(), TimeoutError> {
    assert!(remaining().is_some());
    tokio::task::yield_now().await;
    Ok(())
}

#[test]
fn it_stands_above_the_main_of_tokio() {
    #[timeboxed("5ms")]
    #[tokio::main(flavor = "current_thread")]
    async fn hangs() -> timebox::Result<()> {
        pending().await
    }
    let error = hangs().unwrap_err();
    assert!(!error.settled(), "the future was dropped, not the block");
}

/// Documented.
#[timeboxed("1m")]
#[allow(unused_variables)]
#[must_use = "as it was"]
#[inline]
fn documented(#[allow(clippy::needless_pass_by_value)] unused: String) -> timebox::Result<u32> {
    #![allow(unused_mut)]
    //! Inside.
    let mut one = 1;
    Ok(one)
}

#[test]
fn attributes_of_the_function_stay() {
    assert_eq!(documented(String::new()).unwrap(), 1);
}

#[test]
fn attributes_of_conditions_stay() {
    #[cfg(any())]
    #[timeboxed("1m")]
    fn absent() -> timebox::Result<u32> {
        Ok(Missing)
    }
    #[cfg_attr(all(), timeboxed("1m"))]
    fn present() -> timebox::Result<bool> {
        Ok(remaining().is_some())
    }
    assert!(present().unwrap());
}
