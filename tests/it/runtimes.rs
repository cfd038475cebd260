//! One test body on every executor: tokio with one thread and with many, smol, and a bare `block_on`.

use std::future::{Future, poll_fn};
use std::task::Poll;

use crate::support::bounded;

/// Makes of each named `async fn` one test for every executor.
macro_rules! on_each_runtime {
    ($($name:ident),+ $(,)?) => { $(
        mod $name {
            #[test]
            fn on_tokio_current_thread() {
                crate::runtimes::tokio_current_thread(super::$name);
            }
            #[test]
            fn on_tokio_multi_thread() {
                crate::runtimes::tokio_multi_thread(super::$name);
            }
            #[test]
            #[cfg_attr(miri, ignore = "its reactor needs a timer of the system")]
            fn on_smol() {
                crate::runtimes::smol(super::$name);
            }
            #[test]
            fn on_pollster() {
                crate::runtimes::pollster(super::$name);
            }
        }
    )+ };
}
pub(crate) use on_each_runtime;

/// Tokio with one thread.
pub(crate) fn one_thread() -> tokio::runtime::Builder {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    if cfg!(miri) {
        // Else the future in `block_on` is polled once for 61 polls of a task in a loop, which are much work.
        runtime.event_interval(1);
    }
    runtime
}

pub(crate) fn tokio_current_thread<F: Future<Output = ()> + Send + 'static>(test: fn() -> F) {
    bounded(move || {
        let runtime = one_thread().build().unwrap();
        runtime.block_on(test());
    });
}

/// As a spawned task, so that it may move from worker to worker.
pub(crate) fn tokio_multi_thread<F: Future<Output = ()> + Send + 'static>(test: fn() -> F) {
    bounded(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        if let Err(error) = runtime.block_on(runtime.spawn(test())) {
            std::panic::resume_unwind(error.into_panic());
        }
    });
}

pub(crate) fn smol<F: Future<Output = ()> + Send + 'static>(test: fn() -> F) {
    bounded(move || smol::block_on(smol::spawn(test())));
}

pub(crate) fn pollster<F: Future<Output = ()> + Send + 'static>(test: fn() -> F) {
    bounded(move || pollster::block_on(test()));
}

/// Gives every other task a turn.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
