//! Awaits that stay pending in a scope that is over, however it ends: held up by a shield, left behind by a poll that
//! blocks, or asked again and again.

use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

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

/// The awaits that are tested, one of each child.
struct Awaits {
    /// How long they stay pending where the scope is over.
    held: Duration,
    /// How many have been polled after that time.
    were_held: Cell<usize>,
}

impl Awaits {
    fn new(held: Duration) -> Self {
        Self { held, were_held: Cell::new(0) }
    }

    /// Awaits the future in a scope that is over, and polls it there until it was held for long enough.
    async fn await_when_over<F: Future>(&self, future: F) -> F::Output {
        until_over().await;
        let mut future = pin!(future);
        let mut began = None;
        let mut was_held = false;
        poll_fn(|cx| {
            let is_late = began.is_some_and(|began: Instant| began.elapsed() >= self.held);
            let poll = future.as_mut().poll(cx);
            began.get_or_insert_with(Instant::now);
            if was_held {
                return poll;
            }
            if is_late || poll.is_ready() {
                was_held = true;
                self.were_held.update(|held| held + 1);
            } else {
                cx.waker().wake_by_ref();
            }
            poll
        })
        .await
    }
}

/// Polls the futures in a scope that is over, and that a shield holds up until their awaits were held for long enough;
/// then goes on with them outside.
async fn hold_up(children: &mut FuturesUnordered<Child<'_>>, awaits: &Awaits) {
    let all = children.len();
    let shielded = async {
        let hold = async {
            while awaits.were_held.get() < all {
                tokio::task::yield_now().await;
            }
        };
        future::shield(LONG, hold).await;
        pending::<()>().await;
    };
    let polled = async { while children.next().await.is_some() {} };
    let result = future::timeout_value(SHORT, async { tokio::join!(shielded, polled) }).await;
    assert!(!result.unwrap_err().settled());
}

#[test]
fn a_scope_that_was_to_be_entered_in_one_that_is_held_up_is_entered_elsewhere() {
    bounded(|| {
        block_on(async {
            let awaits = Awaits::new(Duration::ZERO);
            let mut children: FuturesUnordered<Child<'_>> = FuturesUnordered::new();
            children.push(Box::pin(async {
                awaits.await_when_over(future::timeout_value(LONG, async {})).await.unwrap();
            }));
            hold_up(&mut children, &awaits).await;
            // A set polls only those that have been woken.
            while children.next().await.is_some() {}
        });
    });
}

#[test]
fn a_call_that_was_to_be_made_in_a_scope_that_is_held_up_is_made_elsewhere() {
    bounded(|| {
        block_on(async {
            let awaits = Awaits::new(Duration::ZERO);
            let mut children: FuturesUnordered<Child<'_>> = FuturesUnordered::new();
            children.push(Box::pin(async {
                let call = async { Ok::<_, &str>(()) };
                awaits.await_when_over(future::interruptible(|| (), call)).await.unwrap().unwrap();
            }));
            hold_up(&mut children, &awaits).await;
            while children.next().await.is_some() {}
        });
    });
}

#[test]
fn an_await_whose_own_time_passes_in_a_scope_that_is_held_up_stays_pending() {
    bounded(|| {
        block_on(async {
            let outside = AtomicBool::new(false);
            let awaits = Awaits::new(SHORT / 2);
            let mut children: FuturesUnordered<Child<'_>> = FuturesUnordered::new();
            children.push(Box::pin(async {
                awaits.await_when_over(future::sleep(SHORT / 4)).await.unwrap();
                assert!(outside.load(SeqCst));
            }));
            children.push(Box::pin(async {
                let never = awaits.await_when_over(future::wait(SHORT / 4, pending::<()>())).await;
                assert!(never.is_err() && outside.load(SeqCst));
            }));
            hold_up(&mut children, &awaits).await;
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
