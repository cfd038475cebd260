use std::error::Error;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, InterruptHandle};
use timebox::{Hook, checkpoint, interruptible, is_expired, sleep};

pub type AnyError = Box<dyn Error + Send + Sync>;

/// Runs a statement; the scope around it interrupts it. A result that borrows the connection cannot leave: the rows of
/// `query_map`, which are still to be read. Collect them inside.
pub fn guarded<T: 'static>(
    interrupt: &InterruptHandle,
    statement: impl FnOnce() -> rusqlite::Result<T>,
) -> Result<T, AnyError> {
    // `interrupt()` does not block, so the hook may run on the watchdog.
    let hook = Hook::inline(|| interrupt.interrupt());
    checked(interruptible(hook, statement)?)
}

/// Makes SQLite look at the scope of the thread that uses the connection. Call it once, after opening.
pub fn look_at_scopes(connection: &mut Connection) -> rusqlite::Result<()> {
    /// How many milliseconds to wait for a lock outside every scope.
    const PATIENCE: i32 = 5_000;

    // Every 1000 of its steps: every few tens of microseconds.
    connection.progress_handler(1000, Some(is_expired))?;
    // An interrupt does not end the wait for a lock. This sleep ends with the scope.
    connection.busy_handler(Some(|tries| tries < PATIENCE && sleep(Duration::from_millis(1)).is_ok()))
}

/// Turns the error of a statement that SQLite ended because of the scope into the scope's error.
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
