//! SQLite, whose statements end with the request.

use std::sync::Mutex;

use rusqlite::{Connection, Params};
use tempfile::TempDir;
use timebox::{Hook, interruptible};

use crate::AnyError;

/// 100,000 orders of a thousand customers, without an index on the notes.
const SCHEMA: &str = "
    create table orders (id integer primary key, customer integer, note text);
    with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000)
        insert into orders select i, i % 1000, 'note ' || i from n;
    create index orders_of_customer on orders (customer);
";

pub(crate) struct Database {
    folder: TempDir,
    idle: Mutex<Vec<Connection>>,
}

impl Database {
    pub(crate) fn create() -> Result<Self, AnyError> {
        let database = Self { folder: tempfile::tempdir()?, idle: Mutex::default() };
        database.connect()?.execute_batch(SCHEMA)?;
        Ok(database)
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open(self.folder.path().join("shop.db"))?;
        connection.pragma_update(None, "automatic_index", false)?;
        Ok(connection)
    }

    /// Runs this with a connection. An interrupted statement leaves the connection as it was, so it is used again.
    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, AnyError>,
    ) -> Result<T, AnyError> {
        let idle = self.idle.lock().unwrap().pop();
        let connection = idle.map_or_else(|| self.connect(), Ok)?;
        let result = work(&connection);
        self.idle.lock().unwrap().push(connection);
        result
    }
}

/// The number that a query gives. When the scope is over, its hook interrupts SQLite.
pub(crate) fn number(connection: &Connection, query: &str, values: impl Params) -> Result<u32, AnyError> {
    let interrupt = connection.get_interrupt_handle();
    let hook = Hook::inline(move || interrupt.interrupt());
    Ok(interruptible(hook, || connection.query_row(query, values, |row| row.get(0)))??)
}
