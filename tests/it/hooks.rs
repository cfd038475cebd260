//! Hooks: when they fire, on which thread, in what order, and that nothing of them is left when they end.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{self, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use timebox::{
    CancellationToken, Hook, Limit, Registration, TimeoutError, interruptible, on_cancel, timeout,
    with_timeout,
};

use crate::support::{HANG, LONG, SHORT, bounded, let_the_watchdog_pass, next, outlast, rounds, unhurried};
use crate::waiter::Waiter;

#[test]
fn a_hook_fires_when_its_scope_expires() {
    bounded(|| {
        with_timeout(SHORT, |scope| {
            let (fired, wait) = channel();
            let _registration = on_cancel(move || fired.send(()));
            next(&wait);
            assert!(scope.deadline().has_passed());
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn a_hook_fires_when_a_scope_around_its_own_is_over() {
    bounded(|| {
        unhurried(|limit| {
            with_timeout(limit, |_| {
                timeout(LONG, || {
                    let (fired, wait) = channel();
                    let _registration = on_cancel(move || fired.send(()));
                    next(&wait);
                    Ok::<_, TimeoutError>(())
                })
            })
            .ok()
        });
    });
}

#[test]
fn a_hook_fires_on_an_explicit_cancel() {
    bounded(|| {
        with_timeout(LONG, |outer| {
            timeout(LONG, || {
                let (fired, wait) = channel();
                let _registration = on_cancel(move || fired.send(()));
                outer.token().cancel();
                next(&wait);
                Ok::<_, TimeoutError>(())
            })
        })
        .unwrap();
    });
}

#[test]
fn on_cancel_fires_once() {
    bounded(|| {
        with_timeout(LONG, |scope| {
            let (fired, wait) = channel();
            let _registration = scope.on_cancel(Hook::inline(move || fired.send(())));
            let (repeated, repeats) = channel();
            let _repeats = scope.on_cancel(Hook::inline(move || repeated.send(())).every(SHORT));
            scope.token().cancel();
            next(&wait);
            // One that repeats by default has fired five times by then.
            (0..2).for_each(|_| next(&repeats));
            assert!(wait.try_recv().is_err());
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
    });
}

#[test]
fn an_end_without_expiry_fires_nothing() {
    let fired = AtomicU32::new(0);
    timeout(LONG, || interruptible(|| fired.fetch_add(1, SeqCst), || Ok::<_, String>(())).map(drop)).unwrap();
    timeout(LONG, || {
        drop(on_cancel(|| unreachable!("not over")));
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
    assert_eq!(fired.load(SeqCst), 0);
}

#[test]
fn hooks_of_inner_scopes_fire_first() {
    bounded(|| {
        for _ in 0..rounds(20) {
            let order = Arc::new(Mutex::new(Vec::new()));
            let (fired, wait) = channel();
            let hook = |name: &'static str| {
                let (order, fired) = (Arc::clone(&order), fired.clone());
                Hook::inline(move || {
                    order.lock().unwrap().push(name);
                    let _ = fired.send(());
                })
            };
            with_timeout(LONG, |outer| {
                let _outer = outer.on_cancel(hook("outer"));
                with_timeout(LONG, |middle| {
                    let _middle = middle.on_cancel(hook("middle"));
                    with_timeout(LONG, |inner| {
                        let _inner = inner.on_cancel(hook("inner"));
                        outer.token().cancel();
                        (0..3).for_each(|_| next(&wait));
                        Ok::<_, TimeoutError>(())
                    })
                })
            })
            .unwrap();
            assert_eq!(*order.lock().unwrap(), ["inner", "middle", "outer"]);
        }
    });
}

#[test]
fn an_inline_hook_runs_on_the_watchdog_and_others_on_a_runner() {
    bounded(|| {
        let name = || thread::current().name().unwrap_or_default().to_owned();
        let names = |limit, cancel| {
            with_timeout(limit, |scope| {
                let (fired, wait) = channel();
                let tell = fired.clone();
                let _inline = scope.on_cancel(Hook::inline(move || tell.send(("inline", name()))));
                let _runner = scope.on_cancel(Hook::new(move || fired.send(("runner", name()))));
                if cancel {
                    scope.token().cancel();
                }
                let mut names = [next(&wait), next(&wait)];
                names.sort_unstable();
                Ok::<_, TimeoutError>(names)
            })
            .unwrap()
        };
        let expected = [("inline", "timebox-watchdog"), ("runner", "timebox-hook")];
        let expected = expected.map(|(hook, thread)| (hook, thread.to_owned()));
        assert_eq!(names(LONG, true), expected, "never on the cancelling thread");
        unhurried(|limit| {
            let names = names(limit, false);
            // One that is made when its scope is over runs here.
            if names.iter().any(|(_, thread)| *thread == name()) {
                return None;
            }
            assert_eq!(names, expected);
            Some(())
        });
    });
}

#[test]
fn on_a_scope_already_over_on_cancel_runs_its_hook_here_and_now() {
    with_timeout(SHORT, |scope| {
        outlast(scope);
        for hook_kind in [Hook::new as fn(_) -> _, Hook::inline] {
            let (fired, wait) = channel();
            let hook: Box<dyn FnMut() + Send> = Box::new(move || fired.send(thread::current().id()).unwrap());
            let registration = scope.on_cancel(hook_kind(hook));
            assert_eq!(wait.try_recv().unwrap(), thread::current().id());
            drop(registration);
        }
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn on_a_scope_already_over_interruptible_does_not_make_the_call() {
    with_timeout(SHORT, |scope| {
        outlast(scope);
        let fired = AtomicBool::new(false);
        let error = interruptible(
            || fired.store(true, SeqCst),
            || -> Result<(), String> { unreachable!("not made") },
        )
        .unwrap_err();
        assert_eq!(error.scope(), scope.id());
        assert!(!fired.load(SeqCst));
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn dropping_a_registration_waits_for_its_running_hook() {
    bounded(|| {
        for hook_kind in [Hook::new as fn(_) -> _, Hook::inline] {
            let token = CancellationToken::new();
            let done = Arc::new(AtomicBool::new(false));
            let (started, wait) = channel();
            let waiter = Waiter::default();
            let hook: Box<dyn FnMut() + Send> = {
                let (done, waiter) = (Arc::clone(&done), waiter.clone());
                Box::new(move || {
                    started.send(()).unwrap();
                    waiter.sleeps();
                    done.store(true, SeqCst);
                })
            };
            let registration = token.on_cancel(hook_kind(hook));
            token.cancel();
            next(&wait);
            waiter.begins();
            drop(registration);
            assert!(done.load(SeqCst));
            assert_eq!(Arc::strong_count(&done), 1, "the hook itself is gone too");
        }
    });
}

#[test]
fn when_interruptible_has_returned_its_hook_is_not_running_and_never_will() {
    bounded(|| {
        for _ in 0..rounds(20) {
            let running = AtomicBool::new(false);
            let count = AtomicU32::new(0);
            let (started, wait) = channel();
            let waiter = Waiter::default();
            with_timeout(LONG, |scope| {
                let hook = || {
                    running.store(true, SeqCst);
                    count.fetch_add(1, SeqCst);
                    let _ = started.send(());
                    waiter.sleeps();
                    running.store(false, SeqCst);
                };
                let _ = scope.interruptible(Hook::new(hook).every(Duration::ZERO), || {
                    scope.token().cancel();
                    next(&wait);
                    waiter.begins();
                    Ok::<_, String>(())
                })?;
                assert!(!running.load(SeqCst));
                let fires = count.load(SeqCst);
                let_the_watchdog_pass();
                assert_eq!(count.load(SeqCst), fires);
                Ok::<_, TimeoutError>(())
            })
            .unwrap();
        }
    });
}

#[test]
fn a_scopes_exit_waits_for_its_running_hook() {
    bounded(|| {
        let done = Arc::new(AtomicBool::new(false));
        let (started, wait) = channel();
        let waiter = Waiter::default();
        let kept: Registration = with_timeout(SHORT, |scope| {
            let (done, seen) = (Arc::clone(&done), waiter.clone());
            let registration = scope.on_cancel(move || {
                started.send(()).unwrap();
                seen.sleeps();
                done.store(true, SeqCst);
            });
            next(&wait);
            waiter.begins();
            Ok::<_, TimeoutError>(registration)
        })
        .unwrap();
        assert!(done.load(SeqCst));
        drop(kept);
    });
}

#[test]
fn a_hook_of_a_scope_dies_with_it_even_if_its_registration_lives_on() {
    bounded(|| {
        let fired = Arc::new(AtomicU32::new(0));
        let (token, kept) = with_timeout(Limit::NONE, |scope| {
            let count = Arc::clone(&fired);
            let kept = scope.on_cancel(Hook::inline(move || count.fetch_add(1, SeqCst)));
            Ok::<_, TimeoutError>((scope.token(), kept))
        })
        .unwrap();
        assert!(token.cancel_with("first"));
        let_the_watchdog_pass();
        assert_eq!(fired.load(SeqCst), 0);
        drop(kept);
        assert_eq!(Arc::strong_count(&fired), 1);
    });
}

#[test]
fn a_registration_may_be_dropped_inside_its_own_hook() {
    bounded(|| {
        for hook_kind in [Hook::new as fn(_) -> _, Hook::inline] {
            let token = CancellationToken::new();
            let slot: Arc<Mutex<Option<Registration>>> = Arc::default();
            let held = Arc::new(());
            let (fired, wait) = channel();
            let hook: Box<dyn FnMut() + Send> = {
                let (slot, held) = (Arc::clone(&slot), Arc::clone(&held));
                Box::new(move || {
                    let registration =
                        slot.lock().unwrap().take().expect("it was put there before the cancel");
                    drop(registration);
                    let _ = &held;
                    fired.send(()).unwrap();
                })
            };
            *slot.lock().unwrap() = Some(token.on_cancel(hook_kind(hook)));
            token.cancel();
            next(&wait);
            crate::support::wait_for("the end of the hook", || Arc::strong_count(&held) == 1);
        }
    });
}

#[test]
fn a_hook_may_drop_the_registration_of_another() {
    bounded(|| {
        let token = CancellationToken::new();
        let fired = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&fired);
        let child = token.child_token();
        let other = token.on_cancel(Hook::inline(move || count.fetch_add(1, SeqCst)));
        let mut other = Some(other);
        let (done, wait) = channel();
        // The child's hook comes first, so the parent's has not run when it is dropped.
        let _first = child.on_cancel(Hook::inline(move || {
            drop(other.take());
            done.send(()).unwrap();
        }));
        token.cancel();
        next(&wait);
        let_the_watchdog_pass();
        assert_eq!(fired.load(SeqCst), 0);
    });
}

#[test]
fn a_panicking_hook_stops_neither_the_watchdog_nor_another_hook() {
    bounded(|| {
        for hook_kind in [Hook::new as fn(_) -> _, Hook::inline] {
            let token = CancellationToken::new();
            let (fired, wait) = channel();
            let other = fired.clone();
            let bad: Box<dyn FnMut() + Send> = Box::new(|| panic!("a hook of the test panics, as it should"));
            let _one = token.on_cancel(Hook::inline(move || fired.send(())));
            let _bad = token.on_cancel(hook_kind(bad));
            let _two = token.on_cancel(move || other.send(()));
            token.cancel();
            next(&wait);
            next(&wait);
            let_the_watchdog_pass();
        }
    });
}

#[test]
fn hooks_that_block_delay_no_other_scopes_hook() {
    bounded(|| {
        // A held lock stands for a server that does not answer.
        let server = Arc::new(Mutex::new(()));
        let held = server.lock().unwrap();
        let token = CancellationToken::new();
        let (stuck, are_stuck) = channel();
        let registrations: Vec<_> = (0..if cfg!(miri) { 5 } else { 40 })
            .map(|_| {
                let (server, stuck) = (Arc::clone(&server), stuck.clone());
                token.on_cancel(Hook::new(move || {
                    stuck.send(()).unwrap();
                    drop(server.lock());
                }))
            })
            .collect();
        token.cancel();
        (0..registrations.len()).for_each(|_| next(&are_stuck));
        timeout(SHORT, || timebox::sleep(LONG)).unwrap_err();
        for hook_kind in [Hook::new as fn(_) -> _, Hook::inline] {
            with_timeout(SHORT, |scope| {
                let (fired, wait) = channel();
                let hook: Box<dyn FnMut() + Send> = Box::new(move || fired.send(()).unwrap());
                let _registration = scope.on_cancel(hook_kind(hook));
                next(&wait);
                Ok::<_, TimeoutError>(())
            })
            .unwrap();
        }
        drop(held);
        drop(registrations);
    });
}

#[test]
fn of_many_hooks_none_is_lost() {
    bounded(|| {
        let token = CancellationToken::new();
        let (fired, wait) = channel();
        let registrations: Vec<_> = (0..rounds(500))
            .map(|number| {
                let fired = fired.clone();
                let hook = move || fired.send(number);
                token.on_cancel(if number % 2 == 0 { Hook::new(hook) } else { Hook::inline(hook) })
            })
            .collect();
        token.cancel();
        let mut seen: Vec<u32> = registrations.iter().map(|_| next(&wait)).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..rounds(500)).collect::<Vec<_>>());
    });
}

#[test]
fn a_hook_may_cancel_and_register_and_open_scopes() {
    bounded(|| {
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let (fired, wait) = channel();
        let tell = fired.clone();
        let _second = second.on_cancel(Hook::inline(move || tell.send("second").unwrap()));
        let inner = first.clone();
        let _first = first.on_cancel(Hook::new(move || {
            second.cancel();
            let tell = fired.clone();
            drop(inner.on_cancel(move || tell.send("at once").unwrap()));
            timeout(SHORT, || timebox::sleep(LONG)).unwrap_err();
            fired.send("bounded").unwrap();
        }));
        first.cancel();
        let mut seen = [next(&wait), next(&wait), next(&wait)];
        seen.sort_unstable();
        assert_eq!(seen, ["at once", "bounded", "second"]);
    });
}

#[test]
fn a_scope_waits_for_a_hook_that_has_dropped_its_own_registration() {
    bounded(|| {
        let (began, begins) = channel();
        let ended = Arc::new(AtomicBool::new(false));
        let own = Arc::new(Mutex::new(None::<Registration>));
        let waiter = Waiter::default();
        with_timeout(LONG, |scope| {
            let (ends, inside, seen) = (Arc::clone(&ended), Arc::clone(&own), waiter.clone());
            let hook = move || {
                drop(inside.lock().unwrap().take());
                let _ = began.send(());
                seen.sleeps();
                ends.store(true, SeqCst);
            };
            *own.lock().unwrap() = Some(scope.on_cancel(hook));
            scope.token().cancel();
            next(&begins);
            waiter.begins();
            Ok::<_, TimeoutError>(())
        })
        .unwrap();
        assert!(ended.load(SeqCst));
    });
}

#[test]
fn a_waker_that_waits_for_what_a_hook_does_does_not_keep_it_from_being_done() {
    struct Waits(Mutex<mpsc::Receiver<()>>, mpsc::Sender<bool>);
    impl Wake for Waits {
        fn wake(self: Arc<Self>) {
            let done = self.0.lock().unwrap().recv_timeout(HANG).is_ok();
            let _ = self.1.send(done);
        }
    }
    let ((fire, fired), (tell, told)) = (mpsc::channel(), mpsc::channel());
    let token = CancellationToken::new();
    let _registration = token.on_cancel(Hook::new(move || fire.send(())));
    let waker = Waker::from(Arc::new(Waits(Mutex::new(fired), tell)));
    let mut cancelled = pin!(token.cancelled());
    assert!(cancelled.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    token.cancel();
    assert!(told.recv().unwrap());
}

/// Registrations that hooks drop.
type Registered = Arc<Mutex<Vec<Registration>>>;

/// A hook for each name, which drops the registrations of the next when all of them run.
fn a_circle_of(hooks: usize, kind: fn(Box<dyn FnMut() + Send>) -> Hook<'static>) {
    let tokens: Vec<_> = (0..hooks).map(|_| CancellationToken::new()).collect();
    let all_run = Arc::new(Barrier::new(hooks));
    let (done, wait) = channel();
    let held = Arc::new(());
    let registered: Vec<Registered> = (0..hooks).map(|_| Arc::default()).collect();
    for (index, token) in tokens.iter().enumerate() {
        let next = Arc::clone(&registered[(index + 1) % hooks]);
        let (all_run, done, held) = (Arc::clone(&all_run), done.clone(), Arc::clone(&held));
        let hook: Box<dyn FnMut() + Send> = Box::new(move || {
            let _ = &held;
            all_run.wait();
            let dropped = std::mem::take(&mut *next.lock().unwrap());
            drop(dropped);
            done.send(()).unwrap();
        });
        registered[index].lock().unwrap().push(token.on_cancel(kind(hook)));
    }
    for token in &tokens {
        token.cancel();
    }
    tokens.iter().for_each(|_| next(&wait));
    crate::support::wait_for("the end of the hooks", || Arc::strong_count(&held) == 1);
}

#[test]
fn hooks_that_drop_each_others_registrations_all_return() {
    bounded(|| {
        for _ in 0..rounds(20) {
            a_circle_of(2, Hook::new);
            a_circle_of(3, Hook::new);
        }
    });
}

#[test]
fn a_hook_on_the_watchdog_and_one_on_a_runner_that_drop_each_other_both_return() {
    bounded(|| {
        let (first, second) = (Registered::default(), Registered::default());
        let token = CancellationToken::new();
        let both_run = Arc::new(Barrier::new(2));
        let (done, wait) = channel();
        let hook = |drops: &Registered| {
            let (drops, both_run, done) = (Arc::clone(drops), Arc::clone(&both_run), done.clone());
            move || {
                both_run.wait();
                let dropped = std::mem::take(&mut *drops.lock().unwrap());
                drop(dropped);
                done.send(()).unwrap();
            }
        };
        // The runner's must have begun before the watchdog's waits for it.
        let blocks = token.on_cancel(Hook::new(hook(&second)));
        first.lock().unwrap().push(blocks);
        let child = CancellationToken::new();
        second.lock().unwrap().push(child.on_cancel(Hook::inline(hook(&first))));
        token.cancel();
        crate::support::wait_for("the runner", || !first.lock().unwrap().is_empty());
        child.cancel();
        next(&wait);
        next(&wait);
        let_the_watchdog_pass();
    });
}

/// Inside of a hook, a call's hook runs that drops the outer hook's registration; and the call ends meanwhile.
#[test]
fn the_end_of_a_call_inside_a_hook_and_a_hook_that_drops_that_one_both_return() {
    bounded(|| {
        for _ in 0..rounds(20) {
            let registered = Registered::default();
            let token = CancellationToken::new();
            let (done, wait) = channel();
            let outer = Arc::clone(&registered);
            let hook = move || {
                let (drops, dropping) = channel();
                let (ended, borrowed) = (AtomicBool::new(false), Mutex::new(0));
                let inner = || {
                    let dropped = std::mem::take(&mut *outer.lock().unwrap());
                    let mut borrowed = borrowed.lock().unwrap();
                    drops.send(()).unwrap();
                    drop(dropped);
                    assert!(!ended.load(SeqCst));
                    *borrowed += 1;
                };
                let call = with_timeout(LONG, |scope| {
                    scope.interruptible(Hook::new(inner).once(), || {
                        scope.token().cancel();
                        next(&dropping);
                        Err::<(), _>("ended")
                    })
                });
                // The call has waited for its own hook, which waited for this one, until it let go.
                ended.store(true, SeqCst);
                assert_eq!(*borrowed.lock().unwrap(), 1);
                done.send(call.is_err()).unwrap();
            };
            registered.lock().unwrap().push(token.on_cancel(Hook::new(hook)));
            token.cancel();
            assert!(next(&wait));
        }
    });
}

/// As above, where the scope's exit, or a shield, waits.
#[test]
fn a_scope_or_a_shield_inside_a_hook_and_a_hook_that_drops_that_one_both_return() {
    bounded(|| {
        for shields in [false, true] {
            let registered = Registered::default();
            let token = CancellationToken::new();
            let (done, wait) = channel();
            let outer = Arc::clone(&registered);
            let hook = move || {
                let (drops, dropping) = channel();
                let outer = Arc::clone(&outer);
                let ended = Arc::new(AtomicBool::new(false));
                let ends = Arc::clone(&ended);
                with_timeout(LONG, |scope| {
                    let registration = scope.on_cancel(Hook::new(move || {
                        let dropped = std::mem::take(&mut *outer.lock().unwrap());
                        drops.send(()).unwrap();
                        drop(dropped);
                        ends.store(true, SeqCst);
                    }));
                    scope.token().cancel();
                    next(&dropping);
                    if shields {
                        timebox::shield(LONG, || assert!(ended.load(SeqCst)));
                    }
                    std::mem::forget(registration);
                    Ok::<_, TimeoutError>(())
                })
                .unwrap();
                done.send(ended.load(SeqCst)).unwrap();
            };
            registered.lock().unwrap().push(token.on_cancel(Hook::new(hook)));
            token.cancel();
            assert!(next(&wait));
        }
    });
}

/// No circle: the drop waits, though it is inside another hook.
#[test]
fn a_drop_inside_another_hook_waits_for_the_hook_that_it_ends() {
    bounded(|| {
        let (slow, other) = (CancellationToken::new(), CancellationToken::new());
        let ended = Arc::new(AtomicBool::new(false));
        let (began, begins) = channel();
        let (done, wait) = channel();
        let ends = Arc::clone(&ended);
        let waiter = Waiter::default();
        let seen = waiter.clone();
        let mut registration = Some(slow.on_cancel(move || {
            began.send(()).unwrap();
            seen.sleeps();
            ends.store(true, SeqCst);
        }));
        let _other = other.on_cancel(move || {
            waiter.begins();
            drop(registration.take());
            done.send(ended.load(SeqCst)).unwrap();
        });
        slow.cancel();
        next(&begins);
        other.cancel();
        assert!(next(&wait));
    });
}
