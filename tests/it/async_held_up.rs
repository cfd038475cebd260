//! Awaits that stay pending in a scope that is over, however it ends: held up by a shield, left behind by a poll that
//! blocks, or asked again and again.

use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use futures::StreamExt;
use futures::channel::oneshot;
use futures::stream::FuturesUnordered;
use timebox::{Deadline, TimeoutError, future, is_expired};

use crate::runtimes::one_thread;
use crate::support::{LONG, SHORT, bounded};

type Child<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Waits for the scope around to be over, without an await of this crate.
async fn until_over() {
    while !is_expired() {
        tokio::task::yield_now().await;
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    one_thread().enable_time().build().unwrap().block_on(future)
}

/// Polls the futures in a scope that is over, and that a shield holds up for `held`; then goes on with them outside.
async fn hold_up(children: &mut FuturesUnordered<Child<'_>>, held: Duration) {
    let shielded = async {
        future::shield(LONG, tokio::time::sleep(SHORT + held)).await;
        pending::<()>().await;
    };
    let polled = async { while children.next().await.is_some() {} };
    let result = future::timeout_value(SHORT, async { tokio::join!(polled, shielded) }).await;
    assert!(!result.unwrap_err().settled());
}

#[test]
fn a_scope_that_was_to_be_entered_in_one_that_is_held_up_is_entered_elsewhere() {
    bounded(|| {
        block_on(async {
            let mut children: FuturesUnordered<Child<'_>> = FuturesUnordered::new();
            children.push(Box::pin(async {
                until_over().await;
                future::timeout_value(LONG, async {}).await.unwrap();
            }));
            hold_up(&mut children, SHORT).await;
            // A set polls only those that have been woken.
            while children.next().await.is_some() {}
        });
    });
}

#[test]
fn a_call_that_was_to_be_made_in_a_scope_that_is_held_up_is_made_elsewhere() {
    bounded(|| {
        block_on(async {
            let mut children: FuturesUnordered<Child<'_>> = FuturesUnordered::new();
            children.push(Box::pin(async {
                until_over().await;
                let call = async { Ok::<_, &str>(()) };
                future::interruptible(|| (), call).await.unwrap().unwrap();
            }));
            hold_up(&mut children, SHORT).await;
            while children.next().await.is_some() {}
        });
    });
}

#[test]
fn an_await_whose_own_time_passes_in_a_scope_that_is_held_up_stays_pending() {
    bounded(|| {
        block_on(async {
            let outside = AtomicBool::new(false);
            let mut children: FuturesUnordered<Child<'_>> = FuturesUnordered::new();
            children.push(Box::pin(async {
                until_over().await;
                future::sleep(SHORT / 4).await.unwrap();
                assert!(outside.load(SeqCst));
            }));
            children.push(Box::pin(async {
                until_over().await;
                let never = future::wait(SHORT / 4, pending::<()>()).await;
                assert!(never.is_err() && outside.load(SeqCst));
            }));
            hold_up(&mut children, SHORT * 4).await;
            outside.store(true, SeqCst);
            while children.next().await.is_some() {}
        });
    });
}

#[test]
fn a_loop_of_short_sleeps_in_a_block_on_in_the_middle_of_a_poll_comes_to_its_end() {
    bounded(|| {
        block_on(async {
            let mut slept = 0;
            let result = future::timeout_value(SHORT, async {
                pollster::block_on(async {
                    until_over_sleeping(&mut slept).await;
                    // Over: from now on none is Ok, by however little.
                    assert!(future::sleep(Duration::from_millis(1)).await.is_err());
                    assert!(future::sleep(Duration::ZERO).await.is_err());
                });
                pending::<()>().await;
            });
            assert!(!result.await.unwrap_err().settled());
        });
    });
}

async fn until_over_sleeping(slept: &mut u32) {
    while future::sleep(Duration::from_millis(1)).await.is_ok() {
        *slept += 1;
        assert!(!is_expired() || *slept < 1_000, "it sleeps on in a scope that is over");
    }
}

#[test]
fn a_loop_of_waits_of_no_time_is_dropped_at_the_limit() {
    bounded(|| {
        block_on(async {
            let result: Result<(), _> = future::timeout_value(SHORT, async {
                let mut job = pin!(pending::<()>());
                loop {
                    let _ = future::wait(Duration::ZERO, &mut job).await;
                }
            })
            .await;
            assert!(!result.unwrap_err().settled());
        });
    });
}

#[test]
fn a_loop_of_scopes_that_their_handle_refuses_is_dropped_at_the_limit() {
    bounded(|| {
        block_on(async {
            let over = timebox::with_timeout(LONG, |scope| {
                scope.token().cancel();
                Ok::<_, TimeoutError>(scope.handle())
            });
            let over = over.unwrap();
            let result: Result<(), _> = future::timeout_value(SHORT, async {
                loop {
                    let refused =
                        over.enter_future(None::<Duration>, async { Ok::<_, TimeoutError>(()) }).await;
                    assert!(!refused.unwrap_err().started());
                }
            })
            .await;
            assert!(!result.unwrap_err().settled());
        });
    });
}

#[test]
fn a_task_that_retries_after_its_deadline_can_be_aborted() {
    bounded(|| {
        block_on(async {
            let (begun, begins) = oneshot::channel();
            let task = tokio::spawn(async move {
                let _ = begun.send(());
                let total = Deadline::after(Duration::ZERO);
                loop {
                    let _ = future::timeout_value(total, future::sleep(SHORT)).await;
                }
            });
            begins.await.unwrap();
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        });
    });
}
