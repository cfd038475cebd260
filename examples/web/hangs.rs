//! Seven handlers that hang, each with the one line that lets its limit stop it.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use timebox::io::{Timed, connect};
use timebox::{TimeoutError, handle, sleep};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::database::number;
use crate::shop::Shop;
use crate::{AnyError, pages};

pub(crate) struct Hang {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) story: &'static str,
    pub(crate) rescue: &'static str,
}

pub(crate) const HANGS: [Hang; 7] = [
    Hang {
        name: "regex",
        title: "An evil regex",
        story: "Sixty letters and an exclamation mark against ^([a-z]+)+$: the match takes longer than the universe is old.",
        rescue: "timebox::regex checks the scope while PCRE2 backtracks.",
    },
    Hang {
        name: "query",
        title: "A query without an index",
        story: "A join of 100,000 orders with themselves, on a column that nobody indexed: ten thousand million steps.",
        rescue: "interruptible calls sqlite3_interrupt from a hook. The connection goes back to the pool.",
    },
    Hang {
        name: "queries",
        title: "A hundred thousand small queries",
        story: "Each is fast. But the loop around them asks, once for each order, for all notes of its customer.",
        rescue: "Each call looks at the scope, so the loop ends between two queries.",
    },
    Hang {
        name: "lock",
        title: "A lock that somebody holds",
        story: "The export of last night took the lock on the stock, and never let it go.",
        rescue: "The wait is made of try_lock and short sleeps, which end with the scope.",
    },
    Hang {
        name: "blocking",
        title: "A blocking call on a thread of the runtime",
        story: "A client without async reads a reply, and holds up the thread on which the other requests wait.",
        rescue: "The socket is a timebox::io::Timed. A report of the kind stalled names the line.",
    },
    Hang {
        name: "upstream",
        title: "A dead upstream",
        story: "The supplier's server accepts the connection, reads the request, and says nothing.",
        rescue: "The future is dropped where it waits, and its connection with it.",
    },
    Hang {
        name: "join",
        title: "A future stuck in a join!",
        story: "Two of three parts are there. The third waits for a notification that nobody sends.",
        rescue: "The report shows the branch that waits, down to the line.",
    },
];

pub(crate) async fn regex(State(shop): State<Arc<Shop>>) -> Result<Answer, Failure> {
    let name = "a".repeat(60) + "!";
    on_a_thread(move || Ok(Answer(format!("a name: {}", shop.names.is_match(&name)?)))).await
}

pub(crate) async fn query(State(shop): State<Arc<Shop>>) -> Result<Answer, Failure> {
    let sql = "select count(*) from orders a join orders b on a.note = b.note";
    on_a_thread(move || shop.database.with(|connection| number(connection, sql, [])))
        .await
        .map(Answer::number)
}

pub(crate) async fn queries(State(shop): State<Arc<Shop>>) -> Result<Answer, Failure> {
    on_a_thread(move || {
        shop.database.with(|connection| {
            let mut letters = 0;
            for order in 1..=100_000 {
                let sql = "select sum(length(note)) from orders where customer = ?";
                letters += number(connection, sql, [order % 1000])?;
            }
            Ok(letters)
        })
    })
    .await
    .map(Answer::number)
}

pub(crate) async fn lock(State(shop): State<Arc<Shop>>) -> Result<Answer, Failure> {
    on_a_thread(move || {
        loop {
            if let Ok(stock) = shop.stock.try_lock() {
                return Ok(*stock);
            }
            sleep(Duration::from_millis(5))?;
        }
    })
    .await
    .map(Answer::number)
}

pub(crate) async fn blocking(State(shop): State<Arc<Shop>>) -> Result<Answer, Failure> {
    // The mistake: this is no place to block.
    Ok(read_reply(&shop).map(Answer)?)
}

fn read_reply(shop: &Shop) -> Result<String, AnyError> {
    let mut supplier = Timed::new(connect(shop.supplier)?);
    supplier.write_all(b"price?\n")?;
    let mut reply = String::new();
    supplier.read_to_string(&mut reply)?;
    Ok(reply)
}

pub(crate) async fn upstream(State(shop): State<Arc<Shop>>) -> Result<Answer, Failure> {
    let mut supplier = TcpStream::connect(shop.supplier).await?;
    supplier.write_all(b"price?\n").await?;
    let mut reply = String::new();
    supplier.read_to_string(&mut reply).await?;
    Ok(Answer(reply))
}

pub(crate) async fn join(State(shop): State<Arc<Shop>>) -> Answer {
    let (user, basket, ()) = tokio::join!(user(), basket(), recommendations(&shop));
    Answer(format!("{user}: {basket}"))
}

async fn user() -> &'static str {
    tokio::task::yield_now().await;
    "user 42"
}

async fn basket() -> &'static str {
    tokio::task::yield_now().await;
    "an apple"
}

async fn recommendations(shop: &Shop) {
    shop.recommendations.notified().await;
}

/// Runs blocking work, in the scope of the request, on a thread that may block.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AnyError> + Send + 'static,
) -> Result<T, Failure> {
    Ok(tokio::task::spawn_blocking(handle().wrap(work)).await??)
}

pub(crate) struct Answer(String);

impl Answer {
    fn number(number: u32) -> Self {
        Self(number.to_string())
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        Html(pages::page("Done", &format!("<p>It has ended by itself: {}</p>", pages::text(&self.0))))
            .into_response()
    }
}

/// Whatever went wrong. A limit is `503 Service Unavailable`.
pub(crate) struct Failure(AnyError);

impl<E: Into<AnyError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match TimeoutError::find(&*self.0) {
            Some(timed_out) => pages::timed_out(StatusCode::SERVICE_UNAVAILABLE, timed_out),
            None => (StatusCode::INTERNAL_SERVER_ERROR, self.0.to_string()).into_response(),
        }
    }
}
