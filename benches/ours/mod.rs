//! timebox, measured as its users write it.

use crate::measure::{Case, case, chain, over, poll_pending_once, poll_ready, seconds, tree};
use crate::peers;
use std::future::{Future, ready};
use std::hint::black_box;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use timebox::future::ScopeTemplate;
use timebox::{CancellationToken, Timebox, TimeoutError};

/// Pending once, then ready, as the peers' is.
struct PendOnce {
    polled: bool,
}

fn pend_once() -> PendOnce {
    PendOnce { polled: false }
}

impl Future for PendOnce {
    type Output = Result<u32, TimeoutError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::replace(&mut self.polled, true) { Poll::Ready(Ok(7)) } else { Poll::Pending }
    }
}

/// One scope, its limit in seconds, around `body`.
#[inline]
fn scope(limit: u64, body: impl FnOnce() -> Result<u32, TimeoutError>) -> Result<u32, TimeoutError> {
    timebox::timeout(seconds(limit), body)
}

#[inline]
fn done(result: Result<u32, TimeoutError>) {
    if let Err(error) = result {
        failed(error);
    }
}

#[cold]
fn failed(error: TimeoutError) {
    drop(error);
    over();
}

#[allow(clippy::too_many_lines, reason = "a list")]
pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!("scope/timebox", done(scope(30, || Ok(black_box(7))))),
        case!("scope/timebox_explicit", done(timebox::with_timeout(seconds(30), |_| Ok(black_box(7))))),
        case!("scope/timebox_child_token", {
            let result = scope(30, || {
                black_box(timebox::token());
                Ok(7)
            });
            done(result);
        }),
        Case {
            name: "tree_10/timebox",
            make: || {
                type Token = CancellationToken;
                tree(10, Token::new, Token::child_token, Token::cancel)
            },
        },
        Case {
            name: "tree_100/timebox",
            make: || {
                type Token = CancellationToken;
                tree(100, Token::new, Token::child_token, Token::cancel)
            },
        },
        Case {
            name: "tree_1000/timebox",
            make: || {
                type Token = CancellationToken;
                tree(1_000, Token::new, Token::child_token, Token::cancel)
            },
        },
        Case {
            name: "tree_10000/timebox",
            make: || {
                type Token = CancellationToken;
                tree(10_000, Token::new, Token::child_token, Token::cancel)
            },
        },
        case!("three_same/timebox", done(scope(30, || scope(30, || scope(30, || Ok(black_box(7))))))),
        case!("three_shrinking/timebox", done(scope(30, || scope(20, || scope(10, || Ok(black_box(7))))))),
        Case {
            name: "checkpoint/timebox",
            make: || {
                Box::new(|n| {
                    let result = scope(3600, || {
                        chain!(n, timebox::checkpoint().is_err());
                        Ok(7)
                    });
                    done(result);
                })
            },
        },
        Case {
            name: "checkpoint/timebox_scope",
            make: || {
                Box::new(|n| {
                    let result = timebox::with_timeout(seconds(3600), |scope| {
                        chain!(n, scope.checkpoint().is_err());
                        Ok(7)
                    });
                    done(result);
                })
            },
        },
        Case {
            name: "checkpoint/timebox_is_cancelled",
            make: || {
                let token = timebox::CancellationToken::new();
                Box::new(move |n| chain!(n, token.is_cancelled()))
            },
        },
        case!(
            "ready/timebox",
            poll_ready(timebox::future::timeout(seconds(30), ready(Ok::<u32, TimeoutError>(7))))
        ),
        case!("pending/timebox", poll_pending_once(timebox::future::timeout(seconds(30), pend_once()))),
        case!(
            "three_pending/timebox",
            poll_pending_once(timebox::future::timeout(
                seconds(30),
                timebox::future::timeout(seconds(30), timebox::future::timeout(seconds(30), pend_once()))
            ))
        ),
        // The scope of a request: open in the call of the service, in a poll of its future, and in a poll of the body.
        Case {
            name: "request/timebox",
            make: || {
                let timebox = Timebox::new(seconds(30)).label("GET /users/{id}");
                let requests = ScopeTemplate::new(timebox, Location::caller());
                let mut context = Context::from_waker(Waker::noop());
                Box::new(move |n| {
                    for _ in 0..n {
                        let mut scope = black_box(&requests).scope();
                        done(scope.enter(|_| black_box(7)));
                        for _ in 0..2 {
                            match scope.poll(&mut context, |_| Poll::Ready(black_box(7))) {
                                Poll::Ready(result) => done(result),
                                Poll::Pending => over(),
                            }
                        }
                    }
                })
            },
        },
        Case {
            name: "yield/timebox",
            make: || {
                let runtime = peers::runtime();
                Box::new(move |n| {
                    runtime.block_on(async {
                        for _ in 0..n {
                            let yielded =
                                timebox::future::timeout_value(seconds(30), tokio::task::yield_now()).await;
                            if yielded.is_err() {
                                over();
                            }
                        }
                    });
                })
            },
        },
    ]
}
