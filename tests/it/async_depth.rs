//! Limits in limits: what a level takes of the stack, and many of them that expire.

use std::cell::Cell;
use std::future::{Future, pending};
use std::pin::Pin;
use std::ptr;
use std::thread;

use timebox::{Timebox, future};

use crate::runtimes::on_each_runtime;
use crate::support::{LONG, SHORT};

on_each_runtime!(deeply_nested_futures_expire);

const LEVELS: u32 = 1_000;

/// A recursion as users write it: each level is a box, an async block and a limit.
fn nest(levels: u32) -> Pin<Box<dyn Future<Output = u32>>> {
    Box::pin(async move {
        match levels {
            0 => 0,
            _ => 1 + future::timeout_value(LONG, nest(levels - 1)).await.expect("the limit is long"),
        }
    })
}

/// In a build without optimisations, too, where one takes most. (A stack that does not suffice ends the process.)
#[test]
#[cfg_attr(miri, ignore = "its stack is none of the machine's")]
fn a_thousand_levels_of_limits_fit_in_a_small_stack() {
    let thread = thread::Builder::new().stack_size(2 << 20);
    let levels = thread.spawn(|| pollster::block_on(nest(LEVELS))).unwrap().join().unwrap();
    assert_eq!(levels, LEVELS);
}

thread_local! {
    /// An address in the innermost poll of the last recursion.
    static INNERMOST: Cell<usize> = const { Cell::new(0) };
}

fn measure(levels: u32) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        if levels == 0 {
            let here = 0_u8;
            INNERMOST.set(ptr::from_ref(&here).addr());
        } else {
            let _ = future::timeout_value(LONG, measure(levels - 1)).await;
        }
    })
}

/// The async block of each level counts in it.
#[test]
#[cfg_attr(miri, ignore = "its stack is none of the machine's")]
fn a_level_of_limits_takes_at_most_a_kibibyte_and_a_half_of_the_stack() {
    let innermost = |levels| {
        pollster::block_on(measure(levels));
        INNERMOST.get()
    };
    let (few, many) = (innermost(10), innermost(110));
    let bytes = few.abs_diff(many) / 100;
    // With reports a level keeps a count of its polls, too.
    let most = if cfg!(feature = "report") { 1600 } else { 1536 };
    assert!(bytes <= most, "{bytes} bytes");
}

async fn deeply_nested_futures_expire() {
    fn nest(depth: u32) -> std::pin::Pin<Box<dyn Future<Output = timebox::Result<()>> + Send>> {
        if depth == 0 {
            return Box::pin(pending());
        }
        Box::pin(future::timeout(LONG, nest(depth - 1)))
    }
    let error = Timebox::new(SHORT).label("outermost").run_future(nest(100)).await.unwrap_err();
    assert_eq!(error.label(), Some("outermost"));
}
