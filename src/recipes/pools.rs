use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bb8::ManageConnection;
use deadpool_postgres::Object;
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres};
use timebox::{Hook, TimeoutError, checkpoint, future, remaining, token};
use tokio_postgres::{CancelToken, Client, Config};

use super::control::{AnyError, Doubt};
use super::postgres::{Connection, SESSION, Session};

/// Waits for a connection until the scope is over. Then the pool's future is dropped in the middle, which the pools
/// allow. So this wait needs no grace.
async fn lent<T, E>(get: impl Future<Output = Result<T, E>>) -> Result<T, AnyError>
where
    E: Into<AnyError>,
{
    match token().run_until_cancelled(get).await {
        Some(result) => result.map_err(Into::into),
        None => Err(checkpoint().expect_err("the scope is over").into()),
    }
}

// ===== r2d2: sync calls are not dropped in the middle. A call that is cut off loses its connection =====

/// Waits for a connection until the scope is over, or until the pool's own timeout has passed. A cancel does not end
/// `get_timeout`, so this calls `get_timeout` again and again, each time for `SLICE`. A call takes longer if the pool
/// tests a connection: [`Manager`] limits that test.
pub fn lent_by_r2d2<M: r2d2::ManageConnection>(
    pool: &r2d2::Pool<M>,
) -> Result<r2d2::PooledConnection<M>, AnyError> {
    const SLICE: Duration = Duration::from_millis(20);
    let start = Instant::now();
    loop {
        let lent = pool.get_timeout(remaining().map_or(SLICE, |left| left.min(SLICE)));
        checkpoint()?;
        match lent {
            Ok(connection) => return Ok(connection),
            Err(error) if start.elapsed() >= pool.connection_timeout() => return Err(error.into()),
            Err(_) => {}
        }
    }
}

/// Makes connections whose sockets this code opens, so that it can shut the sockets down. Replaces the manager of
/// `r2d2_postgres`.
pub struct Manager {
    pub config: Config,
    pub server: SocketAddr,
}

impl r2d2::ManageConnection for Manager {
    type Connection = Connection;
    type Error = ConnectionError;

    fn connect(&self) -> Result<Connection, ConnectionError> {
        Connection::connect(&self.config, self.server).map_err(ConnectionError)
    }

    /// r2d2 calls this on the thread that waits for a connection, and looks at its own timeout only afterwards. So the
    /// test must end by itself: at the end of the scope, and after a second at the latest.
    fn is_valid(&self, connection: &mut Connection) -> Result<(), ConnectionError> {
        match connection.test() {
            // An error without a source: the scope was over before the test, so nothing was tested. An `Err` would make
            // r2d2 throw the connection away and test the next one. After `Ok`, the `checkpoint` after `get_timeout`
            // fails, and the connection goes back to the pool.
            Err(error)
                if error.downcast_ref().is_some_and(|error: &TimeoutError| error.source().is_none()) =>
            {
                Ok(())
            }
            result => result.map_err(ConnectionError),
        }
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.is_closed()
    }
}

/// The error that r2d2 gets if a connection could not be made or did not answer the test.
#[derive(Debug)]
pub struct ConnectionError(AnyError);

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for ConnectionError {}

/// Runs `work`, a single statement, on a connection of the pool. `cancel` makes the hook for the connection's session.
pub fn on_r2d2<T: Unpin + 'static>(
    pool: &r2d2::Pool<Manager>,
    cancel: impl FnOnce(&Session) -> Hook<'static>,
    work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
) -> Result<T, AnyError> {
    let connection = lent_by_r2d2(pool)?;
    let hook = cancel(connection.session());
    connection.guarded(hook, work)
}

// ===== deadpool: `Object::take` removes a connection from the pool =====

struct Lent(Option<Object>);

impl Drop for Lent {
    fn drop(&mut self) {
        // If the object is still here, the query's future was dropped in the middle, or a cancel may still arrive. So
        // the connection leaves the pool.
        drop(self.0.take().map(Object::take));
    }
}

/// Runs `work`, a single statement, on a connection of the pool. `cancel` makes the hook for the connection.
pub async fn on_deadpool<T: Unpin + 'static>(
    pool: &deadpool_postgres::Pool,
    cancel: impl FnOnce(CancelToken, &Doubt) -> Hook<'static>,
    work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
) -> Result<T, AnyError> {
    let object = lent(pool.get()).await?;
    let doubt = Doubt::default();
    let hook = cancel(object.cancel_token(), &doubt);
    let mut lent = Lent(Some(object));
    let Some(client) = &lent.0 else { unreachable!("it was just put there") };
    let result = future::interruptible(hook, work(client)).await;
    // The query has ended. If no cancel may still arrive, the object goes back to its pool. Otherwise the drop of
    // `lent` takes the connection out of the pool.
    if !doubt.is_raised() {
        drop(lent.0.take());
    }
    Ok(result??)
}

// ===== bb8: its manager decides which connections are broken, so each connection carries a mark =====

pub struct Marked<C> {
    client: C,
    in_use: bool,
}

pub struct Marking<M>(pub M);

impl<M: ManageConnection> ManageConnection for Marking<M> {
    type Connection = Marked<M::Connection>;
    type Error = M::Error;

    async fn connect(&self) -> Result<Self::Connection, M::Error> {
        Ok(Marked { client: self.0.connect().await?, in_use: false })
    }

    async fn is_valid(&self, connection: &mut Self::Connection) -> Result<(), M::Error> {
        self.0.is_valid(&mut connection.client).await
    }

    fn has_broken(&self, connection: &mut Self::Connection) -> bool {
        connection.in_use || self.0.has_broken(&mut connection.client)
    }
}

/// Like [`on_deadpool`], for a pool of bb8.
pub async fn on_bb8<M, T: Unpin + 'static>(
    pool: &bb8::Pool<Marking<M>>,
    cancel: impl FnOnce(CancelToken, &Doubt) -> Hook<'static>,
    work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
) -> Result<T, AnyError>
where
    M: ManageConnection<Connection = Client, Error = tokio_postgres::Error>,
{
    let mut connection = lent(pool.get()).await?;
    connection.in_use = true;
    let doubt = Doubt::default();
    let hook = cancel(connection.client.cancel_token(), &doubt);
    let result = future::interruptible(hook, work(&connection.client)).await;
    connection.in_use = doubt.is_raised(); // a future dropped before this keeps the mark, so bb8 drops the connection
    Ok(result??)
}

// ===== sqlx: a connection can be told to close when it is dropped =====

struct Settling {
    connection: PoolConnection<Postgres>,
    in_use: bool,
}

impl Drop for Settling {
    fn drop(&mut self) {
        if self.in_use {
            self.connection.close_on_drop();
        }
    }
}

/// Runs `work`, a single statement, on a connection of the pool. `cancel` makes the hook for the connection's session.
pub async fn on_sqlx<T>(
    pool: &sqlx::PgPool,
    cancel: impl FnOnce(&Session) -> Hook<'static>,
    work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
) -> Result<T, AnyError> {
    let connection = lent(pool.acquire()).await?;
    let mut settling = Settling { connection, in_use: true };
    let (pid, started) = sqlx::query_as(SESSION).fetch_one(&mut *settling.connection).await?;
    let session = Session::new(pid, started);
    let hook = cancel(&session);
    let result = future::interruptible(hook, work(&mut settling.connection)).await;
    settling.in_use = session.doubt.is_raised();
    Ok(result??)
}
