use http::HeaderMap;

/// A request with headers, of whatever client.
///
/// It is implemented for [`http::Request`], which the clients of hyper and tonic take, and with the feature `reqwest`
/// for `reqwest::Request`.
///
/// # Examples
///
/// ```
/// use http::HeaderMap;
/// use timebox_tower::HasHeaders;
///
/// /// A message of a queue.
/// struct Message {
///     headers: HeaderMap,
/// }
///
/// impl HasHeaders for Message {
///     fn headers_mut(&mut self) -> &mut HeaderMap {
///         &mut self.headers
///     }
/// }
/// # assert!(Message { headers: HeaderMap::new() }.headers_mut().is_empty());
/// ```
pub trait HasHeaders {
    /// The headers of the request.
    fn headers_mut(&mut self) -> &mut HeaderMap;
}

impl<B> HasHeaders for http::Request<B> {
    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }
}

#[cfg(feature = "reqwest")]
impl HasHeaders for reqwest::Request {
    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }
}
