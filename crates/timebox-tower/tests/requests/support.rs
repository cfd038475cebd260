use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A limit that the test reaches.
pub(crate) const SHORT: Duration = Duration::from_millis(30);

/// A limit that the test does not reach, unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// How long anything may take on the slowest, busiest machine before it counts as hung.
pub(crate) const HANG: Duration = Duration::from_secs(60);

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub(crate) fn on_runtime<T>(test: impl Future<Output = T>) -> T {
    let runtime = runtime();
    let done = runtime.block_on(async { tokio::time::timeout(2 * HANG, test).await });
    runtime.shutdown_background();
    done.expect("the test hangs")
}

pub(crate) async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < HANG, "no sign of it after {HANG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async {
        axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
    });
    address
}

pub(crate) async fn request(address: SocketAddr, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = request(address, &format!("GET {path} HTTP/1.1\r\nconnection: close")).await;
    let mut text = String::new();
    // A response that is cut off may end with a reset.
    let _ = stream.read_to_string(&mut text).await;
    text
}

pub(crate) async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await.unwrap();
        read.extend_from_slice(&buffer[..count]);
        let seen = String::from_utf8_lossy(&read);
        if seen.contains(text) {
            return seen.into_owned();
        }
        assert!(count > 0, "the connection ended with {seen:?}");
    }
}

/// What a [`Script`] does next.
pub(crate) enum Step {
    Data(&'static str),
    Sleep(Duration),
    Never,
    Fail,
}

type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;
type Look = Arc<Mutex<dyn FnMut(bool) + Send>>;

/// A body that does one step after another. `look` is called with `false` in each poll, and with `true` in the drop.
pub(crate) struct Script {
    steps: Box<dyn Iterator<Item = Step> + Send>,
    sleep: Option<Sleep>,
    look: Option<Look>,
}

impl Script {
    pub(crate) fn new<I>(steps: I) -> Self
    where
        I: IntoIterator<Item = Step, IntoIter: Send + 'static>,
    {
        Self { steps: Box::new(steps.into_iter()), sleep: None, look: None }
    }

    pub(crate) fn look(mut self, look: impl FnMut(bool) + Send + 'static) -> Self {
        self.look = Some(Arc::new(Mutex::new(look)));
        self
    }

    fn look_now(&self, dropping: bool) {
        if let Some(look) = &self.look {
            (look.lock().unwrap())(dropping);
        }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.look_now(false);
        loop {
            if let Some(sleep) = &mut self.sleep {
                std::task::ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            match self.steps.next() {
                None => return Poll::Ready(None),
                Some(Step::Data(text)) => return Poll::Ready(Some(Ok(Frame::data(Bytes::from(text))))),
                Some(Step::Fail) => return Poll::Ready(Some(Err(std::io::Error::other("the disk")))),
                Some(Step::Sleep(duration)) => self.sleep = Some(Box::pin(tokio::time::sleep(duration))),
                Some(Step::Never) => self.sleep = Some(Box::pin(std::future::pending())),
            }
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.look_now(true);
    }
}

pub(crate) fn infallible<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
    }
}
