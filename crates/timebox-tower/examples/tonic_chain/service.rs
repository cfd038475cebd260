//! A service with one method. In a real program, `tonic-prost-build` generates this code from
//!
//! ```proto
//! service Shop { rpc Price(Item) returns (Cents); }
//! message Item { string name = 1; }
//! message Cents { uint64 cents = 1; }
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Bytes, StdError};
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Item {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Cents {
    #[prost(uint64, tag = "1")]
    pub(crate) cents: u64,
}

#[derive(Clone)]
pub(crate) struct ShopClient<C>(tonic::client::Grpc<C>);

impl<C> ShopClient<C>
where
    C: GrpcService<
            Body,
            ResponseBody: http_body::Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
        >,
{
    pub(crate) fn new(channel: C) -> Self {
        Self(tonic::client::Grpc::new(channel))
    }

    pub(crate) async fn price(
        &mut self,
        request: impl tonic::IntoRequest<Item>,
    ) -> Result<Response<Cents>, Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.into().to_string()))?;
        let path = PathAndQuery::from_static("/Shop/Price");
        self.0.unary(request.into_request(), path, ProstCodec::default()).await
    }
}

#[derive(Clone)]
pub(crate) struct ShopServer<F>(pub(crate) F);

impl<F> NamedService for ShopServer<F> {
    const NAME: &'static str = "Shop";
}

impl<F, Fut> Service<http::Request<Body>> for ShopServer<F>
where
    F: FnMut(Request<Item>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Response<Cents>, Status>> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let price = service_fn(self.0.clone());
        Box::pin(
            async move { Ok(tonic::server::Grpc::new(ProstCodec::default()).unary(price, request).await) },
        )
    }
}
