//! Panics in polls and in drops of futures pass through and leave nothing behind.

use std::future::{pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::task::Poll;
use std::thread;

use futures::FutureExt as _;
use pollster::block_on;
use timebox::{Deadline, checkpoint, checkpoint_or_unwind, deadline, future, is_expired};

use crate::runtimes::{on_each_runtime, yield_now};
use crate::support::{LONG, SHORT, bounded, poll_with};

on_each_runtime!(
    a_panic_in_a_poll_passes_through_and_leaves_nothing_behind,
    a_panic_in_a_drop_at_expiry_leaves_nothing_behind,
);

async fn a_panic_in_a_poll_passes_through_and_leaves_nothing_behind() {
    future::timeout(LONG, async {
        let before = deadline();
        let panicking = future::timeout_value(LONG / 2, async {
            yield_now().await;
            panic!("a future of the test panics, as it should");
        });
        let payload = AssertUnwindSafe(panicking).catch_unwind().await.map(|result: Result<(), _>| result);
        assert!(payload.unwrap_err().is::<&str>());
        assert_eq!(deadline(), before);
        yield_now().await;
        checkpoint()
    })
    .await
    .unwrap();
    assert_eq!(deadline(), Deadline::NEVER);
}

async fn a_panic_in_a_drop_at_expiry_leaves_nothing_behind() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(is_expired());
            panic!("a destructor of the test panics, as it should");
        }
    }
    future::timeout(LONG, async {
        let before = deadline();
        let bounded = future::timeout_value(SHORT, async {
            let _bomb = Bomb;
            pending::<()>().await;
        });
        // Either the panic or the expiry may win; nothing of it may stay.
        if let Err(payload) = AssertUnwindSafe(bounded).catch_unwind().await {
            assert!(payload.is::<&str>());
        }
        assert_eq!(deadline(), before);
        future::timeout_value(SHORT, pending::<()>()).await.unwrap_err();
        checkpoint()
    })
    .await
    .unwrap();
    assert_eq!(deadline(), Deadline::NEVER);
}

#[test]
fn a_panic_in_the_first_poll_leaves_nothing_armed() {
    let held = Arc::new(());
    let inside = Arc::clone(&held);
    let woken = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&woken);
    let mut bad = Box::pin(future::timeout_value(
        SHORT,
        poll_fn(move |_| -> Poll<()> {
            let _ = &inside;
            panic!("a future of the test panics, as it should");
        }),
    ));
    let polled = catch_unwind(AssertUnwindSafe(|| {
        poll_with(&mut bad, move || {
            count.fetch_add(1, SeqCst);
        })
    }));
    assert!(polled.is_err());
    drop(bad);
    assert_eq!((Arc::strong_count(&held), Arc::strong_count(&woken)), (1, 1));
}

/// Asks often enough to be unwound if that is possible.
struct UnwindsWhenDropped;

impl Drop for UnwindsWhenDropped {
    fn drop(&mut self) {
        for _ in 0..1000 {
            checkpoint_or_unwind();
        }
    }
}

#[test]
fn unwinding_in_the_drop_of_an_expired_future_does_not_hide_its_error() {
    let error = bounded(|| {
        let expired = future::timeout_value(SHORT, async {
            let _guard = UnwindsWhenDropped;
            pending::<()>().await;
        });
        block_on(expired).unwrap_err()
    });
    assert!(error.is_timeout());
    assert!(!error.settled());
}

#[test]
fn a_late_value_survives_unwinding_in_the_drop_of_its_future() {
    let value = bounded(|| {
        let guard = UnwindsWhenDropped;
        let late = poll_fn(move |_| {
            let _ = &guard;
            thread::sleep(SHORT);
            Poll::Ready(7)
        });
        block_on(future::timeout_value(SHORT, late)).unwrap()
    });
    assert_eq!(value, 7);
}
