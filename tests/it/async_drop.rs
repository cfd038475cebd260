//! A future that is dropped, finished or not, is dropped inside its scope, and one that is forgotten harms nobody.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use timebox::{Deadline, Timebox, checkpoint, deadline, future, is_expired};

use crate::runtimes::on_each_runtime;
use crate::support::{
    LONG, SHORT, bounded, let_the_watchdog_pass, poll_once, poll_with, rounds, unhurried, wait_for,
};

on_each_runtime!(
    an_expired_future_is_dropped_inside_its_scope,
    a_pending_future_is_dropped_inside_its_scope,
    a_future_that_was_never_polled_does_nothing,
    a_future_leaked_in_the_middle_harms_nobody,
);

/// Writes down what is ambient when it is dropped.
struct OnDrop(Arc<Mutex<Option<Ambient>>>);

/// The deadline, whether it is over, and the label of the scope that is.
type Ambient = (Deadline, bool, Option<String>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let label = checkpoint().err().and_then(|error| error.label().map(str::to_owned));
        *self.0.lock().unwrap() = Some((deadline(), is_expired(), label));
    }
}

async fn an_expired_future_is_dropped_inside_its_scope() {
    let seen = Arc::default();
    let guard = OnDrop(Arc::clone(&seen));
    Timebox::new(SHORT)
        .label("request")
        .run_future_value(async move {
            let _guard = guard;
            pending::<()>().await;
        })
        .await
        .unwrap_err();
    let (deadline, expired, label) = seen.lock().unwrap().take().expect("dropped with the expiry");
    assert!(expired && deadline.has_passed());
    assert_eq!(label.as_deref(), Some("request"));
}

async fn a_pending_future_is_dropped_inside_its_scope() {
    let seen = Arc::default();
    let guard = OnDrop(Arc::clone(&seen));
    let mut bounded = Box::pin(future::timeout_value(LONG, async move {
        let _guard = guard;
        pending::<()>().await;
    }));
    assert!(poll_once(&mut bounded).is_pending());
    drop(bounded);
    let (seen, expired, _) = seen.lock().unwrap().take().expect("dropped");
    assert!(seen != Deadline::NEVER && !expired);
    assert_eq!(deadline(), Deadline::NEVER);
}

async fn a_future_that_was_never_polled_does_nothing() {
    let held = Arc::new(());
    let inside = Arc::clone(&held);
    let never = future::timeout_value(SHORT, async move {
        drop(inside);
        unreachable!("not polled")
    });
    drop(never);
    assert_eq!(Arc::strong_count(&held), 1);
    drop(future::sleep(SHORT));
    drop(future::interruptible(|| (), async { Ok::<_, String>(()) }));
    drop(future::shield(LONG, async {}));
    drop(Timebox::new(SHORT).grace(LONG).run_future_value(async {}));
}

#[test]
fn a_future_is_dropped_inside_its_scope_on_whichever_thread() {
    unhurried(|limit| {
        let seen = Arc::default();
        let guard = OnDrop(Arc::clone(&seen));
        let mut bounded = Box::pin(future::timeout_value(limit, async move {
            let _guard = guard;
            pending::<()>().await;
        }));
        if poll_once(&mut bounded).is_ready() {
            return None;
        }
        thread::spawn(move || {
            wait_for("the deadline", || matches!(poll_once(&mut bounded), Poll::Ready(Err(_))));
        })
        .join()
        .unwrap();
        assert!(seen.lock().unwrap().take().unwrap().1);
        Some(())
    });
}

async fn a_future_leaked_in_the_middle_harms_nobody() {
    for _ in 0..10 {
        let mut leaked = Box::pin(future::timeout_value(SHORT / 4, pending::<()>()));
        let _ = futures::poll!(&mut leaked);
        std::mem::forget(leaked);
    }
    assert_eq!(deadline(), Deadline::NEVER);
    let error = future::timeout_value(SHORT, pending::<()>()).await.unwrap_err();
    assert_eq!(error.limit(), Some(SHORT));
    let_the_watchdog_pass();
}

#[test]
fn dropping_while_expiring_loses_no_other_expiry() {
    bounded(|| {
        let threads: Vec<_> = (0..4_u64)
            .map(|thread| {
                thread::spawn(move || {
                    for round in 0..u64::from(rounds(500)) {
                        let limit = Duration::from_micros((round * 7919 + thread * 104_729) % 300);
                        let mut short = Box::pin(future::timeout_value(limit, pending::<()>()));
                        let _ = poll_with(&mut short, || ());
                        if round % 50 == 0 {
                            pollster::block_on(future::timeout_value(limit, pending::<()>())).unwrap_err();
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
