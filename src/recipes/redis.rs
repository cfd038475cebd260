use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Client, Connection, RedisResult, cmd};
use timebox::{Hook, interruptible};

pub type AnyError = Box<dyn Error + Send + Sync>;

/// A hook that blocks holds up whoever it interrupts, so it waits no longer than this.
const BOUND: Duration = Duration::from_secs(1);

/// A connection over which others are unblocked: one for a pool.
pub struct Control {
    client: Client,
    connection: Mutex<Option<Connection>>,
}

impl Control {
    pub fn new(client: &Client) -> Arc<Self> {
        Arc::new(Self { client: client.clone(), connection: Mutex::new(None) })
    }

    /// Ends the command that blocks the connection `id`, with an error. If none does, nothing happens.
    pub fn unblock(&self, id: i64) -> RedisResult<()> {
        let mut place = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection that fails or does not answer in time is not put back.
        let mut connection = match place.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        cmd("CLIENT").arg("UNBLOCK").arg(id).arg("ERROR").exec(&mut connection)?;
        *place = Some(connection);
        Ok(())
    }

    fn connect(&self) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(BOUND)?;
        connection.set_read_timeout(Some(BOUND))?;
        connection.set_write_timeout(Some(BOUND))?;
        Ok(connection)
    }

    /// What comes before the command is lost, so it is sent again until the command has ended.
    pub fn hook(self: &Arc<Self>, id: i64) -> Hook<'static> {
        let control = Arc::clone(self);
        Hook::new(move || control.unblock(id)).every(Duration::from_millis(5))
    }
}

/// The server's number for a connection: ask once, after connecting.
pub fn id(connection: &mut Connection) -> RedisResult<i64> {
    cmd("CLIENT").arg("ID").query(connection)
}

/// Runs one blocking command of the connection `id`, which the scope around it ends.
pub fn guarded<T>(
    control: &Arc<Control>,
    id: i64,
    command: impl FnOnce() -> RedisResult<T>,
) -> Result<T, AnyError> {
    Ok(interruptible(control.hook(id), command)??)
}
