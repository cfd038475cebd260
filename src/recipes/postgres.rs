use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use timebox::{Hook, future, interruptible};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_postgres::{CancelToken, Client, Config, NoTls};

pub type AnyError = Box<dyn Error + Send + Sync>;

/// A hook that blocks holds up whoever it interrupts, so it waits no longer than this.
const BOUND: Duration = Duration::from_secs(1);

/// A connection over which queries on others are cancelled: one for a pool. The same role is enough.
///
/// It has a runtime of its own, since a hook must not need the executor it interrupts.
pub struct Control {
    config: Config,
    runtime: Runtime,
    client: Mutex<Option<Client>>,
}

impl Control {
    pub fn new(config: &Config) -> io::Result<Arc<Self>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Arc::new(Self { config: config.clone(), runtime, client: Mutex::new(None) }))
    }

    /// Cancels what the backend `pid` runs now. When this returns, the server has sent the signal.
    pub fn cancel(&self, pid: i32) -> Result<(), AnyError> {
        let mut place = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection that fails or does not answer in time is not put back.
        let client = place.take().filter(|client| !client.is_closed());
        let cancelled = async {
            let client = match client {
                Some(client) => client,
                None => self.connect().await?,
            };
            client.batch_execute(&format!("select pg_cancel_backend({pid})")).await?;
            Ok::<_, AnyError>(client)
        };
        *place = Some(self.runtime.block_on(async { timeout(BOUND, cancelled).await })??);
        Ok(())
    }

    async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.config.connect(NoTls).await?;
        tokio::spawn(connection); // runs whenever there is something to cancel
        Ok(client)
    }

    /// A cancel that comes before the query is lost, so it is sent again until the query has ended.
    pub fn hook(self: &Arc<Self>, pid: i32) -> Hook<'static> {
        let control = Arc::clone(self);
        Hook::new(move || control.cancel(pid)).every(Duration::from_millis(5))
    }
}

/// The server's number for a connection: ask once, after connecting.
pub fn backend(client: &mut postgres::Client) -> Result<i32, postgres::Error> {
    Ok(client.query_one("select pg_backend_pid()", &[])?.get(0))
}

/// Runs one statement of the backend `pid`, which the scope around it cancels.
pub fn guarded<T>(
    control: &Arc<Control>,
    pid: i32,
    statement: impl FnOnce() -> Result<T, postgres::Error>,
) -> Result<T, AnyError> {
    Ok(interruptible(control.hook(pid), statement)??)
}

/// The same for async. The scope needs a grace, in which the server's answer is awaited.
pub async fn guarded_async<T>(
    cancel: Hook<'static>, // `control.hook(pid)` or `raw_hook(..)`
    statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, AnyError> {
    Ok(future::interruptible(cancel, statement).await??)
}

/// Without a control connection: by a cancel request, for which a connection is made each time.
pub fn raw_hook(token: CancelToken, server: SocketAddr) -> Hook<'static> {
    Hook::new(move || -> Result<(), AnyError> {
        let cancel = cancel_and_wait(&token, server);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { timeout(BOUND, cancel).await })?
    })
    .every(Duration::from_millis(20))
}

/// Sends a cancel request, and waits until the server has acted on it: that is when it closes the connection.
pub async fn cancel_and_wait(token: &CancelToken, server: SocketAddr) -> Result<(), AnyError> {
    let mut stream = TcpStream::connect(server).await?;
    token.cancel_query_raw(&mut stream, NoTls).await?;
    while stream.read(&mut [0; 16]).await? > 0 {}
    Ok(())
}
