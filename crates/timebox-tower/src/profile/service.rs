use std::fmt;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
use timebox::report::Profile;
use tower_service::Service;

use super::future::ProfileFuture;
use super::{ProfileLimit, Settings, refusal, unclean};
use crate::message::Call;

/// The service of [`ProfileLayer`](crate::ProfileLayer).
#[derive(Clone)]
pub struct ProfileService<S> {
    inner: S,
    settings: Settings,
}

impl<S> ProfileService<S> {
    pub(super) fn new(inner: S, settings: Settings) -> Self {
        Self { inner, settings }
    }
}

impl<S, B, R> Service<Request<B>> for ProfileService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: From<String> + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ProfileFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Settings { access, rate, frequency, limit, store } = &self.settings;
        let Some((mut request, is_admitted)) = access.admit(request) else {
            return ProfileFuture::refused(unclean());
        };
        if !is_admitted {
            return ProfileFuture::plain(self.inner.call(request));
        }
        let permit = match rate.take(Instant::now()) {
            Ok(permit) => permit,
            Err(wait) => return ProfileFuture::refused(refusal(wait)),
        };
        if let Some(limit) = limit {
            request.extensions_mut().insert(ProfileLimit(limit.clone()));
        }
        let mut profile = Profile::new();
        if let Some(label) = request.label() {
            profile = profile.label(label);
        }
        if let Some(frequency) = frequency {
            profile = profile.frequency(*frequency);
        }
        ProfileFuture::profiled(profile, self.inner.call(request), store.clone(), permit)
    }
}

impl<S> fmt::Debug for ProfileService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.debug(f, "ProfileService")
    }
}
