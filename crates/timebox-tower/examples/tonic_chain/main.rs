//! Three services of tonic in a row. The client's deadline travels to the last service, which is slow. The last service
//! stops in time, and the client learns why.
//!
//! Run it with `cargo run -p timebox-tower --example tonic_chain --features tonic`.

mod service;

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use service::{Cents, Item, ShopClient, ShopServer};
use timebox::future;
use timebox_tower::{DeadlineLayer, DeadlineService, Propagation, TimeoutLayer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tower::ServiceBuilder;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The longest time for a request, even if a client asks for more.
const LIMIT: Duration = Duration::from_secs(5);

async fn serve<F, Fut>(price: F) -> Result<SocketAddr>
where
    F: FnMut(Request<Item>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Cents>, Status>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let limited = TimeoutLayer::new(LIMIT).propagate(Propagation::grpc()).respond_with_grpc_status();
    let server = Server::builder().layer(limited).add_service(ShopServer(price));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Ok(address)
}

/// A client that sends the time left with each call, minus 5 ms for the network.
fn connect(address: SocketAddr) -> Result<ShopClient<DeadlineService<Channel>>> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
    let deadline = DeadlineLayer::grpc().allowance(Duration::from_millis(5));
    Ok(ShopClient::new(ServiceBuilder::new().layer(deadline).service(channel)))
}

async fn serve_front(name: &'static str, next: SocketAddr) -> Result<SocketAddr> {
    let client = connect(next)?;
    serve(move |request| {
        let mut client = client.clone();
        async move {
            println!("{name:<10} has {:?}", timebox::remaining());
            client.price(request.into_inner()).await
        }
    })
    .await
}

async fn price(_: Request<Item>) -> Result<Response<Cents>, Status> {
    println!("{:<10} has {:?}", "warehouse", timebox::remaining());
    let looked_up = future::sleep(Duration::from_secs(1)).await;
    looked_up.map_err(|error| Status::deadline_exceeded(error.to_string()))?;
    Ok(Response::new(Cents { cents: 4200 }))
}

#[tokio::main]
async fn main() -> Result<()> {
    let warehouse = serve(price).await?;
    let catalogue = serve_front("catalogue", warehouse).await?;
    let shop = serve_front("shop", catalogue).await?;
    let mut client = connect(shop)?;

    for limit in [Duration::from_secs(60), Duration::from_millis(200)] {
        println!("\nwithin {limit:?}:");
        let call = client.price(Item { name: "chair".to_owned() });
        match future::timeout_value(limit, call).await {
            Ok(Ok(answer)) => println!("{} cents", answer.into_inner().cents),
            Ok(Err(status)) => println!("{:?}: {}", status.code(), status.message()),
            Err(error) => println!("{error}"),
        }
    }
    Ok(())
}
