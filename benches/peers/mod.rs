//! Everything timebox is measured beside. Nothing here uses timebox, so the peers can be measured alone.

#![allow(clippy::disallowed_methods)] // the peers read the clock and start threads in their own ways

mod heap;

use crate::measure::{Case, case, chain, over, poll_pending_once, poll_ready, seconds, tree};
use heap::Watchdog;
use std::future::{Future, ready};
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Pending once, then ready. It never asks to be woken: what polls it here polls again anyway.
struct PendOnce {
    polled: bool,
}

fn pend_once() -> PendOnce {
    PendOnce { polled: false }
}

impl Future for PendOnce {
    type Output = u32;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<u32> {
        if std::mem::replace(&mut self.polled, true) { Poll::Ready(7) } else { Poll::Pending }
    }
}

/// A tokio runtime in which a timer is already armed that comes before all of ours. In a bare one the driver never
/// parks, and each timer armed writes to its eventfd: four times the price, and nothing a real program pays.
pub(crate) fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
    runtime.spawn(async {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(2)).await });
    runtime
}

/// A case that is one expression run in a loop inside the tokio runtime.
macro_rules! in_tokio {
    ($name:literal, $body:expr) => {
        Case {
            name: $name,
            make: || {
                let runtime = runtime();
                Box::new(move |n| {
                    runtime.block_on(async {
                        for _ in 0..n {
                            $body;
                        }
                    });
                })
            },
        }
    };
}

fn cancel_this_timeout() {
    let done: Result<u32, cancel_this::Cancelled> = cancel_this::on_timeout(seconds(30), || Ok(black_box(7)));
    if done.is_err() {
        over();
    }
}

fn heap_timeout(inner: impl FnOnce()) {
    Watchdog::get().timeout(seconds(30), |flag| {
        if flag.is_expired() {
            over();
        }
        inner();
    });
}

#[allow(clippy::too_many_lines, reason = "a list")]
pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!("scope/instant_now", black_box(Instant::now())),
        in_tokio!("scope/tokio_ready", poll_ready(timeout(seconds(30), ready(7)))),
        case!("scope/heap_condvar", heap_timeout(|| ())),
        case!("scope/thread_cancel_this", cancel_this_timeout()),
        Case {
            name: "scope/token_child",
            make: || {
                let token = CancellationToken::new();
                Box::new(move |n| {
                    for _ in 0..n {
                        black_box(token.child_token());
                    }
                })
            },
        },
        case!("three_same/heap_condvar", heap_timeout(|| heap_timeout(|| heap_timeout(|| ())))),
        Case {
            name: "three_same/token_children",
            make: || {
                let token = CancellationToken::new();
                Box::new(move |n| {
                    for _ in 0..n {
                        let child = token.child_token();
                        let grandchild = child.child_token();
                        black_box(grandchild.child_token());
                    }
                })
            },
        },
        Case {
            name: "tree_10/tokio_util",
            make: || {
                type Token = CancellationToken;
                tree(10, Token::new, Token::child_token, Token::cancel)
            },
        },
        Case {
            name: "tree_100/tokio_util",
            make: || {
                type Token = CancellationToken;
                tree(100, Token::new, Token::child_token, Token::cancel)
            },
        },
        Case {
            name: "tree_1000/tokio_util",
            make: || {
                type Token = CancellationToken;
                tree(1_000, Token::new, Token::child_token, Token::cancel)
            },
        },
        Case {
            name: "tree_10000/tokio_util",
            make: || {
                type Token = CancellationToken;
                tree(10_000, Token::new, Token::child_token, Token::cancel)
            },
        },
        Case { name: "checkpoint/none", make: || Box::new(|n| chain!(n, false)) },
        Case {
            name: "checkpoint/tokio_util_is_cancelled",
            make: || {
                let token = CancellationToken::new();
                Box::new(move |n| chain!(n, token.is_cancelled()))
            },
        },
        Case {
            name: "checkpoint/instant_now",
            make: || {
                let deadline = Instant::now() + Duration::from_secs(3600);
                Box::new(move |n| chain!(n, Instant::now() >= deadline))
            },
        },
        in_tokio!("ready/tokio", poll_ready(timeout(seconds(30), ready(7)))),
        in_tokio!("pending/tokio", poll_pending_once(timeout(seconds(30), pend_once()))),
        in_tokio!(
            "three_pending/tokio",
            poll_pending_once(timeout(seconds(30), timeout(seconds(30), timeout(seconds(30), pend_once()))))
        ),
        in_tokio!("yield/bare", tokio::task::yield_now().await),
        in_tokio!("yield/tokio", {
            if timeout(seconds(30), tokio::task::yield_now()).await.is_err() {
                over();
            }
        }),
    ]
}
