use std::error::Error;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, InterruptHandle};
use timebox::{Hook, checkpoint, interruptible, is_expired, sleep};

pub type AnyError = Box<dyn Error + Send + Sync>;

/// Runs a statement, which the scope around it interrupts. What borrows the connection cannot leave it: rows that are
/// still to be read, as those of `query_map`. Collect them inside.
pub fn guarded<T: 'static>(
    interrupt: &InterruptHandle,
    statement: impl FnOnce() -> rusqlite::Result<T>,
) -> Result<T, AnyError> {
    // `interrupt()` does not block, so the hook may run on the watchdog. What is no interrupt stays what it is.
    let hook = Hook::inline(|| interrupt.interrupt());
    checked(interruptible(hook, statement)?)
}

/// Lets SQLite look at the scope of the thread that uses the connection: once, after opening it.
pub fn look_at_scopes(connection: &mut Connection) -> rusqlite::Result<()> {
    /// How long to wait for a lock outside of all scopes: some 5 s.
    const PATIENCE: i32 = 5_000;

    // Every 1000 of its steps, some tens of microseconds apart.
    connection.progress_handler(1000, Some(is_expired))?;
    // An interrupt does not end the wait for a lock. This does, at the moment the scope is over.
    connection.busy_handler(Some(|tries| tries < PATIENCE && sleep(Duration::from_millis(1)).is_ok()))
}

/// The error of a statement that SQLite ended because of the scope is the scope's.
pub fn checked<T>(result: rusqlite::Result<T>) -> Result<T, AnyError> {
    let ended = [Some(ErrorCode::OperationInterrupted), Some(ErrorCode::DatabaseBusy)];
    match result {
        Err(error) if ended.contains(&error.sqlite_error_code()) => {
            checkpoint()?;
            Err(error.into())
        }
        other => Ok(other?),
    }
}
