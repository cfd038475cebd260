//! Testing the failure path (feature `testing`).
//!
//! A timeout path that no test has run may not work. These tools test it without real waiting, without flakiness, and
//! at every checkpoint:
//!
//! - [`MockClock`]: a clock that the test moves. The clock can also move by itself when all code under it waits: with
//!   [`block_on`](MockClock::block_on) for futures, with [`auto_advancing`](MockClock::auto_advancing) for threads.
//!   Code that reads the time calls [`timebox::now`](crate::now) to read this clock.
//! - [`expire_at_checkpoint`], [`expire_at`]: a scope expires at one place.
//! - [`for_each_checkpoint`]: a scope expires at each place in turn, and the body asserts its invariants.
//! - [`assert_checkpoints`]: fails if a checkpoint is missing.
//!
//! [`testing::future`](mod@future) has the functions that make a scope expire, for futures. The feature costs each
//! scope a few instructions even if no test tool is in use, so enable it only for tests:
//!
//! ```toml
//! [dev-dependencies]
//! timebox = { version = "0.1", features = ["testing"] }
//! ```
//!
//! # Recipes
//!
//! ## A transaction
//!
//! Wherever the transaction is interrupted, either all of it has happened or none of it. `examples/testing.rs` tests
//! a database in this way, and finds a ROLLBACK that is skipped because the scope is over.
//!
//! ```
//! use std::time::Duration;
//! use rusqlite::Connection;
//! use timebox::testing::for_each_checkpoint;
//! use timebox::{checkpoint, timeout};
//!
//! type Error = Box<dyn std::error::Error + Send + Sync>;
//!
//! fn book(db: &mut Connection) -> Result<(), Error> {
//!     let transaction = db.transaction()?; // rolls back when dropped
//!     for account in [1, 2] {
//!         checkpoint()?;
//!         transaction.execute("INSERT INTO booking VALUES (?)", [account])?;
//!     }
//!     checkpoint()?;
//!     Ok(transaction.commit()?)
//! }
//!
//! let report = for_each_checkpoint(|| {
//!     let mut db = Connection::open_in_memory().unwrap();
//!     db.execute_batch("CREATE TABLE booking (account INTEGER)").unwrap();
//!     let result = timeout(Duration::from_secs(5), || book(&mut db));
//!     let booked: u32 = db.query_row("SELECT count(*) FROM booking", [], |row| row.get(0)).unwrap();
//!     assert_eq!(booked, if result.is_ok() { 2 } else { 0 });
//! });
//! assert_eq!(report.points().len(), 4); // the entry, and three checkpoints
//! ```
//!
//! ## A lock
//!
//! ```
//! use std::sync::Mutex;
//! use timebox::testing::for_each_checkpoint;
//! use timebox::{TimeoutError, checkpoint};
//!
//! fn add_up(total: &Mutex<u32>, numbers: &[u32]) -> Result<(), TimeoutError> {
//!     let mut total = total.lock().unwrap();
//!     let mut sum = *total; // a copy: an interrupted sum must not stay in `total`
//!     for number in numbers {
//!         checkpoint()?;
//!         sum += number;
//!     }
//!     *total = sum;
//!     Ok(())
//! }
//!
//! for_each_checkpoint(|| {
//!     let total = Mutex::new(0);
//!     let result = add_up(&total, &[1, 2, 3]);
//!     let total = *total.try_lock().expect("the lock is free");
//!     assert_eq!(total, if result.is_ok() { 6 } else { 0 });
//! });
//! ```
//!
//! ## A temporary file
//!
//! ```
//! use std::{fs, io::Write, path::Path};
//! use timebox::testing::for_each_checkpoint;
//! use timebox::checkpoint;
//!
//! fn save(folder: &Path, lines: &[&str]) -> std::io::Result<()> {
//!     let mut file = tempfile::NamedTempFile::new_in(folder)?; // removed when dropped
//!     for line in lines {
//!         checkpoint()?;
//!         writeln!(file, "{line}")?;
//!     }
//!     file.persist(folder.join("saved"))?;
//!     Ok(())
//! }
//!
//! for_each_checkpoint(|| {
//!     let folder = tempfile::tempdir().unwrap();
//!     let result = save(folder.path(), &["a", "b"]);
//!     let files = fs::read_dir(&folder).unwrap().count();
//!     assert_eq!(files, usize::from(result.is_ok()));
//! });
//! ```
//!
//! ## A retry loop
//!
//! Under a mock clock, a day of retries takes no time, and has the same result on each machine.
//!
//! ```
//! use std::time::Duration;
//! use timebox::testing::{MockClock, expire_at};
//! use timebox::{Timebox, TimeoutError, sleep};
//!
//! fn call() -> Result<(), TimeoutError> {
//!     Timebox::new(Duration::from_secs(10)).label("attempt").run(|_| sleep(Duration::from_secs(3600)))
//! }
//!
//! fn retry(attempts: &mut u32) -> Result<(), TimeoutError> {
//!     Timebox::new(Duration::from_secs(60)).label("request").run(|_| {
//!         loop {
//!             *attempts += 1;
//!             match call() {
//!                 Err(error) if error.label() == Some("attempt") => sleep(Duration::from_secs(10))?,
//!                 result => return result,
//!             }
//!         }
//!     })
//! }
//!
//! MockClock::new().run(|clock| {
//!     let mut attempts = 0;
//!     let error = retry(&mut attempts).unwrap_err();
//!     assert_eq!((error.label(), attempts), (Some("request"), 3));
//!     assert_eq!(clock.elapsed(), Duration::from_secs(60));
//! });
//!
//! // The request itself expires during its first attempt, so it does not try again.
//! let mut attempts = 0;
//! assert!(expire_at("request", || retry(&mut attempts)).is_err());
//! assert_eq!(attempts, 1);
//! ```
//!
//! ## An async handler
//!
//! ```
//! # pollster::block_on(async {
//! use std::cell::Cell;
//! use std::time::Duration;
//! use timebox::{TimeoutError, Timebox, future, testing};
//!
//! // Counts the requests that are being served. The count must be right after an interruption too.
//! async fn handle(served: &Cell<u32>) -> Result<&'static str, TimeoutError> {
//!     served.set(served.get() + 1);
//!     let answer = future::sleep(Duration::from_millis(1)).await.map(|()| "done");
//!     served.set(served.get() - 1);
//!     answer
//! }
//!
//! let served = Cell::new(0);
//! testing::future::for_each_checkpoint(|| async {
//!     let request = Timebox::new(Duration::from_secs(5)).grace(Duration::from_secs(1));
//!     let result = request.run_future(handle(&served)).await;
//!     assert_eq!(served.get(), 0, "without the grace, the count would be wrong");
//!     result
//! })
//! .await;
//! # });
//! ```
//!
//! # With tokio's own mock time
//!
//! `tokio::time::pause` and [`MockClock`] are independent. Under `pause` alone, scopes of this crate follow the real
//! clock. Under a [`MockClock`] alone, tokio's timers follow the real clock. To test code with scopes of this crate
//! and timers of tokio, use `pause` and a [`MockClock`], and move both clocks by the same amount. A paused tokio
//! moves its own clock when all its tasks wait, even if they wait for timers of this crate. So do not use `pause` if
//! only this crate's timers should advance. The example of [`advance_to_next`](MockClock::advance_to_next) has a
//! runtime that moves a [`MockClock`] when all tasks wait.
//!
//! ```ignore
//! use std::time::Duration;
//! use timebox::{future, testing::MockClock};
//!
//! let minute = Duration::from_secs(60);
//! let clock = MockClock::new();
//! let limited = clock.run(|_| {
//!     future::timeout_value(minute, async move { tokio::time::sleep(2 * minute).await })
//! });
//! let task = tokio::spawn(limited);
//! tokio::task::yield_now().await;
//!
//! tokio::time::advance(minute).await;
//! clock.advance(minute);
//! assert!(task.await.unwrap().unwrap_err().is_timeout());
//! ```

mod clock;
mod expire;
pub mod future;
mod gaps;
mod probe;
mod sweep;

pub use clock::{Hold, MockClock};
pub use expire::{expire_at, expire_at_checkpoint, expire_in_shields_at};
pub use gaps::assert_checkpoints;
pub use sweep::{Outcome, Point, Report, for_each_checkpoint, try_for_each_checkpoint};
