//! `future::wait`: it waits a while for a future that goes on.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use timebox::{Timebox, TimeoutError, future, handle, token};

use crate::runtimes::on_each_runtime;
use crate::support::{LONG, SHORT};

on_each_runtime!(
    a_wait_does_not_tell_the_future_of_its_limit,
    a_wait_sees_the_scopes_around_it,
    a_wait_of_no_time_polls_once,
    a_wait_that_is_over_has_ended,
    a_wait_until_an_instant_that_has_passed_tells_since_when,
);

async fn a_wait_does_not_tell_the_future_of_its_limit() {
    let mut job = pin!(async {
        let (handle, token) = (handle(), token());
        future::sleep(SHORT).await?;
        assert!(!token.is_cancelled());
        handle.enter_future(LONG, async { future::sleep(SHORT).await }).await?;
        Ok::<_, TimeoutError>(7)
    });
    let mut beats = 0;
    let result = loop {
        match future::wait(SHORT / 10, &mut job).await {
            Ok(result) => break result,
            Err(error) => {
                assert!(error.is_timeout() && error.settled() && error.started());
                assert_eq!(error.limit(), Some(SHORT / 10));
                assert!(error.elapsed() >= SHORT / 10);
                beats += 1;
            }
        }
    };
    assert_eq!(result.unwrap(), 7);
    assert!(beats > 0);
}

async fn a_wait_sees_the_scopes_around_it() {
    let labels = Timebox::new(LONG).label("request").run_future_value(async {
        future::wait(LONG, async { timebox::remaining() }).await.unwrap().unwrap();
        let error = future::wait(SHORT, pending::<()>()).await.unwrap_err();
        error.chain().map(|scope| scope.label().map(str::to_owned)).collect::<Vec<_>>()
    });
    assert_eq!(labels.await.unwrap(), [None, Some("request".to_owned())]);
}

async fn a_wait_of_no_time_polls_once() {
    assert_eq!(future::wait(Duration::ZERO, async { 7 }).await.unwrap(), 7);
    assert!(future::wait(Duration::ZERO, pending::<()>()).await.unwrap_err().is_timeout());
    let quota = timebox::Quota::new(SHORT);
    assert!(future::wait(&quota, pending::<()>()).await.is_err());
    assert!(quota.is_exhausted());
    assert!(future::wait(&quota, async {}).await.is_ok());
}

async fn a_wait_that_is_over_has_ended() {
    let mut wait = pin!(future::wait(SHORT, pending::<()>()));
    wait.as_mut().await.unwrap_err();
    assert!(poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx))).await.is_pending());
}

async fn a_wait_until_an_instant_that_has_passed_tells_since_when() {
    let instant = Instant::now();
    std::thread::sleep(SHORT);
    let error = future::wait(instant, pending::<()>()).await.unwrap_err();
    assert!(error.is_timeout() && error.overshoot() >= SHORT, "{error:?}");
}
