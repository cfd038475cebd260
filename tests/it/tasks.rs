//! Tasks: what a spawned one inherits, and what a task that blocks holds up.

use std::future::pending;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use futures::future::join_all;
use timebox::{Deadline, Timebox, TimeoutError, checkpoint, deadline, future, with_timeout};

use crate::runtimes::on_each_runtime;
use crate::support::{HANG, LONG, SHORT, bounded, rounds};

on_each_runtime!(code_in_a_poll_that_blocks_the_executor_is_stopped,);

async fn code_in_a_poll_that_blocks_the_executor_is_stopped() {
    let start = Instant::now();
    let error = future::timeout(SHORT, async {
        let mut number = 1_u64;
        loop {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).rotate_left(7));
            if number == 0 {
                break;
            }
            checkpoint()?;
        }
        Ok::<_, TimeoutError>(())
    })
    .await
    .unwrap_err();
    assert!(error.is_timeout() && error.settled());
    assert!(start.elapsed() >= SHORT && start.elapsed() < HANG);
}

#[test]
fn a_scope_expires_while_all_threads_of_its_executor_are_blocked() {
    bounded(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let all_in = Arc::new(std::sync::Barrier::new(2));
        let tasks = [(); 2].map(|()| {
            let all_in = Arc::clone(&all_in);
            runtime.spawn(async move {
                // Both workers are in these polls at once, and no timer of the runtime can run.
                all_in.wait();
                future::timeout(SHORT, async {
                    loop {
                        checkpoint()?;
                    }
                    #[expect(unreachable_code, reason = "names the type")]
                    Ok::<(), TimeoutError>(())
                })
                .await
            })
        });
        for task in tasks {
            assert!(runtime.block_on(task).unwrap().unwrap_err().is_timeout());
        }
    });
}

#[test]
fn a_spawned_task_inherits_nothing() {
    bounded(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            future::timeout_value(LONG, async {
                assert_eq!(tokio::spawn(async { deadline() }).await.unwrap(), Deadline::NEVER);
            })
            .await
            .unwrap();
        });
    });
}

#[test]
fn a_handle_carries_a_scope_into_a_spawned_task() {
    bounded(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let error = with_timeout(SHORT, |scope| {
            let entered = scope.handle().enter_future(LONG, async {
                pending::<()>().await;
                Ok::<_, TimeoutError>(())
            });
            let error = runtime.block_on(runtime.spawn(entered)).unwrap().unwrap_err();
            assert_eq!(error.scope(), scope.id());
            Err::<(), _>(error)
        })
        .unwrap_err();
        assert_eq!(error.limit(), Some(SHORT));
        assert!(!error.settled() || !error.started());
    });
}

#[test]
fn tasks_that_move_between_workers_keep_their_own_scopes() {
    bounded(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
        runtime.block_on(async {
            let tasks = (1..=if cfg!(miri) { 8 } else { 64 }).map(|number| {
                let label = format!("task {number}");
                tokio::spawn(Timebox::new(LONG * number).label(label.clone()).run_future(async move {
                    let (outer, mut homes) = (deadline(), std::collections::HashSet::new());
                    for turn in 0..rounds(200) {
                        homes.insert(thread::current().id());
                        assert_eq!(deadline(), outer);
                        if turn % 10 == 0 {
                            future::timeout(LONG / 2, async {
                                assert!(deadline() < outer);
                                tokio::task::yield_now().await;
                                checkpoint()
                            })
                            .await?;
                        }
                        tokio::task::yield_now().await;
                    }
                    timebox::token().cancel();
                    assert_eq!(checkpoint().unwrap_err().label(), Some(label.as_str()));
                    Ok::<_, TimeoutError>(homes.len())
                }))
            });
            for task in join_all(tasks).await {
                assert!(task.unwrap().unwrap() >= 1);
            }
        });
    });
}
