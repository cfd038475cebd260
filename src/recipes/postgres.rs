use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use timebox::{Deadline, Hook, checkpoint, future, interruptible, remaining};
use tokio::io::AsyncReadExt;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::timeout;
use tokio_postgres::{CancelToken, Client, Config, NoTls, SimpleQueryMessage};

use super::control::{self, AnyError, BOUND, Doubt, Failure, two_steps};

/// Identifies the session of a connection to the server. Make a `Session` once, after connecting.
#[derive(Clone)]
pub struct Session {
    pub pid: i32,
    /// When the session started, in microseconds. `pid` alone does not identify a session: other servers use the same
    /// numbers, and a server uses a number again.
    pub started: i64,
    pub doubt: Doubt,
}

/// The query for a session's `pid` and `started`.
pub const SESSION: &str = "select pid, (extract(epoch from backend_start) * 1000000)::bigint
    from pg_stat_get_activity(pg_backend_pid())";

impl Session {
    pub fn new(pid: i32, started: i64) -> Self {
        Self { pid, started, doubt: Doubt::default() }
    }
}

pub fn session(client: &mut postgres::Client) -> Result<Session, postgres::Error> {
    let row = client.query_one(SESSION, &[])?;
    Ok(Session::new(row.get(0), row.get(1)))
}

pub async fn session_async(client: &Client) -> Result<Session, tokio_postgres::Error> {
    let row = client.query_one(SESSION, &[]).await?;
    Ok(Session::new(row.get(0), row.get(1)))
}

/// A connection that cancels queries on other connections. A pool needs only one. It may log in as the same role as the
/// other connections.
///
/// The connection has a thread of its own: a hook must not need the executor, because the executor may be busy with the
/// work that the hook interrupts.
pub struct Control {
    connection: control::Control<Arc<Client>>,
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Drop for Control {
    fn drop(&mut self) {
        // A plain drop of a runtime panics in async code. `shutdown_background` does not.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

impl Control {
    pub fn new(config: &Config) -> Result<Arc<Self>, AnyError> {
        Self::with_bound(config, BOUND)
    }

    pub fn with_bound(config: &Config, bound: Duration) -> Result<Arc<Self>, AnyError> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (handle, config) = (runtime.handle().clone(), config.clone());
        let on = handle.clone();
        let connect = move |left| {
            let config = config.clone();
            within(&on, left, async move {
                let (client, connection) = config.connect(NoTls).await?;
                tokio::spawn(connection);
                Ok(Arc::new(client))
            })
        };
        let connection = control::Control::new(bound, connect, |client| !client.is_closed())?;
        Ok(Arc::new(Self { connection, runtime: Some(runtime), handle }))
    }

    /// Cancels the query of a session. When this returns `Ok`, the server has sent the signal to the session's process.
    pub fn cancel(&self, pid: i32, started: i64) -> Result<(), Failure> {
        let query = format!(
            "select pg_cancel_backend(pid) from pg_stat_get_activity({pid})
            where (extract(epoch from backend_start) * 1000000)::bigint = {started}"
        );
        self.connection.run(|client, left| {
            let client = Arc::clone(client);
            let cancel = async move { Ok(client.simple_query(&query).await?) };
            match within(&self.handle, left, cancel) {
                Ok(answer) => {
                    let mut rows = answer.iter().filter_map(|message| match message {
                        SimpleQueryMessage::Row(row) => Some(row.get(0) == Some("t")),
                        _ => None,
                    });
                    match rows.next() {
                        Some(true) => Ok(()),
                        Some(false) => Err(refused("the server could not send the signal")),
                        None => Err(refused("the session is not on this server")),
                    }
                }
                // The server answered with an error, so no cancel is on its way.
                Err(error) if error.downcast_ref().is_some_and(is_answer) => Err(refused(error)),
                Err(error) => Err(unanswered(error)),
            }
        })
    }

    pub fn hook(self: &Arc<Self>, session: &Session) -> Hook<'static> {
        let (control, Session { pid, started, doubt }) = (Arc::clone(self), session.clone());
        two_steps(self.connection.bound(), &doubt, move || control.cancel(pid, started))
    }
}

fn is_answer(error: &tokio_postgres::Error) -> bool {
    error.code().is_some()
}

/// Runs `work` on the runtime's thread, and waits for its end for at most `left`. The calling thread may belong to an
/// executor, so it cannot run `work` itself.
fn within<T: Send + 'static>(
    runtime: &Handle,
    left: Duration,
    work: impl Future<Output = Result<T, AnyError>> + Send + 'static,
) -> Result<T, AnyError> {
    let (send, receive) = mpsc::sync_channel(1);
    let task = runtime.spawn(async move { send.send(work.await) });
    receive.recv_timeout(left).unwrap_or_else(|error| {
        task.abort();
        Err(error.into())
    })
}

/// Runs one statement of a session. The end of the scope around the call cancels the statement. `T: 'static` excludes a
/// result that borrows the connection, such as an iterator that still reads rows.
pub fn guarded<T: 'static>(
    control: &Arc<Control>,
    session: &Session,
    statement: impl FnOnce() -> Result<T, postgres::Error>,
) -> Result<T, AnyError> {
    Ok(interruptible(control.hook(session), statement)??)
}

/// Like [`guarded`], for async code. Give the scope a grace: during the grace, this waits for the server's answer to
/// the cancel. `T: Unpin` excludes a `RowStream`, whose rows would be read outside the scope.
pub async fn guarded_async<T: Unpin + 'static>(
    cancel: Hook<'static>, // `control.hook(session)` or `raw_hook(..)`
    statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, AnyError> {
    Ok(future::interruptible(cancel, statement).await??)
}

/// A hook without a control connection: each run makes a new connection and sends a cancel request. The new connection
/// takes no slot of the server. The request carries a secret that fits no other session.
pub fn raw_hook(token: CancelToken, server: SocketAddr, bound: Duration, doubt: &Doubt) -> Hook<'static> {
    two_steps(bound, doubt, raw_cancel(token, server, bound)).every(Duration::from_millis(20))
}

fn raw_cancel(
    token: CancelToken,
    server: SocketAddr,
    bound: Duration,
) -> impl FnMut() -> Result<(), Failure> {
    let mut sent = 0;
    move || {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(refused)?;
        let cancel = cancel_and_wait(&token, server);
        runtime.block_on(async { timeout(bound, cancel).await }).map_err(unanswered)??;
        sent += 1;
        // A server ignores a cancel that comes before the statement, so the first cancels may be lost. A server also
        // ignores a cancel for a session that it does not have. The hook runs again only while the query runs. So a
        // fourth cancel means that this is perhaps the wrong server, and reports an error.
        if sent <= 3 {
            return Ok(());
        }
        Err(refused(format!("after {sent} cancels the query still runs: is this its server?")))
    }
}

/// Sends a cancel request, and waits until the server closes the connection. The server closes it when it has acted on
/// the request.
pub async fn cancel_and_wait(token: &CancelToken, server: SocketAddr) -> Result<(), Failure> {
    let mut stream = tokio::net::TcpStream::connect(server).await.map_err(refused)?;
    token.cancel_query_raw(&mut stream, NoTls).await.map_err(unanswered)?;
    while stream.read(&mut [0; 16]).await.map_err(unanswered)? > 0 {}
    Ok(())
}

fn refused(error: impl Into<AnyError>) -> Failure {
    Failure::Refused(error.into())
}

fn unanswered(error: impl Into<AnyError>) -> Failure {
    Failure::Unanswered(error.into())
}

/// A connection for sync code. It owns its socket, so its hook can shut the socket down: a call ends even if the
/// network is silent.
pub struct Connection {
    runtime: Runtime,
    client: Client,
    session: Session,
    server: SocketAddr,
}

/// The longest time for connecting, in a scope or outside.
const CONNECT: Duration = Duration::from_secs(5);
/// If the server's machine answers nothing for this long, the system gives the connection up. During a slow statement
/// the machine still answers keepalive probes.
const SILENCE: Duration = Duration::from_secs(10);

impl Connection {
    /// Connects, in the time that the scope has left, and in at most `CONNECT`.
    pub fn connect(config: &Config, server: SocketAddr) -> Result<Self, AnyError> {
        checkpoint()?;
        Self::connect_in_time(config, server).or_else(|error| {
            checkpoint()?;
            Err(error)
        })
    }

    fn connect_in_time(config: &Config, server: SocketAddr) -> Result<Self, AnyError> {
        let end = Deadline::after(remaining().map_or(CONNECT, |left| left.min(CONNECT)));
        let left = || end.remaining().unwrap_or_default();
        let socket = TcpStream::connect_timeout(&server, left())?;
        notice_silence(&socket, SILENCE)?;
        socket.set_nodelay(true)?;
        let second = socket.try_clone()?;
        second.set_nonblocking(true)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let greet = async {
            let stream = tokio::net::TcpStream::from_std(second)?;
            let (client, connection) = config.connect_raw(stream, NoTls).await?;
            tokio::spawn(connection); // `connection` makes progress only during a `block_on`
            let session = session_async(&client).await?;
            Ok::<_, AnyError>((client, session))
        };
        let (client, session) = runtime.block_on(async { timeout(left(), greet).await })??;
        let session = Session { doubt: Doubt::about(socket), ..session };
        Ok(Self { runtime, client, session, server })
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Like the function `raw_hook`, for this connection, with a second step that shuts the socket down.
    pub fn raw_hook(&self, bound: Duration) -> Hook<'static> {
        raw_hook(self.client.cancel_token(), self.server, bound, &self.session.doubt)
    }

    /// Runs one statement. The end of the scope around the call cancels the statement. `cancel` is
    /// `control.hook(connection.session())` or `connection.raw_hook(BOUND)`.
    pub fn guarded<T: Unpin + 'static>(
        &self,
        cancel: Hook<'static>,
        statement: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, AnyError> {
        Ok(interruptible(cancel, || self.runtime.block_on(statement(&self.client)))??)
    }

    /// Sends an empty query and waits for the answer, within the scope and for at most a second.
    pub fn test(&self) -> Result<(), AnyError> {
        let doubt = self.session.doubt.clone();
        let shut_down = Hook::inline(move || doubt.raise()).once();
        let nothing = async |client: &Client| client.batch_execute("").await;
        timebox::timeout(Duration::from_secs(1), || self.guarded(shut_down, nothing))
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || self.session.doubt.is_raised()
    }
}

/// Makes the system give up a connection on which nothing has come back for the time `after`.
pub fn notice_silence(socket: &TcpStream, after: Duration) -> io::Result<()> {
    let (socket, [idle, between]) = (SockRef::from(socket), probes(after));
    // Limits how long sent data may stay unacknowledged. This alone does not notice that an idle peer is gone.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(after))?;
    // Makes the system probe the peer while nothing is sent. While sent data is unacknowledged, the system sends no
    // probes, so the timeout above is needed as well.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(between))
}

/// Like [`notice_silence`], for a connection of the `postgres` crate, which hides its socket.
pub fn notice_silence_of(config: &mut postgres::Config, after: Duration) {
    let [idle, between] = probes(after);
    config.tcp_user_timeout(after).keepalives_idle(idle).keepalives_interval(between);
}

/// The silence of a peer after which the system sends the first probe, and the pause until the next probe. The system
/// counts in seconds, so each is at least a second.
fn probes(after: Duration) -> [Duration; 2] {
    [after / 2, after / 4].map(|pause| pause.max(Duration::from_secs(1)))
}
