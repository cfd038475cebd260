//! Sleeps in futures hear of every end of the scopes that they are polled in.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Poll;
use std::thread;
use std::time::Instant;

use futures::stream::{FuturesUnordered, StreamExt};
use pollster::block_on;
use timebox::{Timebox, future, timeout_value, token};

use crate::runtimes::one_thread;
use crate::support::{LONG, bounded, unhurried};

#[test]
fn a_cancel_reaches_a_sleep_that_began_before_the_token_was_made() {
    let error = bounded(|| {
        block_on(Timebox::new(LONG).grace(LONG).run_future(async {
            // Polls the sleep only when that is woken.
            let mut sleeps = FuturesUnordered::from_iter([future::sleep(LONG)]);
            assert!(futures::poll!(sleeps.next()).is_pending());
            let token = token();
            thread::spawn(move || token.cancel());
            sleeps.next().await.unwrap()
        }))
        .unwrap_err()
    });
    assert!(error.is_cancelled());
    assert!(error.settled());
}

#[test]
fn a_cancel_of_the_scope_around_a_runtime_reaches_a_task_that_slept_before_the_token_was_made() {
    bounded(|| {
        let runtime = one_thread().build().unwrap();
        let polled = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&polled);
        let error = timeout_value(LONG, || {
            runtime.block_on(async {
                let sleeper = tokio::spawn(async move {
                    flag.store(true, SeqCst);
                    future::sleep(LONG).await
                });
                while !polled.load(SeqCst) {
                    tokio::task::yield_now().await;
                }
                let token = token();
                thread::spawn(move || token.cancel());
                sleeper.await.unwrap().unwrap_err()
            })
        })
        .unwrap();
        assert!(error.is_cancelled());
    });
}

#[test]
fn a_sleep_polled_in_an_inner_scope_wakes_its_task_when_that_scope_is_gone() {
    bounded(|| {
        unhurried(|limit| {
            let start = Instant::now();
            let mut sleep = pin!(future::sleep(limit * 2));
            block_on(async {
                let first = poll_fn(|context| Poll::Ready(sleep.as_mut().poll(context).is_pending()));
                if !future::timeout_value(limit, first).await.unwrap() {
                    return None;
                }
                // Not polled before it is due, so the waker it was given in the inner scope must do.
                poll_fn(|context| {
                    if start.elapsed() < limit * 2 {
                        return Poll::Pending;
                    }
                    sleep.as_mut().poll(context).map(Result::unwrap)
                })
                .await;
                Some(())
            })
        });
    });
}
