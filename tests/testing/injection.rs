//! Expiry at one interruption point, on purpose.

use super::waiter::Waiter;
use super::*;
use std::sync::mpsc::channel;

#[test]
fn the_nth_point_finds_the_innermost_scope_expired() {
    for n in 1..=4 {
        let mut passed = 0;
        let result = expire_at_checkpoint(n, || {
            timeout(HOUR, || -> Done {
                checkpoint()?;
                passed += 1;
                sleep(Duration::ZERO)?;
                passed += 1;
                timebox::interruptible(|| (), || Ok::<_, TimeoutError>(()))??;
                passed += 1;
                Ok(())
            })
        });
        let error = result.unwrap_err();
        assert!(error.is_timeout());
        assert_eq!(passed, n.saturating_sub(2));
        assert_eq!(error.started(), n > 1);
        assert_eq!(error.limit(), if n == 1 { None } else { Some(HOUR) });
    }
}

#[test]
fn in_a_shield_that_point_passes_and_the_next_one_outside_fails() {
    let mut inside = None;
    let result = expire_at_checkpoint(2, || {
        timeout(HOUR, || -> Done {
            inside = Some(shield(HOUR, checkpoint).is_ok());
            checkpoint()
        })
    });
    assert_eq!(inside, Some(true));
    assert_eq!(result.unwrap_err().limit(), Some(HOUR));
}

#[test]
fn what_is_around_the_harness_does_not_expire() {
    timeout(HOUR, || -> Done {
        shield(HOUR, || {
            assert!(expire_at_checkpoint(1, || shield(HOUR, checkpoint)).is_ok());
            assert!(expire_at_checkpoint(1, checkpoint).is_err());
        });
        checkpoint()
    })
    .unwrap();
}

#[test]
fn a_shield_s_own_limit_is_injected_on_request() {
    let result = testing::expire_in_shields_at(2, || {
        timeout(HOUR, || -> Done {
            assert!(shield(SECOND, checkpoint).is_err());
            checkpoint()
        })
    });
    assert!(result.is_ok());
}

#[test]
fn a_labelled_scope_expires_wherever_it_is_opened() {
    let attempt = || Timebox::new(HOUR).label("attempt").run(|_| checkpoint());
    let failed = expire_at("attempt", || {
        Timebox::new(HOUR).label("other").run(|_| checkpoint()).unwrap();
        (0..3).filter(|_| attempt().is_err()).count()
    });
    assert_eq!(failed, 3);
}

#[test]
fn a_labelled_scope_expires_at_the_entry_of_its_handle() {
    let enter = |handle: timebox::Handle| handle.enter(Limit::NONE, |_| Ok::<_, TimeoutError>(()));
    let elsewhere = |handle| std::thread::spawn(move || enter(handle)).join().unwrap();
    for enter in [&enter as &dyn Fn(timebox::Handle) -> Done, &elsewhere] {
        let result =
            expire_at("attempt", || Timebox::new(HOUR).label("attempt").run(|scope| enter(scope.handle())));
        let error = result.unwrap_err();
        assert_eq!((error.label(), error.started()), (Some("attempt"), false));
    }
}

#[test]
fn a_labelled_scope_expires_whose_handle_was_entered_before() {
    let result = Timebox::new(HOUR).label("attempt").run(|scope| {
        let handle = scope.handle();
        let injected = move || handle.enter(Limit::NONE, |_| expire_at("attempt", checkpoint));
        std::thread::spawn(injected).join().unwrap()
    });
    assert_eq!(result.unwrap_err().label(), Some("attempt"));
}

#[test]
fn hooks_have_run_when_the_point_is_passed_on() {
    let fired = Arc::new(AtomicU32::new(0));
    expire_at_checkpoint(2, || {
        timeout(HOUR, || -> Done {
            let counted = Arc::clone(&fired);
            let _registration = timebox::on_cancel(move || counted.fetch_add(1, Ordering::SeqCst));
            assert!(checkpoint().is_err());
            assert_eq!(fired.load(Ordering::SeqCst), 1);
            Ok(())
        })
    })
    .unwrap();
}

/// The scope of this hook expires at a checkpoint in a shield; what is done before that is left, and after.
fn expires_in_a_shield(hook: impl Into<Hook<'static>>, leaves: impl FnOnce(), left: impl FnOnce()) {
    expire_at_checkpoint(2, || {
        timeout(HOUR, || -> Done {
            let _registration = timebox::on_cancel(hook);
            shield(HOUR, || {
                checkpoint()?;
                leaves();
                Ok::<_, TimeoutError>(())
            })?;
            left();
            Ok(())
        })
    })
    .unwrap();
}

#[test]
fn hooks_that_a_shield_held_up_have_run_when_it_is_left() {
    let fired = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&fired);
    let waiter = Waiter::default();
    let seen = waiter.clone();
    let hook = move || {
        seen.sleeps();
        counted.fetch_add(1, Ordering::SeqCst)
    };
    expires_in_a_shield(hook, || waiter.begins(), || assert_eq!(fired.load(Ordering::SeqCst), 1));
}

#[test]
fn a_hook_that_a_shield_held_up_escalates_while_it_runs() {
    let (come, comes) = channel();
    let (done, is_done) = channel();
    let first = Hook::new(move || done.send(comes.recv_timeout(30 * SECOND).is_ok())).once();
    let hook = first.then(Duration::ZERO, Hook::new(move || come.send(())).once());
    expires_in_a_shield(hook, || (), || assert_eq!(is_done.try_recv(), Ok(true)));
}

#[test]
fn where_nothing_is_injected_a_shield_does_not_wait_for_what_it_held_up() {
    let (go_on, goes_on) = channel();
    let (done, is_done) = channel();
    let hook = Hook::new(move || done.send(goes_on.recv_timeout(30 * SECOND).is_ok())).once();
    testing::assert_checkpoints(HOUR, || {
        timeout(HOUR, || -> Done {
            let _registration = timebox::on_cancel(hook);
            let token = timebox::token();
            shield(HOUR, || token.cancel());
            go_on.send(()).unwrap();
            assert!(is_done.recv().unwrap());
            Ok(())
        })
    })
    .unwrap();
}

/// Has the inner of two scopes expire.
fn the_inner_scope_has_no_time_left() {
    let minute = Duration::from_secs(60);
    expire_at_checkpoint(3, || {
        timebox::with_timeout(HOUR, |outer| {
            assert!(timebox::remaining() > Some(minute));
            let _inner = timeout(HOUR, || -> Done {
                checkpoint().unwrap_err();
                let ended = timebox::deadline();
                assert!(ended.has_passed());
                assert_eq!(timebox::remaining(), Some(Duration::ZERO));
                timebox::with_timeout(HOUR, |_| checkpoint()).unwrap_err();
                assert_eq!(timebox::deadline(), ended);
                shield(HOUR, || assert!(timebox::remaining() > Some(minute)));
                Ok(())
            });
            assert!(outer.remaining() > Some(minute));
            outer.checkpoint()
        })
    })
    .unwrap();
}

#[test]
fn no_time_is_left_after_it() {
    the_inner_scope_has_no_time_left();
    MockClock::new().run(|_| the_inner_scope_has_no_time_left());
}

#[test]
fn points_on_a_thread_that_enters_a_handle_count() {
    let result = expire_at_checkpoint(3, || {
        timeout(HOUR, || -> Done {
            let handle = timebox::handle();
            std::thread::spawn(move || handle.enter(Limit::NONE, |_| checkpoint())).join().unwrap()
        })
    });
    assert!(result.is_err());
}

#[test]
fn each_time_a_scope_s_future_is_pending_is_a_point() {
    let result = expire_at_checkpoint(3, || {
        pollster::block_on(future::timeout(HOUR, async {
            checkpoint()?;
            let mut yielded = false;
            std::future::poll_fn(|context| {
                context.waker().wake_by_ref();
                if std::mem::replace(&mut yielded, true) {
                    std::task::Poll::Ready(())
                } else {
                    std::task::Poll::Pending
                }
            })
            .await;
            Ok::<_, TimeoutError>(())
        }))
    });
    assert!(!result.unwrap_err().settled());
}

#[test]
fn the_end_of_a_strict_block_is_a_point() {
    let run = || Timebox::new(HOUR).label("strict").strict().run(|_| Ok::<_, TimeoutError>("late"));
    let points = try_for_each_checkpoint(run).points().len();
    assert_eq!(points, 2, "its entry and its end");
    let error = expire_at_checkpoint(points, run).unwrap_err();
    assert_eq!((error.label(), error.started(), error.settled()), (Some("strict"), true, true));
}
