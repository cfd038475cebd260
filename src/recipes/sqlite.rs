use std::error::Error;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, InterruptHandle};
use timebox::{Hook, checkpoint, interruptible, is_expired, sleep};

pub type AnyError = Box<dyn Error + Send + Sync>;

/// Runs a statement. The end of the scope around the call interrupts the statement. The rows of `query_map` borrow the
/// connection, so they cannot leave the closure: collect them inside.
pub fn guarded<T: 'static>(
    interrupt: &InterruptHandle,
    statement: impl FnOnce() -> rusqlite::Result<T>,
) -> Result<T, AnyError> {
    // `interrupt()` does not block, so the hook may run on the watchdog.
    let hook = Hook::inline(|| interrupt.interrupt());
    checked(interruptible(hook, statement)?)
}

/// Makes SQLite check the scope of the thread that uses the connection. Call this once, after opening the connection.
pub fn look_at_scopes(connection: &mut Connection) -> rusqlite::Result<()> {
    /// The most tries for a lock. There is one try in a little more than a millisecond, so a wait lasts for somewhat
    /// more than five seconds, or until the end of the scope.
    const PATIENCE: i32 = 5_000;

    // SQLite checks after every 1000 of its steps: every few tens of microseconds.
    connection.progress_handler(1000, Some(is_expired))?;
    // SQLite's interrupt does not end a wait for a lock. So the wait consists of calls of `timebox::sleep`, which end
    // with the scope.
    connection.busy_handler(Some(|tries| tries < PATIENCE && sleep(Duration::from_millis(1)).is_ok()))
}

/// If SQLite ended a statement because of the scope, turns the statement's error into the scope's error.
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
