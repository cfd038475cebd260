//! What `timebox::testing` says of tokio's own mock time: neither clock moves the other. But `timebox::tokio::time`
//! follows tokio's.
//!
//! A package of its own: tokio's feature `test-util` makes its timers slower, and the benches of timebox compare with
//! them. Cargo gives a package the features of those only that are built with it: here all tests (`--workspace`), never
//! the benches.

#![cfg(test)]

use std::time::Duration;

use timebox::testing::MockClock;
use timebox::{future, is_expired};

mod tokio_time;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn paused<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(test)
}

#[test]
fn a_scope_does_not_follow_tokio_s_clock() {
    paused(async {
        let limited = future::timeout_value(HOUR, async {
            tokio::time::sleep(24 * HOUR).await; // tokio moves its clock by itself
            is_expired()
        });
        assert!(!limited.await.unwrap());
    });
}

#[test]
fn tokio_s_timers_do_not_follow_a_mock_clock() {
    paused(async {
        let clock = MockClock::new();
        let slept = tokio::spawn(clock.run(|clock| {
            clock.advance(24 * HOUR);
            async {
                let before = tokio::time::Instant::now();
                tokio::time::sleep(SECOND).await;
                before.elapsed()
            }
        }));
        assert_eq!(slept.await.unwrap(), SECOND);
    });
}

#[test]
fn a_test_that_moves_both_sees_both() {
    paused(async {
        let clock = MockClock::new();
        let limited = clock.run(|_| {
            future::timeout(HOUR, async {
                tokio::time::sleep(SECOND).await;
                future::sleep(2 * HOUR).await
            })
        });
        let task = tokio::spawn(limited);
        tokio::task::yield_now().await;
        tokio::time::advance(SECOND).await;
        clock.advance(SECOND);
        tokio::task::yield_now().await;
        clock.advance(59 * 60 * SECOND + 59 * SECOND);
        assert_eq!(task.await.unwrap().unwrap_err().elapsed(), HOUR);
    });
}
