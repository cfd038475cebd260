//! Three services of tonic in a row, the last one slow, under many calls with random deadlines.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::service::{Cents, Item, ShopClient, ShopServer};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use timebox::{Timebox, TimeoutError, checkpoint, future};
use timebox_tower::{DeadlineLayer, DeadlineService, Propagation, TimeoutLayer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tower::ServiceBuilder;

const CALLS: u32 = 1_000;
const SERVICES: usize = 3;
/// How long after a call's deadline a service may still work on the call, or keep the call's future.
const LATENESS: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug)]
struct Visit {
    arrived: Instant,
    deadline: Instant,
    /// When this service called the next service. `None` if it has not.
    sent: Option<Instant>,
    /// When the service last did something for the call.
    worked: Instant,
    dropped: Option<Instant>,
}

/// What each service saw of a call, by the call's name.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<HashMap<String, [Option<Visit>; SERVICES]>>>);

impl Log {
    fn edit(&self, call: &str, service: usize, edit: impl FnOnce(&mut Option<Visit>)) {
        edit(&mut self.0.lock().unwrap().entry(call.to_owned()).or_default()[service]);
    }

    /// Notes that a service begins to work on a call. The handler's future keeps the `Working`, whose drop notes the
    /// end.
    fn arrive(&self, call: &str, service: usize) -> Working {
        let deadline = timebox::deadline().to_instant().expect("the server has a limit");
        let now = Instant::now();
        let visit = Visit { arrived: now, deadline, sent: None, worked: now, dropped: None };
        self.edit(call, service, |seen| assert!(seen.replace(visit).is_none(), "called twice"));
        Working { log: self.clone(), call: call.to_owned(), service }
    }
}

struct Working {
    log: Log,
    call: String,
    service: usize,
}

impl Working {
    fn edit(&self, edit: impl FnOnce(&mut Visit)) {
        self.log.edit(&self.call, self.service, |visit| edit(visit.as_mut().unwrap()));
    }

    fn works(&self) {
        let now = Instant::now();
        self.edit(|visit| visit.worked = now);
    }

    fn sends(&self) {
        let now = Instant::now();
        self.edit(|visit| (visit.sent, visit.worked) = (Some(now), now));
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let now = Instant::now();
        self.edit(|visit| visit.dropped = Some(now));
    }
}

#[derive(Clone, Copy, Debug)]
struct Times {
    limit: Duration,
    allowance: Duration,
    /// How long the last service works.
    work: Duration,
}

struct Chain {
    client: ShopClient<DeadlineService<Channel>>,
    log: Log,
    /// From the first service to the last.
    servers: Vec<(oneshot::Sender<()>, JoinHandle<()>)>,
    times: Times,
}

impl Chain {
    async fn start(times: Times) -> Self {
        let log = Log::default();
        let mut chain =
            Self { client: connect("0.0.0.0:0".parse().unwrap(), times), log, servers: Vec::new(), times };
        chain.serve_slow().await;
        for service in (0..SERVICES - 1).rev() {
            chain.serve_front(service).await;
        }
        chain
    }

    /// Starts a server in front of the servers that already run. Later calls go to the new server.
    async fn serve<F, Fut>(&mut self, price: F)
    where
        F: FnMut(Request<Item>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<Cents>, Status>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.client = connect(listener.local_addr().unwrap(), self.times);
        let limited =
            TimeoutLayer::new(self.times.limit).propagate(Propagation::grpc()).respond_with_grpc_status();
        // If many calls are given up at once, a server of HTTP/2 takes this for an attack, and closes the connection.
        // So the server here allows as many as there are calls.
        let server = Server::builder().http2_max_pending_accept_reset_streams(Some(CALLS as usize));
        let server = server.layer(limited).add_service(ShopServer(price));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped).await.unwrap();
        });
        self.servers.insert(0, (stop, task));
    }

    /// Starts a service that passes each call on to the next service.
    async fn serve_front(&mut self, service: usize) {
        let (log, client) = (self.log.clone(), self.client.clone());
        self.serve(move |request| {
            let (log, mut client) = (log.clone(), client.clone());
            async move {
                let item = request.into_inner();
                let working = log.arrive(&item.name, service);
                working.sends();
                client.price(item).await
            }
        })
        .await;
    }

    /// Starts the last service. It works on each call in five steps.
    async fn serve_slow(&mut self) {
        let (log, step) = (self.log.clone(), self.times.work / 5);
        self.serve(move |request| {
            let log = log.clone();
            async move {
                let working = log.arrive(&request.into_inner().name, SERVICES - 1);
                let work = async {
                    for _ in 0..5 {
                        future::sleep(step).await?;
                        checkpoint()?;
                        working.works();
                    }
                    Ok(42)
                };
                let cents =
                    work.await.map_err(|error: TimeoutError| Status::deadline_exceeded(error.to_string()))?;
                Ok(Response::new(Cents { cents }))
            }
        })
        .await;
    }

    /// Makes a call with each of these limits. `apart` is the time from the start of a call to the next start.
    async fn call(&self, limits: Vec<Duration>, apart: Duration) -> Outcomes {
        let begun = Instant::now();
        let calls = limits.into_iter().zip(0..).map(|(limit, number)| {
            let mut client = self.client.clone();
            // The grace lets the call itself return the error of its scope, as a status.
            let limited = Timebox::new(limit).label("call").grace(Duration::from_secs(600));
            tokio::spawn(async move {
                tokio::time::sleep_until((begun + apart * number).into()).await;
                let call = client.price(Item { name: number.to_string() });
                limited.run_future_value(call).await
            })
        });
        let calls: Vec<_> = calls.collect();
        let mut outcomes = Outcomes::default();
        for call in calls {
            match call.await.expect("no panic") {
                Ok(Ok(answer)) => {
                    assert_eq!(answer.into_inner().cents, 42);
                    outcomes.answers += 1;
                }
                Ok(Err(status)) => {
                    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
                    outcomes.statuses += 1;
                }
                Err(error) => {
                    assert!(error.is_timeout() && !error.started(), "{error:?}");
                    outcomes.not_started += 1;
                }
            }
        }
        outcomes
    }

    /// Stops the servers, once they are done with their calls, and returns what they saw of each call.
    async fn stop(self) -> Vec<Vec<Visit>> {
        let Self { client, log, servers, times: _ } = self;
        drop(client);
        for (stop, task) in servers {
            let _ = stop.send(());
            task.await.unwrap();
        }
        let log = std::mem::take(&mut *log.0.lock().unwrap());
        log.into_values().map(|visits| visits.into_iter().flatten().collect()).collect()
    }
}

#[derive(Debug, Default)]
struct Outcomes {
    answers: u32,
    statuses: u32,
    not_started: u32,
}

fn connect(address: SocketAddr, times: Times) -> ShopClient<DeadlineService<Channel>> {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let deadline = DeadlineLayer::grpc().allowance(times.allowance);
    ShopClient::new(ServiceBuilder::new().layer(deadline).service(channel))
}

/// Measures the longest delay with which the runtime wakes a task. The services may be as late, since their tasks are
/// woken by the same runtime.
struct Punctuality {
    stop: Arc<AtomicBool>,
    worst: JoinHandle<Duration>,
}

impl Punctuality {
    fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let worst = tokio::spawn(async move {
            let nap = Duration::from_millis(1);
            let mut worst = Duration::ZERO;
            while !stopped.load(Ordering::SeqCst) {
                let before = Instant::now();
                tokio::time::sleep(nap).await;
                worst = worst.max(before.elapsed().saturating_sub(nap));
            }
            worst
        });
        Self { stop, worst }
    }

    async fn worst(self) -> Duration {
        self.stop.store(true, Ordering::SeqCst);
        self.worst.await.unwrap()
    }
}

fn random_limits(longest: Duration) -> Vec<Duration> {
    let limits = prop::collection::vec(0..1_000_000_u32, CALLS as usize);
    let mut runner = TestRunner::deterministic();
    limits
        .new_tree(&mut runner)
        .unwrap()
        .current()
        .into_iter()
        .map(|part| longest / 1_000_000 * part)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_through_three_services_end_in_time() {
    // Measures `pace`: how long this machine takes for all calls, if they come at once.
    let hour = Duration::from_secs(3600);
    let chain = Chain::start(Times { limit: hour, allowance: Duration::ZERO, work: Duration::ZERO }).await;
    let begun = Instant::now();
    let outcomes = chain.call(vec![hour; CALLS as usize], Duration::ZERO).await;
    assert_eq!(outcomes.answers, CALLS);
    let pace = begun.elapsed().max(Duration::from_millis(200));
    chain.stop().await;

    // All calls start within `2 * pace`, and a call works for `3 * pace`. So very many calls are in progress at once.
    let times = Times { limit: pace * 5, allowance: pace / 25, work: pace * 3 };
    let chain = Chain::start(times).await;
    let punctuality = Punctuality::watch();
    let outcomes = chain.call(random_limits(pace * 6), pace * 2 / CALLS).await;
    let starved = punctuality.worst().await;
    let calls = chain.stop().await;

    let visits = || calls.iter().flatten();
    let worked = Lateness::of(visits().map(|visit| visit.worked.saturating_duration_since(visit.deadline)));
    let dropped = visits().map(|visit| visit.dropped.unwrap().saturating_duration_since(visit.deadline));
    let dropped = Lateness::of(dropped);
    let hops: Vec<_> =
        calls.iter().flat_map(|visits| visits.windows(2)).map(|hop| (hop[0], hop[1])).collect();
    let later = hops.iter().filter(|(from, to)| to.deadline > from.deadline).count();
    println!(
        "{outcomes:?}, {} hops, {times:?}\n\
         after the deadline a service worked for {worked}\n\
         after the deadline its future was there for {dropped}\n\
         {later} deadlines were later than the one before, by a way longer than the allowance\n\
         a task was woken late by {starved:?} at most",
        hops.len(),
    );
    assert_eq!(outcomes.answers + outcomes.statuses + outcomes.not_started, CALLS);
    for visit in visits() {
        assert!(visit.deadline <= visit.arrived + times.limit, "{visit:?}");
    }
    for (from, to) in hops {
        let on_the_way = to.arrived.duration_since(from.sent.unwrap());
        assert!(to.deadline + times.allowance <= from.deadline + on_the_way, "{from:?} {to:?}");
    }
    assert!(worked.most <= LATENESS + starved, "{worked}");
    assert!(dropped.most <= LATENESS + starved, "{dropped}");
}

struct Lateness {
    p50: Duration,
    p99: Duration,
    most: Duration,
}

impl Lateness {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<_> = times.collect();
        times.sort_unstable();
        let last = times.len() - 1;
        Self { p50: times[last / 2], p99: times[last * 99 / 100], most: times[last] }
    }
}

impl fmt::Display for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:?}, p99 {:?}, at most {:?}", self.p50, self.p99, self.most)
    }
}
