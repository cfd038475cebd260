//! Where a pending future waits: the user's functions are all in the stack, in order.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use timebox::report::{Stack, awaits_of};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify, Semaphore, mpsc, oneshot};

const LONG: Duration = Duration::from_secs(3600);

/// Where a future waits in its first poll that is pending of itself, and the notes.
async fn awaits(future: impl Future) -> (Vec<Stack>, Vec<String>) {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let (poll, resolve) = awaits_of(cx.waker(), |cx| future.as_mut().poll(cx));
        assert!(poll.is_pending());
        Poll::Ready(resolve())
    })
    .await
}

fn on_tokio<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The names of the async functions of this file in a stack, outermost first: `outer_sleep > inner_sleep`.
fn users(stack: &Stack) -> String {
    let mut names = Vec::new();
    for frame in stack.frames.iter().rev() {
        if let Some(name) = frame.function.strip_prefix("report_awaits::") {
            // The code of a macro is in this file's functions, but it is the runtime's.
            let is_of_macro = frame.file.as_ref().is_some_and(|file| file.contains("/registry/"));
            assert!(is_of_macro || !frame.foreign, "{frame:?}");
            let name = name.split("::").next().unwrap();
            if name == "awaits" {
                continue; // the closure that polls
            }
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
    }
    // With debug information each function has its line.
    let own = || stack.frames.iter().filter(|frame| frame.function.starts_with("report_awaits::"));
    if own().any(|frame| frame.file.is_some()) {
        // Code that an optimising compiler has merged has no line.
        assert!(cfg!(not(debug_assertions)) || own().all(|frame| frame.line.is_some()), "{stack:#?}");
        assert!(
            own().any(|frame| frame.file.as_ref().is_some_and(|file| file.ends_with("report_awaits.rs")))
        );
    }
    names.join(" > ")
}

/// The [`users`] of each branch of a future, and whether the program has debug information. Without it the functions
/// are missing that the compiler has inlined, as it does in optimised builds.
#[derive(Debug)]
struct Branches {
    names: Vec<String>,
    has_lines: bool,
}

impl<const N: usize> PartialEq<[&str; N]> for Branches {
    fn eq(&self, expected: &[&str; N]) -> bool {
        let is_part = |found: &str, expected: &str| {
            let mut all = expected.split(" > ");
            found.split(" > ").all(|name| all.any(|other| other == name))
        };
        self.names.len() == N
            && self.names.iter().zip(expected).all(|(found, expected)| {
                if self.has_lines { found == expected } else { is_part(found, expected) }
            })
    }
}

fn has_lines(stack: &Stack) -> bool {
    let mut own = stack.frames.iter().filter(|frame| frame.function.starts_with("report_awaits::"));
    own.any(|frame| frame.line.is_some())
}

async fn branches(future: impl Future) -> Branches {
    let (stacks, notes) = awaits(future).await;
    assert!(notes.is_empty(), "{notes:?}");
    for stack in &stacks {
        assert!(!stack.truncated);
        // Nothing of the tracing itself shows.
        assert!(!stack.frames.iter().any(|frame| frame.function.contains("traced_")), "{stack:#?}");
        assert!(stack.frames.last().is_some_and(|frame| !frame.foreign), "{stack:#?}");
    }
    Branches { names: stacks.iter().map(users).collect(), has_lines: stacks.iter().any(has_lines) }
}

async fn inner_sleep() {
    tokio::time::sleep(LONG).await;
}

async fn outer_sleep() {
    inner_sleep().await;
}

async fn reads(mut stream: TcpStream) {
    let mut bytes = [0; 8];
    let _ = stream.read_exact(&mut bytes).await;
}

async fn handles(stream: TcpStream) {
    reads(stream).await;
}

async fn locks(mutex: &Mutex<()>) {
    drop(mutex.lock().await);
}

async fn receives(mut receiver: mpsc::Receiver<()>) {
    receiver.recv().await;
}

async fn receives_one(receiver: oneshot::Receiver<()>) {
    let _ = receiver.await;
}

async fn is_notified(notify: &Notify) {
    notify.notified().await;
}

async fn acquires(semaphore: &Semaphore) {
    drop(semaphore.acquire().await);
}

async fn joins_task(task: tokio::task::JoinHandle<()>) {
    let _ = task.await;
}

async fn receives_async_channel(receiver: smol::channel::Receiver<()>) {
    let _ = receiver.recv().await;
}

#[test]
fn a_leaf_of_tokio_shows_with_the_functions_above_it() {
    on_tokio(async {
        assert_eq!(branches(outer_sleep()).await, ["outer_sleep > inner_sleep"]);

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert_eq!(branches(handles(stream)).await, ["handles > reads"]);

        let mutex = Mutex::new(());
        let guard = mutex.lock().await;
        assert_eq!(branches(locks(&mutex)).await, ["locks"]);
        drop(guard);

        let (_sender, receiver) = mpsc::channel(1);
        assert_eq!(branches(receives(receiver)).await, ["receives"]);
        let (_sender, receiver) = oneshot::channel();
        assert_eq!(branches(receives_one(receiver)).await, ["receives_one"]);
        assert_eq!(branches(is_notified(&Notify::new())).await, ["is_notified"]);
        assert_eq!(branches(acquires(&Semaphore::new(0))).await, ["acquires"]);
        assert_eq!(branches(joins_task(tokio::spawn(inner_sleep()))).await, ["joins_task"]);

        let (release, held) = std::sync::mpsc::channel::<()>();
        let blocking = tokio::task::spawn_blocking(move || held.recv().unwrap_or(()));
        assert_eq!(branches(joins_task(blocking)).await, ["joins_task"]);
        drop(release);
    });
}

#[test]
fn a_leaf_of_smol_shows() {
    async fn sleeps() {
        smol::Timer::after(LONG).await;
    }
    let (_sender, receiver) = smol::channel::bounded(1);
    smol::block_on(async {
        assert_eq!(branches(sleeps()).await, ["a_leaf_of_smol_shows"]);
        assert_eq!(branches(receives_async_channel(receiver)).await, ["receives_async_channel"]);
        let task = smol::spawn(sleeps());
        let (stacks, _) = awaits(task).await;
        assert_eq!(stacks.len(), 1);
    });
}

#[test]
fn each_branch_of_a_join_or_select_shows() {
    async fn joins() {
        tokio::join!(inner_sleep(), outer_sleep());
    }
    async fn selects() {
        tokio::select! {
            () = inner_sleep() => {}
            () = outer_sleep() => {}
        }
    }
    async fn futures_joins() {
        futures::future::join(inner_sleep(), outer_sleep()).await;
    }
    async fn futures_selects() {
        futures::future::select(pin!(inner_sleep()), pin!(outer_sleep())).await;
    }
    fn in_name(test: &str, name: &str) -> bool {
        name == format!("{test} > inner_sleep") || name == format!("{test} > outer_sleep > inner_sleep")
    }
    on_tokio(async {
        let test = "each_branch_of_a_join_or_select_shows";
        for found in [
            branches(joins()).await,
            branches(selects()).await,
            branches(futures_joins()).await,
            branches(futures_selects()).await,
        ] {
            let Branches { names, has_lines } = &found;
            assert_eq!(names.len(), 2);
            let are_right = names[0] != names[1] && names.iter().all(|name| in_name(test, name));
            assert!(are_right || !has_lines, "{found:?}");
        }
    });
}

async fn boxed(depth: u32) {
    if depth == 0 {
        inner_sleep().await;
    } else {
        recurses(depth - 1).await;
    }
}

fn recurses(depth: u32) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(boxed(depth))
}

#[test]
fn boxed_and_recursive_futures_show_each_call() {
    on_tokio(async {
        let (stacks, _) = awaits(recurses(5)).await;
        let calls =
            stacks[0].frames.iter().filter(|frame| frame.function.starts_with("report_awaits::boxed"));
        assert_eq!((stacks.len(), calls.count()), (1, 6));
        assert!(users(&stacks[0]) == "boxed > inner_sleep" || !has_lines(&stacks[0]));
    });
}

async fn drains(mut set: FuturesUnordered<Pin<Box<dyn Future<Output = ()>>>>) {
    while set.next().await.is_some() {}
}

#[test]
fn a_set_with_wakers_of_its_own_shows_itself() {
    on_tokio(async {
        let set = FuturesUnordered::new();
        set.push(Box::pin(inner_sleep()) as Pin<Box<dyn Future<Output = ()>>>);
        set.push(Box::pin(outer_sleep()));
        assert_eq!(branches(drains(set)).await, ["drains"]);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(inner_sleep());
        assert_eq!(branches(async move { tasks.join_next().await }).await.names.len(), 1);
    });
}

#[test]
fn equal_stacks_are_given_once_and_counted() {
    async fn waits_for_both() {
        futures::future::join(inner_sleep(), outer_sleep()).await;
    }
    on_tokio(async {
        let (stacks, notes) = awaits(futures::future::join_all((0..20).map(|_| inner_sleep()))).await;
        assert_eq!(stacks.iter().map(users).collect::<Vec<_>>(), ["inner_sleep"]);
        assert_eq!(notes, ["19 branches wait where others wait."]);
        // Beyond 30 futures it would be a set with wakers of its own.
        let (stacks, notes) = awaits(futures::future::join_all((0..30).map(|_| waits_for_both()))).await;
        assert_eq!(stacks.len(), 2);
        assert_eq!(notes, ["30 branches wait where others wait.", "28 more branches are not shown."]);
    });
}

#[test]
fn a_future_that_nobody_will_wake_says_so() {
    let (stacks, notes) = futures::executor::block_on(awaits(std::future::pending::<()>()));
    assert!(stacks.is_empty());
    assert!(notes[0].starts_with("No waker was cloned"), "{notes:?}");
}

#[test]
fn a_clone_on_another_thread_is_counted_only() {
    let lends = poll_fn(|cx: &mut Context<'_>| {
        let waker = cx.waker();
        std::thread::scope(|scope| scope.spawn(|| drop(waker.clone())).join().unwrap());
        Poll::<()>::Pending
    });
    let (stacks, notes) = futures::executor::block_on(awaits(lends));
    assert!(stacks.is_empty());
    assert!(notes[0].starts_with("1 waker was cloned on another thread"), "{notes:?}");
}

#[test]
fn a_poll_that_is_traced_inside_another_shows_to_both() {
    let inner_stacks = Arc::new(std::sync::Mutex::new(Vec::new()));
    let inner = Arc::clone(&inner_stacks);
    let traces = async move {
        let mut future = pin!(outer_sleep());
        poll_fn(|cx| {
            let (poll, resolve) = awaits_of(cx.waker(), |cx| future.as_mut().poll(cx));
            *inner.lock().unwrap() = resolve().0;
            poll
        })
        .await;
    };
    on_tokio(async {
        let (stacks, _) = awaits(traces).await;
        let test = "a_poll_that_is_traced_inside_another_shows_to_both";
        let names: Vec<_> = stacks.iter().map(users).collect();
        let is_right = names == [format!("{test} > outer_sleep > inner_sleep")];
        assert!(is_right || !has_lines(&stacks[0]), "{names:?}");
    });
    let inner = inner_stacks.lock().unwrap();
    let names: Vec<_> = inner.iter().map(users).collect();
    assert_eq!(names.len(), 1);
    assert!(names[0].ends_with("outer_sleep > inner_sleep") || !has_lines(&inner[0]), "{names:?}");
    assert!(
        !inner[0].frames.iter().any(|frame| frame.function.contains("report_awaits::awaits::")),
        "{inner:#?}"
    );
}

#[test]
fn a_value_that_is_ready_comes_out() {
    let mut future = pin!(async { 7 });
    let (poll, resolve) = awaits_of(Waker::noop(), |cx| future.as_mut().poll(cx));
    assert_eq!(poll, Poll::Ready(7));
    assert!(resolve().0.is_empty());
}

#[test]
fn what_a_leaf_keeps_is_the_tasks_own_waker() {
    struct Keeps(Option<Waker>);
    impl Future for Keeps {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            self.0 = Some(cx.waker().clone());
            Poll::Pending
        }
    }
    futures::executor::block_on(poll_fn(|cx| {
        let mut leaf = Keeps(None);
        let (poll, ..) = awaits_of(cx.waker(), |cx| Pin::new(&mut leaf).poll(cx));
        assert!(poll.is_pending() && leaf.0.unwrap().will_wake(cx.waker()));
        Poll::Ready(())
    }));
}

#[test]
fn a_leaf_that_only_a_traced_poll_has_seen_wakes_the_task() {
    on_tokio(async {
        let mut sleep = pin!(tokio::time::sleep(Duration::from_millis(20)));
        poll_fn(|cx| awaits_of(cx.waker(), |cx| sleep.as_mut().poll(cx)).0).await;
    });
}

#[test]
fn a_sleep_of_this_crate_shows_and_the_timers_of_limits_do_not() {
    async fn naps() {
        let _ = timebox::future::sleep(LONG).await;
    }
    async fn has_limits() {
        let nap = timebox::future::timeout_value(LONG, naps());
        let _ = timebox::future::timeout_value(LONG, nap).await;
    }
    futures::executor::block_on(async {
        let (stacks, notes) = awaits(has_limits()).await;
        let names: Vec<_> = stacks.iter().map(users).collect();
        let test = "a_sleep_of_this_crate_shows_and_the_timers_of_limits_do_not";
        if !has_lines(&stacks[0]) {
            return;
        }
        assert_eq!(names, [test], "{stacks:#?}");
        assert!(notes.is_empty());
        for name in ["has_limits", "naps"] {
            assert!(stacks[0].frames.iter().any(|frame| frame.function.contains(name)), "{stacks:#?}");
        }
    });
}
