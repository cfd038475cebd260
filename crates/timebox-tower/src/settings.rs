use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderMap;
use timebox::future::{PollScope, ScopeTemplate};
use timebox::{CancellationToken, Limit, Timebox, TimeoutError};

use crate::message::Call;
use crate::propagation::{Malformed, Propagation};
use crate::scope::RequestScope;

type OfRequest<Req, T> = Option<Arc<dyn Fn(&Req) -> T + Send + Sync>>;
type TimeboxWith<Req> = Option<Arc<dyn Fn(&Req, Timebox) -> Timebox + Send + Sync>>;

pub(crate) struct Settings<Req> {
    /// Where the layer was made. Errors show this as the place where the scope was opened.
    pub(crate) location: &'static Location<'static>,
    pub(crate) limit: Limit,
    pub(crate) limit_with: OfRequest<Req, Limit>,
    pub(crate) label_with: OfRequest<Req, Cow<'static, str>>,
    pub(crate) exempt: OfRequest<Req, bool>,
    pub(crate) timebox_with: TimeboxWith<Req>,
    pub(crate) grace: Duration,
    pub(crate) idle: Option<Duration>,
    #[cfg(feature = "report")]
    pub(crate) warn_after: Option<Duration>,
    pub(crate) propagation: Option<Propagation>,
    /// The template of the scopes. The first request without settings of its own makes it. It serves all such requests
    /// that have the same label.
    template: OnceLock<ScopeTemplate>,
}

impl<Req> Settings<Req> {
    pub(crate) fn new(limit: Limit, location: &'static Location<'static>) -> Self {
        Self {
            location,
            limit,
            limit_with: None,
            label_with: None,
            exempt: None,
            timebox_with: None,
            grace: Duration::ZERO,
            idle: None,
            #[cfg(feature = "report")]
            warn_after: None,
            propagation: None,
            template: OnceLock::new(),
        }
    }

    pub(crate) fn is_exempt(&self, request: &Req) -> bool {
        self.exempt.as_ref().is_some_and(|exempt| exempt(request))
    }
}

impl<Req: Call> Settings<Req> {
    /// The limit that the request asks for. `None` if it asks for no limit, or if the layer reads no deadlines of
    /// clients.
    pub(crate) fn incoming(&self, request: &Req) -> Result<Option<Limit>, Malformed> {
        match (&self.propagation, request.headers()) {
            (Some(propagation), Some(headers)) => propagation.deadline_of(headers),
            _ => Ok(None),
        }
    }

    pub(crate) fn scope(
        &self,
        request: &Req,
        incoming: Option<Limit>,
        trailers: Option<fn(&TimeoutError) -> HeaderMap>,
    ) -> RequestScope {
        let template = if incoming.is_none() { self.template(request) } else { None };
        let scope = match template {
            Some(template) => template.scope(),
            None => PollScope::new(self.timebox(request, incoming), self.location),
        };
        let mut scope = RequestScope::new(scope, trailers);
        if let Some(idle) = self.idle {
            scope.limit_silence(idle, self.location);
        }
        if request.is_bodiless() {
            scope.0.left = Some(0);
        }
        scope
    }

    /// The template for the scope of this request. `None` if the scope has settings of its own.
    fn template(&self, request: &Req) -> Option<&ScopeTemplate> {
        let has_own_limit = self.limit_with.is_some() || request.limit().is_some();
        if has_own_limit || self.label_with.is_some() || self.timebox_with.is_some() {
            return None;
        }
        #[cfg(feature = "report")]
        if self.warn_after.is_some() {
            return None; // the scope has the fields of the request
        }
        let make = || ScopeTemplate::new(self.timebox(request, None), self.location);
        Some(self.template.get_or_init(make)).filter(|template| request.has_label(template.label()))
    }

    #[inline(never)]
    fn timebox(&self, request: &Req, incoming: Option<Limit>) -> Timebox {
        let limit = request.limit().unwrap_or_else(|| match &self.limit_with {
            Some(limit) => limit(request),
            None => self.limit.clone(),
        });
        let mut timebox = Timebox::new(limit).grace(self.grace);
        let label = self.label_with.as_ref().map(|label| label(request)).or_else(|| request.label());
        if let Some(label) = label {
            timebox = timebox.label(label);
        }
        if let Some(incoming) = incoming {
            timebox = timebox.cancel_on(&CancellationToken::after(incoming));
        }
        #[cfg(feature = "report")]
        if let Some(duration) = self.warn_after {
            timebox = request.describe(timebox).warn_after(duration);
        }
        if let Some(with) = &self.timebox_with {
            timebox = with(request, timebox);
        }
        timebox
    }
}

impl<Req> Clone for Settings<Req> {
    fn clone(&self) -> Self {
        Self {
            location: self.location,
            limit: self.limit.clone(),
            limit_with: self.limit_with.clone(),
            label_with: self.label_with.clone(),
            exempt: self.exempt.clone(),
            timebox_with: self.timebox_with.clone(),
            grace: self.grace,
            idle: self.idle,
            #[cfg(feature = "report")]
            warn_after: self.warn_after,
            propagation: self.propagation.clone(),
            template: OnceLock::new(),
        }
    }
}

impl<Req> fmt::Debug for Settings<Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("limit", &self.limit)
            .field("grace", &self.grace)
            .field("idle", &self.idle)
            .field("propagation", &self.propagation)
            .finish_non_exhaustive()
    }
}
