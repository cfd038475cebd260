//! In a thread's TLS destructors scopes still work, whichever was there first.

use std::cell::RefCell;
use std::future::pending;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use timebox::{
    Deadline, TimeoutError, deadline, future, interruptible, on_cancel, shield, timeout, with_timeout,
};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(3600);
const HANG: Duration = Duration::from_secs(40);

/// Uses everything when it is dropped, and sends what came of it.
struct Last(Sender<Result<(), String>>);

impl Drop for Last {
    fn drop(&mut self) {
        let result = std::panic::catch_unwind(use_everything).map_err(|payload| {
            payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".to_owned())
        });
        // The test has given up waiting only if it has failed already.
        let _ = self.0.send(result);
    }
}

fn use_everything() {
    assert_eq!(deadline(), Deadline::NEVER);
    timeout(LONG, || timeout(LONG, timebox::checkpoint)).unwrap();
    assert!(timeout(SHORT, || timebox::sleep(LONG)).unwrap_err().is_timeout());
    timeout(SHORT, || -> timebox::Result<()> {
        loop {
            timebox::checkpoint()?;
        }
    })
    .unwrap_err();
    assert!(
        with_timeout(LONG, |scope| {
            scope.token().cancel();
            scope.checkpoint()
        })
        .unwrap_err()
        .is_cancelled()
    );
    let (fired, wait) = channel();
    timeout(SHORT, || {
        interruptible(move || fired.send(()), || wait.recv().map_or(Ok(()), |()| Err("interrupted")))
    })
    .unwrap_err();
    with_timeout(LONG, |scope| {
        let (fired, wait) = channel();
        let _registration = on_cancel(move || fired.send(()));
        scope.token().cancel();
        wait.recv_timeout(HANG).unwrap();
        shield(LONG, timebox::checkpoint)
    })
    .unwrap();
    pollster::block_on(future::timeout_value(SHORT, pending::<()>())).unwrap_err();
    timebox::handle().enter(LONG, |scope| Ok::<_, TimeoutError>(scope.id())).unwrap();
    assert_eq!(deadline(), Deadline::NEVER);
}

/// What a thread's destructor saw; `first` runs before its key is touched, `then` after.
fn at_thread_exit(first: fn(), then: fn()) {
    thread_local! {
        static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
    }
    let (tell, told) = channel();
    let thread = thread::spawn(move || {
        first();
        LAST.set(Some(Last(tell)));
        then();
    });
    told.recv_timeout(HANG).expect("the destructor ends").unwrap();
    thread.join().unwrap();
}

/// Touches all that the crate may keep for a thread.
fn touch() {
    timeout(LONG, timebox::checkpoint).unwrap();
}

#[test]
fn scopes_work_in_a_destructor_that_runs_before_the_crates_own() {
    at_thread_exit(touch, || ());
}

#[test]
fn scopes_work_in_a_destructor_that_runs_after_the_crates_own() {
    at_thread_exit(|| (), touch);
}

#[test]
fn scopes_work_in_a_destructor_that_is_the_first_to_use_them() {
    at_thread_exit(|| (), || ());
}

#[test]
fn a_future_held_in_a_thread_local_is_dropped_in_its_scope() {
    struct OnDrop(Sender<Deadline>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            let _ = self.0.send(deadline());
        }
    }
    type Held = std::pin::Pin<Box<dyn Future<Output = Result<(), TimeoutError>>>>;
    thread_local! {
        static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
    }
    let (tell, told) = channel();
    thread::spawn(move || {
        let guard = OnDrop(tell);
        let mut bounded: Held = Box::pin(future::timeout_value(LONG, async move {
            let _guard = guard;
            pending::<()>().await;
        }));
        let polled = bounded.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(polled.is_pending());
        HELD.set(Some(bounded));
    })
    .join()
    .unwrap();
    assert_ne!(told.recv_timeout(HANG).unwrap(), Deadline::NEVER);
}
