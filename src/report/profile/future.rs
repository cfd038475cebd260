use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;

use super::report::ProfileReport;
use super::session::Session;
use super::setup::Setup;
use super::shared::Shared;
use crate::report::awaits::{AwaitCopies, traced_poll};
use crate::thread::visit::visit;

/// The future of [`Profile::run_future`](super::Profile::run_future). If it is polled after its end, it stays pending.
#[must_use = "futures do nothing unless polled"]
#[pin_project]
pub struct Profiled<F> {
    /// `None` once the future is done.
    #[pin]
    future: Option<F>,
    setup: Setup,
    shared: Arc<Shared>,
    /// Begins with the first poll, and ends when the future is done.
    session: Option<Session>,
}

impl<F> Profiled<F> {
    pub(super) fn new(future: F, setup: Setup, shared: Arc<Shared>) -> Self {
        Self { future: Some(future), setup, shared, session: None }
    }
}

impl<F: Future> Future for Profiled<F> {
    type Output = (F::Output, ProfileReport);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(mut future) = this.future.as_mut().as_pin_mut() else { return Poll::Pending };
        let session = this.session.get_or_insert_with(|| Session::begin(this.setup, Arc::clone(this.shared)));
        // `begin_poll` and `end_poll` are inside the visit. Otherwise a sample between them and the visit would find
        // the future neither on a thread nor pending.
        let shared = &**this.shared;
        let polled = visit(shared.id, || {
            let is_traced = shared.begin_poll(session.began);
            let (polled, copies) = poll(future.as_mut(), cx, is_traced);
            if polled.is_pending() {
                shared.end_poll(copies, cx.waker());
            }
            polled
        });
        polled.map(|output| {
            // The time of the future's drop belongs to the profile, so the future is dropped inside a visit.
            visit(shared.id, || this.future.set(None));
            let report = this.session.take().map_or_else(ProfileReport::empty, Session::end);
            (output, report)
        })
    }
}

fn poll<F: Future>(
    mut future: Pin<&mut F>,
    cx: &mut Context<'_>,
    is_traced: bool,
) -> (Poll<F::Output>, Option<AwaitCopies>) {
    if !is_traced {
        return (future.poll(cx), None);
    }
    let (polled, copies) = traced_poll(cx.waker(), &mut |cx| future.as_mut().poll(cx));
    (polled, Some(copies))
}

impl<F> fmt::Debug for Profiled<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profiled").field("setup", &self.setup).finish_non_exhaustive()
    }
}
