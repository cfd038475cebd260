//! Threads: nothing is inherited, a handle carries a scope over, and it may outlive the scope.

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use timebox::{
    Cause, Deadline, Handle, Limit, Timebox, TimeoutError, checkpoint, deadline, handle, is_expired,
    on_cancel, sleep, timeout, timeout_value, with_timeout,
};

use crate::runtimes::one_thread;
use crate::support::{
    HANG, LONG, SHORT, bounded, let_the_watchdog_pass, next, outlast, rounds, unhurried, wait_for,
};

#[test]
fn a_spawned_thread_inherits_nothing() {
    with_timeout(LONG, |scope| {
        scope.token().cancel();
        thread::scope(|threads| {
            threads.spawn(|| {
                assert_eq!(deadline(), Deadline::NEVER);
                assert!(checkpoint().is_ok() && !is_expired());
            });
        });
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_handle_carries_a_scope_to_another_thread() {
    with_timeout(LONG, |scope| {
        let handle = scope.handle();
        let expected = scope.deadline();
        let seen = thread::spawn(move || {
            handle.enter(Limit::NONE, |inner| {
                assert_eq!(inner.deadline(), deadline());
                Ok::<_, TimeoutError>(deadline())
            })
        });
        assert_eq!(seen.join().unwrap()?, expected);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn an_expiry_reaches_the_other_thread_and_names_the_scope() {
    bounded(|| {
        with_timeout(SHORT, |scope| {
            let handle = scope.handle();
            let error = thread::spawn(move || handle.enter(LONG, |inner| inner.sleep(LONG)))
                .join()
                .unwrap()
                .unwrap_err();
            assert_eq!((error.scope(), error.cause()), (scope.id(), Cause::Deadline));
            assert_eq!(error.limit(), Some(SHORT));
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn a_cancellation_reaches_the_other_thread() {
    bounded(|| {
        with_timeout(LONG, |scope| {
            let handle = scope.handle();
            let (inside, wait) = channel();
            let other = thread::spawn(move || {
                handle.enter(LONG, |inner| {
                    inside.send(()).unwrap();
                    inner.sleep(LONG)
                })
            });
            next(&wait);
            scope.token().cancel_with("enough");
            let error = other.join().unwrap().unwrap_err();
            assert_eq!((error.scope(), error.reason()), (scope.id(), Some("enough")));
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn a_limit_given_on_entering_is_the_childs_own() {
    with_timeout(LONG, |scope| {
        let handle = scope.handle();
        let error = thread::spawn(move || handle.enter(SHORT, |inner| Err::<(), _>(outlast(inner))));
        let error = error.join().unwrap().unwrap_err();
        assert_ne!(error.scope(), scope.id());
        assert_eq!(error.limit(), Some(SHORT));
        scope.checkpoint()
    })
    .unwrap();
}

#[test]
fn a_child_on_another_thread_can_be_cancelled_alone() {
    with_timeout(LONG, |scope| {
        let handle = scope.handle();
        thread::spawn(move || {
            let error = handle.enter(LONG, |inner| {
                inner.token().cancel();
                inner.checkpoint()
            });
            assert!(error.unwrap_err().is_cancelled());
        })
        .join()
        .unwrap();
        scope.checkpoint()
    })
    .unwrap();
}

#[test]
fn the_token_of_a_handle_is_its_scopes() {
    with_timeout(LONG, |scope| {
        assert!(scope.handle().token().cancel_with("first"));
        assert!(scope.checkpoint().unwrap_err().is_cancelled());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn entering_counts_the_handles_scopes_and_not_the_threads() {
    let root = handle();
    unhurried(|limit| {
        Timebox::new(limit)
            .run_value(|outer| {
                let middle = timeout_value(LONG, handle).ok()?;
                outlast(outer);
                // The root knows nothing of this thread's expired scope ...
                let entered = root.enter(LONG, |entered| {
                    assert!(entered.deadline() > outer.deadline());
                    assert!(checkpoint().is_ok() && !is_expired());
                    timeout(LONG, checkpoint)
                });
                entered.unwrap();
                // ... which counts again afterwards, and for what was made in it.
                assert!(checkpoint().is_err());
                let error = middle.enter(LONG, |_| Ok::<_, TimeoutError>(())).unwrap_err();
                assert_eq!((error.scope(), error.started()), (outer.id(), false));
                Some(())
            })
            .unwrap()
    });
}

#[test]
fn a_handle_entered_in_its_own_scope_is_a_child_of_it() {
    with_timeout(LONG, |outer| {
        outer.handle().enter(Limit::NONE, |inner| {
            assert_eq!(inner.deadline(), outer.deadline());
            Ok::<_, TimeoutError>(())
        })
    })
    .unwrap();
}

#[test]
fn a_handle_outlives_its_scope_until_the_deadline_it_had() {
    bounded(|| {
        let long = with_timeout(LONG, |scope| Ok::<_, TimeoutError>(scope.handle())).unwrap();
        let short = with_timeout(SHORT, |scope| Ok::<_, TimeoutError>(scope.handle())).unwrap();
        thread::spawn(move || {
            long.enter(Limit::NONE, |inner| {
                assert!(inner.remaining().unwrap() <= LONG);
                inner.checkpoint()
            })
            .unwrap();
            let error = short.enter(LONG, |inner| inner.sleep(LONG)).unwrap_err();
            assert_eq!(error.limit(), Some(SHORT));
            assert!(!short.enter(LONG, |_| Ok::<_, TimeoutError>(())).unwrap_err().started());
            assert!(long.token().cancel_with("first"));
            let error = long.enter(LONG, |_| Ok::<_, TimeoutError>(())).unwrap_err();
            assert!(error.is_cancelled() && !error.started());
        })
        .join()
        .unwrap();
    });
}

#[test]
fn a_child_outlives_the_scope_of_its_handle() {
    bounded(|| {
        let (inside, is_inside) = channel();
        let (end, ended) = channel();
        let (other, token) = with_timeout(LONG, |scope| {
            let handle = scope.handle();
            let other = thread::spawn(move || {
                handle.enter(Limit::NONE, |inner| {
                    inside.send(()).unwrap();
                    next(&ended);
                    inner.checkpoint()?;
                    inner.sleep(LONG)
                })
            });
            next(&is_inside);
            Ok::<_, TimeoutError>((other, scope.token()))
        })
        .unwrap();
        end.send(()).unwrap();
        token.cancel_with("afterwards");
        assert_eq!(other.join().unwrap().unwrap_err().reason(), Some("afterwards"));
    });
}

#[test]
fn a_hook_made_in_a_scope_entered_by_handle_dies_there() {
    let handle = with_timeout(LONG, |scope| Ok::<_, TimeoutError>(scope.handle())).unwrap();
    let token = handle.token();
    let (fired, wait) = channel();
    thread::spawn(move || {
        handle.enter(LONG, |inner| {
            std::mem::forget(inner.on_cancel(timebox::Hook::inline(move || fired.send(()))));
            Ok::<_, TimeoutError>(())
        })
    })
    .join()
    .unwrap()
    .unwrap();
    token.cancel();
    let_the_watchdog_pass();
    assert!(wait.try_recv().is_err());
}

#[test]
fn a_hook_on_the_other_thread_fires_with_the_scope() {
    bounded(|| {
        unhurried(|limit| {
            with_timeout(limit, |scope| {
                let handle = scope.handle();
                let entered = thread::spawn(move || {
                    handle.enter(LONG, |_| {
                        let (fired, wait) = channel();
                        let _registration = on_cancel(move || fired.send(()));
                        next(&wait);
                        Ok::<_, TimeoutError>(())
                    })
                });
                entered.join().unwrap()
            })
            .ok()
        });
    });
}

#[test]
fn the_chain_reaches_across_threads() {
    with_timeout(LONG, |scope| {
        let handle = scope.handle();
        let error = thread::spawn(move || handle.enter(Duration::ZERO, |_| Ok::<_, TimeoutError>(())));
        let error = error.join().unwrap().unwrap_err();
        assert_eq!(error.chain().len(), 2);
        assert_eq!(error.chain().next_back().unwrap().id(), scope.id());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_clone_of_a_handle_enters_the_same_scope() {
    with_timeout(LONG, |scope| {
        let handle = scope.handle();
        let clones: Vec<Handle> = (0..4).map(|_| handle.clone()).collect();
        let expected = scope.deadline();
        thread::scope(|threads| {
            for handle in clones {
                threads.spawn(move || {
                    handle
                        .enter(Limit::NONE, |inner| {
                            assert_eq!(inner.deadline(), expected);
                            Ok::<_, TimeoutError>(())
                        })
                        .unwrap();
                });
            }
        });
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn many_threads_expire_each_at_its_own_limit() {
    bounded(|| {
        let threads: Vec<_> = (1..=if cfg!(miri) { 5 } else { 50 })
            .map(|number| {
                thread::spawn(move || {
                    let limit = Duration::from_millis(1 + number * 7 % 40);
                    let start = Instant::now();
                    let error = timeout(limit, || sleep(LONG)).unwrap_err();
                    assert!(start.elapsed() >= limit);
                    assert_eq!(error.limit(), Some(limit));
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
#[cfg_attr(miri, ignore = "rayon makes pointers of integers, which strict provenance forbids")]
fn a_handle_carries_a_scope_into_rayon() {
    bounded(|| {
        let start = Instant::now();
        let error = with_timeout(SHORT, |scope| {
            let handle = scope.handle();
            let result: timebox::Result<Vec<u64>> = (0..64_u64)
                .into_par_iter()
                .map(|seed| {
                    handle.enter(Limit::NONE, |_| {
                        let mut number = seed;
                        loop {
                            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005) + 1);
                            checkpoint()?;
                        }
                    })
                })
                .collect();
            let error = result.unwrap_err();
            assert_eq!(error.scope(), scope.id());
            Err::<(), _>(error)
        })
        .unwrap_err();
        assert_eq!(error.limit(), Some(SHORT));
        assert!(start.elapsed() < HANG);
    });
}

#[test]
#[cfg_attr(miri, ignore = "rayon makes pointers of integers, which strict provenance forbids")]
fn what_a_thread_runs_while_a_scope_is_open_runs_inside_it() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let root = handle();
    pool.install(|| {
        with_timeout(LONG, |scope| {
            // One thread: it runs both jobs itself, the stolen one too, inside the scope ...
            let (left, right) = rayon::join(deadline, deadline);
            assert_eq!((left, right), (scope.deadline(), scope.deadline()));
            // ... unless the job is entered by a handle of its own.
            let ((), right) =
                rayon::join(|| (), || root.enter(Limit::NONE, |_| Ok::<_, TimeoutError>(deadline())));
            assert_eq!(right.unwrap(), Deadline::NEVER);
            Ok::<_, TimeoutError>(())
        })
    })
    .unwrap();
}

#[test]
fn the_tasks_of_a_runtime_that_a_thread_drives_run_inside_its_scope() {
    let runtime = one_thread().build().unwrap();
    let root = handle();
    with_timeout(LONG, |scope| {
        let (seen, entered) = runtime.block_on(async {
            let entered = root.enter_future(Limit::NONE, async { Ok::<_, TimeoutError>(deadline()) });
            (tokio::spawn(async { deadline() }).await.unwrap(), tokio::spawn(entered).await.unwrap())
        });
        assert_eq!(seen, scope.deadline());
        assert_eq!(entered?, Deadline::NEVER);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_thread_that_ends_inside_nothing_leaves_nothing_behind() {
    for _ in 0..rounds(100) {
        thread::spawn(|| {
            timeout_value(LONG, || with_timeout(LONG, |scope| scope.checkpoint())).unwrap().unwrap();
        })
        .join()
        .unwrap();
    }
    timeout(SHORT, || {
        wait_for("expiry", is_expired);
        checkpoint()
    })
    .unwrap_err();
}
