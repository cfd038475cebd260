//! What an await does in a scope that is over: without a grace the scope ends the future, not the await.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use timebox::{CancellationToken, Handle, Limit, Timebox, TimeoutError, future, handle, on_cancel, token};

use crate::runtimes::{on_each_runtime, one_thread, yield_now};
use crate::support::{
    LONG, SHORT, bounded, counting_on_a_runner, next, poll_once, unhurried, unhurried_future,
};

on_each_runtime!(
    a_loop_that_ignores_its_errors_is_dropped_at_the_limit,
    a_loop_that_ignores_its_errors_is_dropped_after_a_cancel,
    a_loop_that_ignores_its_errors_outlives_no_grace,
    retries_within_a_total_end_with_the_total,
    a_timer_that_is_polled_under_short_limits_does_not_fire_early,
    a_body_does_not_run_on_after_an_await,
    each_branch_that_waited_gets_the_error_in_a_grace,
    an_await_that_begins_in_a_grace_gives_the_error,
    shields_that_follow_each_other_end_with_the_longest,
    a_shield_begins_also_when_the_scope_is_over,
    what_a_handle_entered_has_the_grace_of_its_scopes,
    what_a_handle_entered_has_a_grace_of_its_own,
    what_a_handle_entered_is_cut_off_at_the_end_of_the_grace,
    a_block_on_in_the_middle_of_a_poll_comes_to_its_end,
);

/// Ticks in a loop that takes no notice of errors, as code does that was written for another timer.
async fn tick_for_ever(ticks: Arc<AtomicU32>) -> Result<(), TimeoutError> {
    loop {
        let _ = future::sleep(SHORT / 10).await;
        ticks.fetch_add(1, SeqCst);
    }
}

async fn a_loop_that_ignores_its_errors_is_dropped_at_the_limit() {
    let error = future::timeout(SHORT, tick_for_ever(Arc::default())).await.unwrap_err();
    assert_eq!((error.limit(), error.settled()), (Some(SHORT), false));
}

async fn a_loop_that_ignores_its_errors_is_dropped_after_a_cancel() {
    let ticks = Arc::new(AtomicU32::new(0));
    let cancels = poll_fn(|_| {
        if ticks.load(SeqCst) >= 3 {
            token().cancel();
        }
        Poll::<()>::Pending
    });
    // The token is polled beside the loop, whose ticks wake both.
    let both = async { tokio::join!(tick_for_ever(Arc::clone(&ticks)), cancels) };
    let error = future::timeout_value(LONG, both).await.unwrap_err();
    assert!(error.is_cancelled() && !error.settled());
}

async fn a_loop_that_ignores_its_errors_outlives_no_grace() {
    let ticks = Arc::new(AtomicU32::new(0));
    let limited = Timebox::new(SHORT).grace(SHORT).run_future(tick_for_ever(Arc::clone(&ticks)));
    let error = limited.await.unwrap_err();
    assert!(!error.settled() && error.overshoot() >= SHORT);
    // Its ticks come no faster than its sleeps, but for one that ends early.
    let most = 2 * SHORT.as_micros() / (SHORT / 10).as_micros() + 1;
    assert!(error.overshoot() > 2 * SHORT || u128::from(ticks.load(SeqCst)) <= most, "{ticks:?}");
}

async fn retries_within_a_total_end_with_the_total() {
    unhurried_future(|limit| async move {
        let (mut attempts, mut begun) = (0, 0);
        let result = future::timeout(limit, async {
            loop {
                attempts += 1;
                let attempt = future::timeout(limit / 2, async {
                    begun += 1;
                    // The executor is late, for this limit and the total.
                    thread::sleep(limit + limit / 2);
                    pending::<Result<(), TimeoutError>>().await
                });
                if attempt.await.is_ok() {
                    return Ok::<_, TimeoutError>(());
                }
            }
        });
        let error = result.await.unwrap_err();
        assert_eq!(error.limit(), Some(limit));
        assert!(attempts <= 2 && begun <= 1, "the second does not begin");
        // On a busy machine the limit of the first may be later than the total.
        (attempts == 2 && begun == 1).then_some(())
    })
    .await;
}

async fn a_timer_that_is_polled_under_short_limits_does_not_fire_early() {
    let mut keep_alive = pin!(future::sleep(LONG));
    for _ in 0..5 {
        let event = async {
            let _ = keep_alive.as_mut().await;
            unreachable!("it is not its time");
        };
        let error = future::timeout_value(SHORT / 4, event).await.unwrap_err();
        assert!(error.is_timeout());
    }
}

async fn a_body_does_not_run_on_after_an_await() {
    let runs_on = || unreachable!("somebody else's limit has passed");
    let bodies: [Pin<Box<dyn Future<Output = ()> + Send>>; 4] = [
        Box::pin(async move {
            let _ = future::sleep(LONG).await;
            runs_on();
        }),
        Box::pin(async move {
            thread::sleep(SHORT * 2);
            let _ = future::timeout_value(LONG, async {}).await;
            runs_on();
        }),
        Box::pin(async move {
            thread::sleep(SHORT * 2);
            let _ = future::interruptible(|| (), async { Ok::<_, TimeoutError>(()) }).await;
            runs_on();
        }),
        Box::pin(async move {
            let _ = future::wait(LONG, pending::<()>()).await;
            runs_on();
        }),
    ];
    for body in bodies {
        let error = future::timeout_value(SHORT, body).await.unwrap_err();
        assert!(error.is_timeout() && error.started() && !error.settled());
    }
}

async fn each_branch_that_waited_gets_the_error_in_a_grace() {
    let branch = || async { future::sleep(LONG).await.unwrap_err() };
    let all = Timebox::new(LONG).grace(LONG).run_future_value(async {
        // When all of them wait.
        let cancel = async {
            yield_now().await;
            token().cancel();
        };
        tokio::join!(branch(), branch(), branch(), cancel)
    });
    let (a, b, c, ()) = all.await.unwrap();
    assert!(a.is_cancelled() && b.is_cancelled() && c.is_cancelled());
}

async fn an_await_that_begins_in_a_grace_gives_the_error() {
    let body = Timebox::new(SHORT).grace(LONG).run_future_value(async {
        thread::sleep(SHORT * 2);
        future::sleep(LONG).await.unwrap_err()
    });
    assert!(body.await.unwrap().is_timeout());
}

/// In one poll a scope gives one error to what begins in it: a loop leaves its poll.
#[test]
fn in_one_poll_one_await_that_begins_gives_the_error() {
    let mut errors = 0;
    let mut polls = 0;
    {
        let mut limited = pin!(Timebox::new(LONG).grace(LONG).run_future_value(async {
            token().cancel();
            loop {
                future::sleep(LONG).await.unwrap_err();
                errors += 1;
            }
        }));
        for _ in 0..10 {
            polls += 1;
            assert!(poll_once(limited.as_mut()).is_pending());
        }
    }
    assert_eq!(errors, polls);
}

#[test]
fn a_future_that_was_pending_in_a_scope_that_is_over_goes_on_elsewhere() {
    bounded(|| {
        let mut sleep = pin!(future::sleep(SHORT));
        let under = future::timeout_value(LONG, async {
            token().cancel();
            sleep.as_mut().await
        });
        assert!(pollster::block_on(under).unwrap_err().is_cancelled());
        pollster::block_on(sleep).unwrap();
    });
}

#[test]
fn around_a_block_on_each_await_gives_the_error() {
    bounded(|| {
        let error = timebox::timeout(SHORT, || {
            pollster::block_on(async {
                for _ in 0..3 {
                    future::sleep(LONG).await.unwrap_err();
                    let refused = future::timeout_value(LONG, async {}).await.unwrap_err();
                    assert!(!refused.started());
                }
                let branch = || async { future::sleep(LONG).await.unwrap_err() };
                tokio::join!(branch(), branch(), branch());
                future::sleep(LONG).await
            })
        });
        assert_eq!(error.unwrap_err().limit(), Some(SHORT));
    });
}

/// A block cannot end a loop; but what runs beside that has its turns.
#[test]
fn around_a_block_on_a_loop_leaves_room_for_others() {
    bounded(|| {
        let ended = timebox::timeout_value(SHORT, || {
            pollster::block_on(async {
                let mut beside = pin!(async {
                    while timebox::checkpoint().is_ok() {
                        yield_now().await;
                    }
                    for _ in 0..10 {
                        yield_now().await;
                    }
                });
                let mut ticks = pin!(tick_for_ever(Arc::default()));
                poll_fn(|cx| {
                    assert!(ticks.as_mut().poll(cx).is_pending());
                    beside.as_mut().poll(cx)
                })
                .await;
            });
        });
        ended.unwrap();
    });
}

/// Each holds up the scope for as long as it may, but from the end of the scope on.
async fn shields_that_follow_each_other_end_with_the_longest() {
    unhurried_future(|limit| async move {
        let error = future::timeout_value(limit, async {
            loop {
                // On a busy machine it is the shield that ends it.
                let _ = future::shield(limit * 2, future::sleep(limit / 10)).await;
            }
        });
        let error = error.await.unwrap_err();
        assert!(!error.settled());
        // On a busy machine it may not have been polled from before its end until that of the shield that was open
        // then.
        (error.overshoot() >= limit * 2).then_some(())
    })
    .await;
}

async fn a_shield_begins_also_when_the_scope_is_over() {
    let value = future::timeout_value(LONG, async {
        token().cancel();
        future::shield(LONG, future::sleep(SHORT)).await.unwrap();
        "rolled back"
    });
    assert_eq!(value.await.unwrap(), "rolled back");
}

/// Runs a future beside the others; `None` if it was cut off.
fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> impl Future<Output = T> {
    let (send, receive) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        let _ = send.send(pollster::block_on(future));
    });
    async { receive.await.expect("it has an output") }
}

async fn what_a_handle_entered_has_the_grace_of_its_scopes() {
    let request = Timebox::new(SHORT).grace(LONG).run_future_value(async {
        let query = handle().enter_future(None::<Duration>, async {
            let error = future::sleep(LONG).await.unwrap_err();
            // Rolls back.
            for _ in 0..10 {
                yield_now().await;
            }
            Err::<(), _>(error)
        });
        spawn(query).await
    });
    let error = request.await.unwrap().unwrap_err();
    assert!(error.settled());
    assert_eq!(error.limit(), Some(SHORT));
}

async fn what_a_handle_entered_has_a_grace_of_its_own() {
    let (send, query) = tokio::sync::oneshot::channel();
    let error = future::timeout_value(SHORT, async {
        let query = Timebox::new(None::<Duration>).grace(LONG).within(&handle()).run_future(async {
            let error = future::sleep(LONG).await.unwrap_err();
            yield_now().await;
            Err::<(), _>(error)
        });
        let _ = send.send(spawn(query));
        pending::<()>().await;
    });
    assert!(!error.await.unwrap_err().settled());
    let error = query.await.unwrap().await.unwrap_err();
    assert!(error.settled());
    assert_eq!(error.limit(), Some(SHORT));
}

async fn what_a_handle_entered_is_cut_off_at_the_end_of_the_grace() {
    let mut limit = SHORT;
    let error = loop {
        let request = Timebox::new(limit).grace(limit).run_future_value(async {
            let query = Timebox::new(None::<Duration>).label("query").within(&handle());
            let query = query.run_future(tick_for_ever(Arc::default()));
            future::shield(LONG, spawn(query)).await
        });
        let error = request.await.unwrap().unwrap_err();
        if error.started() {
            break error;
        }
        // A busy machine: it was over before the query's thread began.
        limit *= 4;
    };
    assert!(!error.settled() && error.overshoot() >= limit);
    assert!(error.chain().any(|scope| scope.label() == Some("query")));
}

/// The poll of the outer future is not over, so that one cannot drop the inner.
async fn a_block_on_in_the_middle_of_a_poll_comes_to_its_end() {
    let inner = future::timeout_value(SHORT, async { futures::executor::block_on(future::sleep(LONG)) });
    assert!(inner.await.unwrap().unwrap_err().is_timeout());
}

// ===== Sleeping for no time =====

#[test]
fn a_loop_of_sleeps_of_no_time_lets_other_tasks_run_and_can_be_aborted() {
    bounded(|| {
        let runtime = one_thread().build().unwrap();
        runtime.block_on(async {
            let busy = tokio::spawn(async {
                loop {
                    future::sleep(Duration::ZERO).await.unwrap();
                }
            });
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            busy.abort();
            assert!(busy.await.unwrap_err().is_cancelled());
        });
    });
}

// ===== Hooks =====

#[test]
fn no_poll_blocks_for_a_hook() {
    bounded(|| {
        let runtime = one_thread().build().unwrap();
        let one_hook = |limit| async move {
            let (begun, has_begun) = tokio::sync::oneshot::channel();
            let (go_on, goes_on) = mpsc::channel();
            let (mut begun, home) = (Some(begun), thread::current().id());
            let limited = tokio::spawn(future::timeout_value(limit, async move {
                let _registration = on_cancel(move || {
                    // One that is made when its scope is over runs here.
                    let in_time = thread::current().id() != home;
                    let _ = begun.take().map(|begun| begun.send(in_time));
                    if in_time {
                        next(&goes_on);
                    }
                });
                pending::<()>().await;
            }));
            // This task runs on the only thread, which is not held by the other.
            if !has_begun.await.unwrap() {
                return None;
            }
            tokio::task::yield_now().await;
            assert!(!limited.is_finished(), "it is dropped when its hooks have run");
            go_on.send(()).unwrap();
            assert!(!limited.await.unwrap().unwrap_err().settled());
            Some(())
        };
        runtime.block_on(unhurried_future(one_hook));
    });
}

#[test]
fn as_many_requests_as_workers_may_have_hooks_that_use_the_runtime() {
    const WORKERS: usize = 2;
    bounded(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).build().unwrap();
        let on_runtime = runtime.handle().clone();
        let requests = (0..2 * WORKERS).map(|_| {
            let on_runtime = on_runtime.clone();
            runtime.spawn(future::timeout_value(SHORT, async move {
                let home = thread::current().id();
                let cancel = move || {
                    // One that is made when its scope is over runs here.
                    if thread::current().id() != home {
                        on_runtime.block_on(on_runtime.spawn(async {})).unwrap();
                    }
                };
                let _registration = on_cancel(cancel);
                pending::<()>().await;
            }))
        });
        let requests: Vec<_> = requests.collect();
        for request in requests {
            assert!(runtime.block_on(request).unwrap().unwrap_err().is_timeout());
        }
    });
}

/// Without a grace nobody hears the answer, but the server is told before the future goes.
#[test]
fn the_hook_of_an_interruptible_call_has_run_when_its_future_is_dropped() {
    bounded(|| {
        unhurried(|limit| {
            let (hook, runs) = counting_on_a_runner();
            let mut begun = false;
            let endless = poll_fn(|_| {
                begun = true;
                Poll::<Result<(), TimeoutError>>::Pending
            });
            let call = async { future::interruptible(hook, endless).await.map(|_| ()) };
            pollster::block_on(future::timeout(limit, call)).unwrap_err();
            // Over before the call, there is nobody to tell.
            begun.then(|| assert!(runs.load(SeqCst) >= 1))
        });
    });
}

// ===== Shared futures =====

#[test]
fn a_load_that_is_entered_at_the_root_outlives_the_limit_of_who_polled_it_first() {
    use futures::FutureExt as _;
    bounded(|| {
        pollster::block_on(unhurried_future(|limit| async move {
            let load = Handle::root().enter_future(Limit::NONE, async move {
                future::sleep(limit * 10).await.map_err(|_| ())?;
                Ok::<_, Unfinished>("loaded")
            });
            let load = load.boxed().shared();
            // Loaded, if this thread comes late.
            let first = future::timeout_value(limit, load.clone()).await;
            assert_eq!(future::timeout_value(LONG, load).await.unwrap().unwrap(), "loaded");
            first.is_err().then_some(())
        }));
    });
}

#[derive(Clone, Debug)]
struct Unfinished;

impl From<TimeoutError> for Unfinished {
    fn from(_: TimeoutError) -> Self {
        Self
    }
}

impl From<()> for Unfinished {
    fn from((): ()) -> Self {
        Self
    }
}

/// A future that was polled in a scope that ended goes on in the next one, without a handle too.
#[test]
fn a_shared_future_goes_on_with_its_next_poller() {
    use futures::FutureExt as _;
    bounded(|| {
        pollster::block_on(unhurried_future(|limit| async move {
            let start = Instant::now();
            let sleeps = async move { future::sleep(limit * 10).await.map_err(|_| Unfinished) };
            let load = sleeps.boxed().shared();
            // Loaded, if this thread comes late.
            let first = future::timeout_value(limit, load.clone()).await;
            assert!(future::timeout_value(LONG, load).await.unwrap().is_ok());
            assert!(start.elapsed() >= limit * 10);
            first.is_err().then_some(())
        }));
    });
}

// ===== Fallbacks =====

on_each_runtime!(
    a_fallback_takes_the_place_of_a_future_that_was_dropped,
    a_fallback_takes_the_place_of_an_error_that_came_of_the_expiry,
    a_fallback_is_not_for_other_ends,
);

async fn a_fallback_takes_the_place_of_a_future_that_was_dropped() {
    for limit in [SHORT, Duration::ZERO] {
        let answer =
            Timebox::new(limit).run_future_or_else(pending::<Result<&str, TimeoutError>>(), |timed_out| {
                assert_eq!(timed_out.started(), limit == SHORT);
                assert!(timebox::remaining().is_none(), "the scope has been left");
                Ok("stale")
            });
        assert_eq!(answer.await.unwrap(), "stale");
    }
}

async fn a_fallback_takes_the_place_of_an_error_that_came_of_the_expiry() {
    let limited = Timebox::new(SHORT).grace(LONG);
    let answer = limited.run_future_or_else(
        async {
            future::sleep(LONG).await.map_err(|_| "translated")?;
            Ok::<_, Text>("fresh")
        },
        |timed_out| Ok(if timed_out.settled() { "stale" } else { "cut off" }),
    );
    assert_eq!(answer.await.unwrap(), "stale");
}

#[derive(Debug, PartialEq)]
struct Text(String);

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<TimeoutError> for Text {
    fn from(error: TimeoutError) -> Self {
        Self(error.to_string())
    }
}

async fn a_fallback_is_not_for_other_ends() {
    fn never<T, E>(_: TimeoutError) -> Result<T, E> {
        unreachable!("not its own expiry")
    }
    let ok = Timebox::new(LONG).run_future_or_else(async { Ok::<_, Text>(7) }, never);
    assert_eq!(ok.await.unwrap(), 7);
    let own = Timebox::new(LONG).run_future_or_else(async { Err::<(), _>(Text::from("no such row")) }, never);
    assert_eq!(own.await.unwrap_err(), Text::from("no such row"));
    let outer = CancellationToken::new();
    let ends = Timebox::new(LONG).cancel_on(&outer).grace(LONG).run_future(async {
        outer.cancel();
        let inner = Timebox::new(LONG).run_future_or_else(future::sleep(LONG), never);
        inner.await.map_err(Text::from)
    });
    ends.await.unwrap_err();
}
