//! After a thread's first scope, a plain `timeout` allocates nothing; and what is allocated is freed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use timebox::{
    Deadline, Limit, Timebox, TimeoutError, checkpoint, future, is_expired, remaining, timeout,
    timeout_value, token, with_timeout,
};

const LONG: Duration = Duration::from_secs(3600);

thread_local! {
    /// Allocations of this thread; the harness and the watchdog have their own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    /// Bytes that this thread has allocated less those it has freed.
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to `System` unchanged; beside it only a thread-local without a destructor is counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        LIVE.set(LIVE.get().wrapping_add(layout.size()));
        // SAFETY: the caller's promises are those `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(layout.size()));
        // SAFETY: the caller's promises are those `System` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of `body` on a thread that has had its first scope.
fn allocations(body: impl Fn()) -> usize {
    timeout(LONG, checkpoint).unwrap();
    // Once for what the body itself does for the first time.
    body();
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        body();
    }
    ALLOCATIONS.get() - before
}

#[test]
fn a_plain_timeout_allocates_nothing() {
    assert_eq!(allocations(|| timeout(LONG, || Ok::<_, TimeoutError>(())).unwrap()), 0);
}

#[test]
fn the_very_next_timeout_after_a_threads_first_allocates_nothing() {
    std::thread::spawn(|| {
        timeout(LONG, || Ok::<_, TimeoutError>(())).unwrap();
        let before = ALLOCATIONS.get();
        timeout(LONG, || Ok::<_, TimeoutError>(())).unwrap();
        assert_eq!(ALLOCATIONS.get() - before, 0);
    })
    .join()
    .unwrap();
}

#[test]
fn every_kind_of_limit_allocates_nothing() {
    let deadline = Deadline::after(LONG);
    let instant = std::time::Instant::now() + LONG;
    let body = || {
        timeout_value(Limit::NONE, || ()).unwrap();
        timeout_value(deadline, || ()).unwrap();
        timeout_value(instant, || ()).unwrap();
        timeout_value(Duration::MAX, || ()).unwrap();
        Timebox::new(LONG).label("a borrowed label").run_value(|_| ()).unwrap();
    };
    assert_eq!(allocations(body), 0);
}

#[test]
fn questions_allocate_nothing() {
    let body = || {
        with_timeout(LONG, |scope| {
            assert!(!is_expired() && remaining().is_some());
            scope.require(Duration::from_secs(1))?;
            scope.checkpoint()
        })
        .unwrap();
    };
    assert_eq!(allocations(body), 0);
}

#[test]
fn nested_timeouts_allocate_nothing() {
    let body = || timeout(LONG, || timeout(LONG / 2, || timeout(LONG / 4, checkpoint))).unwrap();
    assert_eq!(allocations(body), 0);
}

#[test]
fn a_scope_that_passes_its_deadline_without_asking_allocates_nothing() {
    let body =
        || timeout_value(Duration::from_micros(1), || std::thread::sleep(Duration::from_micros(50))).unwrap();
    assert_eq!(allocations(body), 0);
}

#[test]
fn a_scope_of_a_template_allocates_nothing() {
    let requests =
        future::ScopeTemplate::new(Timebox::new(LONG).label("request"), std::panic::Location::caller());
    let body = || {
        let mut scope = requests.scope();
        scope.enter(|_| ()).unwrap();
        let polled = scope.poll(&mut Context::from_waker(Waker::noop()), |_| Poll::Ready(()));
        assert!(polled.is_ready());
    };
    assert_eq!(allocations(body), 0);
}

#[test]
fn a_template_keeps_no_error_of_its_scopes() {
    let requests =
        || future::ScopeTemplate::new(Timebox::new(LONG).label("request"), std::panic::Location::caller());
    let raise = |requests: &future::ScopeTemplate| {
        let raised = requests.scope().enter(|_| {
            token().cancel();
            checkpoint().unwrap_err()
        });
        assert_eq!(raised.unwrap().label(), Some("request"));
    };
    // Once for what is done for the first time.
    raise(&requests());
    let requests = requests();
    let before = LIVE.get();
    raise(&requests);
    assert_eq!(LIVE.get(), before);
}

#[test]
fn scopes_that_end_each_other_in_a_circle_are_freed() {
    fn poll_once<F: Future>(future: &mut Pin<Box<F>>) {
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    // A future's scope around the one whose token it is cancelled on, and a block's.
    let round = || {
        for _ in 0..200 {
            let (sent, received) = channel();
            let mut inner = Box::pin(future::timeout_value(LONG, async move {
                sent.send(token()).unwrap();
                pending::<()>().await;
            }));
            poll_once(&mut inner);
            let inner_token = received.recv().unwrap();
            let mut outer = Box::pin(Timebox::new(LONG).cancel_on(&inner_token).run_future_value(inner));
            poll_once(&mut outer);

            let mut turns = 0;
            let (sent, received) = channel();
            let mut inner = Box::pin(future::timeout_value(
                LONG,
                poll_fn(move |_| {
                    sent.send(token()).unwrap();
                    turns += 1;
                    if turns == 2 { Poll::Ready(()) } else { Poll::Pending }
                }),
            ));
            poll_once(&mut inner);
            let inner_token = received.recv().unwrap();
            let block = Timebox::new(LONG).cancel_on(&inner_token);
            block.run_value(|_| pollster::block_on(inner).unwrap()).unwrap();
        }
    };
    round();
    let before = LIVE.get();
    round();
    let grown = LIVE.get().wrapping_sub(before).cast_signed();
    assert!(grown < 10_000, "{grown} bytes in 200 rounds");
}

/// A traced poll leaves no memory, and none of its wakers: what a leaf keeps is the waker of the task.
#[cfg(all(feature = "report", feature = "testing"))]
#[test]
fn traced_polls_keep_nothing() {
    use std::sync::Arc;
    use std::task::Wake;
    use timebox::report::awaits_of;

    struct Task;
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    async fn receives(receiver: &mut tokio::sync::mpsc::Receiver<()>) {
        receiver.recv().await;
    }

    let task = Arc::new(Task);
    let waker = Waker::from(Arc::clone(&task));
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let mut future = Box::pin(tokio::task::unconstrained(receives(&mut receiver)));
    let mut poll = || {
        let (poll, resolve) = awaits_of(&waker, |cx| future.as_mut().poll(cx));
        drop(resolve);
        assert!(poll.is_pending());
        // This waker, the channel's, and the count of this test.
        assert_eq!(Arc::strong_count(&task), 3);
    };
    poll();
    let live = LIVE.get();
    let polls = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
    let began = std::time::Instant::now();
    for _ in 0..polls {
        poll();
    }
    // Read before the line below, which allocates.
    let left = LIVE.get();
    println!("{polls} traced polls, each {:?}", began.elapsed() / polls);
    assert_eq!(left, live);
    drop(future);
    drop((waker, sender, receiver));
    assert_eq!(Arc::strong_count(&task), 1);
}

#[test]
#[cfg(feature = "report")]
fn a_plain_timeout_under_a_policy_of_reports_allocates_nothing() {
    timebox::report::Policy::new().warn_after(Duration::from_secs(3600)).install().unwrap();
    timeout_value(Duration::from_secs(60), || ()).unwrap();
    let under_a_policy = allocations(|| {
        timeout_value(Duration::from_secs(60), || timeout_value(Duration::from_secs(1), || ()))
            .unwrap()
            .unwrap();
    });
    timebox::report::uninstall();
    assert_eq!(under_a_policy, 0);
}
