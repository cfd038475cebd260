use std::borrow::Cow;
use std::sync::Arc;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, Request, Uri};
use subtle::ConstantTimeEq;

type Condition = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

#[derive(Clone)]
pub(super) struct Access {
    token: Cow<'static, str>,
    pub(super) header: HeaderName,
    pub(super) parameter: Cow<'static, str>,
    pub(super) conditions: Vec<Condition>,
}

impl Access {
    pub(super) fn new(token: Cow<'static, str>) -> Self {
        let header = HeaderName::from_static("x-profile");
        Self { token, header, parameter: "__profile".into(), conditions: Vec::new() }
    }

    pub(super) fn is_on(&self) -> bool {
        !self.token.is_empty()
    }

    /// Returns the request, and `true` if it is to be profiled: it carries the right token, and all conditions allow
    /// it. If the request carries the right token, its header and its parameters for the token are removed. `None`:
    /// they cannot be removed, so the request must be refused.
    pub(super) fn admit<B>(&self, request: Request<B>) -> Option<(Request<B>, bool)> {
        if !self.is_on() || !(self.is_in_headers(request.headers()) || self.is_in_query(request.uri())) {
            return Some((request, false));
        }
        let (mut parts, body) = request.into_parts();
        parts.headers.remove(&self.header);
        parts.uri = self.without_parameter(parts.uri)?;
        let is_allowed = self.conditions.iter().all(|is_allowed| is_allowed(&parts));
        Some((Request::from_parts(parts, body), is_allowed))
    }

    fn is_in_headers(&self, headers: &HeaderMap) -> bool {
        headers.get_all(&self.header).iter().any(|value| self.is_token(value.as_bytes()))
    }

    fn is_in_query(&self, uri: &Uri) -> bool {
        let mut parameters = uri.query().unwrap_or_default().split('&');
        parameters.any(|parameter| self.value(parameter).is_some_and(|value| self.is_token(value.as_bytes())))
    }

    fn is_token(&self, value: &[u8]) -> bool {
        self.token.as_bytes().ct_eq(value).into()
    }

    /// If this is the parameter for the token (`name=value`): its value. Otherwise `None`.
    fn value<'a>(&self, parameter: &'a str) -> Option<&'a str> {
        parameter.strip_prefix(&*self.parameter)?.strip_prefix('=')
    }

    /// The URI without the parameters for the token. `None`: the rest is not a URI.
    fn without_parameter(&self, uri: Uri) -> Option<Uri> {
        let all = uri.query().unwrap_or_default().split('&');
        let kept: Vec<_> = all.clone().filter(|parameter| self.value(parameter).is_none()).collect();
        if kept.len() == all.count() {
            return Some(uri);
        }
        let query = kept.join("&");
        let question_mark = if query.is_empty() { "" } else { "?" };
        let path = format!("{}{question_mark}{query}", uri.path());
        let mut parts = uri.into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
        Uri::from_parts(parts).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(access: &Access, uri: &str, header: Option<&'static str>) -> (String, bool) {
        let mut request = Request::new(());
        *request.uri_mut() = uri.parse().unwrap();
        if let Some(value) = header {
            request.headers_mut().insert("x-profile", value.parse().unwrap());
        }
        let (request, is_admitted) = access.admit(request).unwrap();
        (request.uri().to_string(), is_admitted)
    }

    #[test]
    fn the_token_lets_a_request_in_and_is_removed() {
        let access = Access::new("secret".into());
        let cases = [
            ("/a?__profile=secret", "/a"),
            ("/a?b=1&__profile=secret&c=%20", "/a?b=1&c=%20"),
            ("http://host:1/a?__profile=secret", "http://host:1/a"),
            ("/a?__profile=wrong&__profile=secret", "/a"),
        ];
        for (uri, rest) in cases {
            assert_eq!(admitted(&access, uri, None), (rest.to_owned(), true));
        }
        assert_eq!(admitted(&access, "/a?b", Some("secret")), ("/a?b".to_owned(), true));
    }

    #[test]
    fn without_the_token_a_request_stays_as_it_is() {
        let access = Access::new("secret".into());
        let wrong = [
            "/a",
            "/a?__profile",
            "/a?__profile=",
            "/a?__profile=secre",
            "/a?__profile=secrets",
            "/a?x__profile=secret",
        ];
        for uri in wrong {
            assert_eq!(admitted(&access, uri, Some("Secret")), (uri.to_owned(), false));
        }
    }

    #[test]
    fn an_empty_token_lets_nobody_in() {
        let access = Access::new("".into());
        for uri in ["/a?__profile=", "/a?__profile", "/a"] {
            assert_eq!(admitted(&access, uri, Some("")), (uri.to_owned(), false));
        }
    }

    #[test]
    fn a_condition_keeps_a_request_out_without_the_token() {
        let mut access = Access::new("secret".into());
        access.conditions.push(Arc::new(|parts| parts.uri.path() == "/admin"));
        assert_eq!(admitted(&access, "/a?__profile=secret", None), ("/a".to_owned(), false));
        assert!(admitted(&access, "/admin?__profile=secret", None).1);
    }
}
