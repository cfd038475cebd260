use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread;

use http::Response;
use pin_project::{pin_project, pinned_drop};
use timebox::report::{LiveProfile, Profile, ProfileReport, Profiled};
use tokio::sync::oneshot;

use super::rate::Permit;
use super::{Store, drawn, undrawn};

/// The future of a [`ProfileService`](crate::ProfileService).
#[pin_project(PinnedDrop)]
pub struct ProfileFuture<F, R> {
    #[pin]
    state: State<F, R>,
    /// Counts this profile as running, until it has been drawn.
    permit: Option<Permit>,
}

#[pin_project(project = StateProjection)]
enum State<F, R> {
    Plain(#[pin] F),
    Profiled {
        #[pin]
        future: Profiled<F>,
        store: Option<(Store, LiveProfile)>,
    },
    Drawing(oneshot::Receiver<Response<R>>),
    Refused(Option<Response<R>>),
}

impl<F, R> ProfileFuture<F, R> {
    pub(super) fn plain(future: F) -> Self {
        Self { state: State::Plain(future), permit: None }
    }

    pub(super) fn refused(refusal: Response<R>) -> Self {
        Self { state: State::Refused(Some(refusal)), permit: None }
    }
}

impl<F: Future, R> ProfileFuture<F, R> {
    pub(super) fn profiled(profile: Profile, future: F, store: Option<Store>, permit: Permit) -> Self {
        let store = store.map(|store| (store, profile.live()));
        Self { state: State::Profiled { future: profile.run_future(future), store }, permit: Some(permit) }
    }
}

impl<F, R, E> Future for ProfileFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: From<String> + Send + 'static,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Plain(future) => return future.poll(cx),
                StateProjection::Profiled { future, store } => {
                    let (result, report) = ready!(future.poll(cx));
                    if let Some((store, _)) = store.take() {
                        on_a_thread(move || store(report));
                        return Poll::Ready(result);
                    }
                    // The client gets the picture, not the service's response. The response is dropped before the
                    // picture is drawn: otherwise the time limit of its body could pass meanwhile.
                    drop(result?);
                    state.set(State::Drawing(draw(report)));
                }
                StateProjection::Drawing(drawing) => {
                    let drawn = ready!(Pin::new(drawing).poll(cx));
                    return Poll::Ready(Ok(drawn.unwrap_or_else(|_| undrawn())));
                }
                StateProjection::Refused(refusal) => {
                    return refusal.take().map_or(Poll::Pending, |refusal| Poll::Ready(Ok(refusal)));
                }
            }
        }
    }
}

fn draw<R: From<String> + Send + 'static>(report: ProfileReport) -> oneshot::Receiver<Response<R>> {
    let (sender, receiver) = oneshot::channel();
    on_a_thread(move || {
        // Fails if the client has gone away.
        let _ = sender.send(drawn(&report));
    });
    receiver
}

/// If the system has no thread for the work, the work is dropped.
fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    let _ = thread::Builder::new().name("timebox-profile".to_owned()).spawn(work);
}

#[pinned_drop]
impl<F, R> PinnedDrop for ProfileFuture<F, R> {
    fn drop(self: Pin<&mut Self>) {
        if let StateProjection::Profiled { store, .. } = self.project().state.project()
            && let Some((store, live)) = store.take()
        {
            on_a_thread(move || store(live.report()));
        }
    }
}

impl<F, R> fmt::Debug for ProfileFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProfileFuture").finish_non_exhaustive()
    }
}
