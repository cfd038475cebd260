//! What a handle gives to threads and pools: wrapped closures, and what is left.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use timebox::{
    CancellationToken, Deadline, Handle, Limit, Scope, Timebox, TimeoutError, checkpoint, deadline, handle,
    sleep, timeout, with_timeout,
};

use crate::runtimes::one_thread;
use crate::support::{Failure, LONG, SHORT, bounded, next, outlast, unhurried};

fn spin() -> timebox::Result<()> {
    loop {
        checkpoint()?;
    }
}

/// What a pool asks of a job.
fn is_job<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> impl FnOnce() -> T + Send + 'static {
    job
}

#[test]
fn a_wrapped_closure_is_stopped_with_the_scope_on_any_thread() {
    bounded(|| {
        unhurried(|limit| {
            with_timeout(limit, |scope| {
                let job = is_job(scope.handle().wrap(spin));
                let error = thread::spawn(job).join().unwrap().unwrap_err();
                assert_eq!(error.scope(), scope.id());
                Ok::<_, TimeoutError>(error.started().then_some(()))
            })
            .unwrap()
        });
    });
}

#[test]
fn without_it_a_thread_is_in_no_scope() {
    timeout(SHORT, || {
        assert_eq!(thread::spawn(deadline).join().unwrap(), Deadline::NEVER);
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_wrapped_closure_may_borrow_and_fail_with_an_error_of_its_own() {
    let name = String::from("own");
    let result = timeout(LONG, || {
        let job = handle().wrap(|| if name == "own" { Err::<(), _>(Failure::Own("mine")) } else { Ok(()) });
        thread::scope(|threads| threads.spawn(job).join().unwrap())
    });
    assert!(matches!(result, Err(Failure::Own("mine"))), "{result:?}");
}

#[test]
fn a_wrapped_value_is_given_back() {
    let value = timeout(LONG, || {
        let job = is_job(handle().wrap_value(|| deadline() != Deadline::NEVER));
        thread::spawn(job).join().unwrap()
    });
    assert!(value.unwrap(), "it sees the deadline of the scope");
}

#[test]
fn a_job_that_was_queued_until_the_scope_was_over_is_not_begun() {
    let line = line!() + 2;
    with_timeout(SHORT, |scope| {
        let job = scope.handle().wrap(|| -> Result<(), Failure> { unreachable!("not begun") });
        let value = scope.handle().wrap_value(|| unreachable!("not begun"));
        outlast(scope);
        let error = thread::scope(|threads| threads.spawn(job).join().unwrap()).unwrap_err().timebox();
        assert_eq!((error.scope(), error.started()), (scope.id(), false));
        assert_eq!(error.interrupted_at().line(), line, "where it was wrapped");
        let error = value().unwrap_err();
        assert_eq!((error.started(), error.interrupted_at().line()), (false, line + 1));
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
fn a_wrapped_closure_does_not_see_the_scopes_of_the_thread_that_calls_it() {
    let job = timeout(LONG, || Ok::<_, TimeoutError>(handle().wrap_value(deadline))).unwrap();
    with_timeout(SHORT, |scope| {
        assert!(job().unwrap() > scope.deadline());
        Ok::<_, TimeoutError>(())
    })
    .unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "rayon makes pointers of integers, which strict provenance forbids")]
fn rayon_runs_a_wrapped_closure_in_the_scope() {
    bounded(|| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let error = timeout(SHORT, || {
            let (send, ended) = channel();
            let job = handle().wrap(spin);
            pool.spawn(move || send.send(job()).unwrap());
            next(&ended)
        });
        assert!(error.unwrap_err().is_timeout());
    });
}

#[test]
fn spawn_blocking_runs_a_wrapped_closure_in_the_scope() {
    bounded(|| {
        let runtime = one_thread().build().unwrap();
        let result = runtime.block_on(timebox::future::timeout(LONG, async {
            let scope = Timebox::new(SHORT).label("blocking part");
            let job = scope.run(|scope| Ok::<_, TimeoutError>(scope.handle().wrap(spin)))?;
            tokio::task::spawn_blocking(job).await.unwrap()
        }));
        let error: TimeoutError = result.unwrap_err();
        assert_eq!(error.label(), Some("blocking part"));
    });
}

#[test]
fn a_handle_tells_what_is_left() {
    let handle = with_timeout(LONG, |outer| {
        let handle = Timebox::new(LONG * 2).run(|scope| Ok::<_, TimeoutError>(scope.handle()))?;
        assert_eq!(handle.deadline(), outer.deadline(), "the earliest");
        assert!(!handle.is_expired());
        let left = handle.remaining().unwrap();
        assert!(left <= LONG && left > LONG / 2);
        Ok::<_, TimeoutError>(outer.handle())
    })
    .unwrap();
    // It outlives its scope.
    assert!(handle.remaining().unwrap() > LONG / 2);
}

#[test]
fn a_handle_of_a_scope_that_is_over_has_nothing_left() {
    let passed: Handle = timeout(SHORT, || Ok::<_, TimeoutError>(handle())).unwrap();
    thread::sleep(SHORT * 2);
    assert!(passed.remaining().is_some_and(|left| left.is_zero()));
    assert!(passed.is_expired());

    let cancelled = timeout(LONG, || Ok::<_, TimeoutError>(handle())).unwrap();
    cancelled.token().cancel();
    assert!(cancelled.is_expired());
    assert_eq!(cancelled.remaining(), Some(Duration::ZERO));
}

#[test]
fn a_root_handle_has_no_deadline() {
    let root = handle();
    assert_eq!((root.deadline(), root.remaining()), (Deadline::NEVER, None));
    assert!(!root.is_expired());
}

#[test]
fn the_deadline_of_a_token_counts_in_the_handle_beneath_it() {
    unhurried(|limit| {
        let token =
            with_timeout(limit, |scope| Ok::<CancellationToken, TimeoutError>(scope.token())).unwrap();
        let body = |scope: &Scope| {
            let handle = scope.handle();
            assert!(handle.remaining().unwrap() <= limit);
            assert!(handle.enter(Limit::NONE, |_| sleep(LONG)).is_err());
            assert_eq!(handle.remaining(), Some(Duration::ZERO));
        };
        Timebox::new(LONG).cancel_on(&token).run_value(body).ok()
    });
}
