use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mysql::prelude::Queryable;
use mysql::{Conn, Opts, OptsBuilder};
use timebox::{Hook, interruptible};

pub type AnyError = Box<dyn Error + Send + Sync>;

/// A hook that blocks holds up whoever it interrupts, so it waits no longer than this.
const BOUND: Duration = Duration::from_secs(1);

/// A connection over which queries on others are killed: one for a pool. The same user is enough.
pub struct Control {
    options: Opts,
    connection: Mutex<Option<Conn>>,
}

impl Control {
    pub fn new(options: &Opts) -> Arc<Self> {
        let options = OptsBuilder::from_opts(options.clone())
            .tcp_connect_timeout(Some(BOUND))
            .read_timeout(Some(BOUND))
            .write_timeout(Some(BOUND));
        Arc::new(Self { options: options.into(), connection: Mutex::new(None) })
    }

    /// Kills what the connection `id` runs now, and leaves the connection. When this returns, the server has done it.
    pub fn kill_query(&self, id: u32) -> Result<(), mysql::Error> {
        let mut place = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        // After an error, a timeout above all, the next reply may be that of an earlier query: it is not put back.
        let mut connection = match place.take() {
            Some(connection) => connection,
            None => Conn::new(self.options.clone())?,
        };
        connection.query_drop(format!("kill query {id}"))?;
        *place = Some(connection);
        Ok(())
    }

    /// A kill that comes before the query is lost, so it is sent again until the query has ended.
    pub fn hook(self: &Arc<Self>, id: u32) -> Hook<'static> {
        let control = Arc::clone(self);
        Hook::new(move || control.kill_query(id)).every(Duration::from_millis(5))
    }
}

/// Runs one statement of the connection `id`, which the scope around it kills.
pub fn guarded<T>(
    control: &Arc<Control>,
    id: u32,
    statement: impl FnOnce() -> mysql::Result<T>,
) -> Result<T, AnyError> {
    Ok(interruptible(control.hook(id), statement)??)
}

/// For statements that may return a value though they were killed.
pub fn guarded_strictly<T>(
    control: &Arc<Control>,
    id: u32,
    statement: impl FnOnce() -> mysql::Result<T>,
) -> Result<T, AnyError> {
    Ok(interruptible(control.hook(id).spoils(), statement)??)
}
