//! A limit costs a request one allocation: the state of its scope.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use timebox_tower::{TimeoutLayer, respond};
use tower::{Layer, Service, service_fn};

thread_local! {
    /// Allocations of this thread; the harness and the watchdog have their own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to `System` unchanged; beside it only a thread-local without a destructor is counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those `System` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sends a request to a service whose handler and body are ready at once.
fn request<S, B>(service: &mut S, path: &'static str)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body,
{
    let mut context = Context::from_waker(Waker::noop());
    let mut request = Request::new(());
    *request.uri_mut() = http::Uri::from_static(path);
    let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut context) else {
        panic!("the handler is ready")
    };
    let mut body = pin!(response.into_body());
    while let Poll::Ready(Some(_)) = body.as_mut().poll_frame(&mut context) {}
}

#[test]
fn a_limit_costs_a_request_one_allocation() {
    let handler = service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    let layer = TimeoutLayer::new(Duration::from_secs(3600)).respond_with(respond::gateway_timeout());
    let (mut plain, mut limited) = (handler, layer.layer(handler));
    // The first request makes the template of the scopes.
    request(&mut limited, "/users");
    let before = ALLOCATIONS.get();
    (0..1000).for_each(|_| request(&mut plain, "/users"));
    let without = ALLOCATIONS.get();
    (0..1000).for_each(|_| request(&mut limited, "/users"));
    assert_eq!((ALLOCATIONS.get() - without) - (without - before), 1000);
}
