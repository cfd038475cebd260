//! PostgreSQL under a limit, in sync and in async code: the server cancels the query, and the connection stays usable.
//!
//! The example starts a server of its own. If this machine has none, the example says so and ends.
//!
//! ```text
//! cargo run -p timebox-databases --example postgres_cancel
//! ```
//!
//! The example checks each line before it prints the line. If a check fails, the example ends with a non-zero status.

use std::error::Error as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::postgres::error::SqlState;
use ::postgres::{Client, NoTls};
use timebox::{Hook, Timebox, TimeoutError, timeout};
use tokio_postgres::Config;

use showing::{LIMIT, check, show, timed_out};
use timebox_databases::control::{AnyError, BOUND, Doubt};
use timebox_databases::postgres::{Control, guarded, guarded_async, raw_hook, session, session_async};
use timebox_databases::server::Server;

#[path = "support/showing.rs"]
mod showing;

const GRACE: Duration = Duration::from_secs(5);
const ENDLESS: &str = "select pg_sleep(3600)";

fn main() -> ExitCode {
    let Some(server) = Server::postgres() else { return ExitCode::SUCCESS };
    showing::run("postgres_cancel", || {
        let mut config = Config::new();
        config.host("127.0.0.1").port(server.port()).user("postgres");
        let control = Control::new(&config)?;
        sync(&config, &control)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(asynchronous(&config, &control, &server))
    })
}

fn is_cancelled(error: &TimeoutError) -> bool {
    let said = error.source().and_then(|source| source.downcast_ref::<::postgres::Error>());
    said.and_then(::postgres::Error::code) == Some(&SqlState::QUERY_CANCELED)
}

fn sync(config: &Config, control: &Arc<Control>) -> Result<(), AnyError> {
    let connect =
        || -> Result<Client, ::postgres::Error> { ::postgres::Config::from(config.clone()).connect(NoTls) };
    let (mut client, mut other) = (connect()?, connect()?);
    let session = session(&mut client)?;
    client.batch_execute("create table account (value int); insert into account values (0)")?;

    let start = Instant::now();
    let error = timed_out(timeout(LIMIT, || {
        let mut transaction = client.transaction()?;
        transaction.execute("update account set value = 7", &[])?;
        guarded(control, &session, || transaction.batch_execute(ENDLESS))?;
        transaction.commit()?;
        Ok(())
    }))?;
    check(is_cancelled(&error), "the server cancelled the query")?;
    show("a query in a transaction, over a control connection", start, &error)?;

    let row = other.query_one("select value from account for update nowait", &[])?;
    check(row.get::<_, i32>(0) == 0, "nothing half-written stayed")?;
    println!("  another connection gets the row's lock at once, and sees nothing half-written");
    check(client.query_one("select 42", &[])?.get::<_, i32>(0) == 42, "the next statement is not hit")?;
    println!("  the next statement on the cancelled connection is not hit");
    Ok(())
}

async fn asynchronous(config: &Config, control: &Arc<Control>, server: &Server) -> Result<(), AnyError> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    let session = session_async(&client).await?;
    let token = client.cancel_token();
    let ways: [(&str, Hook<'static>); 2] = [
        ("async, over a control connection", control.hook(&session)),
        (
            "async, by a raw cancel whose end is awaited",
            raw_hook(token, server.address(), BOUND, &Doubt::default()),
        ),
    ];
    for (way, hook) in ways {
        let start = Instant::now();
        let query = guarded_async(hook, client.batch_execute(ENDLESS));
        let error = timed_out(Timebox::new(LIMIT).grace(GRACE).run_future(query).await)?;
        check(error.settled() && is_cancelled(&error), "the query was answered")?;
        show(way, start, &error)?;
        check(client.query_one("select 42", &[]).await?.get::<_, i32>(0) == 42, "the next is not hit")?;
    }
    println!("  both were answered by the server: settled() is true, and the next query is not hit");
    Ok(())
}
