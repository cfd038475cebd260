//! What depth costs: nothing that asks for a token or a handle walks out to the outermost scope.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use timebox::{CancellationToken, Limit, Timebox, handle, timeout_value, token};

use crate::support::LONG;

/// Runs `body` on a thread with a large stack, beneath that many scopes with limits.
fn beneath<T: Send>(depth: u32, body: impl FnOnce() -> T + Send) -> T {
    fn nest<T>(depth: u32, body: impl FnOnce() -> T) -> T {
        if depth == 0 {
            return body();
        }
        timeout_value(LONG, || nest(depth - 1, body)).unwrap()
    }
    thread::scope(|threads| {
        let builder = thread::Builder::new().stack_size(256 << 20);
        builder.spawn_scoped(threads, || nest(depth, body)).unwrap().join().unwrap()
    })
}

/// The processor time of this thread: others, who keep a machine busy, take none of it.
#[cfg(unix)]
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into a struct of ours.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

#[cfg(not(unix))]
fn thread_time() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

/// The least time of several runs.
fn least(runs: u32, mut run: impl FnMut()) -> Duration {
    let time = |_| {
        let start = thread_time();
        run();
        thread_time().saturating_sub(start)
    };
    (0..runs).map(time).min().unwrap()
}

/// Of a scope that asks for what needs a node.
fn of_one_scope(ask: fn()) -> Duration {
    // Those around have theirs already.
    black_box(handle());
    least(50, || (0..20).for_each(|_| timeout_value(LONG / 2, ask).unwrap()))
}

#[track_caller]
fn costs_as_much_at_any_depth(ask: fn()) {
    // The machine may be busy during one of them: the best of a few.
    let ratio = |_| {
        let [shallow, deep] = [1, 1000].map(|depth| beneath(depth, move || of_one_scope(ask)));
        deep.as_secs_f64() / shallow.as_secs_f64()
    };
    let ratio = (0..3).map(ratio).fold(f64::INFINITY, f64::min);
    assert!(ratio < 5.0, "{ratio:.1} times as much at a depth of 1000");
}

#[test]
#[cfg_attr(miri, ignore = "measures times, of much work")]
fn a_token_costs_as_much_at_any_depth() {
    costs_as_much_at_any_depth(|| drop(black_box(token())));
}

#[test]
#[cfg_attr(miri, ignore = "measures times, of much work")]
fn a_question_of_a_scope_with_a_token_costs_as_much_at_any_depth() {
    costs_as_much_at_any_depth(|| {
        let token = token();
        assert!(!token.is_cancelled() && timebox::checkpoint().is_ok());
        assert!(timebox::remaining() <= Some(LONG) && timebox::require(Duration::ZERO).is_ok());
        drop(timebox::on_cancel(timebox::Hook::inline(|| ())));
        token.cancel();
    });
}

#[test]
#[cfg_attr(miri, ignore = "measures times, of much work")]
fn a_handle_that_is_entered_costs_as_much_at_any_depth() {
    costs_as_much_at_any_depth(|| {
        handle().enter(LONG, |scope| Ok::<_, timebox::TimeoutError>(scope.token())).unwrap();
    });
}

#[test]
#[cfg_attr(miri, ignore = "measures times, of much work")]
fn a_token_costs_as_much_at_any_depth_beneath_a_scope_that_ends_with_a_token() {
    let ratio = |_| {
        let [shallow, deep] = [1, 1000].map(|depth| {
            let stop = CancellationToken::new();
            let inside = || beneath_handle(depth);
            Timebox::new(Limit::NONE).cancel_on(&stop).run_value(|_| inside()).unwrap()
        });
        deep.as_secs_f64() / shallow.as_secs_f64()
    };
    let ratio = (0..3).map(ratio).fold(f64::INFINITY, f64::min);
    assert!(ratio < 5.0, "{ratio:.1} times as much at a depth of 1000");
}

/// As [`of_one_scope`], beneath that many scopes within those of this thread.
fn beneath_handle(depth: u32) -> Duration {
    let outer = handle();
    thread::scope(|threads| {
        let builder = thread::Builder::new().stack_size(256 << 20);
        let inside = move || {
            fn nest(depth: u32) -> Duration {
                if depth == 0 {
                    return of_one_scope(|| drop(black_box(token())));
                }
                timeout_value(LONG + Duration::from_secs(depth.into()), || nest(depth - 1)).unwrap()
            }
            outer.enter(Limit::NONE, |_| Ok::<_, timebox::TimeoutError>(nest(depth))).unwrap()
        };
        builder.spawn_scoped(threads, inside).unwrap().join().unwrap()
    })
}

#[test]
#[cfg_attr(miri, ignore = "measures times, of much work")]
fn a_handle_beneath_many_scopes_takes_as_long_as_there_are_scopes() {
    let time = |depth| {
        let first = || least(1, || drop(black_box(handle())));
        (0..3).map(|_| beneath(depth, first)).min().unwrap().as_secs_f64()
    };
    // Four times if each scope costs the same, sixteen if each walks to the outermost.
    let ratio = (0..5).map(|_| time(2000) / time(500)).fold(f64::INFINITY, f64::min);
    assert!(ratio < 10.0, "{ratio:.1} times as long for four times as many");
}
